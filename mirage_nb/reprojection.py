"""Stage 3, reprojection: what the memory looks like from other cameras, on their latent grids.

The paper projects all points into each target camera and keeps for each cell the one with the smallest depth. Here
the depth test runs on packed integer keys, float32 depth bits above the token's index, reduced with `amin`: positive
floats sort like integers, so ties go to the lower index and the result is the same on every run and device. Channels
are only gathered for tokens that won.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import NamedTuple

import torch
from torch import Tensor

from mirage_nb.cameras import Cameras

NEAR = 1e-3  # metres
MAX_SPLAT = 3  # cells that a splat may reach beyond the cell it lands in
SLACK = 0.3  # relative depth; in our rooms the tokens' squared error is a third smaller than with 0
CHUNK = 1 << 20  # camera-point pairs held at once
EMPTY = torch.iinfo(torch.int64).max


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


class Hits(NamedTuple):
    """Pairs of a point and a cell that it covers, K of them."""

    slot: Tensor  # (K,) int64, camera * h * w + row * w + column
    index: Tensor  # (K,) int64, the point
    depth: Tensor  # (K,) float32, its z-depth in that camera
    offset: Tensor  # (K, 2) float32, from the cell's centre, in cells
    side: Tensor | None  # (K,) float32, width of its footprint in that camera, in cells


def project(points: Tensor, c2w: Tensor, intrinsics: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """`Cameras.project`, one multiplication at a time: u, v, z of points (..., 3) for c2w (..., 4, 4).

    A matrix product may round differently with the number of rows; this does not, so that reading cameras together
    equals reading them one by one, to the bit.
    """
    d = (points - c2w[..., :3, 3]).unbind(-1)
    r = c2w[..., :3, :3].unbind(-1)
    x, y, z = (column[..., 0] * d[0] + column[..., 1] * d[1] + column[..., 2] * d[2] for column in r)
    fx, fy, cx, cy = intrinsics.unbind(-1)
    return x / z * fx + cx, y / z * fy + cy, z


def hits(points: Tensor, cameras: Cameras, footprints: Tensor | None = None, near: float = NEAR) -> Iterator[Hits]:
    """Which points (P, 3) cover which cells of the cameras, in chunks; each pair comes once.

    A point covers the cell it falls into. With `footprints` (P,), one that lies nearer than when it was written, whose
    footprint is therefore wider than a cell, also covers the cells whose centre is inside a square of its width
    (footprint * fx / z cells) around it, at most MAX_SPLAT cells away. Points that are not finite, or nearer than
    `near`, cover nothing.
    """
    (h, w), per_chunk = cameras.size, max(1, CHUNK // max(1, min(len(points), CHUNK)))
    for first in range(0, len(cameras), per_chunk):
        c2w = cameras.c2w[first : first + per_chunk, None]
        intrinsics = cameras.intrinsics[first : first + per_chunk, None]
        for start in range(0, len(points), CHUNK):
            u, v, z = project(points[start : start + CHUNK], c2w, intrinsics)
            ahead = (z > near) & (z < torch.inf)
            side = None if footprints is None else footprints[start : start + CHUNK] * intrinsics[..., 0] / z

            def pairs(camera, point, x, y):
                centre = torch.stack([x, y], -1) + 0.5
                offset = torch.stack([u[camera, point], v[camera, point]], -1) - centre
                slot = ((camera + first) * h + y) * w + x
                width = None if side is None else side[camera, point]
                return Hits(slot, point + start, z[camera, point], offset, width)

            direct = (ahead & (u >= 0) & (u < w) & (v >= 0) & (v < h)).nonzero(as_tuple=True)
            yield pairs(*direct, u[direct].long(), v[direct].long())
            if side is None:
                continue
            reach = side.clamp(max=2 * MAX_SPLAT + 1) / 2
            wide = ahead & (side > 1) & (u > -reach) & (u < w + reach) & (v > -reach) & (v < h + reach)
            camera, point = wide.nonzero(as_tuple=True)
            if not len(point):
                continue
            u_, v_, reach = u[camera, point], v[camera, point], reach[camera, point]
            x0, x1 = (u_ - reach - 0.5).ceil().clamp(min=0), (u_ + reach - 0.5).floor().clamp(max=w - 1)
            y0, y1 = (v_ - reach - 0.5).ceil().clamp(min=0), (v_ + reach - 0.5).floor().clamp(max=h - 1)
            columns, rows = (x1 - x0 + 1).clamp(min=0).long(), (y1 - y0 + 1).clamp(min=0).long()
            count = columns * rows
            which = torch.repeat_interleave(count)
            k = torch.arange(len(which), device=count.device) - (count.cumsum(0) - count)[which]
            x = x0.long()[which] + k % columns[which]
            y = y0.long()[which] + k // columns[which]
            splat = (x != u_.floor().long()[which]) | (y != v_.floor().long()[which])
            which = which[splat]
            yield pairs(camera[which], point[which], x[splat], y[splat])


def pack(priority: Tensor, index: Tensor) -> Tensor:
    """int64 keys that sort by a non-negative float32 priority, then by index (below 2**32)."""
    return (priority.contiguous().view(torch.int32).long() << 32) | index


def unpack(keys: Tensor) -> Tensor:
    """The index of packed keys; -1 where no key was ever entered."""
    return torch.where(keys == EMPTY, -1, keys & 0xFFFFFFFF)


def handicap(hit: Hits, slack: float = SLACK) -> Tensor:
    """How far, relatively, each hit is set back in the depth test for fitting its cell badly: 0 to 2 * slack.

    Tokens of one surface differ in depth by its slant and by errors, so their order means little. Among them, the one
    that sits in the middle of the cell and was seen at its scale describes it best. So a token is set back by slack
    for each cell of distance from the centre (at most one), and for its mismatch of scale, 1 - 1/(ratio of widths). A
    splat is off-centre by more than half a cell: it fills a hole, and covers what lies well behind it, but seldom takes
    a cell from a token of the same surface that falls right into it.
    """
    distance = hit.offset.abs().amax(-1).clamp(max=1)
    mismatch = 1 - torch.minimum(hit.side, 1 / hit.side)
    return slack * (distance + mismatch.nan_to_num(1.0).clamp(0, 1))


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
    the lowest index. With `footprints` (P,) in metres a token also covers neighbour cells when it is seen from nearer
    than it was written (`hits`), and tokens of one surface compete by how well they fit the cell (`handicap`).

    Raises:
        ValueError: shapes do not fit.
    """
    if points.ndim != 2 or points.shape[1] != 3:
        raise ValueError(f"points: expected (P, 3), got shape {tuple(points.shape)}")
    if tokens.ndim != 2 or len(tokens) != len(points):
        raise ValueError(f"tokens: expected ({len(points)}, C), one row a point, got shape {tuple(tokens.shape)}")
    if footprints is not None and footprints.shape != points.shape[:1]:
        raise ValueError(f"footprints: expected ({len(points)},), got shape {tuple(footprints.shape)}")
    n, (h, w) = len(cameras), cameras.size
    keys = torch.full((n * h * w,), EMPTY, device=points.device)
    for hit in hits(points, cameras, footprints, near):
        priority = hit.depth
        if footprints is not None:
            priority = priority * (1 + handicap(hit, slack))
        keys.scatter_reduce_(0, hit.slot, pack(priority, hit.index), "amin")
    index = unpack(keys)
    slot = (index >= 0).nonzero()[:, 0]
    winner, camera = index[slot], slot // (h * w)
    u, v, z = project(points[winner], cameras.c2w[camera], cameras.intrinsics[camera])
    centre = torch.stack([slot % w, slot // w % h], -1) + 0.5
    latents = tokens.new_zeros(n * h * w, tokens.shape[1])
    latents[slot] = tokens[winner]
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
