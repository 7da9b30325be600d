"""What a trajectory file gives (`Trajectory`), and a reader for each format but COLMAP's.

A reader takes a file and brings what is in it to the conventions of `cameras.py`. Its docstring says what the format
holds. Matrices alone do not say whether they are c2w or w2c (the inverse of an orbit to the left is an orbit to the
right): the format does.
"""

from __future__ import annotations

import json
import math
import re
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from scipy.spatial.transform import Rotation
from torch import Tensor

from mirage_nb.cameras import Cameras

# From OpenCV's camera axes to those of OpenGL and Blender (y up, z back), and from those to OpenCV's.
OPENGL = torch.diag(torch.tensor([1.0, -1.0, -1.0, 1.0], dtype=torch.float64))
ARRAYS_C2W = ("camera_poses", "c2w", "cam2world", "poses_c2w")  # names of arrays in a NumPy archive
ARRAYS_W2C = ("w2c", "extrinsics", "extrinsic", "poses_w2c")


@dataclass(frozen=True)
class Trajectory:
    """A camera path as a file gives it.

    Args:
        c2w: (T, 4, 4) rigid camera-to-world matrices, OpenCV axes, in the unit of the file.
        intrinsics: (T, 4) or (1, 4) rows `fx, fy, cx, cy` in pixels of `size`; None if there are none of a known size.
        size: (height, width) of the images that the intrinsics are for; (1, 1) if they are normalised.
        pictures: the image file of each pose, if the file names them.
    """

    c2w: Tensor
    intrinsics: Tensor | None = None
    size: tuple[int, int] = (1, 1)
    pictures: list[Path] | None = None

    def __post_init__(self) -> None:
        if not len(self.c2w):
            raise ValueError("it holds no poses")
        lens = torch.tensor([self.size[1], self.size[0], self.size[1] / 2, self.size[0] / 2])  # any: poses are checked
        cameras = Cameras(self.c2w, lens if self.intrinsics is None else self.intrinsics, self.size)
        object.__setattr__(self, "c2w", cameras.c2w)
        object.__setattr__(self, "intrinsics", None if self.intrinsics is None else cameras.intrinsics)

    def __len__(self) -> int:
        return len(self.c2w)

    def __getitem__(self, index: slice | list[int]) -> Trajectory:
        numbers = torch.arange(len(self))[index].tolist()
        return replace(
            self,
            c2w=self.c2w[numbers],
            intrinsics=None if self.intrinsics is None else self.intrinsics[numbers],
            pictures=None if self.pictures is None else [self.pictures[i] for i in numbers],
        )

    def cameras(self, size: tuple[int, int]) -> Cameras:
        """The cameras of images of this (height, width), before any crop; ValueError where it has no intrinsics."""
        if self.intrinsics is None:
            raise ValueError("trajectory: it has no intrinsics, or does not say for which image size they are")
        return Cameras(self.c2w, self.intrinsics, self.size).resize(size)


def natural_order(path: Path) -> list[str | int]:
    """A key that sorts files by name, with 2 before 10."""
    return [int(part) if i % 2 else part for i, part in enumerate(re.split(r"(\d+)", str(path)))]


def warn_distortion(path: Path) -> None:
    warnings.warn(f"{path}: lens distortion is ignored; undistort the images if it matters", stacklevel=4)


def as_matrices(name: str, value) -> Tensor:
    """(T, 4, 4) float64 of a list or an array of 4x4 or 3x4 matrices."""
    try:
        matrices = torch.as_tensor(np.asarray(value, dtype=np.float64))
    except (TypeError, ValueError):
        raise ValueError(f"{name}: expected a list of 4x4 matrices") from None
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
    """Rows fx, fy, cx, cy of calibrations (T, 3, 3) or (3, 3) whose pixel centres are integers."""
    k = torch.as_tensor(np.asarray(matrices, dtype=np.float64)).reshape(-1, 9)
    return k[:, [0, 4, 2, 5]] + torch.tensor([0, 0, 0.5, 0.5], dtype=torch.float64)


