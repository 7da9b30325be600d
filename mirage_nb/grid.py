"""Stage 2, the memory: a sparse, voxel-hashed grid of latent tokens."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import Tensor

from mirage_nb import grid_io
from mirage_nb.cameras import Cameras
from mirage_nb.lifting import Points, at_latent_size, check_depth, latent_stride, lift_cells, slant
from mirage_nb.reprojection import EMPTY, Readout, hits, pack, reproject, unpack
from mirage_nb.voxels import contains, first_of_each, merge, voxel_keys, voxel_level

FORMAT = "mirage-latent-grid"
SETTINGS = ("voxel_size", "policy", "stride", "channels", "tolerance", "reach")  # the header of a file
POLICIES = ("keep_first", "finest", "average", "append")
FINER = 1.5  # a view is a closer look where the memory's tokens are wider than this many times its own


class LatentGrid:
    """The memory M = {(position, token)} of the paper's stage 2, without its growth.

    Where the paper appends every lifted token, a write adds only what the memory does not hold yet:

    * *Coverage.* The memory is projected into the written view. A cell is covered if a token lands within `reach` of
      its centre, at the depth seen there, and was itself seen at least about as finely (its footprint is at most FINER
      times the cell's). Depths agree within a cell's width or `tolerance` of the depth, plus the surface's slant. This
      forgives depth that jitters from view to view, which hashing alone does not, and more tokens never cover less.
      The frames of a write come one after another; each sees what those before it wrote.
    * *Voxels.* What is not covered enters a voxel of its footprint's level. Its edge is a quarter to a half of the
      footprint, so small that cells of one view do not share one: a view reads back as it was written. A voxel holds
      one token, which bounds the density for good.

    The policy says what happens when a surface is seen again:

    * `keep_first`: its first token stays, the one nearest to the true image. A closer look adds finer tokens beside the
      coarse ones, a look from farther away adds nothing. The default.
    * `finest`: the same, but the finer tokens take the place of the coarse ones.
    * `average`: as keep_first, and a token becomes the mean of its sightings at its own scale.
    * `append`: every token is kept, as in the paper.

    Args:
        voxel_size: edge in metres of a voxel of level 0; level L has 2**L times that.
        policy: one of the above.
        stride: pixels per latent cell; by default that of the first write.
        channels: channels of a token; by default those of the first write.
        tolerance: how far two depths of one surface may differ, relatively.
        reach: in cells. A smaller one keeps samples of a surface from between the old ones: sharper, and larger. On
            walks through our rooms (9 frames written, the 8 between them read), 0.5 keeps 564 tokens with a squared
            error of 0.0103, 0.4: 719 and 0.0089, 0.3: 958 and 0.0079, 0.2: 1247 and 0.0072; append keeps 2248 with
            0.0064. Five more laps over the same views add nothing; with 3% noise on every frame's depth they add 15%
            at 0.5 and 7% at 0.3.
        device: where the tokens live; by default where the first latents were.

    Attributes:
        frames: how many frames were written so far.
    """

    def __init__(
        self,
        voxel_size: float = 0.05,
        policy: str = "keep_first",
        stride: int | None = None,
        channels: int | None = None,
        tolerance: float = 0.05,
        reach: float = 0.5,
        device: torch.device | str | None = None,
    ) -> None:
        if policy not in POLICIES:
            raise ValueError(f"policy: expected one of {', '.join(POLICIES)}, got {policy!r}")
        for name, value in (("voxel_size", voxel_size), ("tolerance", tolerance), ("reach", reach)):
            if not (math.isfinite(value) and value > 0):
                raise ValueError(f"{name}: expected a number > 0, got {value}")
        if reach > 0.5:
            raise ValueError(f"reach: expected at most 0.5, the border of the cell, got {reach}")
        self.voxel_size, self.policy, self.tolerance, self.reach = voxel_size, policy, tolerance, reach
        self.stride, self.channels, self.device = stride, channels, device
        self.clear()

    def clear(self) -> None:
        """Forget every token; stride, channels and policy stay."""
        empty = torch.empty(0, device=self.device)
        self._rows = {
            "positions": empty.new_empty(0, 3),
            "tokens": empty.new_empty(0, self.channels or 0),
            "footprints": empty,
            "written": empty.int(),
            "views": empty.int(),
        }
        self._keys = empty.long()  # the voxels of all tokens, sorted
        self._count = self.frames = 0

    # Rows stand in the order of writing. The buffers behind them grow by doubling.
    positions = property(lambda self: self._rows["positions"][: self._count], doc="(P, 3) float32, world, metres")
    tokens = property(lambda self: self._rows["tokens"][: self._count], doc="(P, C), in the latents' dtype")
    footprints = property(lambda self: self._rows["footprints"][: self._count], doc="(P,) float32, metres")
    written = property(lambda self: self._rows["written"][: self._count], doc="(P,) int32, the frame that wrote it")
    views = property(lambda self: self._rows["views"][: self._count], doc="(P,) int32, frames that saw it")

    @property
    def level(self) -> Tensor:
        """(P,) int8: a voxel of level L is voxel_size * 2**L wide."""
        return voxel_level(self.footprints, self.voxel_size).to(torch.int8)

    def __len__(self) -> int:
        return self._count

    def __repr__(self) -> str:
        return f"LatentGrid({len(self)} tokens, {self.nbytes / 2**20:.2f} MiB, policy={self.policy!r})"

    @property
    def nbytes(self) -> int:
        """Bytes of the tokens with their geometry, times and voxels (buffers may reserve as much again)."""
        return sum(rows[: self._count].nbytes for rows in (*self._rows.values(), self._keys))

    @property
    def bounds(self) -> Tensor | None:
        """(2, 3) lowest and highest coordinates in metres; None while the memory is empty."""
        return torch.stack([self.positions.amin(0), self.positions.amax(0)]) if len(self) else None

    def to(self, device: torch.device | str) -> LatentGrid:
        """Move the memory to a device, in place."""
        self.device = torch.device(device)
        self._rows = {name: rows.to(device) for name, rows in self._rows.items()}
        self._keys = self._keys.to(device)
        return self

    def read(self, cameras: Cameras, size: tuple[int, int] | None = None) -> Readout:
        """Stage 3: what N cameras, given at the size of the video in pixels, see of the memory.

        The readout is on their latent grids, cameras.size / stride, or on grids of `size` (h, w) cells.

        Raises:
            ValueError: nothing was written yet and neither `stride` nor `size` is known.
        """
        grid = latent_cameras(cameras, self.stride, size)
        return reproject(self.positions, self.tokens, grid.to(self.positions.device), self.footprints)

    @torch.no_grad()
    def write(
        self, latents: Tensor, depth: Tensor, cameras: Cameras, mask: Tensor | None = None, frames: Tensor | None = None
    ) -> int:
        """Lift latents (N, C, h, w) with depth, cameras at pixel size, and mask (see `lift`); keep what is new.

        `frames`, the decoded pixels, are ignored here; other memories need them.

        Returns:
            How many tokens were added.

        Raises:
            ValueError: what `lift` raises; latents that are not finite, or do not fit those written before; positions
                too far from the origin for their voxels.
        """
        stride = latent_stride(latents, cameras)
        for name, old, new in (("stride", self.stride, stride), ("channels", self.channels, latents.shape[1])):
            if old not in (None, new):
                raise ValueError(f"latents: this memory has {name} {old}, these have {new}")
        if not torch.isfinite(latents).all():
            raise ValueError("latents: expected finite numbers, found NaN or infinity")
        check_depth(depth, cameras)
        depth, allowed = at_latent_size(depth, mask, cameras, stride)
        grid = cameras.downscale(stride)
        points = lift_cells(latents, depth, allowed, grid)
        keys = voxel_keys(points.positions, points.footprints, self.voxel_size)
        self.stride, self.channels = stride, latents.shape[1]
        device = self.to(self.device or latents.device).device
        if not self._count:
            self._rows["tokens"] = points.tokens.new_empty(0, self.channels, device=device)
        points, keys, depth, grid = points.to(device), keys.to(device), depth.to(device), grid.to(device)
        added = 0
        for index in range(len(cameras)):
            mine = points.frame == index
            added += self._write_frame(points[mine], keys[mine], depth[index], grid[index])
            self.frames += 1
        return added

    def _write_frame(self, points: Points, keys: Tensor, depth: Tensor, camera: Cameras) -> int:
        if self.policy != "append":
            covering, coarse = self._coverage(points, depth, camera)
            old = covering >= 0
            seen = covering[old]
            if self.policy == "average":
                count = self.views[seen, None]
                mean = (self.tokens[seen] * count + points.tokens[old].to(self.tokens)) / (count + 1)
                self.tokens[seen] = mean.to(self.tokens.dtype)
            self.views[seen] += 1
            if self.policy == "finest" and len(coarse):
                keep = torch.ones(len(self), dtype=torch.bool, device=coarse.device)
                keep[coarse] = False
                self._keep(keep)
            points, keys = points[~old], keys[~old]
            new = first_of_each(keys) & ~contains(self._keys, keys)
            points, keys = points[new], keys[new]
        self._append(points, keys)
        return len(points)

    def _coverage(self, points: Points, depth: Tensor, camera: Cameras) -> tuple[Tensor, Tensor]:
        """Which token covers the cell of each point of one view, or -1 (no token covers two cells); and which tokens
        lie on the view's surfaces, but are too coarse to cover them."""
        target = torch.full_like(depth.flatten(), torch.nan)
        target[points.cell] = depth.flatten()[points.cell]
        footprints = target / camera.intrinsics[0, 0]
        tolerance = torch.maximum(footprints, self.tolerance * target) + self.reach * slant(depth).flatten()
        best, coarse = torch.full_like(target, EMPTY, dtype=torch.int64), [points.cell[:0]]
        for hit in hits(self.positions, camera):
            gap = (hit.depth - target[hit.slot]).abs()
            agrees = gap <= tolerance[hit.slot]  # never where the target is NaN
            fine = self.footprints[hit.index] <= FINER * footprints[hit.slot]
            covers = agrees & fine & (hit.offset.abs().amax(-1) <= self.reach)
            best.scatter_reduce_(0, hit.slot[covers], pack(gap, hit.index)[covers], "amin")
            coarse.append(hit.index[agrees & ~fine])
        return unpack(best)[points.cell], torch.cat(coarse)

    def delete(self, where: Tensor) -> int:
        """Delete tokens in a box, (2, 3) lowest and highest corner in metres, or where a mask (P,) is True.

        Returns:
            How many tokens were deleted.
        """
        where = torch.as_tensor(where, device=self.positions.device)
        if where.shape == (2, 3) and where.dtype != torch.bool:
            where = ((self.positions >= where[0]) & (self.positions <= where[1])).all(1)
        elif where.shape != (len(self),) or where.dtype != torch.bool:
            raise ValueError(f"where: expected a (2, 3) box or a bool mask ({len(self)},), got {tuple(where.shape)}")
        before = len(self)
        self._keep(~where)
        return before - len(self)

    def save(self, path: str | Path) -> None:
        """Write the memory to a safetensors file."""
        settings = {name: getattr(self, name) for name in (*SETTINGS, "frames")}
        grid_io.save_tensors(path, FORMAT, {name: getattr(self, name) for name in self._rows}, settings)

    @classmethod
    def load(cls, path: str | Path, device: torch.device | str | None = None) -> LatentGrid:
        """Read a memory that `save` wrote.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: the file is truncated, of another format, or inconsistent.
        """
        rows, settings = grid_io.load_tensors(path, FORMAT, tuple(cls()._rows))
        try:
            grid = cls(**{name: settings[name] for name in SETTINGS})
            grid.frames, count = int(settings["frames"]), len(rows["positions"])
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path}: broken header: {error}") from None
        shapes = {"positions": (count, 3), "tokens": (count, grid.channels or 0)}
        for name, value in rows.items():
            shape, kind = shapes.get(name, (count,)), grid._rows[name].dtype
            if tuple(value.shape) != shape or (name != "tokens" and value.dtype != kind) or not value.isfinite().all():
                raise ValueError(f"{path}: {name}: expected finite {shape}, got {value.dtype} {tuple(value.shape)}")
        grid._rows, grid._count = rows, count
        grid._index()
        return grid.to(device or "cpu")

    def save_ply(self, path: str | Path, colors: Tensor | None = None) -> None:
        """Write the positions as a binary PLY; colors (P, 3), uint8 or floats in 0..1."""
        grid_io.save_ply(path, self.positions, colors)

    def to_open3d(self, colors: Tensor | None = None):
        """An `open3d.geometry.PointCloud` of the positions; colors (P, 3), uint8 or floats in 0..1."""
        return grid_io.to_open3d(self.positions, colors)

    def _append(self, points: Points, keys: Tensor) -> None:
        start, end = self._count, self._count + len(points)
        new = {name: getattr(points, name) for name in ("positions", "tokens", "footprints")}
        new |= {"written": torch.full_like(keys, self.frames), "views": torch.ones_like(keys)}
        for name, value in new.items():
            if end > len(self._rows[name]):
                grown = value.new_empty((max(end, 2 * start), *value.shape[1:]), dtype=self._rows[name].dtype)
                grown[:start] = self._rows[name][:start]
                self._rows[name] = grown
            self._rows[name][start:end] = value.to(self._rows[name].dtype)
        self._keys = merge(self._keys, keys)
        self._count = end

    def _keep(self, mask: Tensor) -> None:
        self._rows = {name: rows[: self._count][mask] for name, rows in self._rows.items()}
        self._count = len(self._rows["positions"])
        self._index()

    def _index(self) -> None:
        self._keys = voxel_keys(self.positions, self.footprints, self.voxel_size).sort().values


def latent_cameras(cameras: Cameras, stride: int | None, size: tuple[int, int] | None) -> Cameras:
    """The cameras of the latent grid that a memory is read on."""
    if size is None and stride is None:
        raise ValueError("stride: unknown before the first write; give the memory its stride, or read with a size")
    return cameras.downscale(stride) if size is None else cameras.resize(tuple(size))
