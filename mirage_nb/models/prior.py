"""The learnt prior: what the memory alone says about the latents, so that the transformer learns only the rest.

A latent describes its own cell of 8 x 8 pixels. Seen from another camera it lands between cells, and is no longer what
the VAE would give there: a quarter of a cell off, the squared error is 0.35 of the latents' variance. A small
convolutional network sees a cell, its neighbours, and where each token landed. It resamples the latents, and says how
sure it is. Only the transformer's forward uses it.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mirage_nb.models.depth import Residual

MIN_DEVIATION = 0.05  # the smallest deviation that the prior may claim, so that no likelihood is infinite


class MemoryPrior(nn.Module):
    """From the control input to a Gaussian for each clean latent.

    It begins with a plain guess: the token itself, with a deviation that grows with its offset (measured on procedural
    rooms: 0.25 at an offset of 0.05 cells, 0.59 at 0.25, 0.80 at 0.45); and where nothing is seen the latents' own
    statistics, mean 0 and deviation 1. Training corrects both.

    Args:
        channels: of a latent.
        width, blocks: of the residual network that corrects the plain guess; width 0 leaves it plain.
    """

    def __init__(self, channels: int, width: int = 96, blocks: int = 3) -> None:
        super().__init__()
        self.channels, self.network = channels, None
        if width:
            last = nn.Conv2d(width, 2 * channels, 3, padding=1)
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)
            first = nn.Conv2d(channels + 4, width, 3, padding=1)
            self.network = nn.Sequential(first, *(Residual(width) for _ in range(blocks)), nn.SiLU(), last)

    def forward(self, control: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation, both (B, C, T, h, w) float32, for a control input (B, K, T, h, w) in the layout
        `mirage` (`control.memory_control`)."""
        c = self.channels
        mean, seen, offset = control[:, :c].float(), control[:, c : c + 1], control[:, c + 1 : c + 3]
        plain = (0.25 + 1.4 * offset.float().norm(dim=1, keepdim=True)).clamp(max=0.9)
        deviation = torch.where(seen > 0, plain, 1.0).expand_as(mean)
        if self.network is not None:
            frames = control[:, : c + 4].transpose(1, 2)
            out = self.network(frames.flatten(0, 1).to(self.network[0].weight.dtype)).float()
            shift, scale = out.unflatten(0, frames.shape[:2]).transpose(1, 2).chunk(2, 1)
            mean, deviation = mean + shift, (deviation * scale.clamp(-3, 3).exp()).clamp(min=MIN_DEVIATION)
        return mean, deviation


def surprise(mean: Tensor, deviation: Tensor, clean: Tensor) -> Tensor:
    """Negative log likelihood of clean latents under the prior, up to a constant, element by element."""
    return (clean - mean).square() / (2 * deviation.square()) + deviation.log()


def prior_velocity(noisy: Tensor, timestep: Tensor, mean: Tensor, deviation: Tensor) -> tuple[Tensor, Tensor]:
    """What a Gaussian guess of the clean latents says about the flow velocity: its mean and its standard deviation.

    For a Gaussian the best estimate from a noisy latent is linear. The network predicts only what is left, in units of
    the deviation.

    Args:
        noisy: (B, C, T, h, w), (1 - sigma) * clean + sigma * noise.
        timestep: (B, T), 1000 * sigma.
        mean, deviation: of the last T' frames, (B, C, T', h, w). References, the frames before them, have no guess.

    Returns:
        The mean and the deviation of the velocity, both (B, C, T, h, w).
    """
    missing = (0, 0, 0, 0, noisy.shape[2] - mean.shape[2], 0)
    mean, deviation = nn.functional.pad(mean, missing), nn.functional.pad(deviation, missing, value=1.0)
    sigma = (timestep / 1000)[:, None, :, None, None]
    rest = noisy - (1 - sigma) * mean
    variance = ((1 - sigma) * deviation) ** 2 + sigma**2
    return (sigma - (1 - sigma) * deviation**2) * rest / variance - mean, deviation / variance.sqrt()
