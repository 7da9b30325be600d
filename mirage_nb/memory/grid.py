"""Stage 2, the memory: a sparse, voxel-hashed grid of latent tokens."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mirage_nb.cameras import Cameras
from mirage_nb.lifting import Points, at_latent_size, check_depth, latent_cameras, latent_stride, lift_cells
from mirage_nb.memory.blocks import Blocks, Pages
from mirage_nb.memory.coverage import coverage
from mirage_nb.memory.files import COLUMNS, Files
from mirage_nb.memory.voxels import first_of_each, voxel_keys, voxel_level
from mirage_nb.reprojection import DepthTest, Readout

POLICIES = ("keep_first", "finest", "average", "append")
FINER = 1.5  # a view is a closer look where the memory's tokens are wider than this many times its own


class LatentGrid(Files):
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
        tolerance: how far two depths of one surface may differ, relatively. It forgives what an estimated depth does
            from view to view; a strict one lets doubles of a surface in, which hang before it and cover it
            (`mirage-nb evaluate ablations` measures that).
        reach: in cells. A smaller one keeps samples of a surface from between the old ones: sharper, and larger.
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
        tolerance: float = 0.2,
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
        self._blocks = self._empty(torch.float32)
        self.frames = 0

    def _empty(self, dtype: torch.dtype) -> Blocks:
        fields = {"positions": ((3,), torch.float32), "tokens": ((self.channels or 0,), dtype)}
        fields |= {"footprints": ((), torch.float32)}
        fields |= {name: ((), torch.int32) for name in ("written", "views", "order")}
        device = torch.device(self.device or "cpu")
        return Blocks(Pages(fields, device))

    def _all(self, name: str) -> Tensor:
        return self._blocks.pages.gather(name, self._blocks.places())

    # Copies, in the order of writing.
    positions = property(lambda self: self._all("positions"), doc="(P, 3) float32, world, metres")
    tokens = property(lambda self: self._all("tokens"), doc="(P, C), in the latents' dtype")
    footprints = property(lambda self: self._all("footprints"), doc="(P,) float32, metres")
    written = property(lambda self: self._all("written"), doc="(P,) int32, the frame that wrote it")
    views = property(lambda self: self._all("views"), doc="(P,) int32, frames that saw it")
    _rows = property(lambda self: {name: self._all(name) for name in COLUMNS})
    _keys = property(lambda self: voxel_keys(self.positions, self.footprints, self.voxel_size).sort().values)

    @property
    def level(self) -> Tensor:
        """(P,) int8: a voxel of level L is voxel_size * 2**L wide."""
        return voxel_level(self.footprints, self.voxel_size).to(torch.int8)

    def __len__(self) -> int:
        return len(self._blocks)

    def __repr__(self) -> str:
        return f"LatentGrid({len(self)} tokens, {self.nbytes / 2**20:.2f} MiB, policy={self.policy!r})"

    @property
    def nbytes(self) -> int:
        """Bytes of the tokens with their geometry, times and order (pages that are not full reserve more)."""
        return len(self) * self._blocks.pages.row_bytes

    @property
    def bounds(self) -> Tensor | None:
        """(2, 3) lowest and highest coordinates in metres; None while the memory is empty."""
        return torch.stack([self.positions.amin(0), self.positions.amax(0)]) if len(self) else None

    def to(self, device: torch.device | str) -> LatentGrid:
        """Move the memory to a device, in place."""
        self.device = torch.device(device)
        self._blocks.pages.to(self.device)
        return self

    def read(
        self,
        cameras: Cameras,
        size: tuple[int, int] | None = None,
        *,
        splats: bool = True,
        cull: bool = True,
    ) -> Readout:
        """Stage 3: what N cameras, given at the size of the video in pixels, see of the memory.

        The readout is on their latent grids, cameras.size / stride, or on grids of `size` (h, w) cells. It is that of
        `reproject`, to the bit, but goes only through the blocks in view.

        Args:
            splats: False reads as the paper does, without footprints.
            cull: False goes through all blocks, which changes nothing but the time.

        Raises:
            ValueError: nothing was written yet and neither `stride` nor `size` is known.
        """
        pages = self._blocks.pages
        test = DepthTest(latent_cameras(cameras, self.stride, size).to(pages.device))
        for batch in self._blocks.candidates(test.cameras, splats, cull):
            test.add(batch)
        return test.readout(lambda place: (pages.gather("positions", place), pages.gather("tokens", place)))

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
        if not len(self):
            self._blocks = self._empty(latents.dtype)
        points, keys, depth, grid = points.to(device), keys.to(device), depth.to(device), grid.to(device)
        added = 0
        for index in range(len(cameras)):
            mine = points.frame == index
            added += self._write_frame(points[mine], keys[mine], depth[index], grid[index])
            self.frames += 1
        return added

    def _write_frame(self, points: Points, keys: Tensor, depth: Tensor, camera: Cameras) -> int:
        blocks, pages = self._blocks, self._blocks.pages
        if self.policy != "append":
            covering, coarse = coverage(blocks, points, depth, camera, self.tolerance, self.reach, FINER)
            old = covering >= 0
            seen = covering[old]
            views = pages.gather("views", seen)
            changed = {"views": views + 1}
            if self.policy == "average":
                tokens, count = pages.gather("tokens", seen), views[:, None]
                changed["tokens"] = (tokens * count + points.tokens[old].to(tokens)) / (count + 1)
            pages.put(changed, seen)
            if self.policy == "finest":
                blocks.remove(coarse)
            points, keys = points[~old], keys[~old]
            new = first_of_each(keys) & ~blocks.occupied(keys, self.voxel_size)
            points, keys = points[new], keys[new]
        rows = {name: getattr(points, name) for name in ("positions", "tokens", "footprints")}
        rows |= {"written": torch.full_like(keys, self.frames), "views": torch.ones_like(keys)}
        blocks.add(rows, keys)
        return len(points)

    def delete(self, where: Tensor) -> int:
        """Delete tokens in a box, (2, 3) lowest and highest corner in metres, or where a mask (P,) is True.

        Returns:
            How many tokens were deleted.
        """
        where = torch.as_tensor(where, device=self._blocks.pages.device)
        if where.shape == (2, 3) and where.dtype != torch.bool:
            positions = self.positions
            where = ((positions >= where[0]) & (positions <= where[1])).all(1)
        elif where.shape != (len(self),) or where.dtype != torch.bool:
            raise ValueError(f"where: expected a (2, 3) box or a bool mask ({len(self)},), got {tuple(where.shape)}")
        before = len(self)
        self._blocks.remove(self._blocks.places()[where])
        return before - len(self)
