"""COLMAP models (`cameras`, `images`), text and binary.

COLMAP's poses are w2c: a quaternion w x y z and a translation, OpenCV axes, in any unit. Its pixel centres are at
half-integers, as ours.
"""

import io
import struct
import warnings
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import torch

from mirage_nb.formats import trajectory as common
from mirage_nb.formats.agreement import Reading
from mirage_nb.formats.trajectory import Trajectory, from_quaternions, invert

# COLMAP's camera models in the order of their numbers: how many parameters each has, how many of these, the first ones,
# are a pinhole's (f cx cy or fx fy cx cy; 0 = no pinhole), and which of `Trajectory.distortion` the others are.
_MODELS = {
    "SIMPLE_PINHOLE": (3, 3, ()), "PINHOLE": (4, 4, ()), "SIMPLE_RADIAL": (4, 3, (0,)), "RADIAL": (5, 3, (0, 1)),
    "OPENCV": (8, 4, (0, 1, 4, 5)), "OPENCV_FISHEYE": (8, 0, ()), "FULL_OPENCV": (12, 0, ()),
    "FOV": (5, 0, ()), "SIMPLE_RADIAL_FISHEYE": (4, 0, ()), "RADIAL_FISHEYE": (5, 0, ()),
    "THIN_PRISM_FISHEYE": (12, 0, ()),
}  # fmt: skip
# Where a model lies in the folder of a scene.
PLACES = [f"{at}cameras.{end}" for at in ("", "sparse/*/", "sparse/", "colmap/sparse/*/") for end in ("bin", "txt")]


def largest_model(files: list[Path]) -> Path:
    """Of the `cameras` files of several models the one with most pictures; a warning says so."""
    counts = {file: sum(1 for _ in _images_of(file)) for file in files}
    largest = max(files, key=counts.get)
    if len({file.parent for file in files}) > 1:
        found = ", ".join(f"{file.parent.name} ({count} pictures)" for file, count in counts.items())
        warnings.warn(f"COLMAP: of the models {found}, the largest is taken: {largest.parent.name}")
    return largest


def read_colmap(path: Path) -> Trajectory:
    """The posed pictures of the model whose cameras are in this file."""
    cameras = _binary_cameras if path.suffix == ".bin" else _text_cameras
    known = {number: camera for number, *camera in cameras(path)}
    if not (images := list(_images_of(path))):
        raise ValueError("it holds no poses")
    *poses, numbers, names = zip(*images)
    if lost := set(numbers) - set(known):
        raise ValueError(f"a picture refers to camera {lost.pop()}, which is not there")
    lenses = {number: _lens(*known[number]) for number in set(numbers)}
    rows, distortion, sizes = (torch.tensor([lenses[number][i] for number in numbers]) for i in range(3))
    poses = torch.tensor(poses, dtype=torch.float64).T
    above = [folder.parent for folder in path.parents[:3] if folder.name in ("sparse", "colmap")]
    c2w = invert(from_quaternions(poses[:, [1, 2, 3, 0]], poses[:, 4:]))
    pictures = common.find_pictures(names, above or [path.parent])
    return Trajectory(c2w, rows, sizes, pictures, distortion=distortion, reading=Reading(w2c=True))


def _lens(model: str, width: int, height: int, *parameters: float) -> tuple[list[float], list[float], list[int]]:
    """fx, fy, cx, cy; the distortion; height and width."""
    count, pinhole, places = _MODELS.get(model, (None, 0, ()))
    if not pinhole:
        common.refuse_lens(model)
    if len(parameters) != count:
        raise ValueError(f"expected {count} parameters of {model}, got {len(parameters)}")
    k = dict(zip(places, parameters[pinhole:]))
    row = [parameters[0], *parameters[pinhole - 3 : pinhole]]  # one focal length stands for both
    return row, [k.get(place, 0.0) for place in range(6)], [height, width]


def _images_of(cameras: Path) -> Iterator[tuple]:
    """qw qx qy qz tx ty tz, the number of the camera, and the name of each picture, of the model with these cameras."""
    return (_binary_images if cameras.suffix == ".bin" else _text_images)(cameras.with_stem("images"))


def _text_cameras(path: Path) -> Iterator[tuple]:
    """Number, model, width, height and parameters of each camera."""
    for number, model, width, height, *parameters in map(str.split, common.data_lines(common.read_text(path))):
        yield int(number), model, int(width), int(height), *map(float, parameters)


def _text_images(path: Path) -> Iterator[tuple]:
    """A line for each picture; each is followed by a line of its points (x y number, ...), unless a script left them
    out."""
    lines = [line.strip() for line in common.read_text(path).rstrip().splitlines() if not line.startswith("#")]
    points = any(words and len(words) % 3 == 0 and all(map(common.is_number, words)) for words in map(str.split, lines))
    for line in lines[::2] if points else filter(None, lines):
        words = line.split(maxsplit=9)
        if len(words) != 10:
            raise ValueError(f"{path.name}: expected id, qw qx qy qz, tx ty tz, camera, name, got {line[:60]!r}")
        yield *map(float, words[1:8]), int(words[8]), words[9]


def _take(name: str, file: io.BytesIO, form: str) -> tuple:
    """The next little-endian numbers of a file of that name, of a form as in `struct`."""
    try:
        return struct.unpack("<" + form, file.read(struct.calcsize("<" + form)))
    except struct.error:
        raise ValueError(f"{name} is truncated") from None


def _binary_cameras(path: Path) -> Iterator[tuple]:
    take = partial(_take, path.name, io.BytesIO(path.read_bytes()))
    for _ in range(take("Q")[0]):
        number, model, width, height = take("iiQQ")
        if not 0 <= model < len(_MODELS):
            raise ValueError(f"{path.name}: no camera model has the number {model}")
        name = list(_MODELS)[model]
        yield number, name, width, height, *take(f"{_MODELS[name][0]}d")


def _binary_images(path: Path) -> Iterator[tuple]:
    take = partial(_take, path.name, io.BytesIO(path.read_bytes()))
    for _ in range(take("Q")[0]):
        _, *pose_and_camera = take("i7di")
        name = b"".join(iter(lambda: take("c")[0], b"\0"))
        take(f"{24 * take('Q')[0]}x")  # the picture's points: x, y, and the number of the 3D point
        yield *pose_and_camera, name.decode()
