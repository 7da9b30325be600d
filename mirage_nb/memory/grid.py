"""Stage 2, the memory: a sparse, voxel-hashed grid of latent tokens."""

import math
from pathlib import Path
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from mirage_nb.cameras import Cameras
from mirage_nb.lifting import Points, at_latent_size, check_depth, latent_cameras, latent_stride, lift_cells, slant
from mirage_nb.memory import io
from mirage_nb.memory.storage import Blocks, Column, Rows
from mirage_nb.memory.voxels import first_of_each, voxel_keys, voxel_level
from mirage_nb.reprojection import EMPTY_KEY, MAX_SPLAT, DepthTest, Readout, land, pack, readout_of, unpack

POLICIES = ("keep_first", "finest", "average", "append")
CLOSER_LOOK = 1.5  # a view looks closer where the memory's tokens are wider than this many times its own
BATCH = 4096  # rows that are projected at once
COLUMNS = {
    "positions": "float32 P 3", "tokens": "float P C", "footprints": "float32 P", "written": "int32 P",
    "views": "int32 P",
}  # fmt: skip


class Settings(io.MemorySettings):
    """The header of a file: the arguments of the constructor, and how many frames were written."""

    voxel_size: float = Field(gt=0, le=1e6)
    policy: Literal[POLICIES]
    tolerance: float = Field(gt=0, le=1e6)


