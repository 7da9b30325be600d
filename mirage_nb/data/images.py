"""Pictures from files, cropped and resized together with their cameras.

Colours are averaged. Depth is never mixed, since a mix of a near and a far surface is a surface that hangs in the air.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from mirage_nb.cameras import Cameras


def open_picture(path: str | Path) -> Image.Image:
    """A picture as it is stored; FileNotFoundError where there is no such file, ValueError where it can't be read."""
    try:
        with Image.open(path) as image:
            image.load()
            return image
    except FileNotFoundError:
        raise FileNotFoundError(f"image: no such file: {path}") from None
    except (OSError, SyntaxError) as error:
        raise ValueError(f"image: {path} can't be read as a picture ({error})") from None


def centre_crop_resize(
    image: Image.Image | np.ndarray | Tensor, cameras: Cameras, size: tuple[int, int]
) -> tuple[Tensor, Cameras]:
    """The largest centred part of an image that has the aspect ratio of `size`, resized (Lanczos), and its cameras.

    The image is PIL's or (H, W, 3) uint8, and (H, W) the size of its cameras; the result is (height, width, 3) uint8.
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
