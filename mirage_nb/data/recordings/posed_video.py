"""Posed video without depth: frames, and a camera path in a format of `mirage_nb.formats`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mirage_nb.cameras import Cameras
from mirage_nb.data.images import centre_crop_resize, open_picture
from mirage_nb.formats import Trajectory, load_trajectory
from mirage_nb.formats.readers import natural_order

VIDEOS = (".mp4", ".mov", ".m4v", ".webm", ".mkv", ".avi")
PICTURES = (".png", ".jpg", ".jpeg", ".webp")


def read_posed_video(source: str | Path, size: tuple[int, int] = (128, 128)) -> tuple[Tensor, Cameras]:
    """Read a video with its camera path.

    A folder holds pictures, in it, in `images/` or in `rgb/`, or one video file; and a trajectory with intrinsics in a
    format of `mirage_nb.formats`. The trajectory of a video file has the same name (`clip.mp4`, `clip.txt`), or is the
    only one in its folder. Pictures that a trajectory names are found by name, whatever their folder and ending;
    others, and the frames of a video, one for each pose in their order.

    Args:
        size: (height, width) of the result; frames are centre-cropped and resized.

    Returns:
        (T, H, W, 3) uint8, and T cameras in the trajectory's own unit.
    """
    source = Path(source)
    if not source.exists():
        raise FileNotFoundError(f"input: no such file or folder: {source}")
    folder = source if source.is_dir() else source.parent
    videos = [p for p in source.iterdir() if p.suffix.lower() in VIDEOS] if source.is_dir() else [source]
    if len(videos) > 1:
        raise ValueError(f"{source}: expected one video, got {len(videos)}; give each by its own name")
    namesakes = [p for video in videos for end in (".json", ".txt", ".npz") if (p := video.with_suffix(end)).is_file()]
    trajectory = load_trajectory(namesakes[0] if namesakes else folder)
    named = source.is_dir() and any(p.is_file() for p in trajectory.pictures or [])  # else a video may stand for them
    if videos and not named:
        images = _decode(videos[0])
    else:
        images = (np.asarray(open_picture(p).convert("RGB")) for p in _pictures(folder, trajectory))
    kept, cameras = [], None
    for image in images:
        cameras = cameras or trajectory.cameras(image.shape[:2])
        image, resized = centre_crop_resize(image, cameras, size)  # refuses frames of another size
        kept.append(image)
    if len(kept) != len(trajectory):
        raise ValueError(f"{source}: expected a pose for each frame, got {len(kept)} and {len(trajectory)} poses")
    return torch.stack(kept), resized


def _pictures(folder: Path, trajectory: Trajectory) -> list[Path]:
    """The picture of each pose: by its name, or, where the trajectory names none, by its place in the order."""
    folders = [where for where in (folder / "images", folder / "rgb", folder) if where.is_dir()]
    found = next(filter(None, ([p for p in x.iterdir() if p.suffix.lower() in PICTURES] for x in folders)), [])
    if not found:
        raise FileNotFoundError(f"{folder}: no frames; expected a video ({', '.join(VIDEOS)}) or pictures")
    if not trajectory.pictures:
        return sorted(found, key=natural_order)
    by_name = {p.stem: p for p in found}
    pictures = [p if p.is_file() else by_name.get(p.stem) for p in trajectory.pictures]
    if None in pictures:
        missing = trajectory.pictures[pictures.index(None)]
        raise FileNotFoundError(f"{missing}: missing, though the trajectory names it")
    return pictures


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
