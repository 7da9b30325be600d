"""Photos: the image, and the intrinsics from EXIF, from a stated field of view, or assumed."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from PIL import ExifTags, Image
from torch import Tensor

from mirage_nb.cameras import Cameras, default_intrinsics
from mirage_nb.data.clip import Scene
from mirage_nb.data.images import centre_crop_resize, open_rgb
from mirage_nb.formats import Trajectory, load_trajectory

FILM_DIAGONAL = math.hypot(36.0, 24.0)  # millimetres; what "35 mm equivalent" refers to
_MILLIMETRES = {2: 25.4, 3: 10.0, 4: 1.0, 5: 0.001}  # in one unit of EXIF's resolutions


def read_photo(
    path: str | Path,
    size: tuple[int, int] = (128, 128),
    *,
    fov: float | None = None,
    trajectory: Trajectory | None = None,
) -> Scene:
    """Read a photo, turned upright.

    Args:
        path: any picture that Pillow reads.
        size: (height, width) of the result.
        fov: horizontal field of view of the whole upright picture in degrees, instead of what its EXIF says.
        trajectory: the path of the camera, which is carried to the origin; intrinsics that it has are taken for the
            photo's. By default there is one camera, at the origin.

    Returns:
        The scene; its note says where the intrinsics come from.

    Raises:
        FileNotFoundError: no such file. ValueError: no picture, or no such field of view.
    """
    image = open_rgb(path)
    if trajectory is not None and trajectory.intrinsics is not None and fov is None:
        cameras, lens = trajectory.cameras((image.height, image.width)), "the trajectory's"
    else:
        with Image.open(path) as file:
            intrinsics, lens = photo_intrinsics(file.getexif(), (image.height, image.width), fov)
        c2w = torch.eye(4) if trajectory is None else trajectory.c2w
        cameras = Cameras(c2w, intrinsics, (image.height, image.width))
    image, cameras = centre_crop_resize(image, cameras, size)
    return Scene(image, cameras.relative_to(cameras.c2w[0]), note=f"the lens: {lens}")


def read_posed_photo(folder: str | Path, size: tuple[int, int] = (128, 128)) -> Scene:
    """Read a folder with a photo `img.*`, the path of the camera from it on, and perhaps its `prompt.txt`.

    The path is a trajectory of any format with intrinsics, such as Spatia's `w2c.txt` and `intrinsics.txt`. Its unit is
    the file's own.

    Raises:
        FileNotFoundError: the folder, the photo or the trajectory is missing.
        ValueError: the photo or the path can't be read, or it has no intrinsics.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"input: no such folder: {folder}")
    photos = sorted(p for p in folder.glob("img.*") if p.suffix.lower() in Image.registered_extensions())
    if not photos:
        raise FileNotFoundError(f"{folder}: no photo; expected img.jpg or img.png")
    image, trajectory = open_rgb(photos[0]), load_trajectory(folder)
    image, cameras = centre_crop_resize(image, trajectory.cameras((image.height, image.width)), size)
    prompt = folder / "prompt.txt"
    return Scene(image, cameras, prompt=prompt.read_text().strip() or None if prompt.exists() else None)


def photo_intrinsics(exif: Image.Exif, size: tuple[int, int], fov: float | None = None) -> tuple[Tensor, str]:
    """`fx, fy, cx, cy` (4,) in pixels of an upright picture of (height, width), and where they come from.

    A picture that was resized since it was taken is no matter; one that was cropped is, and EXIF does not tell.
    """
    if fov is not None:
        if not 1 <= fov <= 170:
            raise ValueError(f"fov: expected 1 to 170 degrees across the picture, got {fov}")
        return default_intrinsics(size, fov), f"stated, {fov:g} degrees across"
    details = exif.get_ifd(ExifTags.IFD.Exif)

    def number(tag: int) -> float:
        try:
            value = float(details.get(tag, 0))
        except (TypeError, ValueError, ZeroDivisionError):
            return 0.0
        return value if math.isfinite(value) else 0.0

    focal, source = 0.0, ""
    film, millimetres = number(ExifTags.Base.FocalLengthIn35mmFilm), number(ExifTags.Base.FocalLength)
    unit = _MILLIMETRES.get(int(number(ExifTags.Base.FocalPlaneResolutionUnit)) or 2)
    if film > 0:
        focal, source = film * math.hypot(*size) / FILM_DIAGONAL, f"{film:g} mm on 35 mm film"
    elif millimetres > 0 and unit:
        taken = number(ExifTags.Base.ExifImageWidth), number(ExifTags.Base.ExifImageHeight)
        scale = max(size) / max(taken) if min(taken) > 0 else 1.0
        focal = millimetres * number(ExifTags.Base.FocalPlaneXResolution) / unit * scale
        source = f"{millimetres:g} mm and its sensor"
    across = math.degrees(2 * math.atan(size[1] / 2 / focal)) if focal > 0 else 0.0
    if not 1 <= across <= 170:
        return default_intrinsics(size), "64 degrees across, assumed: the photo does not tell (--fov does)"
    return default_intrinsics(size, across), f"EXIF: {source}, {across:.0f} degrees across"
