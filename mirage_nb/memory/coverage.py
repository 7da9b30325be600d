"""What of a view the memory holds already, and what only more coarsely: stage 2's question before each write."""

from __future__ import annotations

import torch
from torch import Tensor

from mirage_nb.cameras import Cameras
from mirage_nb.lifting import Points, slant
from mirage_nb.memory.blocks import Blocks
from mirage_nb.reprojection import EMPTY, land, pack


def coverage(
    blocks: Blocks, points: Points, depth: Tensor, camera: Cameras, tolerance: float, reach: float, finer: float
) -> tuple[Tensor, Tensor]:
    """Compare the tokens in view with the points (P,) of one view. The settings are those of `LatentGrid`.

    Args:
        depth: (h, w), the view's on the latent grid.
        camera: the view's, at latent size.
        finer: a token wider than this many times the cell is too coarse to cover it.

    Returns:
        Places of the token that covers the cell of each point, or -1 (no token covers two cells); and places of the
        tokens that lie on the view's surfaces, but are too coarse to cover them.
    """
    target = torch.full_like(depth.flatten(), torch.nan)
    target[points.cell] = depth.flatten()[points.cell]
    widths = target / camera.intrinsics[0, 0]
    allowed = torch.maximum(widths, tolerance * target) + reach * slant(depth).flatten()
    best = torch.full_like(target, EMPTY, dtype=torch.int64)
    place, coarse = torch.full_like(best, -1), [best[:0]]
    for batch in blocks.candidates(camera, splats=False):
        u, v, z, cell, inside = (x[0] for x in land(batch.points, camera.c2w, camera.intrinsics, camera.size))
        gap = z.sub_(target.index_select(0, cell)).abs_()
        agrees = (inside & (gap <= allowed.index_select(0, cell))).nonzero()[:, 0]  # never where the target is NaN
        u, v, cell, gap, here = u[agrees], v[agrees], cell[agrees].long(), gap[agrees], batch.place[agrees]
        fine = blocks.pages.gather("footprints", here) <= finer * widths[cell]
        offset = torch.maximum((u - (u.floor() + 0.5)).abs(), (v - (v.floor() + 0.5)).abs())
        covers = fine & (offset <= reach)
        coarse.append(here[~fine])
        cell, key = cell[covers], pack(gap[covers], batch.index[agrees[covers]])
        best.scatter_reduce_(0, cell, key, "amin")
        won = best[cell] == key
        place[cell[won]] = here[covers][won]
    return place[points.cell], torch.cat(coarse)
