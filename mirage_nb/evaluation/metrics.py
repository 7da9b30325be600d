"""Metrics of videos, (T, H, W, 3) uint8: how close two pictures are, how well a loop closes, how sharp a video is. A
path "there and back" has an odd number of frames, and frames i and T - 1 - i have the same camera."""

import math
from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor


def psnr(a: Tensor, b: Tensor, where: Tensor | None = None) -> Tensor:
    """PSNR in dB of pictures (..., H, W, 3) uint8, one value per picture; infinite where two are equal.

    Args:
        where: (..., H, W) bool, the pixels that count. A picture in which none counts gets NaN.
    """
    error = ((a.float() - b.float()) / 255).square().mean(-1)  # (..., H, W)
    where = torch.ones_like(error, dtype=torch.bool) if where is None else where
    return -10 * torch.log10((error * where).sum((-1, -2)) / where.sum((-1, -2)))


def mean_psnr(frames: Tensor, truth: Tensor, where: Tensor | None = None) -> float:
    """Mean PSNR in dB over all frames but the first, at pixels `where` (T, H, W); frames without any are left out."""
    return psnr(frames[1:], truth[1:], None if where is None else where[1:]).nanmean().item()


def closed_loop_psnr(frames: Tensor) -> float:
    """PSNR in dB of the last frame against the first: is it still the same room?"""
    return psnr(frames[-1], frames[0]).item()


def revisit_psnr(frames: Tensor, lag: int = 40) -> float:
    """PSNR in dB of a *generated* view against the same view `lag` frames later, on a path there and back; NaN if the
    video is too short to have such a pair."""
    first = (len(frames) - 1 - lag) // 2
    return psnr(frames[first], frames[len(frames) - 1 - first]).item() if first >= 1 else math.nan


def gradient_energy(frames: Tensor, truth: Tensor) -> float:
    """Mean absolute difference of neighbouring pixels, divided by that of the true video.

    1 is as sharp as the truth; fog is far below. The first frame is given and does not count.
    """
    pair = (frames[1:].float(), truth[1:].float())
    energy, whole = ((x.diff(dim=1).abs().mean() + x.diff(dim=2).abs().mean()).item() for x in pair)
    return energy / max(whole, 1e-9)


def measure(frames: Tensor, truth: Tensor, covered: Tensor, lag: int = 40) -> dict[str, float]:
    """All metrics of a video on a path there and back, whose true video is `truth`; `covered` (T, H, W) bool are the
    pixels that the memory showed."""
    from skimage.metrics import structural_similarity

    pairs = zip(frames[1:].numpy(), truth[1:].numpy())
    return {
        "closed_loop_psnr": closed_loop_psnr(frames),
        "revisit_psnr": revisit_psnr(frames, lag),
        "psnr_to_truth": mean_psnr(frames, truth),
        "psnr_to_truth_covered": mean_psnr(frames, truth, covered),
        "ssim": float(np.mean([structural_similarity(a, b, channel_axis=-1) for a, b in pairs])),
        "gradient_energy": gradient_energy(frames, truth),
    }


def summary(values: Iterable[float]) -> dict[str, float]:
    """Mean and half width of its 95% interval (normal approximation) of the finite values."""
    x = np.array([v for v in values if math.isfinite(v)])
    half = 1.96 * x.std(ddof=1) / math.sqrt(len(x)) if len(x) > 1 else math.nan
    return {"mean": float(x.mean()) if len(x) else math.nan, "ci95": float(half)}


def summaries(rows: Sequence[dict[str, float]]) -> dict[str, dict[str, float]]:
    """The `summary` of each metric over rows with the same metrics."""
    return {metric: summary(row[metric] for row in rows) for metric in rows[0]}


def as_pixel_mask(visibility: Tensor, frames: Tensor) -> Tensor:
    """Which pixels the memory showed: visibility (t, h, w) of latent frames to (T, H, W) of frames (T, H, W, 3).

    A latent frame stands for all pixel frames since the latent frame before it.
    """
    each = (len(frames) - 1) // max(1, len(visibility) - 1)
    seen = torch.cat([visibility[:1], visibility[1:].repeat_interleave(each, 0)])  # (T, h, w)
    cell = frames.shape[1] // visibility.shape[1]
    return seen.repeat_interleave(cell, 1).repeat_interleave(cell, 2)
