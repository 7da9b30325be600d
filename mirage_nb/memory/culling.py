"""Which boxes are in which frusta: what lets a readout skip the blocks that no camera sees."""

from __future__ import annotations

import torch
from torch import Tensor

from mirage_nb.cameras import Cameras
from mirage_nb.reprojection import NEAR

MARGIN = 1e-4  # boxes are widened by this share of the largest coordinate, far above what float32 rounds off


def in_view(low: Tensor, high: Tensor, cameras: Cameras, beyond: float = 0.0, near: float = NEAR) -> Tensor:
    """(B, N) bool: False where no point of box b, low and high (B, 3), can land in the image of camera n.

    It errs only on the side of True, also for boxes that are not finite.

    Args:
        beyond: cells around the image that count as in it.
    """
    (h, w), (fx, fy, cx, cy) = cameras.size, cameras.intrinsics.unbind(1)
    zero, one, margin = torch.zeros_like(fx), torch.ones_like(fx), beyond + 0.5
    planes = [(fx, zero, cx + margin), (-fx, zero, w + margin - cx), (zero, fy, cy + margin)]
    planes += [(zero, -fy, h + margin - cy), (zero, zero, one)]
    normals = torch.stack([torch.stack(plane, -1) for plane in planes], 1)  # (N, 5, 3), inwards, in camera axes
    normals = (normals[:, :, None] * cameras.c2w[:, None, :3, :3]).sum(-1)  # in the world's
    offset = -(normals * cameras.centers[:, None]).sum(-1)
    offset[:, 4] -= near
    normals, offset = normals.flatten(0, 1), offset.flatten()
    largest = torch.maximum(torch.maximum(low.abs(), high.abs()).amax(-1, keepdim=True), cameras.centers.abs().max())
    half = (high - low) / 2 + MARGIN * largest
    inside = ((low + high) / 2) @ normals.T + half @ normals.abs().T + offset
    return (inside < 0).logical_not_().view(len(low), len(cameras), 5).all(-1)
