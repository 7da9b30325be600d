"""A reader of posed video without depth: frames and a camera path in a format of other tools.

`pose_scale` estimates the depth and brings the two to one scale.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mirage_nb.cameras import Cameras
from mirage_nb.data.photos import read_photo
from mirage_nb.data.recordings.rgbd import centre_crop_resize
from mirage_nb.formats.colmap import find_model, picture_names
from mirage_nb.formats.trajectory_files import FORMATS, load_trajectory, read_pose

VIDEOS = (".mp4", ".mov", ".m4v", ".webm", ".mkv", ".avi")
PICTURES = (".png", ".jpg", ".jpeg", ".webp")
_NO_PATH = ("intrinsics.txt", "camera-intrinsics.txt", "prompt.txt", "readme.txt", "requirements.txt")


def read_posed_video(
    source: str | Path, size: tuple[int, int] = (128, 128), frames: slice | Sequence[int] | None = None
) -> tuple[Tensor, Cameras]:
    """Read a video with its camera path.

    A folder holds pictures, in it or in `images/`, or one video file; and a trajectory with intrinsics in a format of
    `trajectory_files`: nerfstudio, COLMAP (both as `export_run` writes them), RealEstate10K ... A video file has its
    trajectory beside it, under the same name (`clip.mp4`, `clip.txt`) or the only one there. Pictures that a trajectory
    names are taken by name and sorted; others, and the frames of a video, one for each pose in their order.

    Args:
        size: (height, width) of the result; frames are centre-cropped and resized.
        frames: which frames: a slice (`slice(None, None, 4)` is every 4th), indices, or all.

    Returns:
        (T, H, W, 3) uint8, and T cameras in the trajectory's own unit.

    Raises:
        FileNotFoundError: no such source, no pictures, or no trajectory.
        ValueError: frames and poses differ in number, there are no intrinsics, or a file can't be read.
    """
    source = Path(source)
    if not source.exists():
        raise FileNotFoundError(f"input: no such file or folder: {source}")
    folder = source if source.is_dir() else source.parent
    video = _video(source)
    path = _trajectory(folder, video)
    pictures = None if source.is_file() else _named_pictures(path)
    order = None if pictures is None else sorted(range(len(pictures)), key=lambda i: _natural(pictures[i]))
    if order is not None:
        pictures = [pictures[i] for i in order]
    elif video is None:
        pictures = _pictures(folder)
    images = (np.asarray(read_photo(p).image) for p in pictures) if pictures is not None else _decode(video)
    first = next(images, None)
    if first is None:
        raise ValueError(f"{source}: the video has no frames")

    c2w, intrinsics = load_trajectory(path, first.shape[:2])
    if intrinsics is None:
        raise ValueError(f"{path}: it tells no intrinsics; a format with them is needed (nerfstudio, COLMAP ...)")
    cameras, kept, count = Cameras(c2w, intrinsics, first.shape[:2]), {}, len(pictures or c2w)
    if count == len(cameras):  # else it is told below, before a picture more is opened
        cameras = cameras if order is None else cameras[order]
        wanted = _wanted(count, frames)
        chosen = set(wanted)
        for index, image in enumerate(chain([first], images)):
            count = index + 1
            if image.shape[:2] != cameras.size:
                raise ValueError(f"{source}: expected frames of one size {cameras.size}, got {image.shape[:2]}")
            if index in chosen:
                kept[index] = centre_crop_resize(image, cameras[index], size)
    if count != len(cameras):
        raise ValueError(f"{source}: expected a pose for each frame, got {count} frames and {len(cameras)} poses")
    return torch.stack([kept[i][0] for i in wanted]), Cameras.cat([kept[i][1] for i in wanted])


# ------------------------------------------------------------------------------------------------ what lies in a folder


def _natural(path: Path) -> list:
    return [(not word.isdigit(), int(word) if word.isdigit() else 0, word) for word in re.split(r"(\d+)", str(path))]


def _video(source: Path) -> Path | None:
    """The video at a path; None for a folder without one."""
    if source.is_file():
        if source.suffix.lower() not in VIDEOS:
            raise ValueError(f"{source}: expected a folder or a video ({', '.join(VIDEOS)})")
        return source
    videos = sorted(p for p in source.iterdir() if p.suffix.lower() in VIDEOS)
    if len(videos) > 1:
        raise ValueError(f"{source}: expected one video, got {len(videos)}; give each by its own name")
    return videos[0] if videos else None


def _trajectory(folder: Path, video: Path | None) -> Path:
    endings = (".json", ".txt", ".npz")
    if video is not None:
        for ending in endings:
            if video.with_suffix(ending).is_file():
                return video.with_suffix(ending)
    if any(f.matches(folder, "") for f in FORMATS.values()):
        return folder
    files = sorted(
        p for p in folder.iterdir() if p.suffix.lower() in endings and p.is_file() and p.name.lower() not in _NO_PATH
    )
    if len(files) != 1:
        names = ", ".join(p.name for p in files) if files else "none"
        raise FileNotFoundError(
            f"{folder}: no poses; expected transforms.json, a COLMAP model or one trajectory file, got {names}"
        )
    return files[0]


def _named_pictures(path: Path) -> list[Path] | None:
    """The pictures that a trajectory names, in the order of its poses; None if it names none that are there."""
    if path.is_dir() and any(path.glob("*.pose.txt")):  # 7-Scenes; a lost pose has no camera
        finite = [p for p in sorted(path.glob("*.pose.txt")) if read_pose(p).isfinite().all()]
        stems = [path / p.name.split(".")[0] for p in finite]
        return _all_or_none([min(path.glob(f"{p.name}.color.*"), default=p) for p in stems])
    file = next((f for f in (path / "transforms.json", path / "transforms_train.json", path) if f.is_file()), None)
    if file is not None and file.suffix == ".json":
        try:
            names = [frame["file_path"] for frame in json.loads(file.read_text())["frames"]]
        except (ValueError, KeyError, TypeError):
            return None  # not nerfstudio's; or broken, which `load_trajectory` tells
        found, home = names, file.parent
    elif path.is_dir() and find_model(path) is not None:
        found = picture_names(path)
        home = path / "images" if (path / "images").is_dir() else path
    else:
        return None
    return _all_or_none([next((p for p in (home / n, home / f"{n}.png") if p.is_file()), home / n) for n in found])


def _all_or_none(files: list[Path]) -> list[Path] | None:
    """The files if they are there; None if not one is, since then a video or other pictures may stand for them."""
    missing = [p for p in files if not p.is_file()]
    if missing and len(missing) < len(files):
        raise FileNotFoundError(f"{missing[0]}: missing, though the trajectory names it")
    return None if missing else files


def _pictures(folder: Path) -> list[Path]:
    for place in (folder / "images", folder / "rgb", folder):
        found = [p for p in place.iterdir() if p.suffix.lower() in PICTURES] if place.is_dir() else []
        if found:
            return sorted(found, key=_natural)
    raise FileNotFoundError(f"{folder}: no frames; expected a video ({', '.join(VIDEOS)}) or pictures")


def _decode(video: Path) -> Iterator[np.ndarray]:
    """(H, W, 3) uint8 of each frame, upright."""
    import av

    try:
        with av.open(str(video)) as container:
            if not container.streams.video:
                raise ValueError("it has no pictures")
            for frame in container.decode(video=0):
                turned = np.rot90(frame.to_ndarray(format="rgb24"), round(getattr(frame, "rotation", 0) / 90))
                yield turned
    except (av.FFmpegError, ValueError) as error:
        raise ValueError(f"{video}: can't be read as a video ({error})") from None


def _wanted(count: int, frames: slice | Sequence[int] | None) -> list[int]:
    numbers, frames = range(count), slice(None) if frames is None else frames
    try:
        wanted = list(numbers[frames]) if isinstance(frames, slice) else [numbers[i] for i in frames]
    except IndexError:
        raise ValueError(f"frames: expected indices below {count}, got {list(frames)}") from None
    if not wanted:
        raise ValueError(f"frames: {frames} selects none of the {count} frames")
    return wanted
