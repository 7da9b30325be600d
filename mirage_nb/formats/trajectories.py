"""Camera trajectories in the formats of other tools: the table of formats, and how the format of a file is told.

To add a format, write a reader and give it a line in `FORMATS`.
"""

import zipfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from mirage_nb.formats import readers
from mirage_nb.formats.colmap import PLACES, largest_model, read_colmap
from mirage_nb.formats.trajectory import Trajectory, data_lines, natural_order, read_json, read_text

SUFFIXES = (".json", ".txt", ".npz", ".csv")  # of files that are looked into, in a folder
UNNAMED = "bare matrices may be c2w or w2c: save them by that name, as np.savez(file, c2w=...)"
HEAD = 100_000  # bytes of a text that are looked at to tell its format
NANOSECONDS = 1e17  # a time stamp above is in nanoseconds since 1970, as EuRoC has it


class Format(NamedTuple):
    """A file format.

    read(file): its `Trajectory`. files: patterns of the file's name in a folder. signs: what tells the format of a
    file with another name, see `_signs`; one of them is enough.
    """

    read: Callable[[Path], Trajectory]
    files: Sequence[str] = ()
    signs: Sequence[str | int] = ()


ARRAYS = [f"{name}.npy" for name in (*readers.ARRAYS_C2W, *readers.ARRAYS_W2C, "inds")]
SEVEN_SCENES, SCANNET = ("*.pose.txt", "*.color.*", "*.depth.*"), ("pose/*.txt", "color/*", "depth/*")
FORMATS: dict[str, Format] = {  # in a folder, the first one that fits is taken
    "7-scenes": Format(partial(readers.read_matrices, SEVEN_SCENES, "camera-intrinsics.txt"), SEVEN_SCENES[:1]),
    "scannet": Format(partial(readers.read_matrices, SCANNET, "intrinsic/intrinsic_color.txt"), SCANNET[:1]),
    "record3d": Format(readers.LAYOUTS["record3d"], ["metadata"], ["K"]),
    "nerfstudio": Format(readers.read_nerfstudio, ["transforms.json", "transforms_train.json"], ["frames"]),
    "worldscore": Format(readers.LAYOUTS["worldscore"], ["camera_data.json"], ["cameras_interp"]),
    "colmap": Format(read_colmap, PLACES),
    "gaussian splatting": Format(readers.LAYOUTS["gaussian splatting"], [], ["rotation"]),
    "uni3c": Format(readers.LAYOUTS["uni3c"], ["cam_info.json"], ["extrinsic"]),
    "worldplay": Format(readers.LAYOUTS["worldplay"], [], ["0"]),
    "spatia": Format(readers.read_spatia, ["w2c.txt"], ["[["]),
    "geometry": Format(readers.read_geometry, [], ARRAYS),
    "realestate10k": Format(readers.read_realestate10k, [], [19]),
    "euroc": Format(partial(readers.read_quaternions, [5, 6, 7, 4]), [], ["qw first"]),
    "kitti": Format(readers.read_kitti, [], [12]),
    "tum": Format(partial(readers.read_quaternions, [4, 5, 6, 7]), ["groundtruth.txt"], [8]),
}


def _signs(file: Path) -> set[str | int]:
    """The keys of JSON (of the first entry of a list), the arrays in an archive, or the number of columns of a text and
    what its brackets and heading tell."""
    if file.suffix == ".json":
        content = read_json(file)
        first = content[0] if isinstance(content, list) and content else content
        return set(first) if isinstance(first, dict) else set()
    if file.suffix == ".npz":
        with zipfile.ZipFile(file) as archive:
            return set(archive.namelist())
    text = read_text(file, HEAD).strip()
    if text.startswith("[["):
        return {"[["}
    try:
        first = [float(word) for word in next(data_lines(text), "").split()]
    except ValueError:
        return set()
    heading = text.split("\n", 1)[0].lower()
    qw_first = len(first) == 8 and (0 <= heading.find("qw") < heading.find("qx") or first[0] > NANOSECONDS)
    return {"qw first" if qw_first else len(first)}


def _find(path: Path) -> tuple[Format, Path]:
    """The format, and the file: the path itself, or that of a folder which has a format's name, or the only one which
    has a format's signs."""
    files = [path]
    if path.is_dir():
        files = [file for file in sorted(path.glob("[!.]*")) if file.suffix in SUFFIXES]
    for format in FORMATS.values():
        if path.is_dir():
            named = [file for pattern in format.files for file in sorted(path.glob(pattern)) if file.name[0] != "."]
        else:
            named = [path] * any(path.match(pattern) for pattern in format.files)
        if named:
            return format, largest_model(named) if format.read is read_colmap else named[0]
    signs = {file: _signs(file) for file in files}
    found = {file: format for file in files for format in FORMATS.values() if signs[file].intersection(format.signs)}
    if len(found) == 1:
        return next((format, file) for file, format in found.items())
    names = ", ".join(file.name for file in found) or f"none ({UNNAMED})"
    raise ValueError(f"expected a file in one of the formats {', '.join(FORMATS)}; found {names}")


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
    except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, EOFError, zipfile.BadZipFile) as error:
        message = f"{error} is missing" if isinstance(error, KeyError) else f"it is malformed ({error})"
        message = error if isinstance(error, ValueError) else message
        raise ValueError(f"trajectory: {path}: {message}") from error
    if not trajectory.pictures:
        return trajectory
    return trajectory[sorted(range(len(trajectory)), key=lambda i: natural_order(trajectory.pictures[i]))]
