"""Small scenes with exact depth for the tests of the geometric core, ray-traced here and not by the project."""

from __future__ import annotations

import torch
from torch import Tensor

from mirage_nb.cameras import Cameras

ROOM = torch.tensor([[-2.0, -1.5, -3.0], [2.5, 1.2, 3.5]])  # lowest and highest corner of a box seen from inside


def rotation(axis_angle: Tensor) -> Tensor:
    x, y, z = axis_angle.double()
    return torch.matrix_exp(torch.tensor([[0, -z, y], [z, 0, -x], [-y, x, 0]], dtype=torch.float64)).float()


def pose(position=(0.0, 0.0, 0.0), axis_angle=(0.0, 0.0, 0.0)) -> Tensor:
    c2w = torch.eye(4)
    c2w[:3, :3] = rotation(torch.tensor(axis_angle))
    c2w[:3, 3] = torch.tensor(position)
    return c2w


def camera(*poses: Tensor, size=(64, 96), focal=80.0) -> Cameras:
    """Cameras with a principal point off the centre."""
    intrinsics = torch.tensor([focal, focal, size[1] / 2 + 3.0, size[0] / 2 - 2.0])
    return Cameras(torch.stack(poses), intrinsics, size)


def random_cameras(seed: int, count: int, size: tuple[int, int]) -> Cameras:
    """Any pose; fx != fy, the principal point anywhere in the inner half of the image."""
    g = torch.Generator().manual_seed(seed)
    poses = torch.stack([torch.eye(4)] * count)
    for matrix in poses:
        matrix[:3, :3] = rotation(2 * torch.randn(3, generator=g))
        matrix[:3, 3] = 3 * torch.randn(3, generator=g)
    scale = torch.tensor([size[1], size[0], size[1], size[0]])
    low, high = torch.tensor([0.6, 0.6, 0.25, 0.25]), torch.tensor([1.5, 1.5, 0.75, 0.75])
    return Cameras(poses, (low + (high - low) * torch.rand(count, 4, generator=g)) * scale, size)


def box_depth(cameras: Cameras, box: Tensor = ROOM) -> Tensor:
    """(N, H, W) z-depth of the inside of a box for cameras within it."""
    origins, directions = cameras.rays()
    walls = torch.where(directions > 0, box[1], box[0])
    return ((walls - origins[:, None, None]) / directions).abs().amin(-1)


def paint(points: Tensor, channels: int = 6) -> Tensor:
    """A smooth pattern that is fixed in the world: points (..., 3) -> (..., channels) in [-1, 1]."""
    k = torch.arange(1.0, channels + 1)
    return torch.sin(points @ torch.stack([1.3 * k, -0.7 * k + 2, 0.9 * k.flip(0)]))


def room_views(cameras: Cameras, stride: int = 8, channels: int = 6) -> tuple[Tensor, Tensor]:
    """Latents (N, C, h, w), what is painted at the cells' centres, and depth (N, H, W) of the box."""
    grid = cameras.downscale(stride)
    return paint(grid.unproject(box_depth(grid)), channels).permute(0, 3, 1, 2).contiguous(), box_depth(cameras)


def square_in_front(cameras: Cameras, left: float, wall: float = 4.0, near: float = 2.0) -> tuple[Tensor, Tensor]:
    """A 0.8 m square at z = near, its left edge at x = left, before a wall at z = wall; cameras must look along z.

    Returns the z-depth (N, H, W) and the mask (N, H, W) of the square.
    """
    origins, directions = cameras.rays()
    hit = origins[:, None, None] + (near - origins[:, None, None, 2:]) * directions
    square = (hit[..., 0] > left) & (hit[..., 0] < left + 0.8) & (hit[..., 1].abs() < 0.4)
    return torch.where(square, near, wall) - origins[:, None, None, 2], square
