"""Recordings: posed video (frames with a camera path in a format of `mirage_nb.formats`), and RGB-D, with depth too."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from mirage_nb.cameras import Cameras
from mirage_nb.data.clip import Clip
from mirage_nb.data.images import centre_crop_nearest, centre_crop_resize, open_picture, undistort
from mirage_nb.formats import Trajectory, load_trajectory
from mirage_nb.formats.agreement import check_reading, read_as
from mirage_nb.formats.trajectory import HOMES, PICTURES, natural_order, same_aspect

VIDEOS = (".mp4", ".mov", ".m4v", ".webm", ".mkv", ".avi")
# The pictures of 7-Scenes are those of a Kinect's two cameras, as they were taken. Here are fx, fy, cx, cy of both at
# 640x480, and the way from the depth camera's axes to the colour camera's in metres, in general use for that data set.
DEPTH_INTRINSICS = [585.0, 585.0, 320.5, 240.5]
COLOUR_INTRINSICS = torch.tensor([525.0, 525.0, 320.5, 240.5])
DEPTH_TO_COLOUR = torch.tensor([
    [0.999965, 0.002677, -0.007904, -0.025559],
    [-0.002741, 0.999963, -0.008150, 0.000101],
    [0.007882, 0.008172, 0.999936, 0.002032],
    [0.0, 0.0, 0.0, 1.0],
])  # fmt: skip


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
    """The wanted frames of a video, upright, with square pixels; it must have `total` frames."""
    import av

    count = 0
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
    except (av.FFmpegError, ValueError) as error:
        raise ValueError(f"{video}: can't be read as a video ({error})") from None
    if count != total:
        raise ValueError(f"{video}: expected a pose for each frame, got {count} and {total} poses")


def read_rgbd(folder: str | Path, size: tuple[int, int] = (128, 128), frames: slice = slice(None), **reading) -> Clip:
    """Read an RGB-D recording: a folder of 7-Scenes, ScanNet, or nerfstudio with `depth_file_path`.

    Depth is 16 bit, in the format's unit (mostly millimetres; 0 and 65535 = unknown), or floating point in metres. It
    may have fewer pixels than the colour, of the same view. Frames whose pose is NaN or infinite (tracking lost) are
    left out with a warning. Where the calibration is that of the depth camera of 7-Scenes itself, the depth is brought
    to its colour camera. ValueError where depth and poses do not agree; it names the option of the reading that fits.

    Args:
        size: (height, width) of the result.
        frames: which of the frames with a pose, in the order of their names: `slice(None, None, 4)` is every 4th.
        reading: fields of `Reading` that differ from the format's: `axes`, `w2c`, `pose_unit`, `depth_unit`,
            `depth_kind`; None where they do not.
    """
    recorded, pictures = posed_frames(folder, frames)
    if not recorded.depths:
        raise FileNotFoundError(f"{folder}: expected a recording with a depth map for each pose, found none")
    if recorded.distortion is not None:
        raise ValueError(f"{folder}: the lens is distorted; undistort the pictures and the depth first")
    reading = replace(recorded.reading, **{key: value for key, value in reading.items() if value is not None})
    parts = []
    for (colour, camera), file in zip(pictures, recorded.depths):
        depth, seen_by = _read_depth(file, recorded.reading.depth_unit, camera.size), camera
        if camera.size == (480, 640) and camera.intrinsics[0].tolist() == DEPTH_INTRINSICS:
            seen_by = Cameras(camera.c2w @ torch.linalg.inv(DEPTH_TO_COLOUR), COLOUR_INTRINSICS, camera.size)
            depth = register(depth / reading.depth_unit, camera, seen_by) * reading.depth_unit
        parts.append((*centre_crop_resize(colour, seen_by, size), centre_crop_nearest(depth, size)))
    images, cameras, stored = zip(*parts)
    stored, cameras = torch.stack(stored), Cameras.cat(cameras)
    if not (stored > 0).any():
        raise ValueError(f"{folder}: depth: no value in {len(images)} frames (expected 16 bit, or metres)")
    check_reading(stored, cameras, recorded.reading, reading, where=f"{folder}: ")
    return Clip(torch.stack(images), *read_as(reading, recorded.reading, stored, cameras))


def _read_depth(path: Path, unit: float, size: tuple[int, int]) -> Tensor:
    """(H, W) float32 in a format's unit, 0 = unknown, at the size of its colour: the nearest value, which was measured.
    What is stored in floating point is in metres."""
    depth = np.load(path, allow_pickle=False) if path.suffix == ".npy" else np.array(open_picture(path))
    if depth.ndim != 2 or depth.dtype not in (np.uint16, np.int32, np.float16, np.float32, np.float64):
        raise ValueError(f"{path}: expected 16 bit or floating point of one channel, got {depth.dtype} {depth.shape}")
    if not same_aspect(depth.shape, size):
        raise ValueError(f"{path}: expected depth of the colour's aspect, {size}, got {depth.shape}")
    scale, unknown = (unit, np.inf) if depth.dtype.kind == "f" else (1, 65535)
    depth = torch.from_numpy(np.where((depth > 0) & (depth < unknown), depth * scale, 0).astype(np.float32))
    return depth if depth.shape == size else F.interpolate(depth[None, None], size, mode="nearest-exact")[0, 0]


def register(depth: Tensor, camera: Cameras, target: Cameras) -> Tensor:
    """A depth map (H, W) of one camera as another one of the same size sees it; 0 = unknown. Where several points fall
    on a pixel, the nearest one wins: no value is mixed."""
    height, width = camera.size
    uv, z = target.project(camera.unproject(depth[None])[0][depth > 0])
    (column, row), z = uv[0].floor().long().unbind(1), z[0]  # (P,) each
    inside = (z > 0) & (row >= 0) & (row < height) & (column >= 0) & (column < width)
    nearest = torch.full((height * width,), torch.inf)
    nearest.scatter_reduce_(0, (row * width + column)[inside], z[inside], "amin")
    return torch.where(nearest.isinf(), 0.0, nearest).view(height, width)
