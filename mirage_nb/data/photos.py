"""A photo and the lens it was taken with: from its EXIF, from a stated field of view, or assumed."""

from __future__ import annotations

import math
from pathlib import Path
from typing import NamedTuple

import torch
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from mirage_nb.cameras import default_intrinsics

FILM_DIAGONAL = math.hypot(36.0, 24.0)  # millimetres; what "35 mm equivalent" refers to
_MILLIMETRES = {2: 25.4, 3: 10.0, 4: 1.0, 5: 0.001}  # EXIF's resolution units


class Photo(NamedTuple):
    """An upright picture, `fx, fy, cx, cy` (4,) in its pixels (centres at half-integers), and where they come from."""

    image: Image.Image
    intrinsics: Tensor
    lens: str


def read_photo(path: str | Path, fov: float | None = None) -> Photo:
    """Read a photo, turned upright.

    Args:
        path: any picture that Pillow reads.
        fov: horizontal field of view of the upright picture in degrees; it overrules the EXIF.

    Raises:
        FileNotFoundError: no such file. ValueError: no picture, or no such field of view.
    """
    if fov is not None and not 1 <= fov <= 170:
        raise ValueError(f"fov: expected 1 to 170 degrees across the picture, got {fov}")
    if not Path(path).is_file():
        raise FileNotFoundError(f"image: no such file: {path}")
    try:
        with Image.open(path) as file:
            exif, image = file.getexif(), ImageOps.exif_transpose(file).convert("RGB")
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise ValueError(f"image: {path} can't be read as a picture ({error})") from None
    width, height = image.size
    if fov is not None:
        focal = width / 2 / math.tan(math.radians(fov) / 2)
        return Photo(image, _lens(focal, image), f"stated, {fov:g} degrees across")
    focal, source = focal_length(exif, (height, width))
    if focal is not None:
        return Photo(image, _lens(focal, image), source)
    assumed = torch.as_tensor(default_intrinsics((height, width)))
    return Photo(image, assumed, "64 degrees across, assumed: the photo does not tell (--fov does)")


def _lens(focal: float, image: Image.Image) -> Tensor:
    return torch.tensor([focal, focal, image.width / 2, image.height / 2])


def focal_length(exif: Image.Exif, size: tuple[int, int]) -> tuple[float | None, str]:
    """The focal length in pixels of a picture of size (height, width), and what told it; None if nothing does.

    A picture that was resized since is no matter; one that was cropped is, and EXIF can't tell.
    """
    details = exif.get_ifd(ExifTags.IFD.Exif)

    def number(tag: int) -> float:
        try:
            value = float(details.get(tag, 0))
        except (TypeError, ValueError, ZeroDivisionError):
            return 0.0
        return value if math.isfinite(value) else 0.0

    film = number(ExifTags.Base.FocalLengthIn35mmFilm)
    if film > 0:
        focal, source = film * math.hypot(*size) / FILM_DIAGONAL, f"EXIF: {film:g} mm on 35 mm film"
    else:
        millimetres, resolution = number(ExifTags.Base.FocalLength), number(ExifTags.Base.FocalPlaneXResolution)
        unit = _MILLIMETRES.get(int(number(ExifTags.Base.FocalPlaneResolutionUnit)) or 2)
        taken = number(ExifTags.Base.ExifImageWidth), number(ExifTags.Base.ExifImageHeight)
        if not (millimetres > 0 and resolution > 0 and unit):
            return None, ""
        scale = max(size) / max(taken) if min(taken) > 0 else 1.0
        focal, source = millimetres * resolution / unit * scale, f"EXIF: {millimetres:g} mm and its sensor"
    across = 2 * math.degrees(math.atan(size[1] / 2 / focal))
    return (focal, f"{source}, {across:.0f} degrees across") if 1 <= across <= 170 else (None, "")
