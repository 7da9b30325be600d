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
    that it names are found whatever their folder and ending; missing ones are left out, with a warning. Other pictures,
    and the frames of a video, stand one for each pose in their order.

    Args:
        size: (height, width) of the result; frames are undistorted, centre-cropped and resized.
        frames: which of the poses, in their order: `slice(None, None, 4)` is every 4th.

    Returns:
        (T, H, W, 3) uint8, and T cameras in the trajectory's own unit.
    """
    images, cameras = zip(*(centre_crop_resize(*seen, size) for seen in posed_frames(source, frames)[1]))
    return torch.stack(images), Cameras.cat(cameras)


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


def posed_frames(source: str | Path, frames: slice) -> tuple[Trajectory, Iterator[tuple[Image.Image, Cameras]]]:
    """Some poses of a recording, and their pictures without distortion, with their cameras: one at a time, since a
    recording may be long."""
    source, recorded = Path(source), load_recording(source)
    videos, pictures, total = _videos(source), recorded.pictures, len(recorded)
    if videos and not (source.is_dir() and any(picture.is_file() for picture in pictures or [])):
        pictures = None
    elif not pictures:
        folders = ([p for p in (source / home).glob("*") if p.suffix.lower() in PICTURES] for home in HOMES)
        pictures = sorted(next(filter(None, folders), []), key=natural_order)
        if not pictures:
            raise FileNotFoundError(f"{source}: no frames; expected a video ({', '.join(VIDEOS)}) or pictures")
        if len(pictures) != total:
            raise ValueError(f"{source}: expected a pose for each frame, got {len(pictures)} and {total} poses")
    recorded = replace(recorded, pictures=pictures).existing()
    if not (wanted := range(len(recorded))[frames]):
        raise ValueError(f"frames: {frames} selects none of the {len(recorded)} frames")
    chosen = recorded[frames]
    images = map(open_picture, chosen.pictures) if pictures else _decode(videos[0], wanted, total)
    return chosen, map(_seen, images, (chosen[[i]] for i in range(len(chosen))))


def _seen(image: Image.Image, pose: Trajectory) -> tuple[Image.Image, Cameras]:
    camera = pose.cameras((image.height, image.width))
    return (image, camera) if pose.distortion is None else undistort(image, camera, pose.distortion[0])


def _videos(source: Path) -> list[Path]:
    if source.is_file():
        return [source]
    return [p for p in source.iterdir() if p.suffix.lower() in VIDEOS and p.name[0] != "."]


def _decode(video: Path, wanted: range, total: int) -> Iterator[Image.Image]:
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
        raise ValueError(f"{video}: expected a pose for each frame, got {count} and {total} poses")
