"""Depth for a posed video, and the factor that brings its poses to that depth.

A reconstruction's poses have whatever unit it was left in, and a depth network has its own idea of a metre. A model
meets the network's metres when it generates, so training wants the poses in them: one factor for the whole clip.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from mirage_nb.cameras import Cameras
from mirage_nb.data.clip import Clip
from mirage_nb.models.vae import as_pixels

GAPS = (2, 4, 8, 16, 32)  # frames between the views that are compared: small steps have overlap, large ones parallax
POINTS = 576  # of each view: enough, since all pairs count together
TOLERANCE = 0.1  # relative difference in depth at which a point still agrees; networks differ by 5 % between frames
MIN_AGREEMENT = 0.5  # share of agreeing points below which poses and depth are not of one clip
COLOUR_WIDTH, DEPTH_WIDTH = 0.07, 0.5  # differences (of [-1, 1]; of logarithms) at which a point counts 1 / e
MIN_GAIN = 0.02  # by which the best factor must fit better than factor 0, a still camera; else there is no parallax


class PoseScale(NamedTuple):
    """The factor of a clip.

    factor: metres of the depth in one unit of the poses. agreement: share of the points of a frame that, with it, land
    within a tenth of another frame's depth. parallax: False if the views don't tell the factor, which then is 1.
    """

    factor: float
    agreement: float
    parallax: bool

    def __str__(self) -> str:
        scale = f"poses x {self.factor:.3g}" if self.parallax else "poses as they are (no parallax tells their scale)"
        return f"{scale}, {self.agreement:.0%} of the points agree across views"


def with_estimated_depth(frames: Tensor, cameras: Cameras, depth_model) -> tuple[Clip, PoseScale]:
    """The clip of a posed video, with the depth that a network estimates and the poses in the network's metres.

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


def scaled(cameras: Cameras, factor: float | Tensor) -> Cameras:
    """The cameras with all positions multiplied by a factor, or by one each (N, 1)."""
    c2w = cameras.c2w.clone()
    c2w[:, :3, 3] *= factor
    return Cameras(c2w, cameras.intrinsics, cameras.size)


def pose_scale(frames: Tensor, depth: Tensor, cameras: Cameras) -> PoseScale:
    """The factor that brings the poses of a clip to the metres of its depth.

    Points of a frame, at their depth, are looked up in other frames, with the way between the two multiplied by each
    factor of a logarithmic grid from 1/2000 to 2000, and then of a finer one around the best. A factor is good where
    points land on their own colour, and on a depth that is not another surface's. Colour comes first, since a network's
    depth differs from frame to frame by as much as the way changes it, and does not change along a wall.

    Args:
        frames: (T, H, W, 3) uint8. depth: (T, H, W) z-depth in metres, 0 = unknown. cameras: T, in any unit.
    """
    if len(frames) < 2:
        return PoseScale(1.0, 1.0, False)
    depth = torch.where(depth.isfinite() & (depth > 0), depth, 0.0)
    # Smoothed, so that a step of less than a pixel is a small step in colour.
    colour = F.avg_pool2d(as_pixels(frames), 3, 1, 1, count_include_pad=False)
    grid = torch.logspace(-3.3, 3.3, 161)
    fit, _ = _compare(colour, depth, cameras, grid)
    best = int(fit.argmax())
    finer = torch.logspace(*grid[[max(best - 1, 0), min(best + 1, 160)]].log10().tolist(), 41)
    fit, agreement = _compare(colour, depth, cameras, torch.cat([torch.tensor([0.0, 1.0]), finer]))
    best = 2 + int(fit[2:].argmax())
    if fit[best] - fit[0] < MIN_GAIN:
        return PoseScale(1.0, agreement[1].item(), False)
    return PoseScale(finer[best - 2].item(), agreement[best].item(), True)


def _compare(colour: Tensor, depth: Tensor, cameras: Cameras, factors: Tensor) -> tuple[Tensor, Tensor]:
    """How well views fit each other, and the share of points that agree in depth, for each factor (F,)."""
    (height, width), count = cameras.size, len(depth)
    step = max(1, round((height * width / POINTS) ** 0.5))
    chosen = torch.zeros(height, width, dtype=torch.bool)
    chosen[step // 2 :: step, step // 2 :: step] = True
    gaps = {gap for gap in GAPS if gap < count} | {min(count - 1, GAPS[-1])}
    pairs = {(i, i + gap) for gap in gaps for i in torch.linspace(0, count - 1 - gap, 4).long().tolist()}
    fit, agreement, landed, total = (torch.zeros(len(factors)) for _ in range(4))
    for i, j in sorted(pairs | {(j, i) for i, j in pairs}):
        use = chosen & (depth[i] > 0)
        points = cameras[i].relative_to(cameras.c2w[i]).unproject(depth[i : i + 1])[0][use]  # (P, 3), i's axes
        other = cameras[j].relative_to(cameras.c2w[i])[[0] * len(factors)]
        uv, z = scaled(other, factors[:, None]).project(points)  # (F, P, 2), (F, P)
        inside = (z > 0) & (uv >= 0).all(-1) & (uv[..., 0] < width) & (uv[..., 1] < height)
        uv = torch.where(inside[..., None], uv, 0.0)
        column, row = uv.long().unbind(-1)
        inside &= depth[j][row, column] > 0
        off = torch.where(inside, z / depth[j][row, column], 1.0).log().abs()
        at = uv[None] / uv.new_tensor([width, height]) * 2 - 1
        seen = F.grid_sample(colour[j : j + 1], at, padding_mode="border", align_corners=False)[0]  # (3, F, P)
        difference = (seen - colour[i][:, None, use]).abs().mean(0)
        fit += (torch.exp(-((difference / COLOUR_WIDTH) ** 2) - (off / DEPTH_WIDTH) ** 2) * inside).sum(1)
        agreement += ((off < TOLERANCE) & inside).sum(1)
        landed += inside.sum(1)
        total += len(points)
    enough = landed >= 0.2 * total  # a few points that land on something by chance say nothing
    return tuple(torch.where(enough, x / landed.clamp(min=1), 0.0) for x in (fit, agreement))
