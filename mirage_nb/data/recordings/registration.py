"""Depth as the colour camera beside the depth camera sees it.

A Kinect has two cameras, a hand's width of pixels apart. Where a recording keeps their pictures as they were taken,
which 7-Scenes does, a depth pixel and the colour pixel of the same number are not the same point of the scene.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mirage_nb.cameras import Cameras


@dataclass(frozen=True)
class Registration:
    """The colour camera of a rig: intrinsics (4,) in pixels, centres at i + 0.5, and depth_to_colour (4, 4), which
    takes points from the depth camera's axes to the colour camera's, in metres."""

    intrinsics: Tensor
    depth_to_colour: Tensor


# Of the depth camera whose calibration 7-Scenes states, and the colour camera beside it: the calibration that is in
# general use for that data set (focal length 525; 25.6 mm to the side, half a degree turned).
SEVEN_SCENES_DEPTH = (585.0, 585.0, 320.5, 240.5)
SEVEN_SCENES = Registration(
    torch.tensor([525.0, 525.0, 320.5, 240.5]),
    torch.tensor([
        [0.999965, 0.002677, -0.007904, -0.025559],
        [-0.002741, 0.999963, -0.008150, 0.000101],
        [0.007882, 0.008172, 0.999936, 0.002032],
        [0.0, 0.0, 0.0, 1.0],
    ]),
)  # fmt: skip


def unregistered(cameras: Cameras, registered: bool | None) -> bool:
    """Whether the depth still has to be brought to the colour camera: as told, or by 7-Scenes' calibration."""
    stated = cameras.intrinsics[0].tolist() == list(SEVEN_SCENES_DEPTH) and cameras.size == (480, 640)
    return stated if registered is None else not registered


def register(depth: Tensor, cameras: Cameras, rig: Registration) -> tuple[Tensor, Cameras]:
    """Depth maps of the depth camera as maps of the colour camera, and the colour cameras.

    Each measured point goes to the four pixels around it, the nearest one wins: no value is mixed. What the depth
    camera did not see is unknown.

    Args:
        depth: (T, H, W) z-depth in metres; 0 or non-finite = unknown.
        cameras: T depth cameras of size (H, W).
    """
    height, width = cameras.size
    to_colour = rig.depth_to_colour.to(cameras.c2w)
    colour = Cameras(cameras.c2w @ torch.linalg.inv(to_colour), rig.intrinsics.to(cameras.intrinsics), cameras.size)
    result = torch.full((len(depth), height * width), torch.inf)
    for frame in range(len(depth)):
        known = depth[frame].isfinite() & (depth[frame] > 0)
        uv, z = colour[frame].project(cameras[frame].unproject(depth[frame : frame + 1])[0][known])
        uv, z = uv[0], z[0]
        for shift in ((-0.5, -0.5), (-0.5, 0.5), (0.5, -0.5), (0.5, 0.5)):
            column, row = (uv + uv.new_tensor(shift)).floor().long().unbind(1)
            inside = (z > 0) & (row >= 0) & (row < height) & (column >= 0) & (column < width)
            result[frame].scatter_reduce_(0, (row * width + column)[inside], z[inside], "amin")
    return torch.where(result.isinf(), 0.0, result).unflatten(1, (height, width)), colour
