"""How a `LatentGrid` is stored: as one file."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from mirage_nb.memory import io as grid_io
from mirage_nb.memory.voxels import voxel_keys

FORMAT = "mirage-latent-grid"
SETTINGS = ("voxel_size", "policy", "stride", "channels", "tolerance", "reach")  # the header of a file
COLUMNS = ("positions", "tokens", "footprints", "written", "views")  # what a file holds


class Files:
    """The part of `LatentGrid` that reads and writes files."""

    def save(self, path: str | Path) -> None:
        """Write the memory to a safetensors file."""
        settings = {name: getattr(self, name) for name in (*SETTINGS, "frames")}
        grid_io.save_tensors(path, FORMAT, self._rows, settings)

    @classmethod
    def load(cls, path: str | Path, device: torch.device | str | None = None) -> Files:
        """Read a memory that `save` wrote.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: the file is truncated, of another format, or inconsistent.
        """
        rows, settings = grid_io.load_tensors(path, FORMAT, COLUMNS)
        try:
            grid = cls(**{name: settings[name] for name in SETTINGS})
            grid.frames, count = int(settings["frames"]), len(rows["positions"])
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path}: broken header: {error}") from None
        shapes = {"positions": (count, 3), "tokens": (count, grid.channels or 0)}
        for name, value in rows.items():
            shape, kind = shapes.get(name, (count,)), grid._blocks.pages.fields[name][1]
            if tuple(value.shape) != shape or (name != "tokens" and value.dtype != kind) or not value.isfinite().all():
                raise ValueError(f"{path}: {name}: expected finite {shape}, got {value.dtype} {tuple(value.shape)}")
        grid.device = torch.device(device or "cpu")
        grid._blocks = grid._empty(rows["tokens"].dtype)
        grid._blocks.add(rows, voxel_keys(rows["positions"], rows["footprints"], grid.voxel_size))
        return grid

    def save_ply(self, path: str | Path, colors: Tensor | None = None) -> None:
        """Write the positions as a binary PLY; colors (P, 3), uint8 or floats in 0..1."""
        grid_io.save_ply(path, self.positions, colors)

    def to_open3d(self, colors: Tensor | None = None):
        """An `open3d.geometry.PointCloud` of the positions; colors (P, 3), uint8 or floats in 0..1."""
        return grid_io.to_open3d(self.positions, colors)
