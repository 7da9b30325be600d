"""Camera trajectories in the formats of other tools: a reader for each but COLMAP's, and the table of them.

A reader takes a file and brings what is in it to the conventions of `cameras.py`. Its docstring says what the format
holds. Matrices alone do not say whether they are c2w or w2c (the inverse of an orbit to the left is an orbit to the
right): the format does. To add one, write a reader and give it a line in `FORMATS`.
"""

import math
import warnings
import zipfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from mirage_nb.formats import trajectory as common
from mirage_nb.formats.agreement import Reading
from mirage_nb.formats.colmap import PLACES, largest_model, read_colmap
from mirage_nb.formats.trajectory import OPENGL, Trajectory, as_matrices, from_opencv, from_quaternions, invert

# Names of arrays in a NumPy archive: of MapAnything, the paper's code, MegaSaM, DUSt3R, ViPE; VGGT, Lyra, GEN3C.
ARRAYS_C2W = ("camera_poses", "c2w", "cam2world", "poses_c2w", "cam_c2w", "cams2world")
ARRAYS_W2C = ("w2c", "extrinsics", "extrinsic", "poses_w2c", "w2c_b44")
SUFFIXES = (".json", ".txt", ".npz", ".csv")  # of files that are looked into, in a folder
UNNAMED = "bare matrices may be c2w or w2c: save them by that name, as np.savez(file, c2w=...)"
HEAD = 100_000  # bytes of a text that are looked at to tell its format
NANOSECONDS = 1e17  # a time stamp above is in nanoseconds since 1970, as EuRoC has it


def _in_time(path: Path, columns: int) -> np.ndarray:
    """Rows of numbers, sorted by the first one."""
    rows = common.read_numbers(path, columns)
    return rows[np.argsort(rows[:, 0], kind="stable")]


def read_realestate10k(path: Path) -> Trajectory:
    """Rows of 19: time in microseconds, fx fy cx cy (normalised), k1 k2, and the 12 numbers of the w2c matrix."""
    rows = _in_time(path, 19)
    c2w, k = invert(as_matrices("w2c", rows[:, 7:].reshape(-1, 3, 4))), np.pad(rows[:, 5:7], ((0, 0), (0, 4)))
    return Trajectory(c2w, torch.from_numpy(rows[:, 1:5]), distortion=torch.from_numpy(k))


def read_spatia(path: Path) -> Trajectory:
    """A w2c matrix, 4x4 or 3x4, in brackets on each line; normalised intrinsics in `intrinsics.txt` beside it."""
    rows, lens = common.read_numbers(path, 12, 16), path.with_name("intrinsics.txt")
    c2w = invert(as_matrices("w2c", rows.reshape(len(rows), -1, 4)))
    return Trajectory(c2w, torch.from_numpy(common.read_numbers(lens).reshape(1, -1)) if lens.exists() else None)


def read_quaternions(columns: Sequence[int], path: Path) -> Trajectory:
    """Rows of 8: time, x y z, and in the given columns qx qy qz qw, as TUM and EuRoC (of a camera) have them."""
    rows = _in_time(path, 8)
    return Trajectory(from_quaternions(rows[:, columns], rows[:, 1:4]))


def read_kitti(path: Path) -> Trajectory:
    """Rows of 12: the c2w matrix without its last row."""
    return Trajectory(as_matrices("c2w", common.read_numbers(path, 12).reshape(-1, 3, 4)))


def read_matrices(patterns: Sequence[str], calibration: str, path: Path) -> Trajectory:
    """Files with a 4x4 c2w matrix for each frame; pictures, and perhaps depth (millimetres), of the same names. Poses
    that are NaN or infinite (tracking lost) are left out with a warning."""
    folder = path.parents[patterns[0].count("/")]
    # Of two files of one name (a depth map, and the same as another camera sees it) the shorter name is the format's.
    found = (sorted(folder.glob(pattern), key=lambda x: -len(x.name)) for pattern in patterns)
    poses, *files = ({x.name.split(".")[0]: x for x in each if x.name[0] != "."} for each in found)
    names = sorted(poses, key=common.natural_order)
    c2w = as_matrices("pose", np.stack([common.read_numbers(poses[name], 4) for name in names]))
    tracked = c2w.isfinite().all(2).all(1).tolist()
    if not all(tracked):
        lost = [poses[name].name for name, ok in zip(names, tracked) if not ok]
        warnings.warn(f"{folder}: tracking was lost in {len(lost)} frames, left out (first: {lost[0]})")
    c2w, names = c2w[tracked], [name for name, ok in zip(names, tracked) if ok]
    pictures, depths = (
        [known.get(name, folder / pattern.replace("*", name, 1)) for name in names] if known else None
        for known, pattern in zip(files, patterns[1:])
    )  # fmt: skip
    if not pictures or not (folder / calibration).exists():
        return Trajectory(c2w, pictures=pictures, depths=depths)
    lens = from_opencv(common.read_numbers(folder / calibration, 3, 4))
    return Trajectory(c2w, lens, common.size_of(next(iter(files[0].values()))), pictures, depths)


