"""Stage 3, reprojection: what the memory looks like from other cameras, on their latent grids.

The paper projects all points into each target camera and keeps, for each cell, the token with the smallest depth.
`reproject_reference` says exactly what a readout is, point by point. `reproject` gives the same result fast.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor
from torch.nn.functional import max_pool2d

from mirage_nb.cameras import Cameras
from mirage_nb.lifting import Rows

NEAR = 1e-3  # metres; what is nearer to the camera is not seen
MAX_SPLAT = 3  # cells that a splat may reach beyond the cell where its point lands
MAX_PENALTY = 0.6  # relative depth; loops through held-out rooms close 1.6 dB better than with 0.3
PENALTY_REACH = 0.6  # cells from the centre that cost the whole penalty; loops close 0.5 dB better than with 1
CHUNK = 1 << 15  # camera-point pairs that are tested at once: they fit the processor's cache
CHUNK_GPU = 1 << 22
NOTHING = torch.finfo(torch.float32).max  # the depth of an empty cell
EMPTY_KEY = (0x7F7FFFFF << 32) | 0xFFFFFFFF  # its key: the bits of NOTHING above the highest index


@dataclass(frozen=True)
class Readout(Rows):
    """What N cameras see of a memory, on latent grids of h x w cells.

    Attributes:
        latents: (N, C, h, w), the winning tokens; 0 where there is none.
        visibility: (N, h, w) bool, True where a token won.
        depth: (N, h, w) float32, z-depth of the winner in metres; 0 where there is none.
        offset: (N, 2, h, w) float32, where the winner landed relative to the cell's centre, in cells (x, y): within
            [-0.5, 0.5] for a direct hit, clamped to [-1, 1] for a splat from a neighbour; 0 where there is none.
        index: (N, h, w) int64, row of the winner in the memory, or -1.
    """

    latents: Tensor
    visibility: Tensor
    depth: Tensor
    offset: Tensor
    index: Tensor

    @staticmethod
    def empty(cameras: Cameras, channels: int, dtype=torch.float32) -> "Readout":
        """A readout of nothing for cameras at latent size."""
        index = torch.full((len(cameras), *cameras.size), -1, device=cameras.c2w.device)
        nothing = torch.zeros(0, 3, device=index.device), torch.zeros(0, channels, dtype=dtype, device=index.device)
        return readout_of(index, cameras, channels, lambda rows: nothing)


def project(points: Tensor, c2w: Tensor, intrinsics: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """`Cameras.project`, one multiplication at a time: u, v, z of points (..., 3) for c2w (..., 4, 4).

    A matrix product may round differently with the number of rows. This does not, so reading several cameras together
    equals reading them one by one, to the bit.
    """
    d = [coordinate - c2w[..., k, 3] for k, coordinate in enumerate(points.unbind(-1))]
    x, y, z = ((c2w[..., 0, k] * d[0]).add_(c2w[..., 1, k] * d[1]).add_(c2w[..., 2, k] * d[2]) for k in range(3))
    fx, fy, cx, cy = intrinsics.unbind(-1)
    return x.div_(z).mul_(fx).add_(cx), y.div_(z).mul_(fy).add_(cy), z


def depth_penalty(offset: Tensor, width: Tensor, most: float = MAX_PENALTY) -> Tensor:
    """How much farther away than it is a token counts in the depth test, as a share of its depth: 0 to 2 * most.

    Tokens of one surface differ in depth by the surface's slant and by errors of depth, so their order in depth says
    little. The token in the middle of the cell, seen at the cell's scale, describes the cell best. So one half of the
    penalty grows with `offset` (...), the distance from the cell's centre in cells (the larger one of x and y), up to
    PENALTY_REACH. The other half grows with the mismatch of scale: 1 - 1 / (ratio of widths), for a footprint `width`
    (...) cells wide.
    """
    mismatch = 1 - torch.minimum(width, 1 / width)
    return most * ((offset / PENALTY_REACH).clamp(max=1) + mismatch.nan_to_num(1.0).clamp(0, 1))


def reproject_reference(
    points: Tensor, tokens: Tensor, cameras: Cameras, footprints: Tensor | None = None, penalty: float = MAX_PENALTY
) -> Readout:
    """The definition of a readout (paper: reprojection), one camera and one point after the other. See `reproject`."""
    (h, w), index = cameras.size, torch.full((len(cameras), *cameras.size), -1)
    column, row = torch.arange(w) + 0.5, torch.arange(h)[:, None] + 0.5  # (w,) and (h, 1) centres of cells
    best = torch.full(index.shape, torch.inf)
    for n, i in product(range(len(cameras)), range(len(points))):
        u, v, z = project(points[i], cameras.c2w[n], cameras.intrinsics[n])
        if not (z > NEAR and z < torch.inf and u.isfinite() and v.isfinite()):
            continue
        x, y = (u - column).expand(h, w), (v - row).expand(h, w)
        covered = (u.floor() + 0.5 == column) & (v.floor() + 0.5 == row)  # (h, w), the cell where the point lands
        priority = z.expand(h, w)
        if footprints is not None:
            width = footprints[i] * cameras.intrinsics[n, 0] / z
            reach = width.clamp(max=2 * MAX_SPLAT + 1) / 2
            covered |= (width > 1) & (x.abs() <= reach) & (y.abs() <= reach)
            priority = z * (1 + depth_penalty(torch.maximum(x.abs(), y.abs()), width, penalty))
        wins = covered & (priority < best[n])  # not where they are equal: the lower index keeps the cell
        best[n][wins], index[n][wins] = priority[wins], i
    return readout_of(index, cameras, tokens.shape[1], lambda rows: (points[rows], tokens[rows]))


def readout_of(
    index: Tensor, cameras: Cameras, channels: int, gather: Callable[[Tensor], tuple[Tensor, Tensor]]
) -> Readout:
    """The readout in which rows `index` (N, h, w) won, -1 for none. Only the channels of winners are touched: `gather`
    returns the positions (K, 3) and tokens (K, C) of rows (K,)."""
    n, (h, w) = len(cameras), cameras.size
    slot = (index.flatten() >= 0).nonzero()[:, 0]  # (K,) of the N * h * w cells
    positions, tokens = gather(index.flatten()[slot])
    camera = slot // (h * w)
    u, v, z = project(positions, cameras.c2w[camera], cameras.intrinsics[camera])
    centre = torch.stack([slot % w, slot // w % h], -1) + 0.5  # (K, 2)

    def on_grid(values: Tensor, size: int) -> Tensor:
        """(N, size, h, w): values (K, size) where they won, 0 elsewhere."""
        grid = values.new_zeros(n * h * w, size)
        grid[slot] = values
        return grid.reshape(n, h, w, size).permute(0, 3, 1, 2).contiguous()

    offset = (torch.stack([u, v], -1) - centre).clamp(-1, 1)
    return Readout(on_grid(tokens, channels), index >= 0, on_grid(z[:, None], 1)[:, 0], on_grid(offset, 2), index)


# ---- The fast form. The bits of a float32 depth above the token's index make an integer key that sorts by depth, then
# by index. A cell keeps its smallest key (`amin`): the result is the same on every run and device, without a sort.


def land(
    points: Tensor, c2w: Tensor, intrinsics: Tensor, size: tuple[int, int]
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Where points (K, 3) land in N cameras, c2w (N, 4, 4) and intrinsics (N, 4), whose grids have `size` cells.

    It has no branch, so that every step runs at the speed of the vector unit. Returned are, each (N, K): u and v in
    cells; z in metres; the cell, row * w + column, int32 and always a valid one; and whether the point lands inside of
    the image, farther than NEAR. NaN is outside. An infinite z may be inside; the depth test refuses it.
    """
    (h, w), (u, v, z) = size, project(points, c2w[:, None], intrinsics[:, None])
    column, row = u.floor(), v.floor()
    inside = torch.minimum(torch.minimum(column, w - 1 - column), torch.minimum(row, h - 1 - row)) >= 0
    inside &= z > NEAR
    cell = row.int().clamp_(0, h - 1).mul_(w).add_(column.int().clamp_(0, w - 1))
    return u, v, z, cell, inside


