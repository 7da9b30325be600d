"""From a readout of the memory to the control input of the branch (paper: conditioning)."""

import torch
from torch import Tensor

from mirage_nb.cameras import Cameras
from mirage_nb.reprojection import Readout

EXTRA_CHANNELS = 10  # of layout `mirage`, in addition to the latents': visibility, offset (2), log depth, rays (6)


def memory_control(
    readouts: list[Readout], cameras: list[Cameras], layout: str = "mirage", constant: Tensor | None = None
) -> Tensor:
    """The control input (B, K, T, h, w) of B scenes: a readout and its T cameras at latent size for each scene.

    Unseen cells are zero in every channel but the rays, which are expressed relative to the first camera.

    Args:
        layout: `mirage`: C of readout, visibility, offset (x, y) within the cell, log depth, 6 of Pluecker rays.
            `wan`: the paper's released code, C of readout and C of the latent of an all-visible mask video.
        constant: layout `wan` only: that latent, (C, T', h, w) with T' at least T.
    """
    latents = torch.stack([r.latents for r in readouts]).transpose(1, 2).float()  # (B, C, T, h, w)
    if layout == "wan":
        return torch.cat([latents, constant[:, : latents.shape[2]].to(latents).expand_as(latents)], 1)
    if layout != "mirage":
        raise ValueError(f"memory_layout: expected mirage or wan, got {layout!r}")
    seen = torch.stack([r.visibility for r in readouts])[:, None]
    depth = torch.stack([r.depth for r in readouts])[:, None]
    offset = torch.stack([r.offset for r in readouts]).transpose(1, 2)
    rays = torch.stack([c.relative_to(c.c2w[0]).pluecker() for c in cameras]).transpose(1, 2)
    log_depth = torch.where(seen, depth.clamp(min=1e-2).log(), 0.0)
    return torch.cat([latents, seen.float(), offset.float(), log_depth.float(), rays.to(latents)], 1)
