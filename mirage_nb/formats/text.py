"""Trajectories as text, a number of rows: RealEstate10K, Spatia, TUM, and the folders of 7-Scenes."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from mirage_nb.formats.base import (
    Trajectory,
    as_matrices,
    from_quaternions,
    invert,
    parse_numbers,
    warn_distortion,
)


def _lines(path: Path) -> list[str]:
    lines = [line.strip() for line in path.read_text().splitlines()]
    return [line for line in lines if line and not line.startswith("#")]


def _rows(lines: list[str], columns: int) -> Tensor:
    """(rows, columns) float64."""
    rows = [parse_numbers(line, columns, f"line {number} of its data") for number, line in enumerate(lines, 1)]
    return torch.tensor(rows, dtype=torch.float64).reshape(-1, columns)


def read_realestate10k(path: Path) -> Trajectory:
    """Lines of 19 numbers: time in microseconds, fx fy cx cy, k1 k2, and the 12 of the w2c matrix."""
    rows = _rows(_lines(path)[1:], 19)
    if rows[:, 5:7].any():
        warn_distortion(path)
    return Trajectory(invert(as_matrices("w2c", rows[:, 7:].reshape(-1, 3, 4))), rows[:, 1:5], (1, 1))


def read_spatia(path: Path) -> Trajectory:
    """A w2c matrix as JSON on each line, and the intrinsics in the file `intrinsics.txt` of the same folder."""
    path = path / "w2c.txt" if path.is_dir() else path
    matrices = []
    for number, line in enumerate(_lines(path), 1):
        try:
            matrices.append(as_matrices("", [json.loads(line)])[0])
        except ValueError:
            raise ValueError(f"line {number}: expected a 4x4 matrix as JSON, got {line[:40]!r}") from None
    lens = path.with_name("intrinsics.txt")
    c2w = invert(torch.stack(matrices)) if matrices else torch.zeros(0, 4, 4)
    if not lens.exists():
        return Trajectory(c2w)
    return Trajectory(c2w, torch.tensor([parse_numbers(lens.read_text(), 4, lens)]), (1, 1))


def read_tum(path: Path) -> Trajectory:
    """Lines of 8 numbers: time, tx ty tz, qx qy qz qw."""
    rows = _rows(_lines(path), 8)
    return Trajectory(from_quaternions(rows[:, 4:], rows[:, 1:4]))


def read_7scenes(folder: Path) -> Trajectory:
    """`NAME.pose.txt` with a 4x4 c2w matrix, `NAME.color.*`, and `camera-intrinsics.txt` with a 3x3 matrix.

    A pose that is NaN or infinite says that tracking was lost; such a frame is left out, with a warning.
    """
    names = sorted(path.name.removesuffix(".pose.txt") for path in folder.glob("*.pose.txt"))
    files = [folder / f"{name}.pose.txt" for name in names]
    poses = torch.tensor([parse_numbers(file.read_text(), 16, file) for file in files], dtype=torch.float64)
    poses = poses.reshape(-1, 4, 4)
    tracked = poses.isfinite().all(2).all(1)
    if not tracked.all():
        lost = [name for name, ok in zip(names, tracked) if not ok]
        warnings.warn(f"{folder}: tracking was lost in {len(lost)} frames, left out (first: {lost[0]})", stacklevel=4)
    colour = {path.name.split(".color.")[0]: path for path in sorted(folder.glob("*.color.*"), reverse=True)}
    pictures = [colour.get(name, folder / f"{name}.color.jpg") for name, ok in zip(names, tracked) if ok]
    calibration = folder / "camera-intrinsics.txt"
    if not calibration.exists():
        return Trajectory(poses[tracked], pictures=pictures)
    k = torch.tensor(parse_numbers(calibration.read_text(), 9, calibration), dtype=torch.float64)
    intrinsics = k[[0, 4, 2, 5]] + torch.tensor([0, 0, 0.5, 0.5])  # its pixel centres are integers
    size = None
    if pictures and pictures[0].exists():
        with Image.open(pictures[0]) as image:
            size = (image.height, image.width)
    return Trajectory(poses[tracked], intrinsics[None], size, pictures)
