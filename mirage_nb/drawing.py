"""New cells, drawn to what a picture of the same world shows: textures and things, grown on latents.

Where a generator does not know what is there it hedges, and a mean of walls, windows and shelves is mist. But the new
part of a room is mostly made of what its old part is made of. So what the generator has in mind for a view is put
together from pieces of the first frame, as Efros and Leung (1999) grew textures and Pritch et al. (2009) moved pieces
of photographs; only that the pieces are latents, and that the generator has the next word at every step.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

REACH = 3  # cells to each side that are compared when a cell is looked for
HEIGHT = 43.0  # how much it counts, beside their latents, that cells are a whole picture apart in height
SHARED = 0.5  # the smaller, the more a picture's cells are used alike; a mean squared distance of latents
SWEEPS = 16  # over half of the cells
SIDES = (0, 1), (0, -1), (1, 0), (-1, 0)


def drawn_to(estimate: Tensor, world: Tensor) -> Tensor:
    """An estimate of clean latents, put together from cells of a picture's.

    Each cell is taken from where the picture's surroundings, up to 7 x 7 cells, are most like its own, at about that
    height, for ceilings are above and floors are below. An estimate in doubt is smooth, most like an empty wall;
    so a distance counts in relation to the least that any cell has to that place, and all of the picture comes to its
    turn (Granot et al., arXiv 2103.15545). Then cells change their minds for their neighbours' sake
    (`mended`).

    Args:
        estimate: (B, C, t, h, w). world: (B, C, h', w').

    Returns:
        (B, C, t, h, w), in which every cell is one of the picture's.
    """
    frames = estimate.transpose(1, 2).flatten(0, 1)
    world = world.repeat_interleave(estimate.shape[2], 0)
    cost = unlike(with_height(frames), with_height(world), REACH)
    cost = cost / (SHARED + cost.amin((1, 2), keepdim=True))
    label = mended(cost, unlike(world, world, 1).flatten(1, 2), world.shape[-2:])
    found = world.flatten(2).gather(2, label.flatten(1)[:, None].expand(-1, world.shape[1], -1))
    return found.view_as(frames).unflatten(0, (len(estimate), -1)).transpose(1, 2)


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


def mended(cost: Tensor, apart: Tensor, size: tuple[int, int]) -> Tensor:
    """Which cell of a picture each cell takes, so that they fit it and each other: (N, h, w).

    A cell whose neighbour to the right takes s would fit best if it took the one to the left of s; another costs what
    that one's surroundings are unlike. From the best cell by itself on, the cells of one colour of a chess-board in
    turn take what is best beside their neighbours of the other (Besag's iterated conditional modes, 1986).

    Args:
        cost: (N, h, w, S), what it costs a cell to take one of the picture's S = h' w'.
        apart: (N, S, S), how unlike these are among themselves. size: (h', w').
    """
    (_, h, w, count), device = cost.shape, cost.device
    nothing = count  # what is beyond an edge: as unlike as cells are on average, or no neighbour at all
    places = pad(torch.arange(count, device=device).view(1, *size), (1, 1, 1, 1), value=nothing)[0]
    apart = torch.cat([apart, apart.mean((1, 2), keepdim=True).expand(-1, 1, count)], 1)
    seams = [
        pad(apart[:, places[1 + y : 1 + y + size[0], 1 + x : 1 + x + size[1]].flatten()].mT, (0, 0, 0, 1))
        for y, x in SIDES
    ]  # (N, what the neighbour takes, what the cell takes)
    label = cost.argmin(-1)
    colour = (torch.arange(h, device=device)[:, None] + torch.arange(w, device=device)) % 2
    for sweep in range(SWEEPS):
        total, around = cost.clone(), pad(label, (1, 1, 1, 1), value=nothing)
        for (y, x), seam in zip(SIDES, seams):
            taken = around[:, 1 + y : 1 + y + h, 1 + x : 1 + x + w].flatten(1)
            total += seam.gather(1, taken[..., None].expand(-1, -1, count)).view_as(total)
        label = torch.where(colour == sweep % 2, total.argmin(-1), label)
    return label
