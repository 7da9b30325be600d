"""RGB-D recordings in the layout of 7-Scenes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mirage_nb.cameras import Cameras
from mirage_nb.checks import looks_like_w2c
from mirage_nb.data.clip import Clip
from mirage_nb.data.images import centre_crop_nearest, centre_crop_resize, open_picture
from mirage_nb.formats import load_trajectory

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


def read_rgbd(folder: str | Path, size: tuple[int, int] = (128, 128), frames: slice = slice(None)) -> Clip:
    """Read an RGB-D recording in the layout of 7-Scenes.

    The folder holds `NAME.color.jpg` (or png), `NAME.depth.png` (16 bit, millimetres; 0 and 65535 = unknown) and
    `NAME.pose.txt` (c2w, metres, OpenCV axes) for each frame, and one `camera-intrinsics.txt` (3x3, pixel centres at
    integers). Frames whose pose is NaN or infinite (tracking lost) are left out with a warning. Where the calibration
    is that of the depth camera of 7-Scenes itself, the depth is brought to its colour camera.

    Args:
        size: (height, width) of the result.
        frames: which of the frames with a pose, in the order of their names: `slice(None, None, 4)` is every 4th.
    """
    folder = Path(folder)
    found = {kind: len(list(folder.glob(f"*.{kind}.*"))) for kind in ("color", "depth", "pose")}
    if not found["pose"] or len(set(found.values())) > 1:
        layout = "NAME.color.jpg, NAME.depth.png and NAME.pose.txt for each frame (7-Scenes)"
        raise FileNotFoundError(f"{folder}: expected {layout}, found {found}")
    recorded = load_trajectory(folder)
    if not range(len(recorded))[frames]:
        raise ValueError(f"frames: {frames} selects none of the {len(recorded)} frames")
    recorded = recorded[frames]
    cameras = recorded.cameras(recorded.size)
    seen_by = cameras  # the cameras of the clip
    if cameras.size == (480, 640) and cameras.intrinsics[0].tolist() == DEPTH_INTRINSICS:
        seen_by = Cameras(cameras.c2w @ torch.linalg.inv(DEPTH_TO_COLOUR), COLOUR_INTRINSICS, cameras.size)
    images, depths = [], []
    for index, picture in enumerate(recorded.pictures):  # one at a time: a recording may be long
        colour, depth = open_picture(picture), _read_depth(folder / f"{picture.name.split('.color.')[0]}.depth.png")
        if depth.shape != cameras.size:
            raise ValueError(f"{picture}: expected depth of its size {cameras.size}, got {tuple(depth.shape)}")
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


def _read_depth(path: Path) -> Tensor:
    """(H, W) float32 metres, 0 = unknown."""
    millimetres = np.array(open_picture(path))
    if millimetres.ndim != 2 or millimetres.dtype not in (np.uint16, np.int32):
        raise ValueError(f"{path}: expected a 16-bit PNG of one channel, got {millimetres.dtype} {millimetres.shape}")
    unknown = (millimetres <= 0) | (millimetres >= 65535)
    return torch.from_numpy(np.where(unknown, 0, millimetres / 1000).astype(np.float32))


def register(depth: Tensor, camera: Cameras, target: Cameras) -> Tensor:
    """A depth map (H, W) of one camera as another one of the same size sees it; 0 = unknown.

    Where several points fall on a pixel, the nearest one wins: no value is mixed.
    """
    height, width = camera.size
    uv, z = target.project(camera.unproject(depth[None])[0][depth > 0])
    (column, row), z = uv[0].floor().long().unbind(1), z[0]  # (P,) each
    inside = (z > 0) & (row >= 0) & (row < height) & (column >= 0) & (column < width)
    nearest = torch.full((height * width,), torch.inf)
    nearest.scatter_reduce_(0, (row * width + column)[inside], z[inside], "amin")
    return torch.where(nearest.isinf(), 0.0, nearest).view(height, width)
