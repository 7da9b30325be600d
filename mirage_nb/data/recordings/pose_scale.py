"""Depth for a posed video, and the one factor that brings its poses to that depth.

A reconstruction's poses have whatever unit it was left in, and a depth network has its own idea of a metre. Training
wants the world that the network will see when it generates, so the poses are brought to the network's metres: one
factor for the whole clip, the one at which the depth of a frame foretells the colours of others best.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from mirage_nb.cameras import Cameras
from mirage_nb.data.clip import Clip
from mirage_nb.stitching import as_pixels

GAPS = (2, 4, 8, 16, 32)  # frames between the views that are compared
MIN_AGREEMENT = 0.5  # share of points within TOLERANCE below which poses and depth don't belong together
TOLERANCE = 0.1  # relative, in depth
COLOUR, DEPTH = 0.07, 0.5  # differences, of [-1, 1] and in the logarithm, at which a point counts a third
MIN_GAIN = 0.02  # what the best factor must be worth over standing still, else nothing tells the scale


class PoseScale(NamedTuple):
    """factor: metres of the depth in one unit of the poses. agreement: share of points of a frame that, with it, land
    within a tenth of another frame's depth. parallax: False if the views can't tell the factor, which then is 1."""

    factor: float
    agreement: float
    parallax: bool

    def __str__(self) -> str:
        told = f"poses x {self.factor:.3g}" if self.parallax else "poses as they are (no parallax tells their scale)"
        return f"{told}, {self.agreement:.0%} of the points agree across views"


def with_estimated_depth(frames: Tensor, cameras: Cameras, depth_model) -> tuple[Clip, PoseScale]:
    """The clip of a posed video, with the depth that a network estimates and the poses in the network's metres.

    Where no parallax tells the scale (a camera that only turns), the poses stay as they are.

    Args:
        frames: (T, H, W, 3) uint8. cameras: T, in any unit.
        depth_model: anything with `predict(pixels, intrinsics)`, metric (`MirageDepthModel`, `TransformersDepth`).

    Raises:
        ValueError: a relative model, or depth and poses that agree at no scale.
    """
    if getattr(depth_model, "relative", False):
        raise ValueError("depth_model: expected one that predicts metres, this one predicts inverse depth")
    device = getattr(depth_model, "device", "cpu")
    parts = [
        depth_model.predict(as_pixels(frames[i : i + 16]).to(device), cameras.intrinsics[i : i + 16].to(device)).cpu()
        for i in range(0, len(frames), 16)
    ]
    depth = torch.cat(parts).float()
    found = pose_scale(frames, depth, cameras)
    if found.agreement < MIN_AGREEMENT:
        raise ValueError(
            f"the estimated depth does not fit the poses: at the best scale {found.agreement:.0%} of the points agree "
            f"within {TOLERANCE:.0%} across views, expected at least {MIN_AGREEMENT:.0%}"
        )
    return Clip(frames, depth, scaled(cameras, found.factor)), found


def scaled(cameras: Cameras, factor: float) -> Cameras:
    """The cameras with all positions multiplied by a factor."""
    c2w = cameras.c2w.clone()
    c2w[:, :3, 3] *= factor
    return Cameras(c2w, cameras.intrinsics, cameras.size)


def pose_scale(frames: Tensor, depth: Tensor, cameras: Cameras) -> PoseScale:
    """The factor that brings the poses of a clip to the metres of its depth.

    Points of a frame, at their depth, are looked at from other frames, with the way between the two multiplied by each
    factor of a logarithmic grid from 1/2000 to 2000, and then of a finer one around the best. A factor is good where
    points land on their own colour, and on a depth that is not another surface's. Colour comes first, since a network's
    depth differs from frame to frame by as much as the way changes it, and doesn't change at all along a wall.

    Args:
        frames: (T, H, W, 3) uint8. depth: (T, H, W) z-depth in metres, 0 = unknown. cameras: T, in any unit.
    """
    if len(frames) < 2:
        return PoseScale(1.0, 1.0, False)
    views = _Views(frames, depth, cameras)
    grid = torch.logspace(-3.3, 3.3, 161, dtype=torch.float64)
    fit, _ = views.compare(grid)
    best = int(fit.argmax())
    around = torch.logspace(*grid[[max(best - 1, 0), min(best + 1, 160)]].log10().tolist(), 41, dtype=torch.float64)
    fit, share = views.compare(torch.cat([torch.tensor([0.0, 1.0], dtype=torch.float64), around]))
    best = 2 + int(fit[2:].argmax())
    if fit[best] - fit[0] < MIN_GAIN:  # as good if the camera stood still
        return PoseScale(1.0, share[1].item(), False)
    return PoseScale(around[best - 2].item(), share[best].item(), True)


class _Views:
    """Pairs of views of a clip, in half a thousand points each."""

    def __init__(self, frames: Tensor, depth: Tensor, cameras: Cameras) -> None:
        self.depth = torch.where(depth.isfinite() & (depth > 0), depth, 0.0)
        # Smoothed, so that a step of less than a pixel is a small step in colour.
        self.colour = F.avg_pool2d(as_pixels(frames), 3, 1, 1, count_include_pad=False)
        self.cameras = cameras
        height, width = cameras.size
        step = max(1, round((height * width / 576) ** 0.5))
        self.points = torch.zeros(height, width, dtype=torch.bool)
        self.points[step // 2 :: step, step // 2 :: step] = True
        count = len(frames)
        gaps = {gap for gap in GAPS if gap < count} | {min(count - 1, GAPS[-1])}
        there = {(i, i + gap) for gap in gaps for i in torch.linspace(0, count - 1 - gap, 4).long().tolist()}
        self.pairs = sorted(there | {(j, i) for i, j in there})

    def compare(self, factors: Tensor) -> tuple[Tensor, Tensor]:
        """How well the views fit, and the share of points within TOLERANCE in depth, for each factor (F,)."""
        fit, close, landed = (torch.zeros(len(factors)) for _ in range(3))
        total = 0
        height, width = self.cameras.size
        for i, j in self.pairs:
            use = self.points & (self.depth[i] > 0)
            own = Cameras(torch.eye(4), self.cameras.intrinsics[i], self.cameras.size)
            points, colour = own.unproject(self.depth[i : i + 1])[0][use].double(), self.colour[i][:, use]
            move = torch.linalg.inv(self.cameras.c2w[j].double()) @ self.cameras.c2w[i].double()
            xyz = (points @ move[:3, :3].mT + factors[:, None, None] * move[:3, 3]).float()
            z, lens = xyz[..., 2], self.cameras.intrinsics[j]
            uv = xyz[..., :2] / z[..., None] * lens[:2] + lens[2:]
            inside = (z > 0) & (uv >= 0).all(-1) & (uv[..., 0] < width) & (uv[..., 1] < height)
            uv = torch.where(inside[..., None], uv, 0.0)
            column, row = uv.long().unbind(-1)
            there = self.depth[j][row, column]
            inside &= there > 0
            off = torch.where(inside, z / there, 1.0).log().abs()
            at = uv[None] / uv.new_tensor([width, height]) * 2 - 1
            seen = F.grid_sample(self.colour[j : j + 1], at, padding_mode="border", align_corners=False)[0]
            other = (seen - colour[:, None]).abs().mean(0)
            fit += (torch.exp(-((other / COLOUR) ** 2) - (off / DEPTH) ** 2) * inside).sum(1)
            close += ((off < TOLERANCE) & inside).sum(1)
            landed += inside.sum(1)
            total += len(points)
        enough = landed >= 0.2 * total  # a few points that land on something by chance say nothing
        fit, close = (torch.where(enough, x / landed.clamp(min=1), 0.0) for x in (fit, close))
        return fit, close
