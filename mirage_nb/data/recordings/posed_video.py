"""Posed video without depth: frames, and a camera path in a format of `mirage_nb.formats`."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from mirage_nb.cameras import Cameras
from mirage_nb.data.images import centre_crop_resize, open_picture, undistort
from mirage_nb.formats import Trajectory, load_trajectory
from mirage_nb.formats.trajectory import HOMES, PICTURES, natural_order

VIDEOS = (".mp4", ".mov", ".m4v", ".webm", ".mkv", ".avi")


def read_posed_video(
    source: str | Path, size: tuple[int, int] = (128, 128), frames: slice = slice(None)
) -> tuple[Tensor, Cameras]:
    """Read a video with its camera path.

    A folder holds pictures, or one video file; and a trajectory with intrinsics in a format of `mirage_nb.formats`. The
    trajectory of a video file has the same name (`clip.mp4`, `clip.txt`), or is the only one in its folder. Pictures
    that a trajectory names are found by name, whatever their folder and ending; those that are missing are left out,
    with a warning. Other pictures, and the frames of a video, stand one for each pose in their order.

    Args:
        size: (height, width) of the result; frames are undistorted, centre-cropped and resized.
        frames: which of the poses, in their order: `slice(None, None, 4)` is every 4th.

    Returns:
        (T, H, W, 3) uint8, and T cameras in the trajectory's own unit.
    """
    trajectory = load_recording(source)
    images, trajectory = posed_frames(source, trajectory, frames)
    kept, cameras = [], []
    for index, image in enumerate(images):
        camera = trajectory[[index]].cameras((image.height, image.width))
        if trajectory.distortion is not None:
            image, camera = undistort(image, camera, trajectory.distortion[index])
        image, camera = centre_crop_resize(image, camera, size)
        kept.append(image)
        cameras.append(camera)
    return torch.stack(kept), Cameras.cat(cameras)


def load_recording(source: str | Path) -> Trajectory:
    """The trajectory of a folder, or of a video file: its namesake, or the only one in its folder."""
    source = Path(source)
    if not source.exists():
        raise FileNotFoundError(f"input: no such file or folder: {source}")
    videos = _videos(source)
    if len(videos) > 1:
        raise ValueError(f"{source}: expected one video, got {len(videos)}; give each by its own name")
    namesakes = [p for video in videos for end in (".json", ".txt", ".npz") if (p := video.with_suffix(end)).is_file()]
    return load_trajectory(namesakes[0] if namesakes else source if source.is_dir() else source.parent)


def posed_frames(
    source: str | Path, trajectory: Trajectory, frames: slice = slice(None)
) -> tuple[Iterator[Image.Image], Trajectory]:
    """The pictures of some poses of a trajectory, one at a time, since a recording may be long; and these poses."""
    source = Path(source)
    videos, named = _videos(source), source.is_dir() and any(p.is_file() for p in trajectory.pictures or [])
    total = None if trajectory.numbers else len(trajectory)
    if not videos and not trajectory.pictures:
        homes = (p for p in (source / home for home in HOMES) if p.is_dir())
        found = next(filter(None, ([p for p in home.iterdir() if p.suffix.lower() in PICTURES] for home in homes)), [])
        if not found:
            raise FileNotFoundError(f"{source}: no frames; expected a video ({', '.join(VIDEOS)}) or pictures")
        if len(found) != len(trajectory):
            poses = f"{len(found)} and {len(trajectory)} poses"
            raise ValueError(f"{source}: expected a pose for each frame, got {poses}")
        trajectory = replace(trajectory, pictures=sorted(found, key=natural_order))
    elif videos and not named:
        trajectory = replace(trajectory, pictures=None, numbers=trajectory.numbers or list(range(len(trajectory))))
    trajectory = trajectory.existing()
    if not range(len(trajectory))[frames]:
        raise ValueError(f"frames: {frames} selects none of the {len(trajectory)} frames")
    chosen = trajectory[frames]
    return map(open_picture, chosen.pictures) if chosen.pictures else _decode(videos[0], chosen.numbers, total), chosen


def _videos(source: Path) -> list[Path]:
    if source.is_file():
        return [source]
    return [p for p in source.iterdir() if p.suffix.lower() in VIDEOS and p.name[0] != "."]


def _decode(video: Path, wanted: list[int], total: int | None) -> Iterator[Image.Image]:
    """The wanted frames of a video, upright, with square pixels. Where all to the end are wanted, the number of frames
    must be `total`."""
    import av

    count, last = 0, max(wanted)
    try:
        with av.open(str(video)) as container:
            if not container.streams.video:
                raise ValueError("it has no pictures")
            shape = float(container.streams.video[0].sample_aspect_ratio or 1)
            for count, frame in enumerate(container.decode(video=0), 1):
                if count - 1 in wanted:
                    frame = frame.reformat(width=round(frame.width * shape)) if shape != 1 else frame
                    image = frame.to_ndarray(format="rgb24")
                    yield Image.fromarray(np.rot90(image, round(getattr(frame, "rotation", 0) / 90)).copy())
                if count > last and total != last + 1:  # the rest is not needed
                    return
    except (av.FFmpegError, ValueError) as error:
        raise ValueError(f"{video}: can't be read as a video ({error})") from None
    if count <= last or total == last + 1 != count:
        raise ValueError(f"{video}: expected a pose for each frame, got {count} and {total or last + 1} poses")
