"""A reader of posed video without depth: frames, and a camera path in a format of `mirage_nb.formats`.

`pose_scale` estimates the depth and brings the two to one scale.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mirage_nb.cameras import Cameras
from mirage_nb.data.images import centre_crop_resize, open_rgb
from mirage_nb.formats import load_trajectory
from mirage_nb.formats.trajectories import detect_format

VIDEOS = (".mp4", ".mov", ".m4v", ".webm", ".mkv", ".avi")
PICTURES = (".png", ".jpg", ".jpeg", ".webp")
TRAJECTORIES = (".json", ".txt", ".npz")


def read_posed_video(source: str | Path, size: tuple[int, int] = (128, 128)) -> tuple[Tensor, Cameras]:
    """Read a video with its camera path.

    A folder holds pictures, in it or in `images/`, or one video file; and a trajectory with intrinsics in a format of
    `mirage_nb.formats`: nerfstudio, COLMAP (both as `export_run` writes them), RealEstate10K ... The trajectory of a
    video file has the same name (`clip.mp4`, `clip.txt`), or is the only one in its folder. Pictures that a trajectory
    names are taken by name and sorted; others, and the frames of a video, one for each pose in their order.

    Args:
        size: (height, width) of the result; frames are centre-cropped and resized.

    Returns:
        (T, H, W, 3) uint8, and T cameras in the trajectory's own unit.

    Raises:
        FileNotFoundError: no such source, no pictures, or no trajectory.
        ValueError: frames and poses differ in number, there are no intrinsics, or a file can't be read.
    """
    source = Path(source)
    if not source.exists():
        raise FileNotFoundError(f"input: no such file or folder: {source}")
    folder, video = (source, _find_video(source)) if source.is_dir() else (source.parent, source)
    if video and video.suffix.lower() not in VIDEOS:
        raise ValueError(f"{source}: expected a folder or a video ({', '.join(VIDEOS)})")
    trajectory = load_trajectory(_find_trajectory(folder, video))
    pictures = None if source == video else _named_pictures(trajectory.pictures)
    if pictures:
        order = sorted(range(len(pictures)), key=lambda i: _natural(pictures[i]))
        trajectory, pictures = trajectory[order], [pictures[i] for i in order]
    elif not video:
        pictures = _unnamed_pictures(folder)
    kept, cameras = [], None
    for image in map(_pixels, pictures) if pictures else _decode(video):
        cameras = cameras or trajectory.cameras(image.shape[:2])
        if image.shape[:2] != cameras.size:
            raise ValueError(f"{source}: expected frames of one size {cameras.size}, got {image.shape[:2]}")
        image, resized = centre_crop_resize(image, cameras, size)
        kept.append(image)
    if len(kept) != len(trajectory):
        got = f"{len(kept)} frames and {len(trajectory)} poses"
        raise ValueError(f"{source}: expected a pose for each frame, got {got}")
    return torch.stack(kept), resized


def _find_video(folder: Path) -> Path | None:
    videos = sorted(p for p in folder.iterdir() if p.suffix.lower() in VIDEOS)
    if len(videos) > 1:
        raise ValueError(f"{folder}: expected one video, got {len(videos)}; give each by its own name")
    return videos[0] if videos else None


def _find_trajectory(folder: Path, video: Path | None) -> Path:
    for path in [video.with_suffix(ending) for ending in TRAJECTORIES] if video else []:
        if path.is_file():
            return path
    if detect_format(folder):
        return folder
    files = [p for p in sorted(folder.iterdir()) if p.suffix.lower() in TRAJECTORIES and detect_format(p)]
    if len(files) != 1:
        names = ", ".join(p.name for p in files) or "none"
        raise FileNotFoundError(
            f"{folder}: no poses; expected transforms.json, COLMAP or one trajectory file, got {names}"
        )
    return files[0]


def _named_pictures(files: list[Path] | None) -> list[Path] | None:
    """The pictures that a trajectory names. None if not one is there: a video or other pictures may stand for them."""
    missing = [p for p in files or [] if not p.is_file()]
    if missing and len(missing) < len(files):
        raise FileNotFoundError(f"{missing[0]}: missing, though the trajectory names it")
    return None if missing else files


def _unnamed_pictures(folder: Path) -> list[Path]:
    for where in (folder / "images", folder / "rgb", folder):
        found = [p for p in where.iterdir() if p.suffix.lower() in PICTURES] if where.is_dir() else []
        if found:
            return sorted(found, key=_natural)
    raise FileNotFoundError(f"{folder}: no frames; expected a video ({', '.join(VIDEOS)}) or pictures")


def _natural(path: Path) -> list:
    """A key for sorting names, by which 2 comes before 10."""
    return [(not word.isdigit(), int(word) if word.isdigit() else 0, word) for word in re.split(r"(\d+)", str(path))]


def _pixels(path: Path) -> np.ndarray:
    return np.asarray(open_rgb(path))


def _decode(video: Path) -> Iterator[np.ndarray]:
    """(H, W, 3) uint8 of each frame, upright."""
    import av

    try:
        with av.open(str(video)) as container:
            if not container.streams.video:
                raise ValueError("it has no pictures")
            for frame in container.decode(video=0):
                yield np.rot90(frame.to_ndarray(format="rgb24"), round(getattr(frame, "rotation", 0) / 90))
    except (av.FFmpegError, ValueError) as error:
        raise ValueError(f"{video}: can't be read as a video ({error})") from None
