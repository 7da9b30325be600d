"""Camera trajectory files of other tools, read into the conventions of `cameras.py` (c2w, OpenCV axes).

| format | file | poses | intrinsics |
| --- | --- | --- | --- |
| realestate10k | .txt, first line a URL | w2c, 3x4 row-major, OpenCV axes | fx fy cx cy over width and height |
| spatia | w2c.txt, or its folder | w2c, one 4x4 JSON matrix a line, OpenCV axes | beside it, as above |
| 7-scenes | a folder of *.pose.txt | c2w, 4x4, OpenCV axes | camera-intrinsics.txt, 3x3, pixel centres at integers |
| tum | .txt of 8 columns | c2w: time, tx ty tz, qx qy qz qw, OpenCV axes | none |
| nerfstudio | transforms.json, or its folder | c2w, OpenGL axes (y up, z back) | fl_x fl_y cx cy, pixels of w x h |
| Blender (NeRF) | transforms_*.json | c2w, OpenGL axes | camera_angle_x, radians across; square pixels |
| WorldScore | camera_data.json | c2w, OpenGL axes, `cameras_interp` | none (its focal length has no picture) |
| COLMAP | a folder of cameras, images (.txt or .bin) | w2c, quaternion w first, OpenCV axes | pixels, centres as ours |
| geometry | .npz, no pickle | c2w (`poses_c2w`) or w2c (`w2c`), OpenCV axes | 3x3, pixel centres at integers |

7-Scenes and TUM are metric; the others have whatever unit their makers left. A list of matrices alone cannot tell
c2w from w2c (the inverse of an orbit to the left is a fine orbit to the right), so the format decides;
`worlds.real.looks_like_w2c` can tell where there is depth.

To add a format, write its two functions (is it this? read it) and give them a line in `FORMATS`.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from mirage_nb.cameras import Cameras
from mirage_nb.formats.colmap import find_model, quaternion_to_matrix, read_colmap
from mirage_nb.formats.trajectory_formats import Recorded, inverse, read_geometry, read_json, warn_distortion
from mirage_nb.formats.trajectory_writers import save_trajectory

__all__ = ["FORMATS", "load_trajectory", "read_calibration", "read_pose", "save_trajectory"]


class Format(NamedTuple):
    """One file format: `matches(path, head)` tells it by name or by its first line of data; `read(path)` reads it."""

    matches: Callable[[Path, str], bool]
    read: Callable[[Path], Recorded]


def load_trajectory(path: str | Path, size: tuple[int, int] | None = None) -> tuple[Tensor, Tensor | None]:
    """Read a camera trajectory; the format is told by the content (see the module's table).

    Args:
        path: a file, or a folder that holds one.
        size: (height, width) of the whole image, before any crop, that the intrinsics are wanted for.

    Returns:
        c2w (T, 4, 4) float32, OpenCV axes, and intrinsics (T, 4), `fx, fy, cx, cy` in pixels of `size` with pixel
        centres at half-integers. Without `size` they are in the file's own pixels. None if the file has none, or has
        normalised ones and no `size` is given.

    Raises:
        FileNotFoundError: there is no such path.
        ValueError: the format is unknown, a line cannot be read, or a pose is not rigid. The message names the file.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"trajectory: no such file or folder: {path}")
    head = "" if path.is_dir() else _head(path)
    found = next((f for f in FORMATS.values() if f.matches(path, head)), None)
    if found is None:
        raise ValueError(f"trajectory: {path} is in none of the known formats ({', '.join(FORMATS)})")
    try:
        c2w, intrinsics, own_size = found.read(path)
        if not len(c2w):
            raise ValueError("it holds no poses")
        if intrinsics is not None and size is not None and own_size is None:
            raise ValueError(f"it does not tell the image size of its intrinsics, so they cannot be scaled to {size}")
        if intrinsics is not None:
            cameras = Cameras(c2w, intrinsics, own_size or _covering(intrinsics))
            c2w, intrinsics = cameras.c2w, (cameras.resize(size) if size else cameras).intrinsics
        else:
            c2w = Cameras(c2w, torch.tensor([1.0, 1.0, 0.5, 0.5]), (1, 1)).c2w  # checked: finite and rigid
    except (ValueError, KeyError, TypeError) as error:
        message = f"{error} is missing" if isinstance(error, KeyError) else error
        raise ValueError(f"trajectory: {path}: {message}") from error
    return c2w, None if own_size == (1, 1) and not size else intrinsics


# ---------------------------------------------------------------------------------------------------------- formats


def _read_realestate10k(path: Path) -> Recorded:
    """Lines of 19 numbers: time in microseconds, fx fy cx cy, k1 k2, and the 12 of the w2c matrix."""
    rows = _table(_lines(path)[1:], 19)
    if rows[:, 5:7].any():
        warn_distortion(path)
    return Recorded(inverse(rows[:, 7:].reshape(-1, 3, 4)), rows[:, 1:5], (1, 1))