def data_lines(lines: Iterable[str]) -> Iterator[str]:
    """The lines that hold numbers: no comments, no empty lines, no address of a video (RealEstate10K's first line)."""
    return (line for line in map(str.strip, lines) if line and not line.startswith(("#", "http")))


def read_numbers(path: Path, columns: int | None = None) -> np.ndarray:
    """(rows, columns) float64 of a text file; spaces, commas and brackets part the numbers."""
    lines = [line.translate(str.maketrans("[],", "   ")) for line in data_lines(path.read_text().splitlines())]
    try:
        rows = np.loadtxt(lines, ndmin=2)
    except ValueError as error:
        raise ValueError(f"{path.name}: {error}") from None
    if columns not in (None, rows.shape[1]):
        raise ValueError(f"{path.name}: expected rows of {columns} numbers, got {rows.shape[1]}")
    return rows


def read_realestate10k(path: Path) -> Trajectory:
    """Rows of 19: time in microseconds, fx fy cx cy (normalised), k1 k2, and the 12 numbers of the w2c matrix."""
    rows = read_numbers(path, 19)
    if rows[:, 5:7].any():
        warn_distortion(path)
    return Trajectory(invert(as_matrices("w2c", rows[:, 7:].reshape(-1, 3, 4))), torch.from_numpy(rows[:, 1:5]))


def read_spatia(path: Path) -> Trajectory:
    """A w2c matrix in brackets on each line; normalised intrinsics in `intrinsics.txt` of the same folder."""
    rows, lens = read_numbers(path), path.with_name("intrinsics.txt")
    c2w = invert(as_matrices("w2c", rows.reshape(len(rows), -1, 4)))
    return Trajectory(c2w, torch.from_numpy(read_numbers(lens).reshape(1, -1)) if lens.exists() else None)


def read_tum(path: Path) -> Trajectory:
    """Rows of 8: time, tx ty tz, qx qy qz qw."""
    rows = read_numbers(path, 8)
    return Trajectory(from_quaternions(rows[:, 4:], rows[:, 1:4]))


def read_7scenes(path: Path) -> Trajectory:
    """All of a folder: `NAME.pose.txt` (4x4 c2w), `NAME.color.*`, and `camera-intrinsics.txt` (3x3).

    A pose that is NaN or infinite says that tracking was lost; such a frame is left out, with a warning.
    """
    folder, calibration = path.parent, path.with_name("camera-intrinsics.txt")
    files = sorted(folder.glob("*.pose.txt"), key=natural_order)
    poses = as_matrices("pose", np.stack([read_numbers(file, 4) for file in files]))
    tracked = poses.isfinite().all(2).all(1)
    if not tracked.all():
        lost = [file.name for file, ok in zip(files, tracked) if not ok]
        warnings.warn(f"{folder}: tracking was lost in {len(lost)} frames, left out (first: {lost[0]})", stacklevel=4)
    names = [file.name.removesuffix(".pose.txt") for file, ok in zip(files, tracked) if ok]
    pictures = [next(folder.glob(f"{name}.color.*"), folder / f"{name}.color.jpg") for name in names]
    if not calibration.exists() or not pictures or not pictures[0].exists():
        return Trajectory(poses[tracked], pictures=pictures)
    return Trajectory(poses[tracked], from_opencv(read_numbers(calibration, 3)), _size_of(pictures[0]), pictures)


def _size_of(picture: Path) -> tuple[int, int]:
    with Image.open(picture) as image:
        return image.height, image.width


def read_worldscore(path: Path) -> Trajectory:
    """No intrinsics: its focal length is in pixels of a picture whose size depends on the model that is scored."""
    return Trajectory(as_matrices("cameras_interp", json.loads(path.read_text())["cameras_interp"]) @ OPENGL)


