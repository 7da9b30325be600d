"""A camera path as a file gives it, and what the readers of all formats share: text, matrices, names of pictures."""

import json
import re
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from os.path import commonprefix
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from scipy.spatial.transform import Rotation
from torch import Tensor

from mirage_nb.cameras import Cameras
from mirage_nb.formats.agreement import Reading

# From OpenCV's camera axes to those of OpenGL and Blender (y up, z back), and from those to OpenCV's.
OPENGL = torch.diag(torch.tensor([1.0, -1.0, -1.0, 1.0], dtype=torch.float64))
PINHOLES = {"OPENCV", "PINHOLE", "SIMPLE_PINHOLE", "SIMPLE_RADIAL", "RADIAL"}
PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
HOMES = ("images", "rgb", "color", ".", "images_2", "images_4", "images_8", "rgbd")  # of pictures; the largest first
SAME_ASPECT = 0.02  # relative difference of two aspect ratios that rounding and padding explain
SQUARE = 1.15  # ratio of a pixel's sides from which a normalised lens is likely another picture's


@dataclass(frozen=True)
class Trajectory:
    """A camera path as a file gives it.

    Args:
        c2w: (T, 4, 4) rigid camera-to-world matrices, OpenCV axes, in the unit of the file.
        intrinsics: (T, 4) or (1, 4) rows `fx, fy, cx, cy` in pixels of `size`; None if there are none of a known size.
        size: (T, 2) or (2,) height and width of the images that the intrinsics are for; 1, 1 if normalised.
        pictures, depths: the image file and the depth file of each pose, if there are any.
        distortion: (T, 6) k1 k2 k3 k4 p1 p2 of the lens, see `undistort`; None if it is a pinhole.
        reading: what the format says of axes, matrices and units, by which `c2w` was read; `depths` are as stored.
    """

    c2w: Tensor
    intrinsics: Tensor | None = None
    size: Tensor | Sequence = (1, 1)
    pictures: list[Path] | None = None
    depths: list[Path] | None = None
    distortion: Tensor | None = None
    reading: Reading = Reading()

    def __post_init__(self) -> None:
        if not len(self.c2w):
            raise ValueError("it holds no poses")
        size, any_lens = torch.as_tensor(self.size).expand(len(self.c2w), 2), torch.tensor([1, 1, 0.5, 0.5])
        lens = None if self.intrinsics is None else torch.as_tensor(self.intrinsics).float().expand(len(size), 4)
        Cameras(self.c2w, any_lens if lens is None else lens / size[:, [1, 0, 1, 0]], (1, 1))  # raises if it is none
        bent = None if self.distortion is None or not self.distortion.any() else self.distortion
        vars(self).update(c2w=self.c2w.float(), intrinsics=lens, size=size, distortion=bent)

    def __len__(self) -> int:
        return len(self.c2w)

    def __getitem__(self, index: slice | list[int]) -> "Trajectory":
        numbers, values = torch.arange(len(self))[index].tolist(), vars(self).items()
        parts = {k: v[numbers] for k, v in values if isinstance(v, Tensor)}
        return replace(self, **parts, **{k: [v[i] for i in numbers] for k, v in values if isinstance(v, list)})

    def cameras(self, size: tuple[int, int]) -> Cameras:
        """The cameras of images of this (height, width), before any crop. ValueError where it has no intrinsics, or has
        them for images of another aspect ratio."""
        if self.intrinsics is None:
            raise ValueError("trajectory: it has no intrinsics, or does not say for which image size they are")
        for height, width in set(map(tuple, self.size.tolist())) - {(1, 1)}:
            if not same_aspect((height, width), size):
                why = "turned?" if same_aspect((width, height), size) else "cropped?"
                sizes = f"for {width}x{height}, the picture is {size[1]}x{size[0]}"
                raise ValueError(f"trajectory: the intrinsics are {sizes} ({why})")
        rows = self.intrinsics * (torch.tensor(size) / self.size)[:, [1, 0, 1, 0]]
        ratio = (rows[:, 1] / rows[:, 0]).log().abs().max().exp().item()
        if self.size.max() == 1 and ratio > SQUARE:
            pixels = f"pixels {ratio:.2f} times as long as short in a picture of {size[1]}x{size[0]}"
            warnings.warn(f"trajectory: its normalised lens makes {pixels}: is it another picture's?", stacklevel=3)
        return Cameras(self.c2w, rows, size)

    def existing(self) -> "Trajectory":
        """The part whose pictures and depths are there; a warning says how many are not, FileNotFoundError if none."""
        rows = list(zip(*(files for files in (self.pictures, self.depths) if files)))
        lost = {i: file for i, files in enumerate(rows) for file in files if not file.is_file()}
        if len(lost) == len(rows) > 0:
            raise FileNotFoundError(f"{lost[0]}: missing, as are all others that the trajectory names")
        if lost:
            words = f"{len(lost)} of {len(rows)} pictures or depth maps are missing, left out"
            warnings.warn(f"{words} (first: {next(iter(lost.values()))})", stacklevel=3)
        return self[[i for i in range(len(self)) if i not in lost]]


