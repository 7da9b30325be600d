"""What the memory alone says of the latents to be made, so that the transformer need only learn the rest.

A latent describes its own cell of 8 x 8 pixels. Seen from elsewhere it lands between cells, and is no longer what the
VAE would give there: at a quarter of a cell off, the squared error is 0.35 of the latents' variance. A small
convolutional network that looks at a cell with its neighbours, and at where each token landed, knows better: it
resamples the latents, and tells how sure it is.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

LEAST = 0.05  # the smallest deviation that the prior may claim
SURE = 0.8  # a cell known better than this, of the latents' own deviation 1, counts as remembered
MADE = 0.45  # and if what it shows was itself made, only one that is known better than this


class MemoryPrior(nn.Module):
    """From the control input to a Gaussian for each clean latent.

    It begins as a plain guess: the token itself, with a deviation that grows with its offset (measured on our rooms:
    0.25 at an offset of 0.05 cells, 0.59 at 0.25, 0.80 at 0.45), and where nothing is seen the latents' own statistics,
    mean 0 and deviation 1. Training corrects both (`training.prior`).

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
            mean, deviation = mean + shift, (deviation * scale.clamp(-3, 3).exp()).clamp(min=LEAST)
        return mean, deviation


def surprise(mean: Tensor, deviation: Tensor, clean: Tensor) -> Tensor:
    """Negative log likelihood of clean latents under the prior, up to a constant, element by element."""
    return (clean - mean).square() / (2 * deviation.square()) + deviation.log()


def remembered(deviation: Tensor, control: Tensor, given: Tensor | None = None) -> Tensor:
    """Which cells the memory tells, (B, 1, T, h, w) bool: those that it shows, and shows well enough.

    The prior is sure of more, of a plain wall that goes on. But that is a guess, and the mean of all that could be
    there: seen again and again it would be mist.

    Args:
        deviation: the prior's, (B, C, T, h, w). control: (B, K, T, h, w), that it was asked with.
        given: (B, T, h, w) bool, cells that show what was given, not made; by default all.
    """
    doubt, seen = deviation.mean(1, keepdim=True), control[:, deviation.shape[1], None] > 0
    sure = doubt < SURE if given is None else doubt < torch.where(given[:, None], SURE, MADE)
    return seen & sure


class Residual(nn.Module):
    """Two convolutions of 3 x 3 cells beside an identity."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(8, width)
        self.conv1, self.conv2 = (nn.Conv2d(width, width, 3, padding=1) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        silu = nn.functional.silu
        return x + self.conv2(silu(self.conv1(silu(self.norm(x)))))


def prior_velocity(noisy: Tensor, timestep: Tensor, mean: Tensor, deviation: Tensor) -> tuple[Tensor, Tensor]:
    """What a Gaussian guess of the clean latents says of the flow velocity: its expectation, and the standard
    deviation that is left. The best estimate from a noisy latent is then linear, and known. The network predicts only
    the rest, in units of that deviation.

    Args:
        noisy: (B, C, T, h, w), (1 - sigma) * clean + sigma * noise.
        timestep: (B, T), 1000 * sigma.
        mean, deviation: of the last T' frames, (B, C, T', h, w); of those before them (references) nothing is known.

    Returns:
        expected velocity and deviation, both (B, C, T, h, w).
    """
    missing = (0, 0, 0, 0, noisy.shape[2] - mean.shape[2], 0)
    mean, deviation = nn.functional.pad(mean, missing), nn.functional.pad(deviation, missing, value=1.0)
    sigma = (timestep / 1000)[:, None, :, None, None]
    rest = noisy - (1 - sigma) * mean
    variance = ((1 - sigma) * deviation) ** 2 + sigma**2
    return (sigma - (1 - sigma) * deviation**2) * rest / variance - mean, deviation / variance.sqrt()
