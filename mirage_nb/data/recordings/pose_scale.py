"""Depth for a posed video, and the factor that brings its poses to that depth.

A reconstruction's poses have whatever unit it was left in, and a depth network has its own idea of a metre. A model
meets the network's metres when it generates, so training wants the poses in them: one factor for the whole clip.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from mirage_nb.cameras import Cameras
from mirage_nb.data.clip import Clip
from mirage_nb.formats.agreement import MIN_LANDED, landings
from mirage_nb.formats.agreement import moved as scaled
from mirage_nb.models.vae import as_pixels

POINTS = 576  # of each view: enough, since all pairs count together
TOLERANCE = 0.1  # relative difference in depth at which a point still agrees; networks differ by 5 % between frames
MIN_AGREEMENT = 0.5  # share of agreeing points below which poses and depth are not of one clip
COLOUR_WIDTH, DEPTH_WIDTH = 0.07, 0.5  # differences (of [-1, 1]; of logarithms) at which a point counts 1 / e
MIN_GAIN = 0.02  # by which the best factor must fit better than factor 0, a still camera; else there is no parallax


def with_estimated_depth(frames: Tensor, cameras: Cameras, depth_model) -> tuple[Clip, str]:
    """The clip of a posed video (T, H, W, 3) with the depth of a metric network and the poses in its metres, and a note
    on the scale. ValueError where depth and poses agree at no scale."""
    device = getattr(depth_model, "device", "cpu")
    batches = zip(frames.split(16), cameras.intrinsics.split(16))
    depth = [depth_model.predict(as_pixels(part).to(device), lens.to(device)).float().cpu() for part, lens in batches]
    depth = torch.cat(depth)
    factor, agreement = pose_scale(frames, depth, cameras)
    if agreement < MIN_AGREEMENT:
        found = f"at the best scale {agreement:.0%} of the points agree across views"
        raise ValueError(f"the estimated depth does not fit the poses: {found}, expected at least {MIN_AGREEMENT:.0%}")
    scale = f"poses x {factor:.3g}" if factor else "poses as they are (no parallax tells their scale)"
    return Clip(frames, depth, scaled(cameras, factor or 1.0)), f"{scale}, {agreement:.0%} of the points agree"


def pose_scale(frames: Tensor, depth: Tensor, cameras: Cameras) -> tuple[float | None, float]:
    """The factor that brings the poses of a clip to the metres of its depth.

    Points of a frame (T, H, W, 3), at their depth (T, H, W), are looked up in other frames, with the way between the
    two multiplied by each factor from 1/2000 to 2000. A factor is good where points land on their own colour, and on a
    depth that is not another surface's. Colour counts more: a network's depth differs from frame to frame.

    Returns:
        The factor, None if the views have too little parallax to tell it; and the share of a frame's points that, with
        it, land within a tenth of another frame's depth.
    """
    (height, width), count = cameras.size, len(frames)
    if count < 2:
        return None, 1.0
    factors = torch.cat([torch.tensor([0.0, 1.0]), torch.logspace(-3.3, 3.3, 401)])  # (F,), steps of 4 %
    # Smoothed, so that a step of less than a pixel is a small step in colour.
    colour = F.avg_pool2d(as_pixels(frames), 3, 1, 1, count_include_pad=False)
    fit, agreement, landed, total = (torch.zeros(len(factors)) for _ in range(4))
    for i, j, use, uv, z, there in landings(depth, cameras, POINTS, 4, factors):
        inside = there > 0
        off = torch.where(inside, z / there, 1.0).log().abs()
        at = uv[None] / uv.new_tensor([width, height]) * 2 - 1
        seen = F.grid_sample(colour[j : j + 1], at, padding_mode="border", align_corners=False)[0]  # (3, F, P)
        difference = (seen - colour[i][:, None, use]).abs().mean(0)
        fit += (torch.exp(-((difference / COLOUR_WIDTH) ** 2) - (off / DEPTH_WIDTH) ** 2) * inside).sum(1)
        agreement += ((off < TOLERANCE) & inside).sum(1)
        landed += inside.sum(1)
        total += z.shape[1]
    enough = landed > MIN_LANDED * total
    fit, agreement = (torch.where(enough, x / landed.clamp(min=1), 0.0) for x in (fit, agreement))
    best = 2 + int(fit[2:].argmax())
    if fit[best] - fit[0] < MIN_GAIN:
        return None, agreement[1].item()
    return factors[best].item(), agreement[best].item()
