"""COLMAP models (`cameras`, `images`, `points3D`), text and binary, read and written.

COLMAP's poses are w2c: a quaternion w x y z and a translation, OpenCV axes. Its pixel centres are at half-integers, as
ours. The unit is whatever the reconstruction was left in; the ones that we write are in metres.
"""

from __future__ import annotations

import struct
import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from mirage_nb.cameras import Cameras
from mirage_nb.memory.io import write_aside

# model id -> (name, number of parameters); those with one focal length first in the parameters
_MODELS = {
    0: ("SIMPLE_PINHOLE", 3), 1: ("PINHOLE", 4), 2: ("SIMPLE_RADIAL", 4), 3: ("RADIAL", 5), 4: ("OPENCV", 8),
    5: ("OPENCV_FISHEYE", 8), 6: ("FULL_OPENCV", 12), 7: ("FOV", 5), 8: ("SIMPLE_RADIAL_FISHEYE", 4),
    9: ("RADIAL_FISHEYE", 5), 10: ("THIN_PRISM_FISHEYE", 12),
}  # fmt: skip
_ONE_FOCAL = {"SIMPLE_PINHOLE", "SIMPLE_RADIAL", "RADIAL"}
_TWO_FOCALS = {"PINHOLE", "OPENCV", "FULL_OPENCV"}


class ColmapImage(NamedTuple):
    """A posed picture: its name, w2c as quaternion w x y z (4,) and translation (3,), and its camera's id."""

    name: str
    quaternion: tuple[float, ...]
    translation: tuple[float, ...]
    camera: int


class ColmapCamera(NamedTuple):
    """A lens: its model's name, (height, width), and its parameters."""

    model: str
    size: tuple[int, int]
    parameters: tuple[float, ...]


def find_model(path: Path) -> Path | None:
    """The folder of a COLMAP model at, or in the usual places below, a path."""
    for folder in (path, path / "sparse" / "0", path / "sparse", path / "colmap" / "sparse" / "0"):
        for ending in ("bin", "txt"):
            if (folder / f"cameras.{ending}").is_file() and (folder / f"images.{ending}").is_file():
                return folder
    return None


def read_colmap(path: Path) -> tuple[Tensor, Tensor, tuple[int, int]]:
    """c2w (T, 4, 4), intrinsics (T, 4) and (height, width) of a model's pictures, in the order of their names.

    Raises:
        ValueError: truncated files, a fisheye lens, or pictures of several sizes.
    """
    folder = find_model(path)
    if (folder / "cameras.bin").is_file():
        lenses, images = _cameras_bin(folder / "cameras.bin"), _images_bin(folder / "images.bin")
    else:
        lenses, images = _cameras_txt(folder / "cameras.txt"), _images_txt(folder / "images.txt")
    images = sorted(images, key=lambda image: image.name)
    unknown = {image.camera for image in images} - set(lenses)
    if unknown:
        raise ValueError(f"a picture refers to camera {min(unknown)}, which is not there")
    sizes = {lenses[image.camera].size for image in images}
    if len(sizes) > 1:
        raise ValueError(f"expected pictures of one size, got {sorted(sizes)}")
    rows = {number: _intrinsics(lens) for number, lens in lenses.items() if number in {i.camera for i in images}}
    if any(distorted for _, distorted in rows.values()):
        warnings.warn(f"{path}: lens distortion is ignored; undistort the images if it matters", stacklevel=4)
    rotation = quaternion_to_matrix(torch.tensor([i.quaternion for i in images], dtype=torch.float64).reshape(-1, 4))
    translation = torch.tensor([i.translation for i in images], dtype=torch.float64).reshape(-1, 3, 1)
    c2w = torch.eye(4, dtype=torch.float64).repeat(len(images), 1, 1)
    c2w[:, :3, :3] = rotation.mT
    c2w[:, :3, 3:] = -rotation.mT @ translation
    intrinsics = torch.tensor([rows[image.camera][0] for image in images], dtype=torch.float64).reshape(-1, 4)
    return c2w, intrinsics, sizes.pop() if sizes else (1, 1)


def picture_names(path: Path) -> list[str]:
    """The names of a model's pictures, in the order of `read_colmap`'s poses."""
    folder = find_model(path)
    binary = (folder / "cameras.bin").is_file()
    images = _images_bin(folder / "images.bin") if binary else _images_txt(folder / "images.txt")
    return sorted(image.name for image in images)