def same_aspect(a: tuple[int, int], b: tuple[int, int]) -> bool:
    return abs(a[1] * b[0] / a[0] - b[1]) <= max(1.0, SAME_ASPECT * b[1])


def refuse_lens(name: str) -> None:
    """Raise ValueError where a model of a lens is no pinhole with polynomial distortion."""
    if name.upper() not in PINHOLES:
        raise ValueError(f"the lens is {name}, expected a pinhole; undistort the pictures first")


def natural_order(path: Path | str) -> list[str | int]:
    """A key that sorts files by name, with 2 before 10."""
    return [int(part) if i % 2 else part for i, part in enumerate(re.split(r"(\d+)", str(path)))]


def size_of(picture: Path) -> tuple[int, int]:
    """(height, width), as stored."""
    with Image.open(picture) as image:
        return image.height, image.width


def find_pictures(names: Sequence[str], roots: Sequence[Path]) -> list[Path]:
    """The file of each name, whatever folder and ending it was written with; of several, the one that shares most of
    its folders. Names without a file stay paths in the first root. ValueError where two names have one file."""
    names = [Path(name.replace("\\", "/")) for name in names]
    above = dict.fromkeys(name.parent for name in names)
    homes = dict.fromkeys([Path(*x.parts[i:]) for x in above for i in range(len(x.parts))] + [Path(x) for x in HOMES])
    for root in roots:
        known: dict[str, list[Path]] = {}
        for file in (file for home in homes for file in sorted((root / home).glob("[!.]*"))):
            if file.suffix.lower() in PICTURES:
                known.setdefault(_bare(file), []).append(file)
        exact = [root / name for name in names]
        found = [max(known.get(_bare(x), [x]), key=partial(_likeness, x)) for x in exact]
        there = [file for file in found if file.is_file()]
        if len(set(there)) < len(there):
            raise ValueError("the names of two poses fit one picture")
        if there:
            return found
    return [roots[0] / name for name in names]


def _bare(file: Path) -> str:
    """A picture's name without folder and ending; what looks like an ending but is no picture's stays."""
    return file.stem if file.suffix.lower() in PICTURES else file.name


def _likeness(a: Path, b: Path) -> tuple[bool, int]:
    """Whether two files are the same one, and how many folders, from the last on, they have in common."""
    return a == b, len(commonprefix([a.parts[-2::-1], b.parts[-2::-1]]))


def read_text(path: Path, size: int = -1) -> str:
    """A text in UTF-8, with or without its mark, or in UTF-16 with one; at most `size` bytes of it."""
    with path.open("rb") as file:
        content = file.read(size)
    utf16 = content[:2] in (b"\xff\xfe", b"\xfe\xff")
    return content.decode("utf-16" if utf16 else "utf-8-sig", "strict" if size < 0 else "replace")


