"""Pictures from files, cropped and resized together with their cameras.

Everything is centre-cropped to the aspect ratio of the wanted size and resized, and the intrinsics come along
(`Cameras.crop`, `Cameras.resize`). Colours are averaged. Depth is never mixed, since a mix of a near and a far surface
is a surface that hangs in the air.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from mirage_nb.cameras import Cameras


def open_rgb(path: str | Path) -> Image.Image:
    """A picture in RGB, turned upright as its EXIF says.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it can't be read.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"image: no such file: {path}")
    try:
        with Image.open(path) as image:
            return ImageOps.exif_transpose(image).convert("RGB")
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise ValueError(f"image: {path} can't be read as a picture ({error})") from None


def centre_crop_resize(
    image: Image.Image | np.ndarray | Tensor, cameras: Cameras, size: tuple[int, int]
) -> tuple[Tensor, Cameras]:
    """The largest centred part of an image that has the aspect ratio of `size`, resized (Lanczos), and its cameras.

    The filter is as wide as the scale asks for, so it averages; at the border it also sees what lies just outside.

    Args:
        image: PIL image or (H, W, 3) uint8.
        cameras: cameras of that image; their size must be (H, W).
        size: (height, width) of the result.

    Returns:
        (height, width, 3) uint8 and the cameras of the result.
    """
    if not isinstance(image, Image.Image):
        image = Image.fromarray(np.ascontiguousarray(image))
    if cameras.size != (image.height, image.width):
        raise ValueError(f"cameras: expected size {(image.height, image.width)} as the image's, got {cameras.size}")
    top, left, height, width = _centre_box(cameras.size, size)
    box = (left, top, left + width, top + height)
    small = image.convert("RGB").resize((size[1], size[0]), Image.Resampling.LANCZOS, box=box)
    return torch.from_numpy(np.array(small)), cameras.crop(top, left, (height, width)).resize(size)


def centre_crop_nearest(depth: Tensor, size: tuple[int, int]) -> Tensor:
    """The same crop of a depth map (H, W): the depth at the centre of each new pixel, which was measured."""
    top, left, height, width = _centre_box(depth.shape, size)
    rows = top + ((torch.arange(size[0]) + 0.5) * height / size[0]).long()
    columns = left + ((torch.arange(size[1]) + 0.5) * width / size[1]).long()
    return depth[rows[:, None], columns]


def _centre_box(old: tuple[int, int], new: tuple[int, int]) -> tuple[int, int, int, int]:
    """top, left, height, width of the largest centred part of `old` with the aspect ratio of `new`, in whole pixels."""
    if len(new) != 2 or min(new) < 1:
        raise ValueError(f"size: expected (height, width) of at least 1, got {tuple(new)}")
    height = min(old[0], max(1, round(old[1] * new[0] / new[1])))
    width = min(old[1], max(1, round(old[0] * new[1] / new[0])))
    return (old[0] - height) // 2, (old[1] - width) // 2, height, width
