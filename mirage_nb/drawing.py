"""New cells, drawn to what a picture of the same world shows: textures and things, grown on latents.

Where a generator does not know what is there it hedges, and a mean of walls, windows and shelves is mist. But the new
part of a room is mostly made of what its old part is made of. So what the generator has in mind for a view is put
together from pieces of the first frame, as Efros and Leung (1999) grew textures; only that the pieces are latents, and
that the generator has the next word at every step.
"""

from __future__ import annotations

import torch
from torch import Tensor

REACH = 3  # cells to each side that are compared when a cell is looked for
HEIGHT = 43.0  # how much it counts, beside their latents, that cells are a whole picture apart in height
SHARED = 8.0  # how unlike its best place a cell of the picture may be without being sought more for it
ROUNDS = 3  # times that pieces are looked for, each time around those of the time before


def drawn_to(estimate: Tensor, new: Tensor, world: Tensor) -> Tensor:
    """An estimate of clean latents, its new cells put together from cells of a picture's.

    Each is taken from where the picture's surroundings, up to 7 x 7 cells, are most like its own, at about that
    height, for ceilings are above and floors are below. Neighbours share most of their surroundings, so they are mostly
    taken from the same place: pieces, not crumbs; and when they are looked for again, more so.

    What is likest to a hedging guess is a plain wall. So distances are divided by the least that the picture's cell has
    to any of the view's, plus a constant, as Granot et al. (2022, GPNN) do: what no cell asks for is found, too.

    Args:
        estimate: (B, C, t, h, w). new: (B, 1, t, h, w) bool, the cells that are replaced. world: (B, C, h', w').

    Returns:
        (B, C, t, h, w), in which every new cell is one of the picture's.
    """
    frames, new = (x.transpose(1, 2).flatten(0, 1) for x in (estimate, new))
    world = world.repeat_interleave(estimate.shape[2], 0)
    for _ in range(ROUNDS):
        apart = unlike(with_height(frames), with_height(world), REACH).flatten(1, 2)
        nearest = (apart / (SHARED + apart.amin(1, keepdim=True))).argmin(-1)
        found = world.flatten(2).gather(2, nearest[:, None].expand(-1, world.shape[1], -1))
        frames = torch.where(new, found.view_as(frames), frames)
    return frames.unflatten(0, (len(estimate), -1)).transpose(1, 2)


def with_height(frames: Tensor) -> Tensor:
    """Latents (N, C, h, w) with one channel more, in which rows are as far apart as HEIGHT says."""
    rows = torch.linspace(0, HEIGHT, frames.shape[-2], device=frames.device)
    return torch.cat([frames, rows[:, None].expand_as(frames[:, :1])], 1)


def unlike(one: Tensor, other: Tensor, reach: int) -> Tensor:
    """Mean squared distance of the surroundings of each cell of one picture to those of each cell of another, over the
    cells up to `reach` away that both have: (N, C, h, w) and (N, C, h', w') to (N, h, w, h' w')."""
    apart = torch.cdist(one.flatten(2).mT, other.flatten(2).mT).square()
    apart = apart.unflatten(2, other.shape[-2:]).unflatten(1, one.shape[-2:])
    count = torch.ones_like(apart[:1])
    for axis in (1, 2):
        apart, count = along(apart, axis, reach), along(count, axis, reach)
    return (apart / count).flatten(3)


def along(pairs: Tensor, axis: int, reach: int) -> Tensor:
    """Sums over pairs (N, h, w, h', w') of cells that lie equally far, up to `reach`, from the pair's, on an axis."""
    total, sizes = torch.zeros_like(pairs), (pairs.shape[axis], pairs.shape[axis + 2])
    reach = min(reach, *(size - 1 for size in sizes))
    for by in range(-reach, reach + 1):
        here, there = total, pairs
        for dim, size in zip((axis, axis + 2), sizes):
            here = here.narrow(dim, max(0, -by), size - abs(by))
            there = there.narrow(dim, max(0, by), size - abs(by))
        here += there
    return total
