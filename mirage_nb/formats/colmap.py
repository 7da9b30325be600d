"""COLMAP models (`cameras`, `images`, `points3D`): text and binary are read, text is written.

COLMAP's poses are w2c: a quaternion w x y z and a translation, OpenCV axes. Its pixel centres are at half-integers, as
ours. The unit is whatever the reconstruction was left in; the ones that we write are in metres.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from scipy.spatial.transform import Rotation
from torch import Tensor

from mirage_nb.cameras import Cameras
from mirage_nb.formats.base import Trajectory, from_quaternions, invert, warn_distortion
from mirage_nb.memory.io import write_aside

# COLMAP's camera models in the order of their numbers, and how many parameters each has.
_MODELS = {
    "SIMPLE_PINHOLE": 3, "PINHOLE": 4, "SIMPLE_RADIAL": 4, "RADIAL": 5, "OPENCV": 8, "OPENCV_FISHEYE": 8,
    "FULL_OPENCV": 12, "FOV": 5, "SIMPLE_RADIAL_FISHEYE": 4, "RADIAL_FISHEYE": 5, "THIN_PRISM_FISHEYE": 12,
}  # fmt: skip
# Where fx, fy, cx, cy stand in the parameters of the pinholes; what follows them is distortion.
_PINHOLES = {name: (0, 0, 1, 2) for name in ("SIMPLE_PINHOLE", "SIMPLE_RADIAL", "RADIAL")}
_PINHOLES |= {name: (0, 1, 2, 3) for name in ("PINHOLE", "OPENCV", "FULL_OPENCV")}


class _Camera(NamedTuple):
    model: str
    width: int
    height: int
    parameters: tuple[float, ...]


class _Image(NamedTuple):
    name: str
    pose: tuple[float, ...]  # w2c: qw qx qy qz, tx ty tz
    camera: int


def find_model(path: Path) -> tuple[Path, str] | None:
    """The folder of a COLMAP model, at a path or in the usual places below it, and the ending of its files."""
    for folder in (path, path / "sparse" / "0", path / "sparse", path / "colmap" / "sparse" / "0"):
        for ending in ("bin", "txt"):
            if (folder / f"cameras.{ending}").is_file() and (folder / f"images.{ending}").is_file():
                return folder, ending
    return None


def read_colmap(path: Path) -> Trajectory:
    """The posed pictures of a model, in the order of their names.

    Raises:
        ValueError: truncated files, a lens that is no pinhole, or pictures of several sizes.
    """
    folder, ending = find_model(path)
    readers = (_cameras_bin, _images_bin) if ending == "bin" else (_cameras_txt, _images_txt)
    cameras, images = (read(folder / f"{name}.{ending}") for read, name in zip(readers, ("cameras", "images")))
    images.sort(key=lambda image: image.name)
    if unknown := {image.camera for image in images} - set(cameras):
        raise ValueError(f"a picture refers to camera {min(unknown)}, which is not there")
    used = [cameras[image.camera] for image in images]
    for camera in set(used):
        if _MODELS.get(camera.model) != len(camera.parameters):
            raise ValueError(f"camera model {camera.model}: {len(camera.parameters)} parameters do not fit it")
        if camera.model not in _PINHOLES:
            raise ValueError(f"a camera of the model {camera.model} is no pinhole; undistort the pictures first")
    if any(any(camera.parameters[_PINHOLES[camera.model][3] + 1 :]) for camera in set(used)):
        warn_distortion(path)
    sizes = {(camera.height, camera.width) for camera in used}
    if len(sizes) > 1:
        raise ValueError(f"expected pictures of one size, got {sorted(sizes)}")
    rows = [[camera.parameters[i] for i in _PINHOLES[camera.model]] for camera in used]
    poses = torch.tensor([image.pose for image in images], dtype=torch.float64).reshape(-1, 7)
    home = path / "images" if (path / "images").is_dir() else path
    return Trajectory(
        invert(from_quaternions(poses[:, [1, 2, 3, 0]], poses[:, 4:])),
        torch.tensor(rows, dtype=torch.float64),
        sizes.pop() if sizes else None,
        [home / image.name for image in images],
    )


def _lines(path: Path) -> list[str]:
    return [line.strip() for line in path.read_text().splitlines() if not line.startswith("#")]


def _cameras_txt(path: Path) -> dict[int, _Camera]:
    cameras = {}
    for number, model, width, height, *parameters in (line.split() for line in _lines(path) if line):
        cameras[int(number)] = _Camera(model, int(width), int(height), tuple(map(float, parameters)))
    return cameras


def _images_txt(path: Path) -> list[_Image]:
    images = []
    for line in "\n".join(_lines(path)).rstrip().split("\n")[::2]:  # every second line holds points, or is empty
        words = line.split(maxsplit=9)
        if len(words) != 10:
            raise ValueError(f"{path.name}: expected id, qw qx qy qz, tx ty tz, camera, name, got {line[:60]!r}")
        images.append(_Image(words[9], tuple(map(float, words[1:8])), int(words[8])))
    return images


class _Binary:
    """Reads little-endian numbers from a file, one after the other."""

    def __init__(self, path: Path) -> None:
        self.file, self.name = io.BytesIO(path.read_bytes()), path.name

    def take(self, form: str) -> tuple:
        try:
            return struct.unpack("<" + form, self.file.read(struct.calcsize("<" + form)))
        except struct.error:
            raise ValueError(f"{self.name} is truncated") from None


def _cameras_bin(path: Path) -> dict[int, _Camera]:
    file, cameras = _Binary(path), {}
    for _ in range(file.take("Q")[0]):
        number, model, width, height = file.take("iiQQ")
        if not 0 <= model < len(_MODELS):
            raise ValueError(f"{path.name}: no camera model has the number {model}")
        name, count = list(_MODELS.items())[model]
        cameras[number] = _Camera(name, width, height, file.take(f"{count}d"))
    return cameras


def _images_bin(path: Path) -> list[_Image]:
    file, images = _Binary(path), []
    for _ in range(file.take("Q")[0]):
        _, *pose, camera = file.take("i7di")
        name = b""
        while not name.endswith(b"\0"):
            name += file.take("c")[0]
        file.take(f"{24 * file.take('Q')[0]}x")  # the picture's points: x, y, and the number of the 3D point
        images.append(_Image(name[:-1].decode(), tuple(pose), camera))
    return images


def write_colmap(folder: Path, cameras: Cameras, names: list[str], points: Tensor, colours: Tensor) -> None:
    """Write a COLMAP model as text: a PINHOLE camera for each lens, poses, and points.

    Args:
        folder: created where it does not exist.
        cameras, names: N of each; metres.
        points, colours: (P, 3) world points in metres and (P, 3) uint8, for a splat's start.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lenses, lens_of = cameras.intrinsics.double().unique(dim=0, return_inverse=True)
    w2c, (height, width) = invert(cameras.c2w.double()), cameras.size
    quaternions = Rotation.from_matrix(w2c[:, :3, :3].numpy()).as_quat(canonical=True)[:, [3, 0, 1, 2]]  # w x y z
    poses = np.concatenate([quaternions, w2c[:, :3, 3].numpy()], 1)
    images = zip(poses, lens_of.tolist(), names, strict=True)
    cloud = zip(points.tolist(), colours.tolist(), strict=True)
    files = {
        "cameras": [f"{i} PINHOLE {width} {height} {_words(row)}" for i, row in enumerate(lenses, 1)],
        "images": [f"{i} {_words(pose)} {lens + 1} {name}\n" for i, (pose, lens, name) in enumerate(images, 1)],
        "points3D": [f"{i} {_words(xyz)} {r} {g} {b} 0" for i, (xyz, (r, g, b)) in enumerate(cloud, 1)],
    }
    for name, lines in files.items():
        write_aside(folder / f"{name}.txt", "".join(line + "\n" for line in lines).encode())


def _words(numbers: Iterable) -> str:
    return " ".join(repr(float(number)) for number in numbers)
