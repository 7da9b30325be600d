"""Photos: the image, and the lens from EXIF, from a stated field of view, or assumed."""

import math
import re
from pathlib import Path

import torch
from PIL import ExifTags, Image, ImageOps
from torch import Tensor

from mirage_nb.cameras import Cameras, default_intrinsics
from mirage_nb.data.clip import Scene
from mirage_nb.data.images import centre_crop_resize, open_picture, undistort
from mirage_nb.formats import Trajectory, load_trajectory

PANORAMA = 2.2  # width over height from which a photo is no single view, unless its field of view is stated
FILM_DIAGONAL = math.hypot(36.0, 24.0)  # millimetres; what "35 mm equivalent" refers to


def read_photo(
    path: str | Path, size: tuple[int, int] = (128, 128), *, fov: float | None = None,
    trajectory: Trajectory | None = None,
) -> Scene:  # fmt: skip
    """Read a photo, turned upright if it is alone, and the path of its camera, if it has one, from the origin on.

    The scene's note says where the intrinsics come from.

    Args:
        path: any picture that Pillow reads; or a folder with a photo `img.*`, a trajectory with intrinsics, such as
            Spatia's `w2c.txt` and `intrinsics.txt`, and perhaps a `prompt.txt`.
        size: (height, width) of the result.
        fov: horizontal field of view of the whole upright picture in degrees, instead of what its EXIF says.
        trajectory: the path of a lone photo's camera; intrinsics that it has are taken for the photo's.
    """
    path, prompt = Path(path), None
    if path.is_dir():
        photos = sorted(p for p in path.glob("img.*") if p.suffix.lower() in Image.registered_extensions())
        if not photos:
            raise FileNotFoundError(f"{path}: no photo; expected img.jpg or img.png")
        if (path / "prompt.txt").exists():
            prompt = (path / "prompt.txt").read_text().strip() or None
        path, trajectory, fov = photos[0], load_trajectory(path), None
        if trajectory.intrinsics is None:
            trajectory.cameras((1, 1))  # raises
        image = open_picture(path)  # its camera is that of the pixels as they are stored
    else:
        image = ImageOps.exif_transpose(open_picture(path))
    _refuse_panorama(path, image, stated=fov is not None)
    full = (image.height, image.width)
    if trajectory is not None and trajectory.intrinsics is not None and fov is None:
        cameras, lens = trajectory.cameras(full), "the trajectory's"
        if trajectory.distortion is not None:
            image, pinhole = undistort(image, cameras[0], trajectory.distortion[0])
            cameras = Cameras(cameras.c2w, cameras.intrinsics * (pinhole.intrinsics / cameras.intrinsics[:1]), full)
    else:
        intrinsics, lens = _photo_intrinsics(image.getexif(), full, fov)
        cameras = Cameras(torch.eye(4) if trajectory is None else trajectory.c2w, intrinsics, full)
    image, cameras = centre_crop_resize(image, cameras, size)
    return Scene(image, cameras.relative_to(cameras.c2w[0]), prompt=prompt, note=f"the lens: {lens}")


def _refuse_panorama(path: Path, image: Image.Image, stated: bool) -> None:
    xmp = image.info.get("xmp", b"")
    kind = re.search(rb"ProjectionType\W+(\w+)", xmp if isinstance(xmp, bytes) else str(xmp).encode())
    if kind and kind[1] not in (b"rectilinear", b"perspective"):
        raise ValueError(
            f"image: {path} is an {kind[1].decode()} panorama, expected a pinhole's picture: cut a view out"
        )
    if not stated and max(image.size) > PANORAMA * min(image.size):
        size = f"{image.width}x{image.height}"
        raise ValueError(f"image: {path}, {size}, looks like a panorama; cut a view out, or state its angle (--fov)")


def _photo_intrinsics(exif: Image.Exif, size: tuple[int, int], fov: float | None) -> tuple[Tensor, str]:
    """`fx, fy, cx, cy` (4,) in pixels of an upright picture of (height, width), and where they come from.

    They survive a resized picture, but not a cropped one: EXIF does not tell.
    """
    if fov is not None:
        if not 1 <= fov <= 170:
            raise ValueError(f"fov: expected 1 to 170 degrees across the picture, got {fov}")
        return default_intrinsics(size, fov), f"stated, {fov:g} degrees across"
    film = exif.get_ifd(ExifTags.IFD.Exif).get(ExifTags.Base.FocalLengthIn35mmFilm)
    if isinstance(film, int) and film > 0:
        across = math.degrees(2 * math.atan(size[1] / 2 / (film * math.hypot(*size) / FILM_DIAGONAL)))
        if 1 <= across <= 170:
            return default_intrinsics(size, across), f"EXIF: {film} mm on 35 mm film, {across:.0f} degrees across"
    return default_intrinsics(size), "64 degrees across, assumed: the photo does not tell (--fov does)"
