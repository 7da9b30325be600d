"""Where the rows of a memory live: growing columns, and blocks of voxels that say which rows a camera may see."""

from pathlib import Path

import torch
from torch import Tensor

from mirage_nb.cameras import Cameras
from mirage_nb.memory import io
from mirage_nb.memory.base import write_video
from mirage_nb.memory.voxels import block_keys
from mirage_nb.reprojection import NEAR

BOX_MARGIN = 1e-4  # boxes grow by this share of the largest coordinate, far more than float32 rounds off


class Column:
    """Rows of one kind. Their space doubles when it is full, so that a row is copied only a few times."""

    def __init__(self, rows: Tensor) -> None:
        self._space, self._count = rows, len(rows)

    def __len__(self) -> int:
        return self._count

    @property
    def rows(self) -> Tensor:
        """Every row, in the order of writing: a view, to read and to change."""
        return self._space[: self._count]

    def append(self, rows: Tensor) -> None:
        old, self._count = self.rows, self._count + len(rows)
        if self._count > len(self._space):
            self._space = old.new_empty(max(self._count, 2 * len(self._space)), *old.shape[1:])
            self._space[: len(old)] = old
        self._space[len(old) : self._count] = rows.to(old)

    def keep(self, mask: Tensor) -> None:
        """Drop the rows where a mask (P,) is False."""
        self._space = self.rows[mask.to(self._space.device)]
        self._count = len(self._space)

    def to(self, device: torch.device) -> None:
        self._space = self._space.to(device)


class Rows:
    """Points in rows, and their file: what `LatentGrid` and `RGBPointCloud` share.

    A class of it has a FORMAT, COLUMNS (dtype and shape by name, see `io.load_tensors`), SETTINGS (the schema of a
    file's header), and `_columns`: those of COLUMNS, and perhaps others, which follow from these.
    """

    write_video = write_video

    def _rows(self, name: str) -> Tensor:
        return self._columns[name].rows

    def _copy(self, name: str) -> Tensor:
        return self._rows(name).clone()

    def __len__(self) -> int:
        return len(self._columns["positions"])

    @property
    def nbytes(self) -> int:
        """Bytes of all rows."""
        return sum(self._rows(name).nbytes for name in self.COLUMNS)

    def delete(self, where: Tensor) -> int:
        """Delete points in a box, (2, 3) lowest and highest corner in metres, or where a mask (P,) is True; return how
        many. ValueError for what is neither."""
        positions = self._rows("positions")
        where = torch.as_tensor(where, device=positions.device)
        if where.shape == (2, 3) and where.is_floating_point():
            where = ((positions >= where[0]) & (positions <= where[1])).all(1)
        if where.shape != positions.shape[:1] or where.dtype != torch.bool:
            found = f"{where.dtype} {tuple(where.shape)}"
            raise ValueError(f"where: expected a (2, 3) box in metres or a bool mask ({len(positions)},), got {found}")
        for column in self._columns.values():
            column.keep(~where)
        return int(where.sum())

    def save(self, path: str | Path) -> None:
        """Write the memory to a safetensors file."""
        settings = {name: getattr(self, name) for name in self.SETTINGS.model_fields}
        io.save_tensors(path, self.FORMAT, {name: self._rows(name) for name in self.COLUMNS}, settings)


class Blocks:
    """Cubes of 64 voxels a side, each with a box around its rows: what no camera sees is left out block by block."""

    def __init__(self) -> None:
        self._ids: dict[int, int] = {}  # by key
        self.low, self.high = torch.zeros(0, 3), torch.zeros(0, 3)  # (blocks, 3) corners of the boxes

    def add(self, keys: Tensor, positions: Tensor) -> Tensor:
        """The blocks (K,) int64 of rows with voxel keys (K,), whose boxes grow to hold positions (K, 3)."""
        block, inverse = block_keys(keys).unique(return_inverse=True)
        ids = torch.tensor([self._ids.setdefault(key, len(self._ids)) for key in block.tolist()], dtype=torch.int64)
        new = torch.full((len(self._ids) - len(self.low), 3), torch.inf)
        self.low, self.high = torch.cat([self.low, new]), torch.cat([self.high, -new])
        ids, positions = ids[inverse.cpu()], positions.detach().cpu()
        self.low.scatter_reduce_(0, ids[:, None].expand(-1, 3), positions, "amin")
        self.high.scatter_reduce_(0, ids[:, None].expand(-1, 3), positions, "amax")
        return ids

    def of_voxels(self, keys: Tensor) -> Tensor:
        """(blocks,) bool: the blocks that hold voxels (K,)."""
        found = torch.zeros(len(self._ids), dtype=torch.bool)
        found[[self._ids[key] for key in block_keys(keys).unique().tolist() if key in self._ids]] = True
        return found

    def in_view(self, cameras: Cameras, margin: float = 0.0) -> Tensor:
        """(blocks, N) bool: False where no point of the box can land in the image of a camera at latent size.

        Args:
            margin: how many cells around the image count as in it.
        """
        (h, w), (fx, fy, cx, cy) = cameras.size, cameras.intrinsics.unbind(1)
        zero, one, margin = torch.zeros_like(fx), torch.ones_like(fx), margin + 0.5
        planes = [(fx, zero, cx + margin), (-fx, zero, w + margin - cx), (zero, fy, cy + margin)]
        planes += [(zero, -fy, h + margin - cy), (zero, zero, one)]
        normals = torch.stack([torch.stack(plane, -1) for plane in planes], 1)  # (N, 5, 3) inwards, camera axes
        normals = (normals[:, :, None] * cameras.c2w[:, None, :3, :3]).sum(-1)  # in the world's axes
        offset = -(normals * cameras.centers[:, None]).sum(-1)  # (N, 5)
        offset[:, 4] -= NEAR
        largest = torch.maximum(
            torch.maximum(self.low.abs(), self.high.abs()).amax(-1, True), cameras.centers.abs().max()
        )
        half = (self.high - self.low) / 2 + BOX_MARGIN * largest
        inside = ((self.low + self.high) / 2) @ normals.flatten(0, 1).T + half @ normals.flatten(0, 1).abs().T
        return ((inside + offset.flatten()) < 0).logical_not_().view(-1, len(cameras), 5).all(-1)