def _intrinsics(lens: ColmapCamera) -> tuple[list[float], bool]:
    p = lens.parameters
    if lens.model in _ONE_FOCAL:
        return [p[0], p[0], p[1], p[2]], any(p[3:])
    if lens.model in _TWO_FOCALS:
        return list(p[:4]), any(p[4:])
    raise ValueError(f"a camera of the model {lens.model} is no pinhole; undistort the pictures first")


def _lens(name: str, width: int, height: int, parameters: tuple[float, ...]) -> ColmapCamera:
    expected = dict(_MODELS.values()).get(name)
    if expected != len(parameters):
        raise ValueError(f"camera model {name}: expected {expected} parameters, got {len(parameters)}")
    return ColmapCamera(name, (height, width), parameters)


def _lines(path: Path) -> list[str]:
    return [line.strip() for line in path.read_text().splitlines() if not line.startswith("#")]


def _cameras_txt(path: Path) -> dict[int, ColmapCamera]:
    lenses = {}
    for words in (line.split() for line in _lines(path) if line):
        try:
            number, width, height = int(words[0]), int(words[2]), int(words[3])
            lenses[number] = _lens(words[1], width, height, tuple(map(float, words[4:])))
        except IndexError:
            raise ValueError(f"{path.name}: expected id, model, width, height, parameters, got {words}") from None
    return lenses


def _images_txt(path: Path) -> list[ColmapImage]:
    images = []
    lines = _lines(path)
    while lines and not lines[-1]:
        lines.pop()
    for line in lines[::2]:  # every second line holds the picture's points, and may be empty
        words = line.split(maxsplit=9)
        if len(words) != 10:
            raise ValueError(f"{path.name}: expected id, qw qx qy qz, tx ty tz, camera, name, got {line[:60]!r}")
        numbers = [float(word) for word in words[1:8]]
        images.append(ColmapImage(words[9], tuple(numbers[:4]), tuple(numbers[4:]), int(words[8])))
    return images


class _Bytes:
    """Little-endian numbers, one after the other."""

    def __init__(self, path: Path) -> None:
        self.data, self.at, self.name = path.read_bytes(), 0, path.name

    def take(self, form: str) -> tuple:
        size = struct.calcsize("<" + form)
        if self.at + size > len(self.data):
            raise ValueError(f"{self.name} is truncated")
        values = struct.unpack_from("<" + form, self.data, self.at)
        self.at += size
        return values

    def skip(self, size: int) -> None:
        if self.at + size > len(self.data):
            raise ValueError(f"{self.name} is truncated")
        self.at += size

    def text(self) -> str:
        end = self.data.find(b"\0", self.at)
        if end < 0:
            raise ValueError(f"{self.name} is truncated")
        value, self.at = self.data[self.at : end].decode(), end + 1
        return value


def _cameras_bin(path: Path) -> dict[int, ColmapCamera]:
    file, lenses = _Bytes(path), {}
    for _ in range(file.take("Q")[0]):
        number, model, width, height = file.take("iiQQ")
        if model not in _MODELS:
            raise ValueError(f"{path.name}: no camera model has the number {model}")
        name, count = _MODELS[model]
        lenses[number] = _lens(name, width, height, file.take(f"{count}d"))
    return lenses


def _images_bin(path: Path) -> list[ColmapImage]:
    file, images = _Bytes(path), []
    for _ in range(file.take("Q")[0]):
        _, *numbers, camera = file.take("i7di")
        name, points = file.text(), None
        points = file.take("Q")[0]
        file.skip(24 * points)  # x, y, and the 3D point's number
        images.append(ColmapImage(name, tuple(numbers[:4]), tuple(numbers[4:]), camera))
    return images


def quaternion_to_matrix(q: Tensor) -> Tensor:
    """Rotation matrices (N, 3, 3) of quaternions w x y z (N, 4).

    Raises:
        ValueError: one that is not of unit length, to a hundredth.
    """
    norm = q.norm(dim=1, keepdim=True)
    if not ((norm - 1).abs() <= 1e-2).all():
        raise ValueError("expected unit quaternions")
    w, x, y, z = (q / norm).unbind(1)
    rotation = [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)]
    rotation += [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)]
    rotation += [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)]
    return torch.stack(rotation, 1).reshape(-1, 3, 3)