def pack(priority: Tensor, index: Tensor) -> Tensor:
    """int64 keys that sort by a non-negative float32 priority, then by index (below 2**32)."""
    return (priority.contiguous().view(torch.int32).long() << 32) | index


def unpack(keys: Tensor) -> Tensor:
    """The index in packed keys; -1 where no key was ever entered."""
    return torch.where(keys == EMPTY_KEY, -1, keys & 0xFFFFFFFF)


class DepthTest:
    """The z-buffer of N cameras at latent size. Points are added in batches, in any order.

    It is fast by what it leaves out: a point that lies behind the nearest depth of its cell so far can't win, since a
    priority is never smaller than the depth. Few points pass, and only those are packed and entered.
    """

    def __init__(self, cameras: Cameras, penalty: float = MAX_PENALTY) -> None:
        n, (h, w), device = len(cameras), cameras.size, cameras.c2w.device
        self.cameras, self.penalty = cameras, penalty
        self.chunk = CHUNK if device.type == "cpu" else CHUNK_GPU
        self.keys = torch.full((n, h * w), EMPTY_KEY, device=device)
        self._nearest = torch.full((n, h * w), NOTHING, device=device)  # priorities in the keys
        self._farthest = self._nearest.clone()  # the largest of them within a splat's reach, updated now and then
        self._batches = 0

    def add(
        self, points: Tensor, index: Tensor, footprints: Tensor | None = None, cameras: Tensor | None = None
    ) -> None:
        """Test K points (K, 3), float32, in metres. Their rows in the memory, (K,) int64 below 2**32, decide ties. With
        footprints (K,), float32 in metres, points make splats and get a `depth_penalty`. `cameras` are the numbers, in
        rising order, of those that may see the points; by default all.
        """
        points = points.T.contiguous().T  # faster where x, y and z each lie together
        cameras = torch.arange(len(self.cameras), device=points.device) if cameras is None else cameras
        if len(points):
            for part in cameras.split(max(1, self.chunk // len(points))):
                self._add(points, index, footprints, part)
        self._batches += 1
        if footprints is not None and not self._batches & (self._batches - 1):  # the 1st, 2nd, 4th, 8th, ... time
            farthest, reach = self._nearest.view(-1, 1, *self.cameras.size), 2 * MAX_SPLAT + 1
            farthest = max_pool2d(farthest, (1, reach), 1, (0, MAX_SPLAT))
            self._farthest = max_pool2d(farthest, (reach, 1), 1, (MAX_SPLAT, 0))

    def _add(self, points: Tensor, index: Tensor, footprints: Tensor | None, cameras: Tensor) -> None:
        (h, w), intrinsics = self.cameras.size, self.cameras.intrinsics[cameras]
        u, v, z, cell, inside = land(points, self.cameras.c2w[cameras], intrinsics, (h, w))
        slot = cell.add_((cameras * (h * w)).int()[:, None]).flatten()  # (n * K,) cells of all cameras
        u, v, depth, z = u.flatten(), v.flatten(), z, z.flatten()
        hit = inside.flatten().logical_and_(z <= self._nearest.view(-1).index_select(0, slot))
        pair = hit.nonzero()[:, 0]
        if footprints is None:
            self._enter(slot[pair].long(), z[pair], index[pair % len(points)])
            return
        width = (footprints * intrinsics[:, :1]).div_(depth).flatten()

        def enter(pair: Tensor, slot: Tensor, column: Tensor, row: Tensor) -> None:
            x, y = u[pair] - (column + 0.5), v[pair] - (row + 0.5)
            penalty = depth_penalty(torch.maximum(x.abs(), y.abs()), width[pair], self.penalty)
            self._enter(slot, z[pair] * (1 + penalty), index[pair % len(points)])

        enter(pair, slot[pair].long(), u[pair].floor(), v[pair].floor())
        # Splats: footprints wider than a cell also cover the cells whose centre lies in them.
        reach = width.clamp(max=2 * MAX_SPLAT + 1).mul_(0.5)
        wide = (width > 1).logical_and_(z > NEAR).logical_and_(z <= self._farthest.view(-1).index_select(0, slot))
        wide &= torch.minimum(torch.minimum(u, w - u), torch.minimum(v, h - v)).add_(reach) > 0
        pair = wide.nonzero()[:, 0]
        if not len(pair):
            return
        u_, v_, reach = u[pair], v[pair], reach[pair]
        x0, x1 = (u_ - reach - 0.5).ceil().clamp(min=0), (u_ + reach - 0.5).floor().clamp(max=w - 1)
        y0, y1 = (v_ - reach - 0.5).ceil().clamp(min=0), (v_ + reach - 0.5).floor().clamp(max=h - 1)
        columns, rows = (x1 - x0 + 1).clamp(min=0).long(), (y1 - y0 + 1).clamp(min=0).long()
        covered = columns * rows  # (S,) cells of each splat
        which = torch.repeat_interleave(covered)  # (cells of all splats,) the splat
        k = torch.arange(len(which), device=pair.device) - (covered.cumsum(0) - covered)[which]
        x = x0.long()[which] + k % columns[which]
        y = y0.long()[which] + k // columns[which]
        slot = (cameras[pair // len(points)] * (h * w))[which] + y * w + x
        new = (x != u_.floor().long()[which]) | (y != v_.floor().long()[which])  # the point's own cell is done
        new &= z[pair][which] <= self._nearest.view(-1)[slot]
        enter(pair[which[new]], slot[new], x[new], y[new])

    def _enter(self, slot: Tensor, priority: Tensor, index: Tensor) -> None:
        self.keys.view(-1).scatter_reduce_(0, slot, pack(priority, index), "amin")
        self._nearest.view(-1).scatter_reduce_(0, slot, priority, "amin")

    @property
    def index(self) -> Tensor:
        """(N, h, w) int64: the rows that won, -1 for none."""
        return unpack(self.keys).view(-1, *self.cameras.size)


def reproject(
    points: Tensor, tokens: Tensor, cameras: Cameras, footprints: Tensor | None = None, penalty: float = MAX_PENALTY,
) -> Readout:  # fmt: skip
    """Stage 3 of the paper: read points (P, 3) and their tokens (P, C) with N cameras **at latent size**, all at once.

    Without footprints this is the paper's readout: in each cell the token with the smallest z-depth wins, and ties go
    to the lower index. With `footprints` (P,) in metres two things change. A token whose footprint is wider than a cell
    (the camera is nearer than the one that wrote it) also covers the cells whose centre lies in a square of that width
    around it, footprint * fx / z cells, at most MAX_SPLAT cells away. And tokens of one surface compete by how well
    they fit the cell (`depth_penalty`, at most `penalty` for each of its halves). Points that are not finite, or nearer
    than NEAR, cover nothing.

    Raises:
        ValueError: shapes do not fit.
    """
    if points.ndim != 2 or points.shape[1] != 3:
        raise ValueError(f"points: expected (P, 3), got shape {tuple(points.shape)}")
    if tokens.ndim != 2 or len(tokens) != len(points):
        raise ValueError(f"tokens: expected ({len(points)}, C), one row a point, got shape {tuple(tokens.shape)}")
    if footprints is not None and footprints.shape != points.shape[:1]:
        raise ValueError(f"footprints: expected ({len(points)},), got shape {tuple(footprints.shape)}")
    test = DepthTest(cameras, penalty)
    for rows in torch.arange(len(points), device=points.device).split(test.chunk):
        test.add(points[rows], rows, None if footprints is None else footprints[rows])
    return readout_of(test.index, cameras, tokens.shape[1], lambda rows: (points[rows], tokens[rows]))
