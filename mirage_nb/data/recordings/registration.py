"""Depth maps of a depth camera as the colour camera next to it sees them.

A Kinect has two cameras, 26 mm apart. 7-Scenes keeps their pictures as they were taken, so a depth pixel and the colour
pixel of the same number are not the same point of the scene.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mirage_nb.cameras import Cameras

# The depth camera, as the calibration of 7-Scenes states it, and the colour camera: fx, fy, cx, cy at 640x480.
DEPTH_INTRINSICS = (585.0, 585.0, 320.5, 240.5)
COLOUR_INTRINSICS = torch.tensor([525.0, 525.0, 320.5, 240.5])
# From the depth camera's axes to the colour camera's, in metres: the calibration in general use for that data set.
DEPTH_TO_COLOUR = torch.tensor([
    [0.999965, 0.002677, -0.007904, -0.025559],
    [-0.002741, 0.999963, -0.008150, 0.000101],
    [0.007882, 0.008172, 0.999936, 0.002032],
    [0.0, 0.0, 0.0, 1.0],
])  # fmt: skip


def colour_cameras(cameras: Cameras) -> Cameras | None:
    """The colour cameras of the depth cameras of 7-Scenes; None if these are others, whose pictures belong together."""
    if cameras.size != (480, 640) or cameras.intrinsics[0].tolist() != list(DEPTH_INTRINSICS):
        return None
    return Cameras(cameras.c2w @ torch.linalg.inv(DEPTH_TO_COLOUR), COLOUR_INTRINSICS, cameras.size)


def register(depth: Tensor, camera: Cameras, target: Cameras) -> Tensor:
    """A depth map (H, W) of one camera as another one of the same size sees it.

    Each measured point goes to the four pixels around it, and the nearest point wins: no value is mixed. What the first
    camera did not see is 0, unknown.
    """
    height, width = camera.size
    measured = depth.isfinite() & (depth > 0)
    uv, z = target.project(camera.unproject(depth[None])[0][measured])
    uv, z = uv[0], z[0]  # (P, 2), (P,)
    nearest = torch.full((height * width,), torch.inf)
    for shift in ((-0.5, -0.5), (-0.5, 0.5), (0.5, -0.5), (0.5, 0.5)):
        column, row = (uv + uv.new_tensor(shift)).floor().long().unbind(1)
        inside = (z > 0) & (row >= 0) & (row < height) & (column >= 0) & (column < width)
        nearest.scatter_reduce_(0, (row * width + column)[inside], z[inside], "amin")
    return torch.where(nearest.isinf(), 0.0, nearest).view(height, width)
