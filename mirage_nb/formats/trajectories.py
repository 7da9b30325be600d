"""Camera trajectories in the formats of other tools, read into the conventions of `cameras.py`.

| format | file | poses | intrinsics |
| --- | --- | --- | --- |
| nerfstudio | transforms.json, or its folder | c2w, OpenGL axes (y up, z back) | fl_x fl_y cx cy, pixels of w x h |
| (Blender's NeRF scenes) | transforms_*.json | c2w, OpenGL axes | camera_angle_x, radians across; square pixels |
| (WorldScore) | camera_data.json | c2w, OpenGL axes, `cameras_interp` | none |
| geometry | .npz, no pickle | c2w (`poses_c2w`) or w2c (`w2c`), OpenCV axes | 3x3, pixel centres at integers |
| spatia | w2c.txt, or its folder | w2c, 4x4 as JSON, one a line, OpenCV axes | intrinsics.txt, normalised |
| realestate10k | .txt, first line a URL | w2c, 3x4 row-major, OpenCV axes | fx fy cx cy, normalised |
| 7-scenes | a folder of *.pose.txt | c2w, 4x4, OpenCV axes | camera-intrinsics.txt, 3x3, pixel centres at integers |
| colmap | a folder of cameras, images (.txt or .bin) | w2c, quaternion w first, OpenCV axes | pixels, centres as ours |
| tum | .txt of 8 columns | c2w: time, tx ty tz, qx qy qz qw, OpenCV axes | none |

Normalised intrinsics are over width and height. 7-Scenes and TUM are in metres, the others in any unit. Matrices alone
do not say whether they are c2w or w2c (the inverse of an orbit to the left is an orbit to the right): the format does.

To add a format, give it a line in `FORMATS`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from mirage_nb.formats.base import Trajectory
from mirage_nb.formats.colmap import find_model, read_colmap
from mirage_nb.formats.geometry import read_geometry
from mirage_nb.formats.nerfstudio import FILES, read_json
from mirage_nb.formats.text import read_7scenes, read_realestate10k, read_spatia, read_tum


class Format(NamedTuple):
    """A file format.

    detect(path, head): whether a file or folder has this format, by its name or by `head`, its first line of data.
    read(path): its `Trajectory`.
    """

    detect: Callable[[Path, str], bool]
    read: Callable[[Path], Trajectory]


def _is_json(path: Path, head: str) -> bool:
    return path.suffix == ".json" or any((path / name).is_file() for name in FILES)


def _is_tum(path: Path, head: str) -> bool:
    return len(head.split()) == 8 and head[0] in "+-.0123456789"


FORMATS: dict[str, Format] = {
    "nerfstudio": Format(_is_json, read_json),
    "geometry": Format(lambda path, head: path.suffix == ".npz", read_geometry),
    "spatia": Format(lambda path, head: head.startswith("[[") or (path / "w2c.txt").is_file(), read_spatia),
    "realestate10k": Format(lambda path, head: head.startswith("http"), read_realestate10k),
    "7-scenes": Format(lambda path, head: path.is_dir() and any(path.glob("*.pose.txt")), read_7scenes),
    "colmap": Format(lambda path, head: find_model(path) is not None, read_colmap),
    "tum": Format(_is_tum, read_tum),
}


def detect_format(path: Path) -> str | None:
    """The name of the format of a file or folder; None if it has none of ours."""
    head = ""
    if path.is_file():
        with path.open(errors="replace") as file:
            head = next((line.strip() for line in file if line.strip() and not line.startswith("#")), "")
    return next((name for name, format in FORMATS.items() if format.detect(path, head)), None)


def load_trajectory(path: str | Path, format: str | None = None) -> Trajectory:
    """Read a camera trajectory.

    Args:
        path: a file, or a folder that holds one.
        format: a name of FORMATS; by default the content tells.

    Raises:
        FileNotFoundError: there is no such path.
        ValueError: the format is unknown, a line cannot be read, or a pose is not rigid. The message names the file.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"trajectory: no such file or folder: {path}")
    format = format or detect_format(path)
    if format is None:
        raise ValueError(f"trajectory: {path} is in none of the formats ({', '.join(FORMATS)})")
    try:
        return replace(FORMATS[format].read(path), path=path)
    except (ValueError, KeyError, TypeError) as error:
        message = f"{error} is missing" if isinstance(error, KeyError) else error
        raise ValueError(f"trajectory: {path}: {message}") from error
