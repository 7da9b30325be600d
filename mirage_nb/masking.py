"""Stage 4, masking: which latent cells may be written to the memory.

The paper never writes moving objects and the sky, and neither do we. Where no segmentation names them, geometry finds
what moves: a surface that another view looks through was not there then. Cells on depth edges are written: a chair with
thin legs is nothing but edges, and the memory should have chairs.
"""

import torch
from torch import Tensor

from mirage_nb.cameras import Cameras
from mirage_nb.context import Past
from mirage_nb.lifting import cells, depth_to_latent, nearest_around
from mirage_nb.reprojection import Readout, project

DEPTH_TOLERANCE = 0.1  # relative; more than estimated depth errs from frame to frame
MOVING_WINDOW = 16  # past latent frames that a new surface is compared with
MOVING_VIEWS = 2  # how many of them must look through a surface, for one depth may err
GONE_VIEWS = 4  # new frames, at most, that must look through a token before it is deleted


def writable(depth: Tensor, moving: Tensor | None = None, sky: Tensor | None = None, *, stride: int) -> Tensor:
    """Stage 4 of the paper: which cells may be written, (N, H/stride, W/stride) bool, as `lift` and `write` take it.

    A cell may be written if its depth is known and no pixel of it is moving or sky.

    Args:
        depth: (N, H, W) z-depth in metres; 0 or non-finite means unknown.
        moving, sky: (N, H, W) bool masks, or None where nobody knows.
        stride: pixels per latent cell.

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
    return allowed


def looked_through(
    surface: Tensor, cameras: Cameras, nearest: Tensor, views: Cameras, tolerance: float = DEPTH_TOLERANCE,
    min_views: int = 1,
) -> Tensor:  # fmt: skip
    """Cells whose surface at least `min_views` views look through, so that it was not there then: (N, h, w) bool.

    A view looks through a surface if all that it sees, in the cell and around it, lies more than `tolerance`
    (relatively) behind the surface.

    Args:
        surface: (N, h, w) z-depth in metres of the cells of N cameras **at latent size**; 0 = unknown.
        nearest: (M, h, w), `lifting.nearest_around` of the depth of M views at latent size; 0 is evidence of nothing.
    """
    h, w = views.size
    points = cameras.unproject(surface).reshape(-1, 3)
    count = torch.zeros(len(points), dtype=torch.int64, device=points.device)
    for view in range(len(views)):
        u, v, z = project(points, views.c2w[view], views.intrinsics[view])
        inside = (z > 0) & (u >= 0) & (u < w) & (v >= 0) & (v < h)
        seen = nearest[view, v[inside].long(), u[inside].long()]
        count[inside] += seen > z[inside] * (1 + tolerance)
    return (count >= min_views).reshape(surface.shape) & (surface > 0)


def inconsistent(depth: Tensor, readout: Readout, tolerance: float = DEPTH_TOLERANCE) -> Tensor:
    """Cells where a view looks through what the memory shows, (N, h, w) bool.

    There, everything in the cell and around it lies more than `tolerance` (relatively) behind the readout. So the token
    shows something that has moved away; `readout.index` of these cells says which tokens to delete. A surface seen in
    front of the memory's is no contradiction, since a static thing may hide another; `find_moving` tells whether it
    moves.

    Args:
        depth: (N, H, W) z-depth in metres of the view, per pixel (or per cell); 0 or non-finite means unknown.
        readout: what the memory shows to the same cameras.
    """
    h, w = readout.depth.shape[1:]
    if depth.ndim != 3 or len(depth) != len(readout) or depth.shape[1] % h or depth.shape[2] * h != depth.shape[1] * w:
        raise ValueError(f"depth: expected ({len(readout)}, {h}, {w}) or a multiple, got {tuple(depth.shape)}")
    nearest = nearest_around(depth, depth.shape[1] // h)
    return (nearest > readout.depth * (1 + tolerance)) & readout.visibility


def find_moving(past: Past, readout: Readout, depth: Tensor) -> tuple[Tensor, Tensor]:
    """Stage 4 by geometry alone: what moves in the last N frames, and which tokens show what has moved away.

    A surface moves if at least MOVING_VIEWS other recent frames look through it. Or if the very first frame, which was
    given, looks through it: then it came later, or it was generated at a wrong depth. A token has moved away if all new
    frames (at most GONE_VIEWS) look through it.

    Args:
        past: the frames of the scene so far, the N new ones last.
        readout: what the memory shows to the N new frames, before they are written.
        depth: (N, H, W) z-depth in metres of the new frames.

    Returns:
        moving (N, h, w) bool, and the rows of the memory (K,) that are to be deleted.
    """
    new, window = len(depth), slice(max(0, len(past) - len(depth) - MOVING_WINDOW), None)
    views, surface = Cameras.cat(past.cameras[window]), torch.stack(past.depth[-new:])
    if len(views) == 1:  # there is nothing to compare with
        return torch.zeros_like(surface, dtype=torch.bool), readout.index.new_empty(0)
    cameras, nearest = Cameras.cat(past.cameras[-new:]), torch.stack(past.nearest[window])
    moving = looked_through(surface, cameras, nearest, views, min_views=min(MOVING_VIEWS, len(views) - 1))
    # The given frame's depth is the best there is: its cells are believed one by one, without those around them.
    moving |= looked_through(surface, cameras, past.depth[0][None], past.cameras[0])
    gone = inconsistent(depth, readout) & (readout.index >= 0)
    frames = gone.nonzero()[:, 0]  # a coarse token covers many cells of one frame, which count once
    rows, counts = torch.stack([frames, readout.index[gone]]).unique(dim=1)[1].unique(return_counts=True)
    return moving, rows[counts >= min(GONE_VIEWS, new)]


def find_writable(
    past: Past, readout: Readout, depth: Tensor, pixels: Tensor, moving: Tensor | None = None, mask_estimator=None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Stage 4 in the loop: which cells (N, h, w) of N new frames may be written, and the rows of the memory (K,) that
    must be deleted.

    Args:
        past, readout, depth: see `find_moving`.
        pixels: (N, 3, H, W) in [-1, 1], for the mask estimator, see `VideoModel`; without one geometry decides.
        moving: (N, H, W) bool, what moves, if given: the estimator and geometry are not used, nothing is deleted.
    """
    stride = depth.shape[1] // past.depth[-1].shape[0]
    if moving is not None:
        return writable(depth, moving, stride=stride), readout.index.new_empty(0)
    named, sky = (None, None) if mask_estimator is None else mask_estimator.predict(pixels)
    moves, gone = find_moving(past, readout, depth)
    return writable(depth, named, sky, stride=stride) & ~moves, gone
