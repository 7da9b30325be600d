"""New cells, drawn to what a picture of the same world shows: textures and things, grown on latents.

Where a generator does not know what is there it hedges, and a mean of walls, windows and shelves is mist. But the new
part of a room is mostly made of what its old part is made of. So what the generator has in mind for a view is put
together from pieces of the first frame, as Efros and Leung (1999) grew textures; only that the pieces are latents, and
that the generator has the next word at every step.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

REACH = 3  # cells to each side that are compared when a cell is looked for
SHIFTS = 8  # how many shifts of the picture serve all of a view
SEAM = 2.0  # how much a seam counts: the mean squared difference of latents on both sides
HEIGHT = 43.0  # how much it counts, beside their latents, that cells are a whole picture apart in height
SHARED = 8.0  # how unlike its best place a cell of the picture may be without being sought more for it
ROUNDS = 3  # times that pieces are looked for, each time around those of the time before
BLIND = 1.0  # what is counted where nothing can be compared: half as unlike as latents are by chance
FAR = 1e3  # more than all seams of a cell can cost
PASSES = 20  # times that cells tell each other what they would have to pay
OLD = 0.2  # share of what was told before that is kept, so that they don't swing to and fro


def drawn_to(estimate: Tensor, new: Tensor, world: Tensor) -> Tensor:
    """An estimate of clean latents, its new cells put together from cells of a picture's.

    Each is taken from where the picture's surroundings, up to 7 x 7 cells, are like its own, at about that height, for
    ceilings are above and floors are below. What is likest to a hedging guess is a plain wall. So distances are divided
    by the least that the picture's cell has to any of the view's, plus a constant, as Granot et al. (2022, GPNN) do:
    what no cell asks for is found, too. And what the view has around a cell, but the picture has not, counts as unlike:
    else its rim fits everywhere, having little to compare, and a wall at one edge goes on where there should be floor.

    Cells are not taken one by one, but with the picture shifted as a whole, by one of the few shifts that serve the
    view best, as He and Sun (2012) complete photographs; and where one piece ends and another begins, or what is known,
    is chosen so that the seam shows least (`sewn`). So walls end at edges, not in mist.

    Args:
        estimate: (B, C, t, h, w). new: (B, 1, t, h, w) bool, the cells that are replaced. world: (B, C, h', w').

    Returns:
        (B, C, t, h, w), in which every new cell is one of the picture's.
    """
    frames, new = (x.transpose(1, 2).flatten(0, 1) for x in (estimate, new))
    world = world.repeat_interleave(estimate.shape[2], 0)
    missing = BLIND * world.shape[1]
    for _ in range(ROUNDS):
        apart = unlike(with_height(frames), with_height(world), REACH, missing).flatten(1, 2)
        cost = apart / (SHARED + apart.amin(1, keepdim=True))
        shifts = (shifted(*one, world.shape[-2:]) for one in zip(cost, new[:, 0]))
        nearest = sewn(*map(torch.stack, zip(*shifts)), frames, new[:, 0], world)
        nearest = torch.where(nearest < 0, cost.argmin(-1), nearest)  # no shift serves it: each by itself
        found = world.flatten(2).gather(2, nearest[:, None].expand(-1, world.shape[1], -1))
        frames = torch.where(new, found.view_as(frames), frames)
    return frames.unflatten(0, (len(estimate), -1)).transpose(1, 2)


def shifted(cost: Tensor, new: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """A picture of `size` under the SHIFTS that serve a view's new cells best, chosen greedily: each next one saves
    most.

    Args:
        cost: (h w, h' w') of taking a cell from a place. new: (h, w) bool.

    Returns:
        For each shift and cell the place it is taken from, (S, h, w), -1 if that is beyond the picture, and what it
        costs, infinite there.
    """
    (h, w), (high, wide) = new.shape, size
    cell, place = (torch.arange(k, device=cost.device) for k in (h * w, high * wide))
    down = place // wide - (cell // w)[:, None] + h - 1
    right = place % wide - (cell % w)[:, None] + w - 1
    number = down * (w + wide - 1) + right  # (h w, h' w'): by which shift a cell comes from a place
    places = number.new_full((h * w, (h + high - 1) * (w + wide - 1)), -1)
    places.scatter_(1, number, place.expand_as(number))
    asked = new.flatten()
    costs = cost.new_full(places[asked].shape, torch.inf).scatter_(1, number[asked], cost[asked])
    best, chosen = cost.amax(), []
    for _ in range(SHIFTS):
        chosen.append((best - costs).clamp_(min=0).sum(0).argmax())
        best = torch.minimum(best, costs[:, chosen[-1], None])
    places = places[:, torch.stack(chosen)]
    costs = cost.gather(1, places.clamp(min=0)).where(places >= 0, torch.inf)
    return places.T.unflatten(1, (h, w)), costs.T.unflatten(1, (h, w))


def sewn(places: Tensor, costs: Tensor, frames: Tensor, new: Tensor, world: Tensor) -> Tensor:
    """Which place each cell is taken from, (N, h w): of the shifts' `places` and `costs` (N, S, h, w), see `shifted`,
    one that is cheap and makes no seam. Two shifts make none where both bring the same to both sides of it, and a shift
    makes none with what is known where it brings the very same. -1 where no shift brings anything.
    """
    (h, w), channels, inside = new.shape[1:], world.shape[1], places >= 0
    index = places.clamp(min=0).flatten(1)[:, None].expand(-1, channels, -1)
    pieces = world.flatten(2).gather(2, index).unflatten(2, (-1, h, w))
    unlike_known = (pieces - frames[:, :, None]).square().mean(1)
    cells = pieces.permute(0, 3, 4, 2, 1)
    unlike_pieces = (torch.cdist(cells, cells).square() / channels).permute(0, 3, 4, 1, 2)  # (N, S, S, h, w)
    free = (new & inside.any(1))[:, None]
    own, pairs = costs.clamp(max=FAR), []
    for side in range(4):
        brings, unsettled = beside(inside, side), beside(free, side)
        settled = beside(torch.ones_like(free), side) & ~unsettled
        own = own + SEAM * settled * beside(unlike_known, side).where(brings, BLIND)
        here, there = inside[:, None], brings[:, :, None]
        seam = here * unlike_pieces + there * beside(unlike_pieces, side)
        seam = (seam / (here.float() + there)).where(here | there, BLIND)
        pairs.append(SEAM * unsettled[:, None] * seam)
    chosen = cheapest(own, pairs)
    return places.gather(1, chosen).where(free, -1).flatten(1)


def cheapest(own: Tensor, pairs: list[Tensor]) -> Tensor:
    """The label of each cell of a grid, (N, 1, h, w), that makes what all labels cost together small, by belief
    propagation (min-sum, damped; Felzenszwalb and Huttenlocher 2006).

    Args:
        own: (N, S, h, w), what each of S labels costs. pairs: four of (N, S, S, h, w), what a cell's label and that of
            the cell to its right, left, below or above cost together.
    """
    told = [torch.zeros_like(own)] * 4  # by the cells around, what each label would cost them
    for _ in range(PASSES):
        belief = own + sum(told)
        said = [(beside(belief - told[k ^ 1], k)[:, None] + pairs[k]).amin(2) for k in range(4)]
        told = [OLD * one + (1 - OLD) * (two - two.amin(1, keepdim=True)) for one, two in zip(told, said)]
    return (own + sum(told)).argmin(1, keepdim=True)


def beside(x: Tensor, side: int) -> Tensor:
    """What each cell (..., h, w) has to its right, left, below or above; zero beyond the edge."""
    h, w = x.shape[-2:]
    down, right = ((0, 1), (0, -1), (1, 0), (-1, 0))[side]
    x = torch.nn.functional.pad(x, (1, 1, 1, 1))
    return x[..., 1 + down : 1 + down + h, 1 + right : 1 + right + w]


def with_height(frames: Tensor) -> Tensor:
    """Latents (N, C, h, w) with one channel more, in which rows are as far apart as HEIGHT says."""
    rows = torch.linspace(0, HEIGHT, frames.shape[-2], device=frames.device)
    return torch.cat([frames, rows[:, None].expand_as(frames[:, :1])], 1)


def unlike(one: Tensor, other: Tensor, reach: int, missing: float) -> Tensor:
    """Mean squared distance of the surroundings of each cell of one picture to those of each cell of another, over the
    cells up to `reach` away that the first has: (N, C, h, w) and (N, C, h', w') to (N, h, w, h' w'). Such as the other
    has not are `missing`."""
    apart = torch.cdist(one.flatten(2).mT, other.flatten(2).mT).square()
    apart = apart.unflatten(2, other.shape[-2:]).unflatten(1, one.shape[-2:])
    both, every = torch.ones_like(apart[:1]), apart.new_ones(1, *one.shape[-2:])
    for axis in (1, 2):
        apart, both = along(apart, axis, reach), along(both, axis, reach)
    every = avg_pool2d(every, 2 * reach + 1, 1, reach, divisor_override=1)[..., None, None]
    return ((apart + missing * (every - both)) / every).flatten(3)


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
