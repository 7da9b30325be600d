"""Pictures from files, undistorted, cropped and resized together with their cameras.

Colours are averaged. Depth is never mixed, since a mix of a near and a far surface is a surface that hangs in the air.
"""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from mirage_nb.cameras import Cameras

ZOOMS = [1 + i / 100 for i in range(51)]  # a lens that leaves empty corners even so is no pinhole's


def open_picture(path: str | Path) -> Image.Image:
    """A picture as it is stored; FileNotFoundError where there is no such file, ValueError where it can't be read."""
    try:
        with Image.open(path) as image:
            image.load()
            return image
    except FileNotFoundError:
        raise FileNotFoundError(f"image: no such file: {path}") from None
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"image: {path} can't be read as a picture ({error})") from None


def as_rgb(image: Image.Image) -> Image.Image:
    """8 bit RGB: 16 bit grey is scaled, what is transparent lies on white; ValueError for floating point."""
    if image.mode == "F":
        raise ValueError("image: a picture in floating point has no scale of brightness; save it with 8 bit a channel")
    if image.mode.startswith("I"):
        image = Image.fromarray((np.array(image).clip(0, 65535) // 257).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def undistort(image: Image.Image, camera: Cameras, k: Tensor) -> tuple[Image.Image, Cameras]:
    """The picture that a pinhole in the place of one camera takes, enlarged until no corner is empty. k is (6,), of
    OpenCV's polynomial: k1 k2 k3 k4 of the radius to the power of 2, 4, 6, 8, and p1 p2 (tangential)."""
    k1, k2, k3, k4, p1, p2 = k.tolist()
    (height, width), (fx, fy, cx, cy) = camera.size, camera.intrinsics[0].tolist()
    for zoom in ZOOMS:
        pinhole = Cameras(camera.c2w, camera.intrinsics * torch.tensor([zoom, zoom, 1, 1]), camera.size)
        x, y, _ = pinhole.relative_to(camera.c2w[0]).rays()[1][0].unbind(-1)
        square = x**2 + y**2
        radial = 1 + square * (k1 + square * (k2 + square * (k3 + square * k4)))
        u = fx * (x * radial + 2 * p1 * x * y + p2 * (square + 2 * x**2)) + cx
        v = fy * (y * radial + p1 * (square + 2 * y**2) + 2 * p2 * x * y) + cy
        grid = torch.stack([u / width, v / height], -1) * 2 - 1
        radius, order = square.flatten().sqrt().sort()
        folds = (radius * radial.flatten()[order]).diff().min() < -1e-3  # two rays would fall on one pixel
        if grid.abs().max() <= 1 and not folds:
            pixels = torch.from_numpy(np.array(as_rgb(image))).permute(2, 0, 1)[None].float()
            pixels = F.grid_sample(pixels, grid[None], align_corners=False)[0].permute(1, 2, 0)
            return Image.fromarray(pixels.round().to(torch.uint8).numpy()), pinhole
    raise ValueError("trajectory: the lens is distorted too much for a pinhole; undistort the pictures first")


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
    small = as_rgb(image).resize((size[1], size[0]), Image.Resampling.LANCZOS, box=box)
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
