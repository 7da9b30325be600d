"""Where the rows of a `LatentGrid` live: growing columns, and blocks of voxels that say which rows a camera may see."""

import torch
from torch import Tensor

from mirage_nb.cameras import Cameras
from mirage_nb.memory.voxels import block_keys
from mirage_nb.reprojection import NEAR

BOX_MARGIN = 1e-4  # boxes grow by this share of the largest coordinate, far more than float32 rounds off


class Column:
    """Rows of one kind: first those of a file, if there is one, which stay there; then those in memory."""

    def __init__(self, rows: Tensor, in_file: bool = False) -> None:
        self._file = rows if in_file else rows[:0]
        self._kept = torch.arange(len(self._file), device=rows.device)  # rows of the file that were not deleted
        self._own = rows[:0].clone() if in_file else rows
        self._count = len(self._own)

    def __len__(self) -> int:
        return len(self._kept) + self._count

    def __getitem__(self, rows: Tensor) -> Tensor:
        """The values of rows (K,)."""
        if not len(self._kept):
            return self._own[rows]
        in_file = rows < len(self._kept)
        values = self._own.new_empty(len(rows), *self._own.shape[1:])
        values[in_file] = self._file[self._kept[rows[in_file]]]
        values[~in_file] = self._own[rows[~in_file] - len(self._kept)]
        return values

    def __setitem__(self, rows: Tensor, values: Tensor) -> None:
        in_file = rows < len(self._kept)
        if in_file.any():
            self._file[self._kept[rows[in_file]]] = values[in_file]  # in memory: the file is mapped privately
        self._own[rows[~in_file] - len(self._kept)] = values[~in_file]

    def all(self) -> Tensor:
        """Every row, in the order of writing. A view, unless rows are in a file."""
        own = self._own[: self._count]
        return torch.cat([self._file[self._kept], own]) if len(self._kept) else own

    def append(self, rows: Tensor) -> None:
        """Add rows. The space in memory doubles when it is full, so that a row is copied only a few times."""
        count = self._count + len(rows)
        if count > len(self._own):
            own = self._own.new_empty(max(count, 2 * len(self._own)), *self._own.shape[1:])
            own[: self._count] = self._own[: self._count]
            self._own = own
        self._own[self._count : count] = rows.to(self._own)
        self._count = count

    def keep(self, mask: Tensor) -> None:
        """Drop the rows where a mask (P,) is False."""
        self._kept, own = self._kept[mask[: len(self._kept)]], mask[len(self._kept) :]
        self._own = self._own[: self._count][own]
        self._count = len(self._own)

    def to(self, device: torch.device) -> None:
        self._file, self._kept, self._own = (x.to(device) for x in (self._file, self._kept, self._own))


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