def _read_spatia(path: Path) -> Recorded:
    path = path / "w2c.txt" if path.is_dir() else path
    matrices = []
    for number, line in enumerate(_lines(path), 1):
        try:
            matrices.append(torch.tensor(json.loads(line), dtype=torch.float64).reshape(4, 4))
        except (ValueError, RuntimeError, TypeError):
            raise ValueError(f"line {number}: expected a 4x4 matrix as JSON, got {line[:40]!r}") from None
    w2c = torch.stack(matrices) if matrices else torch.zeros(0, 4, 4)
    if (w2c[:, 3] != w2c.new_tensor([0, 0, 0, 1])).any():
        raise ValueError("expected matrices with the bottom row 0 0 0 1 (are they transposed?)")
    c2w = inverse(w2c[:, :3])
    beside = path.with_name("intrinsics.txt")
    if not beside.exists():
        return Recorded(c2w)
    row = _table([beside.read_text().replace("[", " ").replace("]", " ").replace("\n", " ")], 4)
    return Recorded(c2w, row, (1, 1))


def _read_7scenes(folder: Path) -> Recorded:
    poses = {path.name: read_pose(path) for path in sorted(folder.glob("*.pose.txt"))}
    lost = [name for name, pose in poses.items() if not pose.isfinite().all()]
    if lost:
        warnings.warn(f"{folder}: tracking was lost in {len(lost)} frames, left out (first: {lost[0]})", stacklevel=3)
    kept = [pose for name, pose in poses.items() if name not in lost]
    c2w = torch.stack(kept) if kept else torch.zeros(0, 4, 4)
    photo = next(iter(sorted(folder.glob("*.color.*"))), None)
    if not (folder / "camera-intrinsics.txt").exists():
        return Recorded(c2w)
    size = None
    if photo is not None:
        from PIL import Image

        with Image.open(photo) as image:
            size = (image.height, image.width)
    return Recorded(c2w, read_calibration(folder / "camera-intrinsics.txt")[None], size)


def _read_tum(path: Path) -> Recorded:
    rows = _table(_lines(path), 8)
    x, y, z, w = rows[:, 4:].unbind(1)
    c2w = torch.eye(4, dtype=torch.float64).repeat(len(rows), 1, 1)
    try:
        c2w[:, :3, :3] = quaternion_to_matrix(torch.stack([w, x, y, z], 1))
    except ValueError:
        raise ValueError("expected unit quaternions qx qy qz qw in columns 5 to 8") from None
    c2w[:, :3, 3] = rows[:, 1:4]
    return Recorded(c2w)


def _is_row(count: int) -> Callable[[Path, str], bool]:
    return lambda path, head: len(head.split()) == count and head[0] in "+-.0123456789"


def _has(*names: str) -> Callable[[Path, str], bool]:
    return lambda path, head: path.suffix == ".json" or any((path / name).is_file() for name in names)


FORMATS: dict[str, Format] = {
    # Blender's and WorldScore's JSON as well
    "nerfstudio": Format(_has("transforms.json", "transforms_train.json", "camera_data.json"), read_json),
    "geometry": Format(lambda p, head: p.suffix == ".npz", lambda p: read_geometry(p).recorded),
    "spatia": Format(lambda p, head: head.startswith("[") or (p / "w2c.txt").exists(), _read_spatia),
    "realestate10k": Format(lambda p, head: head.startswith(("http://", "https://")), _read_realestate10k),
    "7-scenes": Format(lambda p, head: p.is_dir() and any(p.glob("*.pose.txt")), _read_7scenes),
    "colmap": Format(lambda p, head: p.is_dir() and find_model(p) is not None, lambda p: Recorded(*read_colmap(p))),
    "tum": Format(_is_row(8), _read_tum),
}


# ---------------------------------------------------------------------------------------------------------- helpers


def read_pose(path: str | Path) -> Tensor:
    """A 4x4 c2w matrix as text, float64. It may hold NaN or infinity: 7-Scenes' way to say that tracking was lost."""
    return _table([_text(Path(path)).replace("\n", " ")], 16, path).reshape(4, 4)


def read_calibration(path: str | Path) -> Tensor:
    """`fx, fy, cx, cy` (4,) of a 3x3 calibration matrix as text, moved to pixel centres at half-integers; float64."""
    k = _table([_text(Path(path)).replace("\n", " ")], 9, path).reshape(3, 3)
    return torch.stack([k[0, 0], k[1, 1], k[0, 2] + 0.5, k[1, 2] + 0.5])


def _table(lines: list[str], columns: int, path: str | Path | None = None) -> Tensor:
    """(rows, columns) float64 numbers; an error names the line."""
    rows = []
    for number, line in enumerate(lines, 1):
        try:
            rows.append([float(word) for word in line.split()])
        except ValueError:
            rows.append([])
        if len(rows[-1]) != columns:
            where = f"{path}" if path else f"line {number} of its data"
            raise ValueError(f"{where}: expected {columns} numbers, got {' '.join(line.split())[:60]!r}")
    return torch.tensor(rows, dtype=torch.float64).reshape(-1, columns)


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except UnicodeDecodeError:
        raise ValueError(f"{path}: expected a text file") from None


def _lines(path: Path) -> list[str]:
    lines = [line.strip() for line in _text(path).splitlines()]
    return [line for line in lines if line and not line.startswith("#")]


def _head(path: Path) -> str:
    """The first line of data; empty for a binary file."""
    with path.open(errors="replace") as file:
        return next((line.strip() for line in file if line.strip() and not line.startswith("#")), "")


def _covering(intrinsics: Tensor) -> tuple[int, int]:
    """Some image size that the principal point lies in, where a file doesn't tell one."""
    return int(2 * intrinsics[:, 3].max()) + 1, int(2 * intrinsics[:, 2].max()) + 1
