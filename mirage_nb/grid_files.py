"""How a `LatentGrid` is stored: as one file, or as a world larger than memory in a folder."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from mirage_nb import grid_io
from mirage_nb.spill import FORMAT as WORLD_FORMAT
from mirage_nb.spill import TABLES, WORLD, SpilledPages
from mirage_nb.voxels import voxel_keys

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

    @classmethod
    def open(
        cls, path: str | Path, budget: int = 1 << 30, device: torch.device | str | None = None, **settings
    ) -> Files:
        """A memory in a folder, of which at most `budget` bytes are in memory (see `mirage_nb.spill`).

        Used as any other. `flush` stores it; what was written since is lost if the process dies. Properties of all
        tokens, `positions` say, bring all of them into memory.

        Args:
            path: the folder; made where there is none.
            budget: bytes for tokens. A read needs some more, for what one batch and the views need.
            settings: the constructor's, for a new memory.

        Raises:
            ValueError: the files are broken or of another format; settings differ from the stored ones.
        """
        folder = Path(path)
        folder.mkdir(exist_ok=True)
        if not (folder / WORLD).exists():
            grid = cls(**settings, device=device)
            grid._folder, grid._budget = folder, budget
            grid.clear()
            return grid
        tables, stored = grid_io.load_tensors(folder / WORLD, WORLD_FORMAT, tuple(TABLES))
        try:
            grid = cls(**{name: stored[name] for name in SETTINGS}, device=device)
            grid.frames, dtype = int(stored["frames"]), getattr(torch, stored["dtype"])
            if other := sorted(name for name, value in settings.items() if stored.get(name) != value):
                raise ValueError(f"it holds a memory with another {', '.join(other)}")
            fields = grid._empty(dtype).pages.fields
            grid._blocks = SpilledPages.open(fields, torch.device(device or "cpu"), folder, budget, tables, stored)
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise ValueError(f"{path}: broken header: {error}") from None
        grid._folder, grid._budget = folder, budget
        return grid

    def flush(self) -> None:
        """Store a memory that was opened from a folder. Whatever happens later, it can be opened as it is now."""
        if self._folder is None:
            raise ValueError("flush: this memory was not opened from a folder; use save(path)")
        self._blocks.pages.flush(self._blocks, {name: getattr(self, name) for name in (*SETTINGS, "frames")})

    def save_ply(self, path: str | Path, colors: Tensor | None = None) -> None:
        """Write the positions as a binary PLY; colors (P, 3), uint8 or floats in 0..1."""
        grid_io.save_ply(path, self.positions, colors)

    def to_open3d(self, colors: Tensor | None = None):
        """An `open3d.geometry.PointCloud` of the positions; colors (P, 3), uint8 or floats in 0..1."""
        return grid_io.to_open3d(self.positions, colors)