class LatentGrid(Rows):
    """The memory M = {(position, token)} of the paper's stage 2, without its growth.

    The paper appends every lifted token. Here a write adds only what the memory does not hold yet:

    * *Coverage.* The memory is projected into the written view. A cell is covered if a token lands in it, at the
      depth seen there, and was itself seen at least about as finely (its footprint is at most CLOSER_LOOK times the
      cell's). Two depths agree within a cell's width, or within `tolerance` of the depth, plus
      the surface's slant. So depth that jitters from view to view makes no doubles, which hashing alone would. The
      frames of a write come one after another: each sees what those before it wrote.
    * *Voxels.* What is not covered enters a voxel of its footprint's level. Its edge is a quarter to a half of the
      footprint, so small that cells of one view do not share one: a view reads back as it was written. A voxel holds
      one token, which bounds the density for good.

    The policy says what happens when a surface is seen again:

    * `keep_first`: its first token stays, the one nearest to the true image. A closer look adds finer tokens to the
      coarse ones, a look from farther away adds nothing. The default.
    * `finest`: the same, but the finer tokens replace the coarse ones.
    * `average`: as keep_first, and a token becomes the mean of its sightings at its own scale.
    * `append`: every token is kept, as in the paper.

    Args:
        voxel_size: edge in metres of a voxel of level 0; level L has 2**L times that.
        policy: one of the above.
        stride, channels: pixels per latent cell, channels of a token; by default those of the first write.
        tolerance: how far two depths of one surface may differ, relatively. A strict one lets doubles of a surface in,
            which hang in front of it and hide it.
        device: where the tokens live; by default where the first latents are.

    Attributes:
        frames: how many frames were written so far.
    """

    FORMAT, COLUMNS, SETTINGS = "mirage-latent-grid", COLUMNS, Settings

    def __init__(
        self, voxel_size: float = 0.05, policy: str = "keep_first", stride: int | None = None,
        channels: int | None = None, tolerance: float = 0.2, device: torch.device | str | None = None,
    ) -> None:  # fmt: skip
        if policy not in POLICIES:
            raise ValueError(f"policy: expected one of {', '.join(POLICIES)}, got {policy!r}")
        for name, value in (("voxel_size", voxel_size), ("tolerance", tolerance)):
            if not (math.isfinite(value) and value > 0):
                raise ValueError(f"{name}: expected a number > 0, got {value}")
        self.voxel_size, self.policy, self.tolerance = voxel_size, policy, tolerance
        self.stride, self.channels, self.frames = stride, channels, 0
        self.device = None if device is None else torch.device(device)
        self._reset(torch.float32)

    def _reset(self, dtype: torch.dtype) -> None:
        """Empty columns, for tokens of a dtype."""
        shapes = {"positions": (0, 3), "tokens": (0, self.channels or 0)}
        dtypes = {"tokens": dtype, "written": torch.int32, "views": torch.int32}
        self._columns = {
            name: Column(torch.empty(shapes.get(name, 0), dtype=dtypes.get(name, torch.float32), device=self.device))
            for name in COLUMNS
        }
        self._columns["block"], self._blocks = Column(torch.empty(0, dtype=torch.int64)), Blocks()  # on the CPU

    def _prepare(self, tokens: Tensor) -> torch.device:
        """Take over what the first tokens (K, C, ...) are like, and return the device of all."""
        if not len(self):
            self.channels, self.device = tokens.shape[1], self.device or tokens.device
            self._reset(tokens.dtype)
        return self._rows("positions").device

    # Copies, in the order of writing.
    positions = property(lambda self: self._copy("positions"), doc="(P, 3) float32, world, metres")
    tokens = property(lambda self: self._copy("tokens"), doc="(P, C), in the latents' dtype")
    footprints = property(lambda self: self._copy("footprints"), doc="(P,) float32, metres")
    written = property(lambda self: self._copy("written"), doc="(P,) int32, the frame that wrote the token")
    views = property(lambda self: self._copy("views"), doc="(P,) int32, how many frames saw the token")

    @property
    def level(self) -> Tensor:
        """(P,) int8: a voxel of level L is voxel_size * 2**L wide."""
        return voxel_level(self.footprints, self.voxel_size).to(torch.int8)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({len(self)} tokens, {self.nbytes / 2**20:.2f} MiB, policy={self.policy!r})"

    def to(self, device: torch.device | str) -> "LatentGrid":
        """Move the memory to a device, in place."""
        self.device = torch.device(device)
        for name in COLUMNS:
            self._columns[name].to(self.device)
        return self

    # ---- Read

    def read(self, cameras: Cameras, *, splats: bool = True) -> Readout:
        """Stage 3: what N cameras, given at the size of the video in pixels, see of the memory.

        The readout is on their latent grids, cameras.size / stride. It equals that of `reproject`, to the bit, but only
        the blocks in view are projected.

        Args:
            splats: False reads as the paper does, without footprints.

        Raises:
            ValueError: nothing was written yet, and the stride is unknown.
        """
        cameras = latent_cameras(cameras, self.stride).to(self._rows("positions").device)
        positions, tokens, footprints = (self._rows(name) for name in ("positions", "tokens", "footprints"))
        test = DepthTest(cameras)
        for rows, views in self._rows_in_view(cameras, MAX_SPLAT + 1 if splats else 0):
            test.add(positions[rows], rows, footprints[rows] if splats else None, views)
        return readout_of(test.index, cameras, self.channels or 0, lambda rows: (positions[rows], tokens[rows]))

    def _rows_in_view(self, cameras: Cameras, margin: float = 0.0):
        """Rows (K,) that some of the cameras may see, batch by batch, and which cameras these are."""
        seen, block = self._blocks.in_view(cameras.to("cpu"), margin), self._rows("block")
        for rows in seen.any(1)[block].nonzero()[:, 0].split(BATCH):
            views = seen[block[rows]].any(0).nonzero()[:, 0]
            yield rows.to(cameras.c2w.device), views.to(cameras.c2w.device)

    # ---- Write

    @torch.no_grad()
    def write(
        self, latents: Tensor, depth: Tensor, cameras: Cameras, mask: Tensor | None = None, *,
        frames: Tensor | None = None, time: int | None = None,
    ) -> int:  # fmt: skip
        """Lift latents (N, C, h, w) with depth, cameras at pixel size, and mask (see `lift`); keep what is new.

        Args:
            frames: not needed here, see `Memory.write`.
            time: number of the first of the N frames, for `written`; by default they are counted on.

        Returns:
            How many tokens were added.

        Raises:
            ValueError: what `lift` raises; latents that are not finite, or do not fit those written before; positions
                too far from the origin for their voxels.
        """
        stride = latent_stride(latents, cameras)
        for name, own, new in (("stride", self.stride, stride), ("channels", self.channels, latents.shape[1])):
            if own not in (None, new):
                raise ValueError(f"latents: this memory has {name} {own}, these have {new}")
        if not torch.isfinite(latents).all():
            raise ValueError("latents: expected finite numbers, found NaN or infinity")
        check_depth(depth, cameras)
        depth, allowed = at_latent_size(depth, mask, cameras, stride)
        grid = cameras.downscale(stride)
        points = lift_cells(latents, depth, allowed, grid)
        keys = voxel_keys(points.positions, points.footprints, self.voxel_size)
        self.stride = stride
        device = self._prepare(latents)
        points, keys, depth, grid = points.to(device), keys.to(device), depth.to(device), grid.to(device)
        time, added = self.frames if time is None else time, 0
        for n in range(len(cameras)):
            own = points.frame == n
            added += self._write_frame(points[own], keys[own], depth[n], grid[n], time + n)
        self.frames = max(self.frames, time + len(cameras))
        return added

    def add(self, points: Points, time: int | None = None) -> None:
        """Add lifted points (P,) as they are, whatever the memory holds there. `write` adds only what is new.

        Args:
            time: for `written`; by default the number of frames written so far.

        Raises:
            ValueError: numbers not finite, tokens of other channels, or positions too far from the world's origin.
        """
        tokens, shape = points.tokens, (len(points.positions), self.channels or points.tokens.shape[1])
        if tuple(tokens.shape) != shape or points.footprints.shape != shape[:1]:
            raise ValueError(f"points: expected tokens {shape} and a footprint for each, got {tuple(tokens.shape)}")
        if not all(rows.isfinite().all() for rows in (points.positions, tokens, points.footprints)):
            raise ValueError("points: expected finite numbers, found NaN or infinity")
        points = points.to(self._prepare(tokens))
        keys = voxel_keys(points.positions, points.footprints, self.voxel_size)
        rows = {name: getattr(points, name) for name in ("positions", "tokens", "footprints")}
        time = self.frames if time is None else time
        rows |= {"written": torch.full_like(keys, time), "views": torch.ones_like(keys)}
        rows["block"] = self._blocks.add(keys, points.positions)
        for name, values in rows.items():
            self._columns[name].append(values)

    def _write_frame(self, points: Points, keys: Tensor, depth: Tensor, camera: Cameras, time: int) -> int:
        """Write the points (P,) of one view, with its depth (h, w) and its camera at latent size; return the number of
        new tokens."""
        coarse = keys[:0]
        if self.policy != "append":
            covering, coarse = self._coverage(points, depth, camera)  # (P,), (K,) rows
            covered = covering >= 0
            rows, views, tokens = covering[covered], self._rows("views"), self._rows("tokens")
            if self.policy == "average":
                count = views[rows][:, None]
                mean = (tokens[rows] * count + points.tokens[covered].to(tokens[rows])) / (count + 1)
                tokens[rows] = mean.to(tokens[rows])
            views[rows] = views[rows] + 1
            points, keys = points[~covered], keys[~covered]
            if self.policy == "finest" and len(coarse):
                self.delete(torch.zeros(len(self), dtype=torch.bool, device=keys.device).index_fill_(0, coarse, True))
            new = first_of_each(keys) & ~self._occupied(keys)
            points, keys = points[new], keys[new]
        self.add(points, time)
        return len(points)

    def _occupied(self, keys: Tensor) -> Tensor:
        """(K,) bool: which voxels, by key (K,), hold a token."""
        rows = self._blocks.of_voxels(keys)[self._rows("block")].nonzero()[:, 0].to(keys.device)
        held = voxel_keys(self._rows("positions")[rows], self._rows("footprints")[rows], self.voxel_size)
        return torch.isin(keys, held)

    def _coverage(self, points: Points, depth: Tensor, camera: Cameras) -> tuple[Tensor, Tensor]:
        """Compare the tokens in view with the points (P,) of one view.

        Returns:
            Rows (P,) of the token that covers the cell of each point, -1 for none (no token covers two cells); and rows
            (K,) of tokens that lie on the view's surfaces, but are too coarse to cover them.
        """
        surface = torch.full_like(depth.flatten(), torch.nan)  # (h*w,), NaN where no point is
        surface[points.cell] = depth.flatten()[points.cell]
        widths = surface / camera.intrinsics[0, 0]  # (h*w,) metres of a cell
        allowed = torch.maximum(widths, self.tolerance * surface)
        allowed += slant(depth).flatten() / 2  # a token is up to half a cell away from the point
        best, coarse = torch.full_like(surface, EMPTY_KEY, dtype=torch.int64), [points.cell[:0]]
        for rows, _ in self._rows_in_view(camera):
            positions = self._rows("positions")[rows].T.contiguous().T
            _, _, z, cell, inside = (x[0] for x in land(positions, camera.c2w, camera.intrinsics, camera.size))
            gap = z.sub_(surface.index_select(0, cell)).abs_()
            agrees = (inside & (gap <= allowed.index_select(0, cell))).nonzero()[:, 0]  # never where surface is NaN
            cell, gap, rows = cell[agrees].long(), gap[agrees], rows[agrees]
            fine = self._rows("footprints")[rows] <= CLOSER_LOOK * widths[cell]
            coarse.append(rows[~fine])
            best.scatter_reduce_(0, cell[fine], pack(gap[fine], rows[fine]), "amin")
        return unpack(best)[points.cell], torch.cat(coarse)

    # ---- Files

    @classmethod
    def load(cls, path: str | Path, lazy: bool = False, device: torch.device | str = "cpu") -> "LatentGrid":
        """Read a memory that `save` wrote; its tokens go to a device.

        Args:
            lazy: leave the tokens in the file, which is mapped, and keep only geometry in memory, on the CPU: for a
                memory that is larger than it and is read. A write or a deletion brings all tokens into memory.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: the file is truncated, of another format, or inconsistent.
        """
        unread = {"tokens": "~float P C"} if lazy else {}  # not looked through
        rows, settings = io.load_tensors(path, cls.FORMAT, COLUMNS | unread, Settings)
        if rows["tokens"].shape[1] != (settings.channels or 0):
            raise ValueError(f"{path}: tokens: expected {settings.channels} channels, got {rows['tokens'].shape[1]}")
        if (rows["footprints"] < 0).any() or (rows["views"] < 1).any():
            raise ValueError(f"{path}: expected footprints of at least 0 and views of at least 1")
        grid = cls(**settings.model_dump(exclude={"frames"}), device="cpu" if lazy else device)
        grid.frames = settings.frames
        for name, value in rows.items():
            grid._columns[name] = Column(value if lazy and name == "tokens" else value.clone().to(grid.device))
        keys = voxel_keys(rows["positions"], rows["footprints"], grid.voxel_size)
        grid._columns["block"].append(grid._blocks.add(keys, rows["positions"]))
        return grid

    def save_ply(self, path: str | Path, colors: Tensor | None = None) -> None:
        """Write the positions as a binary PLY; colors (P, 3), uint8 or floats in 0..1."""
        io.save_ply(path, self.positions, colors)

    def to_open3d(self, colors: Tensor | None = None):
        """An `open3d.geometry.PointCloud` of the positions; colors (P, 3), uint8 or floats in 0..1."""
        return io.to_open3d(self.positions, colors)