def read_nerfstudio(path: Path) -> Trajectory:
    """Frames with a `transform_matrix` each. What all frames share may stand above them.

    The lens is `fl_x` in pixels of `w` x `h`, or Blender's `camera_angle_x` in radians; a size that the file lacks is
    the first picture's.
    """
    content = json.loads(path.read_text())
    frames = [{**content, **frame} for frame in content["frames"]]
    c2w = as_matrices("transform_matrix", [frame["transform_matrix"] for frame in frames]) @ OPENGL
    if any(frame.get(key) for frame in frames for key in ("k1", "k2", "k3", "k4", "p1", "p2")):
        warn_distortion(path)
    pictures = None
    if all("file_path" in frame for frame in frames):
        pictures = [path.parent / frame["file_path"] for frame in frames]  # Blender's scenes leave the ending out
        pictures = [p if p.is_file() or p.suffix else p.with_name(f"{p.name}.png") for p in pictures]
    sizes = {(int(frame["h"]), int(frame["w"])) for frame in frames if "h" in frame and "w" in frame}
    if not sizes and pictures and pictures[0].is_file():
        sizes = {_size_of(pictures[0])}
    if len(sizes) > 1:
        raise ValueError(f"expected frames of one size, got {sorted(sizes)}")
    if not sizes or not ("fl_x" in frames[0] or "camera_angle_x" in frames[0]):
        return Trajectory(c2w, pictures=pictures)
    (size,) = sizes
    return Trajectory(c2w, torch.tensor([_lens(frame, *size) for frame in frames], dtype=torch.float64), size, pictures)


def _lens(frame: dict, height: int, width: int) -> list[float]:
    """fx, fy, cx, cy in pixels. Pixels are square and the lens is centred where nothing else is said."""
    if "fl_x" in frame:
        fx, fy = frame["fl_x"], frame.get("fl_y", frame["fl_x"])
    else:
        fx = width / 2 / math.tan(frame["camera_angle_x"] / 2)
        fy = height / 2 / math.tan(frame["camera_angle_y"] / 2) if "camera_angle_y" in frame else fx
    return [fx, fy, frame.get("cx", width / 2), frame.get("cy", height / 2)]


def read_geometry(path: Path) -> Trajectory:
    """An archive of poses and 3x3 intrinsics, as MapAnything writes it, and the paper's code with it.

    The name of the poses says whether they are c2w or w2c. The size of the depth maps is that of the images. The
    paper's code joins the parts of a long video by similarities: the scale of later rotations is divided out.
    """
    with np.load(path, allow_pickle=False) as archive:  # nothing pickled is ever loaded
        names = (ARRAYS_C2W, ARRAYS_W2C, ("intrinsics", "intrinsic", "K"), ("depth_z", "depth", "depths"))
        poses, inverted, k, depth = (next((archive[x] for x in row if x in archive.files), None) for row in names)
    if poses is None:
        c2w = invert(as_matrices("w2c", inverted))
    else:
        c2w = as_matrices("poses", poses)
        scale = torch.linalg.det(c2w[:, :3, :3]).clamp(min=0) ** (1 / 3)
        c2w[:, :3, :3] /= torch.where(scale > 0, scale, 1.0)[:, None, None]  # `Cameras` refuses what is not rigid then
    if k is None:
        return Trajectory(c2w)
    if k.shape not in ((3, 3), (len(c2w), 3, 3)):
        raise ValueError(f"intrinsics: expected ({len(c2w)}, 3, 3), got {k.shape}")
    rows = from_opencv(k)
    if depth is not None:
        height, width = depth.shape[1:3]
        return Trajectory(c2w, rows, (height, width))
    normalised = (rows[:, 2:] < 1.5).all()
    return Trajectory(c2w, rows - torch.tensor([0, 0, 0.5, 0.5]) if normalised else None)
