"""From a readout of the memory to the control input of the branch."""

from __future__ import annotations

import torch
from torch import Tensor

from mirage_nb.cameras import Cameras
from mirage_nb.reprojection import Readout

# Channels beside those of the latents: visibility, offset x and y, log depth, six of camera rays.
LAYOUTS = ("mirage", "wan")
EXTRA = 10


def control_channels(latent_channels: int, layout: str = "mirage") -> int:
    """Channels of the control input for latents of C channels."""
    return {"mirage": latent_channels + EXTRA, "wan": 2 * latent_channels}[layout]


def memory_control(
    readouts: list[Readout], cameras: list[Cameras], layout: str = "mirage", constant: Tensor | None = None
) -> Tensor:
    """The control input (B, K, T, h, w) of B scenes.

    Args:
        readouts: one a scene, of T frames; unseen cells are zero in every channel but the rays.
        cameras: one a scene, T cameras at latent size. Rays are expressed relative to the first of them.
        layout: `mirage`: C of readout, visibility, offset (x, y) within the cell, log depth, 6 of Pluecker rays.
            `wan`: the paper's released code, C of readout and C of the latent of an all-visible mask video.
        constant: layout `wan` only: that latent, (C, h, w) or (C, T, h, w).
    """
    latents = torch.stack([r.latents for r in readouts]).transpose(1, 2).float()
    if layout == "wan":
        constant = constant[:, None] if constant.ndim == 3 else constant
        return torch.cat([latents, constant.to(latents).expand_as(latents)], 1)
    if layout != "mirage":
        raise ValueError(f"memory_layout: expected one of {LAYOUTS}, got {layout!r}")
    seen = torch.stack([r.visibility for r in readouts])[:, None]
    depth = torch.stack([r.depth for r in readouts])[:, None]
    offset = torch.stack([r.offset for r in readouts]).transpose(1, 2)
    rays = torch.stack([c.relative_to(c.c2w[0]).pluecker() for c in cameras]).transpose(1, 2)
    log_depth = torch.where(seen, depth.clamp(min=1e-2).log(), 0.0)
    return torch.cat([latents, seen.float(), offset.float(), log_depth.float(), rays.to(latents)], 1)


def prior_velocity(noisy: Tensor, timestep: Tensor, control: Tensor) -> tuple[Tensor, Tensor]:
    """What the memory alone says of the flow velocity: its expectation, and the standard deviation that is left.

    Take a clean latent to be a Gaussian around the token that the memory shows for its cell, of deviation `spread`:
    small where the token lands on the cell's centre, growing with its offset, since a latent describes its own cell
    (measured on our rooms: 0.25 at an offset of 0.05 cells, 0.59 at 0.25, 0.80 at 0.45). Where nothing is seen, take
    the latents' own statistics, mean 0 and deviation 1. Then the best estimate from the noisy latent is linear, and
    known. The network predicts only the rest, in units of the deviation: it starts from the memory and learns what a
    memory can't tell.

    Args:
        noisy: (B, C, T, h, w), (1 - sigma) * clean + sigma * noise.
        timestep: (B, T), 1000 * sigma.
        control: (B, K, T', h, w) in the layout `mirage`; of the first T - T' frames (references) the memory says
            nothing.

    Returns:
        expected velocity (B, C, T, h, w), and the deviation (B, 1, T, h, w).
    """
    channels = noisy.shape[1]
    token, seen, offset = (
        control[:, :channels],
        control[:, channels : channels + 1],
        control[:, channels + 1 : channels + 3],
    )
    spread = torch.where(seen > 0, (0.25 + 1.4 * offset.norm(dim=1, keepdim=True)).clamp(max=0.9), 1.0)
    missing = noisy.shape[2] - control.shape[2]
    if missing:
        token = torch.nn.functional.pad(token, (0, 0, 0, 0, missing, 0))
        spread = torch.nn.functional.pad(spread, (0, 0, 0, 0, missing, 0), value=1.0)
    sigma = (timestep / 1000)[:, None, :, None, None]
    rest = noisy - (1 - sigma) * token
    variance = ((1 - sigma) * spread) ** 2 + sigma**2
    return (sigma - (1 - sigma) * spread**2) * rest / variance - token, spread / variance.sqrt()
