"""A reader of RGB-D recordings in the layout of 7-Scenes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from mirage_nb.checks import looks_like_w2c
from mirage_nb.data.clip import Clip
from mirage_nb.data.images import centre_crop_nearest, centre_crop_resize, open_rgb
from mirage_nb.data.recordings.registration import colour_cameras, register
from mirage_nb.formats import load_trajectory


def read_rgbd(folder: str | Path, size: tuple[int, int] = (128, 128), frames: slice = slice(None)) -> Clip:
    """Read an RGB-D recording in the layout of 7-Scenes.

    The folder holds `NAME.color.jpg` (or png), `NAME.depth.png` (16 bit, millimetres; 0 and 65535 = unknown) and
    `NAME.pose.txt` (c2w, metres, OpenCV axes) for each frame, and one `camera-intrinsics.txt` (3x3, pixel centres at
    integers). Frames whose pose is NaN or infinite (tracking lost) are left out with a warning.

    The depth of 7-Scenes itself is not registered to its colour: where the calibration is that of its depth camera, the
    depth is brought to the colour camera (`registration`).

    Args:
        size: (height, width) of the result.
        frames: which of the frames with a pose, in the order of their names: `slice(None, None, 4)` is every 4th.

    Raises:
        FileNotFoundError: the folder or one of its files is missing; the message names it.
        ValueError: the files don't belong together, can't be read, hold no depth or no pose, or the poses are w2c.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"input: no such folder: {folder}")
    _check_files(folder)
    recorded = load_trajectory(folder, "7-scenes")
    if not range(len(recorded))[frames]:
        raise ValueError(f"frames: {frames} selects none of the {len(recorded)} frames")
    recorded = recorded[frames]
    cameras = recorded.cameras(recorded.size)
    seen_by = colour_cameras(cameras) or cameras  # whose colour and depth the clip has
    images, depths = [], []
    for index, picture in enumerate(recorded.pictures):  # one at a time: a recording may be long
        colour, depth = open_rgb(picture), _read_depth(folder / f"{picture.name.split('.color.')[0]}.depth.png")
        if not cameras.size == (colour.height, colour.width) == depth.shape:
            got = f"{(colour.height, colour.width)} and {tuple(depth.shape)}"
            raise ValueError(f"{picture}: expected colour and depth of one size {cameras.size}, got {got}")
        if seen_by is not cameras:
            depth = register(depth, cameras[index], seen_by[index])
        image, resized = centre_crop_resize(colour, seen_by, size)
        images.append(image)
        depths.append(centre_crop_nearest(depth, size))
    clip = Clip(torch.stack(images), torch.stack(depths), resized)
    if not (clip.depth > 0).any():
        raise ValueError(f"{folder}: depth: no value in {len(images)} frames (expected 16-bit PNG, millimetres)")
    if looks_like_w2c(clip.depth, clip.cameras):
        raise ValueError(f"{folder}: the poses seem to be world-to-camera (inverted, they fit the depth); expected c2w")
    return clip


def _check_files(folder: Path) -> None:
    """Every frame has colour, depth and pose, and there is a calibration."""
    found = {
        kind: {p.name.split(f".{kind}.")[0] for p in folder.glob(f"*.{kind}.*")} for kind in ("color", "depth", "pose")
    }
    names = set.union(*found.values())
    if not names:
        raise FileNotFoundError(
            f"{folder}: no frames; expected NAME.color.jpg, NAME.depth.png, NAME.pose.txt (7-Scenes)"
        )
    for kind, have in found.items():
        if have != names:
            counts = ", ".join(f"{len(v)} {k}" for k, v in found.items())
            raise FileNotFoundError(f"{folder}: {min(names - have)} has no {kind} file (found {counts})")
    calibration = folder / "camera-intrinsics.txt"
    if not calibration.exists():
        raise FileNotFoundError(
            f"{calibration}: missing; it holds a 3x3 matrix (7-Scenes: 585 0 320, 0 585 240, 0 0 1)"
        )


def _read_depth(path: Path) -> Tensor:
    """(H, W) float32 metres, 0 = unknown."""
    try:
        with Image.open(path) as image:
            millimetres = np.array(image)
    except (UnidentifiedImageError, OSError) as error:
        raise ValueError(f"{path}: expected a depth PNG ({error})") from None
    if millimetres.ndim != 2 or millimetres.dtype not in (np.uint16, np.int32):
        raise ValueError(f"{path}: expected a 16-bit PNG of one channel, got {millimetres.dtype} {millimetres.shape}")
    unknown = (millimetres <= 0) | (millimetres >= 65535)
    return torch.from_numpy(np.where(unknown, 0, millimetres / 1000).astype(np.float32))
