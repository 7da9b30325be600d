"""Estimated depth brought to the memory's: a scale for metric models, a scale and a shift of the inverse for relative.

A network knows the shape of what it sees better than its scale. What the memory shows to the same camera is known, and
holds the world together from segment to segment, so it says which scale to take (paper: depth estimation in stage 5).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from mirage_nb.lifting import depth_to_latent

MIN_OVERLAP = 0.02  # share of a frame's cells that must be known before they say anything of scale
FAR = 1000.0  # metres; an inverse depth below 1 / FAR is the sky's, hence unknown


class Fit(NamedTuple):
    """How a frame's estimate was fitted: 1 / z = scale / d + shift for metric d, scale * d + shift for inverse depth d.

    overlap: share of cells where both were known. error: their median relative difference in depth after the fit. Both
    are 0 and the fit is that of the frame before (or none) where too little overlapped.
    """

    scale: float
    shift: float
    overlap: float
    error: float


def align_scale(depth: Tensor, readout_depth: Tensor, visible: Tensor) -> Tensor:
    """The factor (N,) by which an estimated depth fits the memory's: the median of their ratios, in the logarithm.

    Where the memory shows too little, it is 1.

    Args:
        depth: (N, H, W) per pixel or (N, h, w) per cell, estimated.
        readout_depth, visible: (N, h, w), what the memory shows to the same cameras.
    """
    depth = depth_to_latent(depth, depth.shape[1] // readout_depth.shape[1])
    scales = torch.ones(len(depth), device=depth.device)
    for index, (estimated, remembered, seen) in enumerate(zip(depth, readout_depth, visible)):
        both = seen & (estimated > 0) & (remembered > 0)
        if both.sum() >= max(1, MIN_OVERLAP * both.numel()):
            scales[index] = (remembered[both].log() - estimated[both].log()).median().exp()
    return scales


def robust_line(x: Tensor, y: Tensor, steps: int = 10) -> tuple[float, float]:
    """Slope and intercept of y = a x + b, by least squares on what agrees; a third of wild values does no harm.

    It starts from the median slope of far pairs, and drops what is off by three deviations, again and again.
    """
    x, y = x.double(), y.double()
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
        depth: (N, H, W) z-depth in metres, or inverse depth up to scale and shift; 0 = unknown.
        readout_depth, visible: (N, h, w), what the memory shows to the same cameras.
        relative: which of the two `depth` is.
        before: the last fit, taken over by frames that overlap with too little; a relative model needs it there.

    Raises:
        ValueError: a relative depth that nothing known can be fitted to.
    """
    cells = depth_to_latent(depth, depth.shape[1] // readout_depth.shape[1])
    aligned, fits = [], []
    for whole, estimated, remembered, seen in zip(depth, cells, readout_depth, visible):
        both = seen & (estimated > 0) & (remembered > 0)
        share = both.float().mean().item()
        scale, shift, enough = 1.0, 0.0, both.sum() >= max(8 if relative else 1, MIN_OVERLAP * both.numel())
        if not relative:
            if enough:
                scale = (remembered[both].log() - estimated[both].log()).median().exp().item()
            apply = whole * scale, estimated * scale
        else:
            if enough:
                scale, shift = robust_line(estimated[both], 1 / remembered[both])
            if not enough or scale <= 0:
                if before is None:
                    raise ValueError(
                        f"depth: relative depth can't be aligned, {share:.0%} of the frame has a known depth"
                        + (" and runs against it" if enough else "")
                        + "; give the first frame's depth, or take a metric model"
                    )
                scale, shift, enough = before.scale, before.shift, False
            apply = tuple(_invert(d, scale, shift) for d in (whole, estimated))
        error = 0.0
        if enough:
            error = ((apply[1] - remembered).abs() / remembered)[both & (apply[1] > 0)].nanmedian().item()
        before = Fit(scale, shift, share if enough else 0.0, error if error == error else 1.0)
        aligned.append(apply[0])
        fits.append(before)
    return torch.stack(aligned), fits


def _invert(inverse: Tensor, scale: float, shift: float) -> Tensor:
    """Metres of an inverse depth; 0, unknown, where that is unknown itself or beyond FAR."""
    fitted = scale * inverse + shift
    return torch.where((inverse > 0) & (fitted > 1 / FAR), 1 / fitted.clamp(min=1 / FAR), 0.0)


def fit_report(fits: list[Fit]) -> dict | None:
    """Medians over the frames that could be fitted, JSON-able; None where there was nothing to fit."""
    fitted = [fit for fit in fits if fit.overlap > 0]
    if not fits:
        return None
    report = {"frames": len(fits), "fitted": len(fitted)}
    if fitted:
        columns = torch.tensor(fitted, dtype=torch.float64)
        names = ("scale", "shift", "overlap", "relative_error")
        report |= {name: round(value, 5) for name, value in zip(names, columns.median(0).values.tolist())}
    return report