def read_nerfstudio(path: Path) -> Trajectory:
    """Frames with a `transform_matrix` each (OpenGL axes). What all frames share may stand above them.

    The lens is `fl_x` in pixels of `w` x `h`, or Blender's `camera_angle_x` in radians; a size that the file lacks is
    the picture's. `depth_file_path` names depth maps, whose unit is `depth_unit_scale_factor` metres.
    """
    content = common.read_json(path)
    frames = [{**content, **frame} for frame in content["frames"]]
    for frame in frames:
        common.refuse_lens("a fisheye" if frame.get("is_fisheye") else frame.get("camera_model") or "OPENCV")
    c2w, files = as_matrices("transform_matrix", [frame["transform_matrix"] for frame in frames]) @ OPENGL, {}
    named = {key: [frame[key] for frame in frames if frame.get(key)] for key in ("file_path", "depth_file_path")}
    if 0 < (count := len(named["file_path"])) < len(frames):
        raise ValueError(f"file_path: expected it in each of {len(frames)} frames, found it in {count}")
    if named["file_path"]:
        files["pictures"] = common.find_pictures(named["file_path"], [path.parent])
        if 0 < (count := len(named["depth_file_path"])) < len(frames):
            warnings.warn(f"depth_file_path: {count} of {len(frames)} frames have it; depth is not used")
        elif count:
            files["depths"] = [path.parent / name for name in named["depth_file_path"]]
    files["reading"] = Reading("opengl", depth_unit=1 / content.get("depth_unit_scale_factor", 1e-3))
    sizes = [
        (int(frame["h"]), int(frame["w"])) if "h" in frame and "w" in frame
        else common.size_of(picture) if picture and picture.is_file() else None
        for frame, picture in zip(frames, files.get("pictures", [None] * len(frames)))
    ]  # fmt: skip
    if not any(sizes) or not all("fl_x" in frame or "camera_angle_x" in frame for frame in frames):
        return Trajectory(c2w, **files)
    sizes = [size or next(filter(None, sizes)) for size in sizes]  # a picture that is lost is left out later
    lens = torch.tensor([_lens(frame, *size) for frame, size in zip(frames, sizes)])
    k = [[float(frame.get(x) or 0) for x in ("k1", "k2", "k3", "k4", "p1", "p2")] for frame in frames]
    return Trajectory(c2w, lens, sizes, distortion=torch.tensor(k), **files)


def _lens(frame: dict, height: int, width: int) -> list[float]:
    """fx, fy, cx, cy in pixels. Pixels are square and the lens is centred where nothing else is said."""
    if "fl_x" in frame:
        fx, fy = frame["fl_x"], frame.get("fl_y", frame["fl_x"])
    else:
        fx = width / 2 / math.tan(frame["camera_angle_x"] / 2)
        fy = height / 2 / math.tan(frame["camera_angle_y"] / 2) if "camera_angle_y" in frame else fx
    return [fx, fy, frame.get("cx", width / 2), frame.get("cy", height / 2)]


def read_worldscore(path: Path) -> Trajectory:
    """c2w matrices, OpenGL axes. The focal length is for a picture whose size depends on the model that is scored."""
    c2w = as_matrices("poses", common.read_json(path)["cameras_interp"]) @ OPENGL
    return Trajectory(c2w, reading=Reading("opengl"))


def read_geometry(path: Path) -> Trajectory:
    """An archive of poses and 3x3 intrinsics. The name of the poses says whether they are c2w or w2c.

    `image_height` and `image_width`, or else the size of the depth maps, is that of the images. The paper's code joins
    the parts of a long video by similarities: the scale of later rotations is divided out.
    """
    lenses, depths = ("intrinsics", "intrinsic", "K", "intrinsics_b33"), ("depth_z", "depth", "depths")
    with np.load(path, allow_pickle=False) as archive:  # nothing pickled is ever loaded
        names = ((*ARRAYS_C2W, "data"), ARRAYS_W2C, lenses, depths)  # `data` is ViPE's
        poses, inverted, k, depth = (next((archive[x] for x in row if x in archive.files), None) for row in names)
        size = [int(archive[x]) for x in ("image_height", "image_width") if x in archive.files]
    if poses is None:
        c2w = invert(as_matrices("w2c", inverted))
    else:
        c2w = as_matrices("poses", poses)
        scale = torch.linalg.det(c2w[:, :3, :3]).clamp(min=0) ** (1 / 3)
        c2w[:, :3, :3] /= torch.where(scale > 0, scale, 1.0)[:, None, None]  # `Cameras` refuses what is not rigid then
    if k is None:
        return Trajectory(c2w)
    rows = from_opencv(k)
    if len(rows) not in (1, len(c2w)):
        raise ValueError(f"intrinsics: expected (3, 3) or ({len(c2w)}, 3, 3), got {k.shape}")
    if (rows[:, 2:] < 1.5).all():
        return Trajectory(c2w, rows - torch.tensor([0, 0, 0.5, 0.5]))
    size = size or ([] if depth is None else depth.shape[1 + (depth.ndim == 5) :][:2])  # 5: a batch of one
    fits = len(size) == 2 and (rows[:, 2:] < torch.tensor(size).flip(0)).all()
    if len(size) == 2 and not fits:
        warnings.warn(f"{path}: the intrinsics are not for the size of the depth maps, {size[1]}x{size[0]}; left out")
    return Trajectory(c2w, rows, size) if fits else Trajectory(c2w)


