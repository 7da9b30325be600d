"""What to compare the latent memory with, behind the same contract: an RGB point cloud, or no memory."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from pydantic import Field
from torch import Tensor

from mirage_nb.cameras import Cameras
from mirage_nb.lifting import at_latent_size, cells, check_depth, depth_to_latent, latent_cameras, latent_stride, lift
from mirage_nb.memory import io
from mirage_nb.memory.base import Memory
from mirage_nb.memory.grid import LatentGrid
from mirage_nb.memory.storage import Column, Rows
from mirage_nb.reprojection import Readout, reproject

POINTS = {"positions": "float32 P 3", "colors": "uint8 P 3", "footprints": "float32 P", "chunk": "int32 P"}


class PointSettings(io.MemorySettings):
    """The header of an `RGBPointCloud`'s file."""

    max_chunks: int | None = Field(ge=1, le=2**31)
    writes: int = Field(ge=0, lt=2**31)


class NoMemory(LatentGrid):
    """A memory that keeps nothing: a `LatentGrid` that stays empty.

    Args:
        stride, channels: of the latents; by default those of the first write.
    """

    FORMAT = "mirage-no-memory"

    def __init__(self, stride: int | None = None, channels: int | None = None, **settings) -> None:
        super().__init__(stride=stride, channels=channels, **settings)

    def write(self, latents, depth, cameras, mask=None, *, frames=None, time=None) -> int:
        """Check the shapes, keep nothing; returns 0."""
        self.stride = latent_stride(latents, cameras)
        self._prepare(latents)
        self.frames = max(self.frames, (self.frames if time is None else time) + len(cameras))
        return 0

    def add(self, points, time=None) -> None:
        """Keep nothing."""


