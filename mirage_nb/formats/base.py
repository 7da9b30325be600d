"""What a trajectory file gives (`Trajectory`), and the helpers that its readers share."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from scipy.spatial.transform import Rotation
from torch import Tensor

from mirage_nb.cameras import Cameras

# From OpenCV's camera axes to those of OpenGL and Blender (y up, z back), and from those to OpenCV's.
OPENGL = torch.diag(torch.tensor([1.0, -1.0, -1.0, 1.0], dtype=torch.float64))


@dataclass(frozen=True)
class Trajectory:
    """A camera path as a file gives it.

    Args:
        c2w: (T, 4, 4) rigid camera-to-world matrices, OpenCV axes, in the unit of the file.
        intrinsics: (T, 4) or (1, 4) rows `fx, fy, cx, cy` in pixels of `size`, pixel centres at half-integers; or None.
        size: (height, width) of the images that the intrinsics are for; (1, 1) if they are normalised. None: unknown.
        pictures: the image file of each pose, if the file names them.
        path: the file.

    Raises:
        ValueError: there are no poses, or they or the intrinsics are not those of a camera.
    """

    c2w: Tensor
    intrinsics: Tensor | None = None
    size: tuple[int, int] | None = None
    pictures: list[Path] | None = None
    path: Path | None = None

    def __post_init__(self) -> None:
        if not len(self.c2w):
            raise ValueError("it holds no poses")
        if self.intrinsics is None:
            cameras = Cameras(self.c2w, torch.tensor([1.0, 1.0, 0.5, 0.5]), (1, 1))
        else:
            centre = self.intrinsics[:, [3, 2]].nan_to_num().amax(0).tolist()
            cameras = Cameras(self.c2w, self.intrinsics, self.size or tuple(int(2 * x) + 1 for x in centre))
            object.__setattr__(self, "intrinsics", cameras.intrinsics)
        object.__setattr__(self, "c2w", cameras.c2w)

    def __len__(self) -> int:
        return len(self.c2w)

    def __getitem__(self, index: slice | Sequence[int]) -> Trajectory:
        numbers = range(len(self))[index] if isinstance(index, slice) else index
        return replace(
            self,
            c2w=self.c2w[list(numbers)],
            intrinsics=None if self.intrinsics is None else self.intrinsics[list(numbers)],
            pictures=None if self.pictures is None else [self.pictures[i] for i in numbers],
        )

    def cameras(self, size: tuple[int, int]) -> Cameras:
        """The cameras of images of this (height, width), before any crop.

        Raises:
            ValueError: the file has no intrinsics, or does not say for which image size they are.
        """
        if self.intrinsics is None:
            raise ValueError(f"trajectory: {self.path}: it has no intrinsics; expected a format that has them")
        if self.size is None:
            raise ValueError(f"trajectory: {self.path}: it does not say for which image size its intrinsics are")
        return Cameras(self.c2w, self.intrinsics, self.size).resize(size)


def warn_distortion(path: Path) -> None:
    warnings.warn(f"{path}: lens distortion is ignored; undistort the images if it matters", stacklevel=4)


def as_matrices(name: str, value) -> Tensor:
    """(T, 4, 4) float64 of a list or an array of 4x4 or 3x4 matrices."""
    try:
        matrices = torch.as_tensor(np.asarray(value, dtype=np.float64))
    except (TypeError, ValueError):
        raise ValueError(f"{name}: expected a list of 4x4 matrices") from None
    if matrices.ndim == 3 and matrices.shape[1:] == (3, 4):
        bottom = torch.tensor([0.0, 0, 0, 1], dtype=torch.float64).expand(len(matrices), 1, 4)
        matrices = torch.cat([matrices, bottom], 1)
    if matrices.ndim != 3 or matrices.shape[1:] != (4, 4):
        raise ValueError(f"{name}: expected (T, 4, 4) matrices, got {tuple(matrices.shape)}")
    return matrices


def invert(matrices: Tensor) -> Tensor:
    """The inverses of rigid matrices (T, 4, 4), in their own precision: c2w of w2c, w2c of c2w."""
    if ((matrices[:, 3] - matrices.new_tensor([0, 0, 0, 1])).abs() > 1e-4).any():
        raise ValueError("expected matrices with the bottom row 0 0 0 1 (are they transposed?)")
    inverse, rotation = matrices.clone(), matrices[:, :3, :3].mT
    inverse[:, :3, :3], inverse[:, :3, 3:] = rotation, -rotation @ matrices[:, :3, 3:]
    return inverse


def from_quaternions(quaternions, translations) -> Tensor:
    """(T, 4, 4) float64 matrices of unit quaternions x y z w (T, 4) and translations (T, 3)."""
    quaternions = np.asarray(quaternions, dtype=np.float64).reshape(-1, 4)
    if not (np.abs(np.linalg.norm(quaternions, axis=1) - 1) <= 1e-2).all():
        raise ValueError("expected unit quaternions")
    matrices = torch.eye(4, dtype=torch.float64).repeat(len(quaternions), 1, 1)
    matrices[:, :3, :3] = torch.from_numpy(Rotation.from_quat(quaternions).as_matrix())
    matrices[:, :3, 3] = torch.as_tensor(translations, dtype=torch.float64).reshape(-1, 3)
    return matrices


def parse_numbers(text: str, count: int, where: str | Path) -> list[float]:
    """The numbers of a text, `count` of them; an error says where the text is from."""
    try:
        numbers = [float(word) for word in text.replace("[", " ").replace("]", " ").split()]
    except ValueError:
        numbers = []
    if len(numbers) != count:
        raise ValueError(f"{where}: expected {count} numbers, got {' '.join(text.split())[:60]!r}")
    return numbers
