"""Stage 3, reprojection: what the memory looks like from other cameras, on their latent grids.

The paper projects all points into each target camera and keeps for each cell the one with the smallest depth. Here
the depth test runs on packed integer keys, float32 depth bits above the token's index, reduced with `amin`: positive
floats sort like integers, so ties go to the lower index and the result is the same on every run and device. Channels
are only gathered for tokens that won.

It is fast by what it leaves out. Points come in batches that stay in the processor's cache; each is projected with a
few dozen vectorised operations and compared with the nearest depth that its cell has so far. Few pass, and only those
are picked out, packed and entered. Nothing is sorted.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import NamedTuple

import torch
from torch import Tensor

from mirage_nb.cameras import Cameras

NEAR = 1e-3  # metres
MAX_SPLAT = 3  # cells that a splat may reach beyond the cell it lands in
SLACK = 0.6  # relative depth; with estimated depth, loops through our rooms close 1.6 dB better than with 0.3
ASIDE = 0.6  # cells from the centre that cost all of the slack; eight rooms' loops close 0.5 dB better than with 1
CHUNK = 1 << 15  # camera-point pairs held at once: what fits a processor's cache
CHUNK_GPU = 1 << 22
NOWHERE = torch.finfo(torch.float32).max  # the depth of an empty cell
EMPTY = (0x7F7FFFFF << 32) | 0xFFFFFFFF  # its key: the bits of NOWHERE above the highest index


@dataclass(frozen=True)
class Readout:
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

    def __len__(self) -> int:
        return len(self.latents)

    def __getitem__(self, index) -> Readout:
        """The readout of some of the cameras: a slice, a mask or an index tensor."""
        return Readout(*(getattr(self, field.name)[index] for field in fields(self)))

    def to(self, device) -> Readout:
        return Readout(*(getattr(self, field.name).to(device) for field in fields(self)))

    @staticmethod
    def empty(cameras: Cameras, channels: int, dtype=torch.float32) -> Readout:
        """A readout of nothing for cameras at latent size."""
        n, (h, w), device = len(cameras), cameras.size, cameras.c2w.device
        return Readout(
            latents=torch.zeros(n, channels, h, w, dtype=dtype, device=device),
            visibility=torch.zeros(n, h, w, dtype=torch.bool, device=device),
            depth=torch.zeros(n, h, w, device=device),
            offset=torch.zeros(n, 2, h, w, device=device),
            index=torch.full((n, h, w), -1, dtype=torch.int64, device=device),
        )


class Batch(NamedTuple):
    """K points to be read, some of a memory's."""

    points: Tensor  # (K, 3) float32, world, metres; fastest where x, y and z each lie together (a transposed (3, K))
    index: Tensor  # (K,) int64 below 2**32, their order of writing, decides ties
    place: Tensor  # (K,) int64, where the winners' tokens are found
    footprints: Tensor | None = None  # (K,) float32, metres
    cameras: Tensor | None = None  # which cameras may see them, increasing; None for all