class RGBPointCloud(Rows):
    """The detour of Spatia, VMem and GEN3C: keep coloured points, render them, encode the render with the VAE.

    Every pixel that may be written becomes a point of 19 bytes: position, colour and footprint. A read renders all
    points at the full size of the image (the same z-buffer and splats as the latent readout, on pixels), fills holes
    with mid grey and encodes each picture. A cell is visible if at least half of its pixels were hit.

    Args:
        encode: maps frames (N, 3, H, W) in [-1, 1] to latents (N, C, h, w).
        max_chunks: how many of the last writes are kept, 2 in GEN3C; None keeps all, as Spatia does.
        stride, channels: of the latents; by default those of the first write.
    """

    FORMAT, COLUMNS, SETTINGS = "mirage-rgb-points", POINTS, PointSettings

    def __init__(
        self, encode: Callable[[Tensor], Tensor], max_chunks: int | None = None, stride: int | None = None,
        channels: int | None = None,
    ) -> None:  # fmt: skip
        if max_chunks is not None and max_chunks < 1:
            raise ValueError(f"max_chunks: expected at least 1, or None for all, got {max_chunks}")
        self.encode, self.max_chunks = encode, max_chunks
        self.stride, self.channels, self.frames = stride, channels, 0
        self.writes, empty = 0, torch.empty(0)
        self._fill(empty.view(0, 3), empty.view(0, 3).byte(), empty, empty.int())

    def _fill(self, *rows: Tensor) -> None:
        self._columns = {name: Column(values) for name, values in zip(POINTS, rows)}

    positions = property(lambda self: self._copy("positions"), doc="(P, 3) float32, world, metres")
    colors = property(lambda self: self._copy("colors"), doc="(P, 3) uint8")
    footprints = property(lambda self: self._copy("footprints"), doc="(P,) float32, metres")

    @property
    def nbytes(self) -> int:
        """Bytes of the points; which write they came with is not counted."""
        return super().nbytes - self._rows("chunk").nbytes

    def write(
        self, latents: Tensor, depth: Tensor, cameras: Cameras, mask: Tensor | None = None, *,
        frames: Tensor | None = None, time: int | None = None,
    ) -> int:  # fmt: skip
        """Lift every pixel of frames (N, 3, H, W) in [-1, 1]; see `Memory.write`. Points have no time. ValueError where
        shapes do not fit, the depth is not given per pixel, or there are no frames."""
        stride = latent_stride(latents, cameras)
        check_depth(depth, cameras)
        if tuple(depth.shape[1:]) != cameras.size:
            raise ValueError(f"depth: an RGB memory needs it per pixel, {cameras.size}, got {tuple(depth.shape[1:])}")
        needed, shape = (len(cameras), 3, *cameras.size), tuple(getattr(frames, "shape", ()))
        if shape != needed:
            raise ValueError(f"frames: an RGB memory needs the decoded {needed}, got {shape}")
        if mask is not None:  # the same cells as the latent memory would take
            _, mask = at_latent_size(depth, mask, cameras, stride)
            mask = mask.repeat_interleave(stride, 1).repeat_interleave(stride, 2)
        colors = ((frames.float().clamp(-1, 1) + 1) * 127.5).round().byte()
        points = lift(colors, depth, cameras, mask)
        self.stride, self.channels = stride, latents.shape[1]
        rows = (points.positions, points.tokens, points.footprints, points.frame.int().fill_(self.writes))
        if not len(self):
            self._fill(*rows)
        else:
            for column, values in zip(self._columns.values(), rows):
                column.append(values)
        self.writes += 1
        if self.max_chunks is not None:
            self.delete(self._rows("chunk") < self.writes - self.max_chunks)
        self.frames = max(self.frames, (self.frames if time is None else time) + len(cameras))
        return len(points)

    def render(self, cameras: Cameras) -> Readout:
        """The point cloud in N cameras of any size: latents (N, 3, H, W) are the colours, uint8."""
        positions, colors, footprints, _ = (self._rows(name).to(cameras.c2w.device) for name in POINTS)
        return reproject(positions, colors, cameras, footprints)

    @torch.no_grad()
    def read(self, cameras: Cameras) -> Readout:
        """Render, encode, and bring visibility and depth down to the latent grid; offset is 0, index -1."""
        grid = latent_cameras(cameras, self.stride)
        if not len(self):
            return Readout.empty(grid, self.channels or 0)
        render = self.render(cameras)
        visibility = cells(render.visibility, self.stride).float().mean(-1) >= 0.5
        pictures = torch.where(render.visibility[:, None], render.latents / 127.5 - 1, 0.0)  # mid grey in holes
        latents = self.encode(pictures)
        return replace(
            Readout.empty(grid, latents.shape[1], latents.dtype),
            latents=torch.where(visibility[:, None], latents, 0),
            visibility=visibility,
            depth=depth_to_latent(render.depth, self.stride) * visibility,
        )

    def load(self, path: str | Path) -> "RGBPointCloud":
        """The memory in a file that `save` wrote, with this one's codec: `RGBPointCloud(encode).load(path)`. Raises
        what `LatentGrid.load` does."""
        tensors, settings = io.load_tensors(path, self.FORMAT, POINTS, PointSettings)
        chunk, oldest = tensors["chunk"], settings.writes - (settings.max_chunks or settings.writes)
        if len(chunk) and not oldest <= chunk.min() <= chunk.max() < settings.writes:
            raise ValueError(f"{path}: chunk: expected {max(0, oldest)} to {settings.writes - 1}, the writes kept")
        memory = RGBPointCloud(self.encode, settings.max_chunks, settings.stride, settings.channels)
        memory._fill(*(rows.clone() for rows in tensors.values()))
        memory.writes = settings.writes
        memory.frames = settings.frames
        return memory


MEMORIES = {
    "latent": LatentGrid,
    "append": partial(LatentGrid, policy="append"),
    "rgb": RGBPointCloud,
    "rgb_capped": partial(RGBPointCloud, max_chunks=2),
    "none": NoMemory,
}


def make_memory(name: str, encode: Callable[[Tensor], Tensor] | None = None, **options) -> Memory:
    """A new memory by name; options go to its constructor.

    Args:
        name: `latent` (`LatentGrid`), `append` (the paper's: the same, keeping every token), `rgb` (`RGBPointCloud`, as
            Spatia's and VMem's), `rgb_capped` (the same with the last two chunks, as GEN3C's) or `none` (`NoMemory`).
        encode: frames (N, 3, H, W) in [-1, 1] to latents (N, C, h, w); only the RGB memories need it.

    Raises:
        ValueError: an unknown name, or an RGB memory without `encode`.
    """
    if name not in MEMORIES:
        raise ValueError(f"memory: expected one of {', '.join(MEMORIES)}, got {name!r}")
    if name.startswith("rgb"):
        if encode is None:
            raise ValueError(f"encode: {name!r} is read through a VAE, so it needs the VAE's encoder")
        options["encode"] = encode
    return MEMORIES[name](**options)
