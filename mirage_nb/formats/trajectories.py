"""Camera trajectories in the formats of other tools: the table of formats, and how the format of a file is told.

To add a format, write a reader and give it a line in `FORMATS`.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from mirage_nb.formats import readers
from mirage_nb.formats.colmap import PLACES, read_colmap
from mirage_nb.formats.readers import Trajectory, natural_order


class Format(NamedTuple):
    """A file format.

    read(file): its `Trajectory`. files: patterns of the file's name in a folder. signs: what tells the format of a
    file with another name, see `_signs`; one of them is enough.
    """

    read: Callable[[Path], Trajectory]
    files: Sequence[str] = ()
    signs: Sequence[str | int] = ()


FORMATS: dict[str, Format] = {  # in a folder, the first one that fits is taken
    "7-scenes": Format(readers.read_7scenes, ["*.pose.txt"]),
    "nerfstudio": Format(readers.read_nerfstudio, ["transforms.json", "transforms_train.json"], ["frames"]),
    "worldscore": Format(readers.read_worldscore, ["camera_data.json"], ["cameras_interp"]),
    "colmap": Format(read_colmap, PLACES),
    "spatia": Format(readers.read_spatia, ["w2c.txt"], ["[["]),
    "geometry": Format(readers.read_geometry, [], [f"{x}.npy" for x in readers.ARRAYS_C2W + readers.ARRAYS_W2C]),
    "realestate10k": Format(readers.read_realestate10k, [], [19]),
    "tum": Format(readers.read_tum, [], [8]),
}


def _signs(file: Path) -> set[str | int]:
    """The keys of JSON, the files in an archive, "[[" or the number of columns of a text."""
    if file.suffix == ".json":
        content = json.loads(file.read_text())
        return set(content) if isinstance(content, dict) else set()
    if file.suffix == ".npz":
        with zipfile.ZipFile(file) as archive:
            return set(archive.namelist())
    with file.open(errors="replace") as lines:
        head = next(readers.data_lines(lines), "")
    try:
        return {"[["} if head.startswith("[[") else {len([float(word) for word in head.replace(",", " ").split()])}
    except ValueError:
        return set()


def _find(path: Path) -> tuple[Format, Path]:
    """The format, and the file: the path itself, or that of a folder which has a format's name, or the only one which
    has a format's signs."""
    files = [path]
    if path.is_dir():
        for format in FORMATS.values():
            if named := [file for pattern in format.files for file in path.glob(pattern)]:
                return format, named[0]
        files = [file for file in sorted(path.iterdir()) if file.suffix in (".json", ".txt", ".npz")]
    found = {file: format for file in files for format in FORMATS.values() if _signs(file).intersection(format.signs)}
    if len(found) != 1:
        names = ", ".join(file.name for file in found) or "none"
        raise ValueError(f"expected a file in one of the formats {', '.join(FORMATS)}; found {names}")
    return next((format, file) for file, format in found.items())


def load_trajectory(path: str | Path) -> Trajectory:
    """Read the camera trajectory of a file, or of a folder that holds one; the content tells the format.

    Poses come in the order of their pictures' names, if there are any. ValueError where the format is unknown, a line
    cannot be read, or a pose is not rigid; the message names the file.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"trajectory: no such file or folder: {path}")
    try:
        format, file = _find(path)
        trajectory = format.read(file)
    except (ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
        message = f"{error} is missing" if isinstance(error, KeyError) else error
        raise ValueError(f"trajectory: {path}: {message}") from error
    if not trajectory.pictures:
        return trajectory
    return trajectory[sorted(range(len(trajectory)), key=lambda i: natural_order(trajectory.pictures[i]))]