def project(points: Tensor, c2w: Tensor, intrinsics: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """`Cameras.project`, one multiplication at a time: u, v, z of points (..., 3) for c2w (..., 4, 4).

    A matrix product may round differently with the number of rows; this does not, so that reading cameras together
    equals reading them one by one, to the bit.
    """
    d = [coordinate - c2w[..., k, 3] for k, coordinate in enumerate(points.unbind(-1))]
    x, y, z = ((c2w[..., 0, k] * d[0]).add_(c2w[..., 1, k] * d[1]).add_(c2w[..., 2, k] * d[2]) for k in range(3))
    fx, fy, cx, cy = intrinsics.unbind(-1)
    return x.div_(z).mul_(fx).add_(cx), y.div_(z).mul_(fy).add_(cy), z


class Landed(NamedTuple):
    """Where K points land in each of N cameras, all (N, K). Where `inside` is False, the rest may be anything."""

    u: Tensor  # float32, in cells
    v: Tensor
    z: Tensor  # metres
    cell: Tensor  # int32, row * w + column, always a valid one
    inside: Tensor  # bool: ahead by more than `near`, and within the image


def land(points: Tensor, c2w: Tensor, intrinsics: Tensor, size: tuple[int, int], near: float = NEAR) -> Landed:
    """Project points (K, 3) into N cameras, c2w (N, 4, 4) and intrinsics (N, 4), whose grids have `size` cells.

    No branch, so that every step runs at the speed of the vector unit. NaN is outside; an infinite z may be inside (the
    depth test refuses it).
    """
    (h, w), (u, v, z) = size, project(points, c2w[:, None], intrinsics[:, None])
    column, row = u.floor(), v.floor()
    inside = torch.minimum(torch.minimum(column, w - 1 - column), torch.minimum(row, h - 1 - row)) >= 0
    inside &= z > near
    cell = row.int().clamp_(0, h - 1).mul_(w).add_(column.int().clamp_(0, w - 1))
    return Landed(u, v, z, cell, inside)


def pack(priority: Tensor, index: Tensor) -> Tensor:
    """int64 keys that sort by a non-negative float32 priority, then by index (below 2**32)."""
    return (priority.contiguous().view(torch.int32).long() << 32) | index


def unpack(keys: Tensor) -> Tensor:
    """The index of packed keys; -1 where no key was ever entered."""
    return torch.where(keys == EMPTY, -1, keys & 0xFFFFFFFF)


def handicap(offset: Tensor, side: Tensor, slack: float = SLACK) -> Tensor:
    """How far, relatively, each hit is set back in the depth test, from 0 to 2 * slack.

    Tokens of one surface differ in depth by its slant and by errors, so their order means little. Among them, the one
    that sits in the middle of the cell and was seen at its scale describes it best. So a token is set back by a share
    of slack for its distance from the centre, all of it from ASIDE cells on, and by another for its mismatch of scale,
    1 - 1/(ratio of widths). A splat is off-centre by more than half a cell: it fills a hole, and covers what lies well
    behind it, but seldom takes a cell from a token of the same surface that falls right into it.

    Args:
        offset: (K,) distance from the cell's centre in cells, the larger of x and y.
        side: (K,) width of the token's footprint in cells.
    """
    mismatch = 1 - torch.minimum(side, 1 / side)
    return slack * ((offset / ASIDE).clamp(max=1) + mismatch.nan_to_num(1.0).clamp(0, 1))


class DepthTest:
    """The z-buffer of N cameras at latent size: batches of points are entered one after another, in any order.

    After them, `keys` (N, h * w) int64 hold what won each cell (`unpack` gives its index), and `place` where it is.
    """

    def __init__(self, cameras: Cameras, near: float = NEAR, slack: float = SLACK) -> None:
        (h, w), n, device = cameras.size, len(cameras), cameras.c2w.device
        self.cameras, self.near, self.slack = cameras, near, slack
        self.chunk = CHUNK if device.type == "cpu" else max(CHUNK, CHUNK_GPU)
        self.keys = torch.full((n, h * w), EMPTY, device=device)
        self.place = torch.full_like(self.keys, -1)
        self._nearest = torch.full((n, h * w), NOWHERE, device=device)  # priorities of the keys
        self._farthest = self._nearest.clone()  # of the cells within a splat's reach, from time to time
        self._all, self._added = torch.arange(n, device=device), 0

    def add(self, batch: Batch) -> None:
        """Enter a batch."""
        count = len(batch.points)
        if count:
            for cameras in (self._all if batch.cameras is None else batch.cameras).split(max(1, self.chunk // count)):
                self._add(batch, cameras)
        self._added += 1
        if batch.footprints is not None and not self._added & (self._added - 1):  # the 1st, 2nd, 4th, 8th, ... time
            self._look_around()

    def _add(self, batch: Batch, cameras: Tensor) -> None:
        """Enter a batch, of some of the cameras. What lies behind the nearest so far can't win and is left out at once:
        a priority is never smaller than the depth."""
        (h, w), intrinsics = self.cameras.size, self.cameras.intrinsics[cameras]
        landed = land(batch.points, self.cameras.c2w[cameras], intrinsics, (h, w), self.near)
        slot = landed.cell.add_((cameras * (h * w)).int()[:, None]).flatten()
        u, v, z = landed.u.flatten(), landed.v.flatten(), landed.z.flatten()
        new = landed.inside.flatten().logical_and_(z <= self._nearest.view(-1).index_select(0, slot))
        pair = new.nonzero()[:, 0]
        if batch.footprints is None:
            self._enter(batch, pair, slot[pair].long(), z[pair])
            return
        side = (batch.footprints * intrinsics[:, :1]).div_(landed.z).flatten()

        def enter(pair: Tensor, slot: Tensor, column: Tensor, row: Tensor) -> None:
            x, y = u[pair] - (column + 0.5), v[pair] - (row + 0.5)
            setback = handicap(torch.maximum(x.abs(), y.abs()), side[pair], self.slack)
            self._enter(batch, pair, slot, z[pair] * (1 + setback))

        enter(pair, slot[pair].long(), u[pair].floor(), v[pair].floor())
        reach = side.clamp(max=2 * MAX_SPLAT + 1).mul_(0.5)
        wide = (side > 1).logical_and_(z > self.near).logical_and_(z <= self._farthest.view(-1).index_select(0, slot))
        wide &= torch.minimum(torch.minimum(u, w - u), torch.minimum(v, h - v)).add_(reach) > 0
        pair = wide.nonzero()[:, 0]
        if not len(pair):
            return
        u_, v_, reach = u[pair], v[pair], reach[pair]
        x0, x1 = (u_ - reach - 0.5).ceil().clamp(min=0), (u_ + reach - 0.5).floor().clamp(max=w - 1)
        y0, y1 = (v_ - reach - 0.5).ceil().clamp(min=0), (v_ + reach - 0.5).floor().clamp(max=h - 1)
        columns, rows = (x1 - x0 + 1).clamp(min=0).long(), (y1 - y0 + 1).clamp(min=0).long()
        covered = columns * rows
        which = torch.repeat_interleave(covered)
        k = torch.arange(len(which), device=pair.device) - (covered.cumsum(0) - covered)[which]
        x = x0.long()[which] + k % columns[which]
        y = y0.long()[which] + k // columns[which]
        first = cameras[pair // len(batch.points)] * (h * w)
        slot = first[which] + y * w + x
        beside = (x != u_.floor().long()[which]) | (y != v_.floor().long()[which])  # its own cell it has already
        beside &= z[pair][which] <= self._nearest.view(-1)[slot]
        enter(pair[which[beside]], slot[beside], x[beside], y[beside])

    def _look_around(self) -> None:
        """The farthest of the nearest depths within a splat's reach: what lies behind it has nothing to cover."""
        farthest = self._nearest.view(-1, 1, *self.cameras.size)
        for window, margin in (((1, 2 * MAX_SPLAT + 1), (0, MAX_SPLAT)), ((2 * MAX_SPLAT + 1, 1), (MAX_SPLAT, 0))):
            farthest = torch.nn.functional.max_pool2d(farthest, window, 1, margin)
        self._farthest = farthest

    def _enter(self, batch: Batch, pair: Tensor, slot: Tensor, priority: Tensor) -> None:
        point = pair % len(batch.points)
        keys, key = self.keys.view(-1), pack(priority, batch.index[point])
        keys.scatter_reduce_(0, slot, key, "amin")
        self._nearest.view(-1).scatter_reduce_(0, slot, priority, "amin")
        won = keys[slot] == key
        self.place.view(-1)[slot[won]] = batch.place[point[won]]

    def readout(self, gather: Callable[[Tensor], tuple[Tensor, Tensor]]) -> Readout:
        """What the cameras see. `gather` gets places (K,) and returns positions (K, 3) and tokens (K, C)."""
        (h, w), n, cameras = self.cameras.size, len(self.cameras), self.cameras
        index, place = unpack(self.keys).flatten(), self.place.flatten()
        slot = (index >= 0).nonzero()[:, 0]
        camera = slot // (h * w)
        positions, tokens = gather(place[slot])
        u, v, z = project(positions, cameras.c2w[camera], cameras.intrinsics[camera])
        centre = torch.stack([slot % w, slot // w % h], -1) + 0.5
        latents = tokens.new_zeros(n * h * w, tokens.shape[1])
        latents[slot] = tokens
        depth = z.new_zeros(n * h * w)
        depth[slot] = z
        offset = z.new_zeros(n * h * w, 2)
        offset[slot] = (torch.stack([u, v], -1) - centre).clamp(-1, 1)
        return Readout(
            latents=latents.reshape(n, h, w, -1).permute(0, 3, 1, 2).contiguous(),
            visibility=(index >= 0).reshape(n, h, w),
            depth=depth.reshape(n, h, w),
            offset=offset.reshape(n, h, w, 2).permute(0, 3, 1, 2).contiguous(),
            index=index.reshape(n, h, w),
        )


def reproject(
    points: Tensor,
    tokens: Tensor,
    cameras: Cameras,
    footprints: Tensor | None = None,
    near: float = NEAR,
    slack: float = SLACK,
) -> Readout:
    """Stage 3 of the paper: read points (P, 3) and their tokens (P, C) from N cameras **at latent size**, all at once.

    Without footprints this is the paper's readout: in each cell the token with the smallest z-depth wins, ties go to
    the lowest index. With `footprints` (P,) in metres a token that is seen from nearer than it was written, whose
    footprint is therefore wider than a cell, also covers the cells whose centre is inside a square of its width
    (footprint * fx / z cells) around it, at most MAX_SPLAT cells away; and tokens of one surface compete by how well
    they fit the cell (`handicap`). Points that are not finite, or nearer than `near`, cover nothing.

    Raises:
        ValueError: shapes do not fit.
    """
    if points.ndim != 2 or points.shape[1] != 3:
        raise ValueError(f"points: expected (P, 3), got shape {tuple(points.shape)}")
    if tokens.ndim != 2 or len(tokens) != len(points):
        raise ValueError(f"tokens: expected ({len(points)}, C), one row a point, got shape {tuple(tokens.shape)}")
    if footprints is not None and footprints.shape != points.shape[:1]:
        raise ValueError(f"footprints: expected ({len(points)},), got shape {tuple(footprints.shape)}")
    test = DepthTest(cameras, near, slack)
    for start in range(0, len(points), test.chunk):
        part = slice(start, start + test.chunk)
        index = torch.arange(start, min(start + test.chunk, len(points)), device=points.device)
        sizes = None if footprints is None else footprints[part]
        test.add(Batch(points[part].T.contiguous().T, index, index, sizes))
    return test.readout(lambda place: (points[place], tokens[place]))