def read_json(path: Path):
    return json.loads(read_text(path))


def data_lines(text: str) -> Iterator[str]:
    """The lines that hold data, with commas and brackets turned to spaces: no comments, no empty lines, and no heading
    without a number, such as the address of a video or the names of columns."""
    lines = (line.translate(str.maketrans("[],;", "    ")).strip() for line in text.splitlines())
    lines = [line for line in lines if line and not line.startswith(("#", "http"))]
    yield from lines[1:] if lines and not any(map(is_number, lines[0].split())) else lines


def is_number(word: str) -> bool:
    try:
        return float(word) is not None
    except ValueError:
        return False


def read_numbers(path: Path, *columns: int) -> np.ndarray:
    """(rows, columns) float64 of a text file; spaces, commas and brackets part the numbers."""
    try:
        rows = np.loadtxt(list(data_lines(read_text(path))), ndmin=2)
    except ValueError as error:
        raise ValueError(f"{path.name}: {error}") from None
    if columns and rows.shape[1] not in columns:
        expected = " or ".join(map(str, columns))
        raise ValueError(f"{path.name}: expected rows of {expected} numbers, got {rows.shape[1]}")
    return rows


def as_matrices(name: str, value) -> Tensor:
    """(T, 4, 4) float64 of a list or an array of 4x4 or 3x4 matrices."""
    try:
        matrices = torch.as_tensor(np.asarray(value, dtype=np.float64))
    except (TypeError, ValueError):
        raise ValueError(f"{name}: expected a list of 4x4 matrices") from None
    matrices = matrices[0] if matrices.ndim == 4 and len(matrices) == 1 else matrices  # a batch of one
    if matrices.ndim != 3 or tuple(matrices.shape[1:]) not in ((3, 4), (4, 4)):
        raise ValueError(f"{name}: expected (T, 4, 4) matrices, got {tuple(matrices.shape)}")
    rigid = torch.eye(4, dtype=torch.float64).repeat(len(matrices), 1, 1)
    rigid[:, : matrices.shape[1]] = matrices
    return rigid


def invert(matrices: Tensor) -> Tensor:
    """The inverses of rigid matrices (T, 4, 4), in their own precision: c2w of w2c, w2c of c2w."""
    if ((matrices[:, 3] - matrices.new_tensor([0, 0, 0, 1])).abs() > 1e-4).any():
        raise ValueError("expected matrices with the bottom row 0 0 0 1 (are they transposed?)")
    inverse, rotation = matrices.clone(), matrices[:, :3, :3].mT
    inverse[:, :3, :3], inverse[:, :3, 3:] = rotation, -rotation @ matrices[:, :3, 3:]
    return inverse


def from_quaternions(quaternions, translations) -> Tensor:
    """(T, 4, 4) float64 matrices of unit quaternions x y z w (T, 4) and translations (T, 3)."""
    quaternions = np.asarray(quaternions, dtype=np.float64)
    if not (np.abs(np.linalg.norm(quaternions, axis=1) - 1) <= 1e-2).all():
        raise ValueError("expected unit quaternions")
    rotations = Rotation.from_quat(quaternions).as_matrix()
    return as_matrices("poses", np.concatenate([rotations, np.asarray(translations)[:, :, None]], 2))


def from_opencv(matrices) -> Tensor:
    """Rows fx, fy, cx, cy of calibrations (T, 3, 3) or (3, 3), or 4x4, whose pixel centres are integers."""
    k = torch.as_tensor(np.asarray(matrices, dtype=np.float64))
    if tuple(k.shape[-2:]) not in ((3, 3), (4, 4)):
        raise ValueError(f"intrinsics: expected 3x3 matrices, got {tuple(k.shape)}")
    k = k.reshape(-1, *k.shape[-2:])
    return torch.stack([k[:, 0, 0], k[:, 1, 1], k[:, 0, 2] + 0.5, k[:, 1, 2] + 0.5], 1)
