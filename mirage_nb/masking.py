"""Stage 4, masking: which latent cells may be written to the memory.

The paper never writes moving objects and the sky. Neither do we. A cell on a depth edge mixes two surfaces, but can
only be lifted to one of them: it is left out as well, unless the generator has a learnt prior, which knows what to make
of such tokens. Where nobody knows what moves, geometry tells: a surface that another view looks through was not there
then.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import max_pool2d

from mirage_nb.cameras import Cameras
from mirage_nb.lifting import cells, depth_to_latent
from mirage_nb.reprojection import Readout, project

EDGE_SHARE = 1 / 8  # a cell is on an edge if more of its pixels are; an edge along its border is just that many


def depth_edges(depth: Tensor, threshold: float = 0.05, width: int = 1) -> Tensor:
    """True at the pixels on both sides of a depth discontinuity, (N, H, W) bool.

    Inverse depth is linear across the image of a plane, however slanted, so its second difference is zero there, and
    a floor seen at a grazing angle is no edge. At a jump it is the jump.

    Args:
        depth: (N, H, W) z-depth in metres; pixels of unknown depth are no edges and make none.
        threshold: relative jump in depth, 0.05 = 5%.
        width: baseline of the difference in pixels, and how many pixels are marked on either side.
    """
    known = torch.isfinite(depth) & (depth > 0)
    inverse = torch.where(known, 1 / depth, torch.nan)
    edges = torch.zeros_like(known)
    for dim in (1, 2):
        length = depth.shape[dim] - 2 * width
        if length > 0:
            before, here, after = (inverse.narrow(dim, start, length) for start in (0, width, 2 * width))
            nearest = torch.maximum(here, torch.maximum(before, after))
            jump = (before - 2 * here + after).abs() > threshold * nearest
            edges.narrow(dim, width, length).logical_or_(jump)
    return edges


def writable(
    depth: Tensor,
    moving: Tensor | None = None,
    sky: Tensor | None = None,
    *,
    stride: int,
    edge_threshold: float | None = 0.05,
) -> Tensor:
    """Stage 4 of the paper: which cells may be written, (N, H/stride, W/stride) bool, as `lift` and `write` take it.

    A cell may be written if its depth is known, no pixel of it is moving or sky, and it is not on a depth edge (where
    that is asked for).

    Args:
        depth: (N, H, W) z-depth in metres; 0 or non-finite means unknown.
        moving, sky: (N, H, W) bool masks, or None where nobody knows.
        stride: pixels per latent cell.
        edge_threshold: see `depth_edges`; None lets depth edges pass.

    Raises:
        ValueError: a mask is not bool or has another shape than the depth.
    """
    allowed = depth_to_latent(depth, stride) > 0
    for name, mask in (("moving", moving), ("sky", sky)):
        if mask is None:
            continue
        if mask.shape != depth.shape or mask.dtype != torch.bool:
            raise ValueError(f"{name}: expected bool {tuple(depth.shape)}, got {mask.dtype} {tuple(mask.shape)}")
        allowed &= ~cells(mask, stride).any(-1)
    if edge_threshold is not None:
        edges = depth_edges(depth, edge_threshold, width=max(1, stride // 8))
        allowed &= cells(edges, stride).float().mean(-1) <= EDGE_SHARE
    return allowed


def nearest_around(depth: Tensor, stride: int) -> Tensor:
    """Smallest z-depth in each cell and its eight neighbours, (N, h, w); 0 where anything there is unknown."""
    depth = torch.where(torch.isfinite(depth) & (depth > 0), depth, 0.0)
    return -max_pool2d(-cells(depth, stride).amin(-1)[:, None], 3, 1, 1)[:, 0]


def looked_through(
    surface: Tensor, cameras: Cameras, behind: Tensor, views: Cameras, tolerance: float = 0.1, witnesses: int = 1
) -> Tensor:
    """Cells whose surface at least `witnesses` views look through, so that it was not there then: (N, h, w) bool.

    A view looks through a surface if it sees only what lies more than `tolerance` (relatively) behind it, in the cell
    and all around it.

    Args:
        surface: (N, h, w) z-depth in metres of the cells of N cameras; 0 = unknown.
        cameras: N cameras **at latent size**.
        behind: (M, h, w), `nearest_around` of the views' depth; 0 is evidence of nothing.
        views: M cameras at latent size.
        tolerance: relative depth; more than the error of depth from frame to frame.
    """
    n, (h, w) = len(cameras), views.size
    points = cameras.unproject(surface).reshape(-1, 3)
    count = torch.zeros(len(points), dtype=torch.int64, device=points.device)
    for view in range(len(views)):
        u, v, z = project(points, views.c2w[view], views.intrinsics[view])
        inside = (z > 0) & (u >= 0) & (u < w) & (v >= 0) & (v < h)
        seen = behind[view, v[inside].long(), u[inside].long()]
        count[inside] += seen > z[inside] * (1 + tolerance)
    return (count >= witnesses).reshape(n, *surface.shape[1:]) & (surface > 0)


def seen_through(depth: Tensor, cameras: Cameras, stride: int, tolerance: float = 0.1) -> Tensor:
    """Cells whose surface another frame looks through, so that it must have moved: (N, h, w) bool.

    Every surface of one frame is held against all the others (`looked_through`). This finds the moving thing itself,
    and never the background that it hides or sets free. What moves less than its own size between the frames stays
    unseen.

    Args:
        depth: (N, H, W) z-depth in metres; unknown depth is evidence of nothing.
        cameras: N cameras at the same size.
        stride: pixels per latent cell.
        tolerance: relative depth; more than the error of depth from frame to frame.
    """
    grid = cameras.downscale(stride)
    return looked_through(depth_to_latent(depth, stride), grid, nearest_around(depth, stride), grid, tolerance)


def inconsistent(
    depth: Tensor,
    readout: Readout,
    latents: Tensor | None = None,
    tolerance: float = 0.1,
    residual: float = 1.2,
) -> Tensor:
    """Cells where a view contradicts the memory, (N, h, w) bool.

    Either the view looks through the remembered surface: everything in the cell and around it lies more than
    `tolerance` behind the readout. Then the token shows something that has moved away, and `readout.index` of these
    cells says which tokens to delete. Or the depths agree, but the latents don't. A surface seen in front of the
    remembered one is no contradiction, since a static thing may hide another; `seen_through` tells whether it moves.

    Args:
        depth: (N, H, W) z-depth in metres of the view, per pixel (or per cell); 0 or non-finite means unknown.
        readout: what the memory shows to the same cameras.
        latents: (N, C, h, w) of the view; None compares depth only.
        tolerance: relative depth.
        residual: RMS difference of two tokens, in standard deviations of the view's latents. Tokens of
            unrelated surfaces differ by about 1.4.
    """
    h, w = readout.depth.shape[1:]
    if depth.ndim != 3 or len(depth) != len(readout) or depth.shape[1] % h or depth.shape[2] * h != depth.shape[1] * w:
        raise ValueError(f"depth: expected ({len(readout)}, {h}, {w}) or a multiple, got {tuple(depth.shape)}")
    stride = depth.shape[1] // h
    gone = nearest_around(depth, stride) > readout.depth * (1 + tolerance)
    if latents is not None:
        seen = depth_to_latent(depth, stride)
        same = (seen > 0) & ((seen - readout.depth).abs() <= tolerance * seen)
        error = (latents - readout.latents).float().square().mean(1).sqrt()
        gone |= same & (error > residual * latents.float().std())
    return gone & readout.visibility