def matrix_to_quaternion(rotation: Tensor) -> Tensor:
    """Unit quaternions w x y z (N, 4) with w >= 0 of rotation matrices (N, 3, 3)."""
    r = rotation.double()
    xx, yy, zz = r[:, 0, 0], r[:, 1, 1], r[:, 2, 2]
    # The symmetric matrix whose largest eigenvector is the quaternion x y z w (Bar-Itzhack): stable for any rotation.
    k = torch.zeros(len(r), 4, 4, dtype=torch.float64)
    k[:, 0, 0], k[:, 1, 1], k[:, 2, 2], k[:, 3, 3] = xx - yy - zz, yy - xx - zz, zz - xx - yy, xx + yy + zz
    k[:, 1, 0], k[:, 2, 0], k[:, 2, 1] = r[:, 0, 1] + r[:, 1, 0], r[:, 0, 2] + r[:, 2, 0], r[:, 1, 2] + r[:, 2, 1]
    k[:, 3, 0], k[:, 3, 1] = r[:, 2, 1] - r[:, 1, 2], r[:, 0, 2] - r[:, 2, 0]
    k[:, 3, 2] = r[:, 1, 0] - r[:, 0, 1]
    vector = torch.linalg.eigh(k / 3, UPLO="L").eigenvectors[:, :, -1]
    q = torch.cat([vector[:, 3:], vector[:, :3]], 1)
    return torch.where(q[:, :1] < 0, -q, q)


def write_colmap(
    folder: str | Path, cameras: Cameras, names: list[str], points: Tensor | None = None, colours: Tensor | None = None,
    binary: bool = False,
) -> Path:  # fmt: skip
    """Write a COLMAP model: one PINHOLE camera a picture (or one for all, if they share it), poses, and points.

    Args:
        folder: created where it does not exist.
        cameras, names: N of each; metres.
        points, colours: (P, 3) world points in metres and (P, 3) uint8, for a splat's start.
        binary: `.bin` in place of `.txt`.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    points = torch.zeros(0, 3) if points is None else points.cpu()
    colours = torch.full((len(points), 3), 128) if colours is None else colours.cpu()
    if len(names) != len(cameras) or tuple(colours.shape) != (len(points), 3):
        raise ValueError(f"names: expected one for each of {len(cameras)} cameras, and a colour for each point")
    (height, width), rows = cameras.size, cameras.intrinsics.double().cpu()
    lenses, which = rows.unique(dim=0, return_inverse=True)
    w2c = cameras.w2c.double().cpu()
    poses = torch.cat([matrix_to_quaternion(w2c[:, :3, :3]), w2c[:, :3, 3]], 1).tolist()
    xyz, rgb = points.double().numpy(), colours.to(torch.uint8).numpy()
    numbered = list(zip(range(1, len(names) + 1), poses, (which + 1).tolist(), names))
    if binary:
        files = {
            "cameras": struct.pack("<Q", len(lenses))
            + b"".join(struct.pack("<iiQQ4d", i, 1, width, height, *row) for i, row in enumerate(lenses.tolist(), 1)),
            "images": struct.pack("<Q", len(names))
            + b"".join(
                struct.pack("<i7di", i, *pose, lens) + name.encode() + b"\0" + struct.pack("<Q", 0)
                for i, pose, lens, name in numbered
            ),
            "points3D": struct.pack("<Q", len(xyz)) + _points_bin(xyz, rgb),
        }
    else:
        texts = {
            "cameras": [f"{i} PINHOLE {width} {height} {_words(row)}" for i, row in enumerate(lenses.tolist(), 1)],
            "images": [f"{i} {_words(pose)} {lens} {name}\n" for i, pose, lens, name in numbered],
            "points3D": [f"{i} {_words(p)} {c[0]} {c[1]} {c[2]} 0" for i, (p, c) in enumerate(zip(xyz, rgb), 1)],
        }
        files = {name: ("\n".join(lines) + "\n" * bool(lines)).encode() for name, lines in texts.items()}
    for name, data in files.items():
        write_aside(folder / f"{name}.{'bin' if binary else 'txt'}", data)
    return folder


def _words(numbers) -> str:
    return " ".join(repr(float(number)) for number in numbers)


def _points_bin(xyz: np.ndarray, rgb: np.ndarray) -> bytes:
    record = np.dtype([("id", "<u8"), ("xyz", "<f8", 3), ("rgb", "u1", 3), ("error", "<f8"), ("track", "<u8")])
    table = np.zeros(len(xyz), record)
    table["id"], table["xyz"], table["rgb"] = np.arange(1, len(xyz) + 1), xyz, rgb
    return table.tobytes()
