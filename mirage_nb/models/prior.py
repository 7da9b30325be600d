"""The learnt prior: what the memory alone says about the latents, so that the transformer learns only the rest.

A latent describes its own cell. Seen from another camera its token lands between cells, where the VAE would give
another one: a quarter of a cell off, the squared error is 0.35 of the latents' variance. A small network sees a cell,
its neighbours, and where each token landed. It resamples the latents, and says how sure it is.
"""

import torch
from torch import Tensor, nn

from mirage_nb.models.depth import Residual

MIN_DEVIATION = 0.05  # the smallest deviation that the prior may claim, so that no likelihood is infinite


class MemoryPrior(nn.Module):
    """From the control input to a Gaussian for each clean latent.

    It begins with a plain guess: the token itself, with a deviation that grows with its offset (measured on procedural
    rooms: 0.25 at an offset of 0.05 cells, 0.59 at 0.25, 0.80 at 0.45); and where nothing is seen the latents' own
    statistics, mean 0 and deviation 1. A residual network, `width` channels and `blocks` blocks, learns to correct it.
    """

    def __init__(self, channels: int, width: int = 96, blocks: int = 3) -> None:
        super().__init__()
        self.channels = channels
        first, last = nn.Conv2d(channels + 4, width, 3, padding=1), nn.Conv2d(width, 2 * channels, 3, padding=1)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.network = nn.Sequential(first, *(Residual(width) for _ in range(blocks)), nn.SiLU(), last)

    def forward(self, control: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and deviation, (B, C, T, h, w) float32 each, for a control input (B, K, T, h, w) in layout `mirage`."""
        c = self.channels
        mean, seen, offset = control[:, :c].float(), control[:, c : c + 1], control[:, c + 1 : c + 3]
        plain = (0.25 + 1.4 * offset.float().norm(dim=1, keepdim=True)).clamp(max=0.9)
        deviation = torch.where(seen > 0, plain, 1.0).expand_as(mean)
        frames = control[:, : c + 4].transpose(1, 2)  # (B, T, C + 4, h, w)
        out = self.network(frames.flatten(0, 1).to(self.network[0].weight.dtype)).float()
        shift, scale = out.unflatten(0, frames.shape[:2]).transpose(1, 2).chunk(2, 1)  # (B, C, T, h, w) each
        return mean + shift, (deviation * scale.clamp(-3, 3).exp()).clamp(min=MIN_DEVIATION)


def prior_velocity(noisy: Tensor, timestep: Tensor, mean: Tensor, deviation: Tensor) -> tuple[Tensor, Tensor]:
    """The flow velocity that a Gaussian guess of the clean latents implies: its mean and deviation, like `noisy`.

    Args:
        noisy: (B, C, T, h, w), (1 - sigma) * clean + sigma * noise.
        timestep: (B, T), 1000 * sigma.
        mean, deviation: of the last T' frames, (B, C, T', h, w). References, the frames before them, have no guess.
    """
    missing = (0, 0, 0, 0, noisy.shape[2] - mean.shape[2], 0)
    mean, deviation = nn.functional.pad(mean, missing), nn.functional.pad(deviation, missing, value=1.0)
    sigma = (timestep / 1000)[:, None, :, None, None]
    rest = noisy - (1 - sigma) * mean  # for a Gaussian the best estimate is linear in it
    variance = ((1 - sigma) * deviation) ** 2 + sigma**2
    return (sigma - (1 - sigma) * deviation**2) * rest / variance - mean, deviation / variance.sqrt()
