"""Depth in stage 5: estimate it, and bring it to the scale of the memory's depth.

A network knows the shape of what it sees better than its scale. The memory shows some of the same surfaces at a depth
that is fixed already, so it says which scale to take (paper: depth estimation in segment stitching). A metric model
gets a scale, a relative one a scale and a shift of the inverse depth.
"""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from mirage_nb.cameras import Cameras
from mirage_nb.lifting import depth_to_latent
from mirage_nb.reprojection import Readout

MIN_OVERLAP = 0.02  # share of a frame's cells whose depth both know; fewer say nothing about scale
FAR = 1000.0  # metres; an inverse depth below 1 / FAR is the sky, hence unknown

UNALIGNED = "depth: relative depth can't be aligned, {}; give the first frame's depth, or take a metric model"
NO_SCALE = UNALIGNED.format("nothing says its scale")


class DepthEstimator(Protocol):
    """What the loop asks of a depth model; `relative` is False for z-depth in metres, True for inverse depth up to
    scale and shift."""

    relative: bool

    def predict(self, pixels: Tensor, intrinsics: Tensor) -> Tensor:
        """Depth (N, H, W) of pixels (N, 3, H, W) in [-1, 1] with intrinsics (N, 4); 0 where it is unknown."""


class Fit(NamedTuple):
    """How the estimated depth d of a frame was fitted: z = scale * d if d is metric, else 1 / z = scale * d + shift."""

    scale: float  # where too little overlapped, scale and shift are those of the frame before (or none)
    shift: float
    overlap: float  # share of cells whose depth both the estimate and the memory know; 0 where that was too little
    error: float  # the median relative difference of the two depths after the fit


def robust_line(x: Tensor, y: Tensor, steps: int = 10) -> tuple[float, float]:
    """Slope and intercept of y = a x + b, by least squares on what agrees; a third of wild values does no harm.

    It starts from the median slope of far pairs, and drops what is off by three deviations, again and again.
    """
    x, y = x.cpu().double(), y.cpu().double()  # Apple's MPS has no float64
    order = x.argsort(stable=True)
    half = len(x) // 2
    low, high = order[:half], order[len(x) - half :]
    run = x[high] - x[low]
    slopes = (y[high] - y[low])[run > 0] / run[run > 0]
    if not len(slopes):
        return 0.0, y.median().item()
    a = slopes.median()
    b = (y - a * x).median()
    for _ in range(steps):
        off = (y - a * x - b).abs()
        good = off <= 3 * 1.4826 * off.median() + 1e-12
        mean_x, mean_y = x[good].mean(), y[good].mean()
        spread = ((x[good] - mean_x) ** 2).sum()
        if spread <= 0:
            break
        a = ((x[good] - mean_x) * (y[good] - mean_y)).sum() / spread
        b = mean_y - a * mean_x
    return a.item(), b.item()


def align_depth(
    depth: Tensor, readout_depth: Tensor, visible: Tensor, relative: bool = False, before: Fit | None = None
) -> tuple[Tensor, list[Fit]]:
    """Depth (N, H, W) in metres, in the memory's scale, and how well each frame fits.

    Args:
        depth: (N, H, W) z-depth in metres, or inverse depth up to scale and shift (`relative`); 0 = unknown.
        readout_depth, visible: (N, h, w), what the memory shows to the same cameras.
        before: the last fit, taken over by frames that overlap with too little; a relative model needs it there.

    Raises:
        ValueError: a relative depth that nothing known can be fitted to.
    """
    cells = depth_to_latent(depth, depth.shape[1] // readout_depth.shape[1])
    aligned, fits = [], []
    for whole, estimated, in_memory, seen in zip(depth, cells, readout_depth, visible):
        both = seen & (estimated > 0) & (in_memory > 0)
        share = both.float().mean().item()
        scale, shift, enough = 1.0, 0.0, both.sum() >= max(8 if relative else 1, MIN_OVERLAP * both.numel())
        if not relative:
            if enough:
                scale = (in_memory[both].log() - estimated[both].log()).median().exp().item()
            aligned_whole, aligned_cells = whole * scale, estimated * scale
        else:
            if enough:
                scale, shift = robust_line(estimated[both], 1 / in_memory[both])
            if not enough or scale <= 0:
                if before is None:
                    why = f"{share:.0%} of the frame has a known depth{' and runs against it' * bool(enough)}"
                    raise ValueError(UNALIGNED.format(why))
                scale, shift, enough = before.scale, before.shift, False
            fitted = [torch.where(d > 0, scale * d + shift, 0.0) for d in (whole, estimated)]  # 1 / metres
            aligned_whole, aligned_cells = (torch.where(d > 1 / FAR, 1 / d.clamp(min=1 / FAR), 0.0) for d in fitted)
        error = 0.0
        if enough:
            error = ((aligned_cells - in_memory).abs() / in_memory)[both & (aligned_cells > 0)].nanmedian().item()
        before = Fit(scale, shift, share if enough else 0.0, error if error == error else 1.0)
        aligned.append(aligned_whole)
        fits.append(before)
    return torch.stack(aligned), fits


def estimate_depth(
    estimator: DepthEstimator, pixels: Tensor, cameras: Sequence[Cameras], readouts: Sequence[Readout],
    before: Sequence[Fit | None],
) -> tuple[Tensor, list[list[Fit]]]:  # fmt: skip
    """Depth (B, t, H, W) in metres of pixels (B, t, 3, H, W) in [-1, 1] of B scenes, in the scale of their memories,
    and the fits of each scene. A scene has t cameras at the size of the image, a readout at them, and its last fit."""
    intrinsics = torch.cat([views.intrinsics for views in cameras])
    depth = estimator.predict(pixels.flatten(0, 1), intrinsics).unflatten(0, pixels.shape[:2])
    scenes = zip(depth, readouts, before)
    aligned = [align_depth(d, readout.depth, readout.visibility, estimator.relative, b) for d, readout, b in scenes]
    depth, fits = zip(*aligned)
    return torch.stack(depth), list(fits)


def fit_report(fits: list[Fit]) -> dict | None:
    """Medians over the frames that could be fitted, JSON-able; None where there was nothing to fit."""
    fitted = [fit for fit in fits if fit.overlap > 0]
    medians = torch.tensor(fitted, dtype=torch.float64).median(0).values.tolist() if fitted else []
    names = ("scale", "shift", "overlap", "relative_error")
    rounded = {name: round(value, 5) for name, value in zip(names, medians)}
    return {"frames": len(fits), "fitted": len(fitted)} | rounded if fits else None