class Format(NamedTuple):
    """read(file): its `Trajectory`. files: patterns of the file's name in a folder. signs: what tells the format of a
    file with another name, see `_signs`; one of them is enough."""

    read: Callable[[Path], Trajectory]
    files: Sequence[str] = ()
    signs: Sequence[str | int] = ()


ARRAYS = [f"{name}.npy" for name in (*ARRAYS_C2W, *ARRAYS_W2C, "inds")]
SEVEN_SCENES, SCANNET = ("*.pose.txt", "*.color.*", "*.depth.*"), ("pose/*.txt", "color/*", "depth/*")
FORMATS: dict[str, Format] = {  # in a folder, the first one that fits is taken
    "7-scenes": Format(partial(read_matrices, SEVEN_SCENES, "camera-intrinsics.txt"), SEVEN_SCENES[:1]),
    "scannet": Format(partial(read_matrices, SCANNET, "intrinsic/intrinsic_color.txt"), SCANNET[:1]),
    "nerfstudio": Format(read_nerfstudio, ["transforms.json", "transforms_train.json"], ["frames"]),
    "worldscore": Format(read_worldscore, ["camera_data.json"], ["cameras_interp"]),
    "colmap": Format(read_colmap, PLACES),
    "spatia": Format(read_spatia, ["w2c.txt"], ["[["]),
    "geometry": Format(read_geometry, [], ARRAYS),
    "realestate10k": Format(read_realestate10k, [], [19]),
    "euroc": Format(partial(read_quaternions, [5, 6, 7, 4]), [], ["qw first"]),
    "kitti": Format(read_kitti, [], [12]),
    "tum": Format(partial(read_quaternions, [4, 5, 6, 7]), ["groundtruth.txt"], [8]),
}


def _signs(file: Path) -> set[str | int]:
    """The keys of JSON, the arrays in an archive, or the number of columns of a text and what its brackets and heading
    tell."""
    if file.suffix == ".json":
        content = common.read_json(file)
        return set(content) if isinstance(content, dict) else set()
    if file.suffix == ".npz":
        with zipfile.ZipFile(file) as archive:
            return set(archive.namelist())
    text = common.read_text(file, HEAD).strip()
    if text.startswith("[["):
        return {"[["}
    try:
        first = [float(word) for word in next(common.data_lines(text), "").split()]
    except ValueError:
        return set()
    heading = "\n".join(line for line in text.splitlines() if line.startswith("#")).lower()
    qw_first = len(first) == 8 and (0 <= heading.find("qw") < heading.find("qx") or first[0] > NANOSECONDS)
    return {"qw first" if qw_first else len(first)}


def _find(path: Path) -> tuple[Format, Path]:
    """The format, and the file: the path itself, or that of a folder which has a format's name, or the only one which
    has a format's signs."""
    folder = path.is_dir()
    files = [file for file in sorted(path.glob("[!.]*")) if file.suffix in SUFFIXES] if folder else [path]
    for format in FORMATS.values():
        named = (sorted(path.glob(pattern)) if folder else [path] * path.match(pattern) for pattern in format.files)
        if named := [file for some in named for file in some if file.name[0] != "."]:
            return format, largest_model(named) if format.read is read_colmap else named[0]
    signs = {file: _signs(file) for file in files}
    found = {file: format for file in files for format in FORMATS.values() if signs[file].intersection(format.signs)}
    if len(found) == 1:
        return next((format, file) for file, format in found.items())
    names = ", ".join(file.name for file in found) or f"none ({UNNAMED})"
    raise ValueError(f"expected a file in one of the formats {', '.join(FORMATS)}; found {names}")


def load_trajectory(path: str | Path) -> Trajectory:
    """Read the camera trajectory of a file, or of a folder that holds one; the content tells the format. Poses come in
    the order of their pictures' names, if there are any. ValueError where the format is unknown, a line cannot be read,
    or a pose is not rigid; the message names the file."""
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"trajectory: no such file or folder: {path}")
    try:
        format, file = _find(path)
        trajectory = format.read(file)
    except (
        ValueError,
        LookupError,
        TypeError,
        AttributeError,
        ArithmeticError,
        EOFError,
        RecursionError,
        zipfile.BadZipFile,
    ) as error:
        message = f"{error} is missing" if isinstance(error, KeyError) else f"it is malformed ({error})"
        message = error if isinstance(error, ValueError) else message
        raise ValueError(f"trajectory: {path}: {message}") from error
    if not trajectory.pictures:
        return trajectory
    return trajectory[sorted(range(len(trajectory)), key=lambda i: common.natural_order(trajectory.pictures[i]))]
