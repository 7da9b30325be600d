"""COLMAP models (`cameras`, `images`), text and binary.

COLMAP's poses are w2c: a quaternion w x y z and a translation, OpenCV axes, in any unit. Its pixel centres are at
half-integers, as ours.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from mirage_nb.formats.readers import Trajectory, data_lines, from_quaternions, invert, warn_distortion

# COLMAP's camera models in the order of their numbers: how many parameters each has, and how many of these, the first
# ones, are a pinhole's (f cx cy or fx fy cx cy; 0 = no pinhole). What follows them is distortion.
_MODELS = {
    "SIMPLE_PINHOLE": (3, 3), "PINHOLE": (4, 4), "SIMPLE_RADIAL": (4, 3), "RADIAL": (5, 3), "OPENCV": (8, 4),
    "OPENCV_FISHEYE": (8, 0), "FULL_OPENCV": (12, 4), "FOV": (5, 0), "SIMPLE_RADIAL_FISHEYE": (4, 0),
    "RADIAL_FISHEYE": (5, 0), "THIN_PRISM_FISHEYE": (12, 0),
}  # fmt: skip
# Where a model lies in the folder of a scene.
PLACES = [f"{at}cameras.{end}" for at in ("", "sparse/0/", "sparse/", "colmap/sparse/0/") for end in ("bin", "txt")]


def read_colmap(path: Path) -> Trajectory:
    """The posed pictures of the model whose cameras are in this file."""
    folder, binary = path.parent, path.suffix == ".bin"
    cameras, images = (_binary_cameras, _binary_images) if binary else (_text_cameras, _text_images)
    lenses = {number: camera for number, *camera in cameras(path)}
    poses, rows, names, sizes = [], [], [], set()
    for *pose, number, name in images(path.with_stem("images")):
        if number not in lenses:
            raise ValueError(f"a picture refers to camera {number}, which is not there")
        model, width, height, *parameters = lenses[number]
        count, pinhole = _MODELS.get(model, (None, 0))
        if not pinhole or len(parameters) != count:
            what = f"{model} with {len(parameters)} parameters"
            raise ValueError(f"expected the camera of a pinhole, got {what}; undistort the pictures first")
        if any(parameters[pinhole:]):
            warn_distortion(path)
        poses.append(pose)
        rows.append([parameters[0], *parameters[pinhole - 3 : pinhole]])  # one focal length stands for both
        names.append(name)
        sizes.add((height, width))
    if len(sizes) != 1:
        raise ValueError(f"expected pictures of one size, got {sorted(sizes)}")
    poses = torch.tensor(poses, dtype=torch.float64)
    homes = [home for above in (folder, *folder.parents[:3]) for home in (above / "images", above)]
    home = next((home for home in homes if any((home / name).is_file() for name in names)), homes[0])
    c2w = invert(from_quaternions(poses[:, [1, 2, 3, 0]], poses[:, 4:]))
    return Trajectory(c2w, torch.tensor(rows, dtype=torch.float64), sizes.pop(), [home / name for name in names])


def _text_cameras(path: Path) -> Iterator[tuple]:
    """Number, model, width, height and parameters of each camera."""
    for number, model, width, height, *parameters in map(str.split, data_lines(path.read_text().splitlines())):
        yield int(number), model, int(width), int(height), *map(float, parameters)


def _text_images(path: Path) -> Iterator[tuple]:
    """qw qx qy qz tx ty tz, the number of the camera, and the name of each picture."""
    lines = [line.strip() for line in path.read_text().rstrip().splitlines() if not line.startswith("#")]
    for line in lines[::2]:  # every second line holds points, or is empty
        words = line.split(maxsplit=9)
        if len(words) != 10:
            raise ValueError(f"{path.name}: expected id, qw qx qy qz, tx ty tz, camera, name, got {line[:60]!r}")
        yield *map(float, words[1:8]), int(words[8]), words[9]


def _numbers_of(path: Path) -> Callable[[str], tuple]:
    """A function that returns the next little-endian numbers of a file, given their form as in `struct`."""
    file = io.BytesIO(path.read_bytes())

    def take(form: str) -> tuple:
        try:
            return struct.unpack("<" + form, file.read(struct.calcsize("<" + form)))
        except struct.error:
            raise ValueError(f"{path.name} is truncated") from None

    return take


def _binary_cameras(path: Path) -> Iterator[tuple]:
    take = _numbers_of(path)
    for _ in range(take("Q")[0]):
        number, model, width, height = take("iiQQ")
        if not 0 <= model < len(_MODELS):
            raise ValueError(f"{path.name}: no camera model has the number {model}")
        name = list(_MODELS)[model]
        yield number, name, width, height, *take(f"{_MODELS[name][0]}d")


def _binary_images(path: Path) -> Iterator[tuple]:
    take = _numbers_of(path)
    for _ in range(take("Q")[0]):
        _, *pose_and_camera = take("i7di")
        name = b"".join(iter(lambda: take("c")[0], b"\0"))
        take(f"{24 * take('Q')[0]}x")  # the picture's points: x, y, and the number of the 3D point
        yield *pose_and_camera, name.decode()
