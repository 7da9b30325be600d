"""Readers of real input: an RGB-D recording in the layout of 7-Scenes, and a photo with a camera path in Spatia's.

Everything is centre-cropped to the aspect ratio of the wanted size and resized, and the intrinsics come along
(`Cameras.crop`, `Cameras.resize`). Colours are averaged; depth is never mixed, since a mix of a near and a far surface
is a surface that hangs in the air.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from mirage_nb.cameras import Cameras
from mirage_nb.data.clip import Clip
from mirage_nb.data.recordings.registration import SEVEN_SCENES, register, unregistered
from mirage_nb.formats.trajectory_files import load_trajectory, read_calibration, read_pose


@dataclass(frozen=True)
class PosedPhoto:
    """image (H, W, 3) uint8; cameras: the T cameras of the path, the photo's first; prompt: its text, or ''."""

    image: Tensor
    cameras: Cameras
    prompt: str


def read_rgbd(
    folder: str | Path,
    size: tuple[int, int] = (128, 128),
    frames: slice | Sequence[int] | None = None,
    registered: bool | None = None,
) -> Clip:
    """Read an RGB-D recording in the layout of 7-Scenes.

    The folder holds `NAME.color.jpg` (or png), `NAME.depth.png` (16 bit, millimetres; 0 and 65535 = unknown) and
    `NAME.pose.txt` (c2w, metres, OpenCV axes) for each frame, and one `camera-intrinsics.txt` (3x3, pixel centres at
    integers). Frames whose pose is NaN or infinite (tracking lost) are left out with a warning.

    The depth of 7-Scenes itself is not registered to its colour: where the calibration is that of its depth camera, the
    depth is brought over to the colour camera beside it (`registration.SEVEN_SCENES`).

    Args:
        size: (height, width) of the result.
        registered: whether colour and depth are of one camera; by default only 7-Scenes' own calibration says no.
        frames: which frames of the sorted recording: a slice (`slice(None, None, 4)` is every 4th), indices, or all.

    Raises:
        FileNotFoundError: the folder or one of its files is missing; the message names it.
        ValueError: the files don't belong together, can't be read, hold no depth or no pose, or the poses are w2c.
    """
    folder = _folder(folder)
    names = _frame_names(folder)
    picked = _pick(names, frames)
    calibration = folder / "camera-intrinsics.txt"
    if not calibration.exists():
        raise FileNotFoundError(
            f"{calibration}: missing; it holds the 3x3 matrix (7-Scenes: 585 0 320, 0 585 240, 0 0 1)"
        )
    poses = {name: read_pose(folder / f"{name}.pose.txt") for name in picked}
    kept = [name for name in picked if poses[name].isfinite().all()]
    if len(kept) < len(picked):
        lost = next(name for name in picked if name not in kept)
        warnings.warn(
            f"{folder}: tracking was lost in {len(picked) - len(kept)} of {len(picked)} frames, left out "
            f"(first: {lost})",
            stacklevel=2,
        )
    if not kept:
        raise ValueError(f"{folder}: none of the {len(picked)} frames has a finite pose")

    intrinsics, images, depths, cameras = read_calibration(calibration), [], [], []
    for name in kept:  # one at a time: a recording may be long, and its pictures are large
        colour, depth = _open_rgb(_colour_path(folder, name)), _read_depth(folder / f"{name}.depth.png")
        if not images:
            full = Cameras(torch.stack([poses[n] for n in kept]), intrinsics, (colour.height, colour.width))
            rig = SEVEN_SCENES if unregistered(full, registered) else None
        if not full.size == (colour.height, colour.width) == depth.shape:
            raise ValueError(
                f"{folder / name}: expected colour and depth of one size {full.size}, got "
                f"{(colour.height, colour.width)} and {depth.shape}"
            )
        camera = full[len(images) : len(images) + 1]
        if rig:
            moved, camera = register(torch.from_numpy(depth)[None], camera, rig)
            depth = moved[0].numpy()
        image, camera = centre_crop_resize(colour, camera, size)
        cameras.append(camera)
        images.append(image)
        depths.append(_centre_crop_nearest(depth, size))
    depth = torch.stack(depths)
    if not (depth > 0).any():
        raise ValueError(
            f"{folder}: depth: not one known value in {len(kept)} frames (expected 16-bit PNG, millimetres)"
        )
    views = Cameras(torch.cat([c.c2w for c in cameras]), cameras[0].intrinsics[0], size)
    clip = Clip(torch.stack(images), depth, views)
    if looks_like_w2c(clip.depth, clip.cameras):
        raise ValueError(f"{folder}: the poses seem to be world-to-camera (inverted, they fit the depth); expected c2w")
    return clip


def read_posed_photo(folder: str | Path, size: tuple[int, int] = (128, 128)) -> PosedPhoto:
    """Read a photo with a camera path in the layout of Spatia's test cases.

    The folder holds a photo `img.*`, `w2c.txt`, `intrinsics.txt` (see `trajectory_files`) and perhaps `prompt.txt`.
    The path's unit is the file's own. Any other trajectory file that tells intrinsics may stand in for w2c.txt.

    Raises:
        FileNotFoundError: the folder, the photo or the intrinsics are missing.
        ValueError: the photo or the path can't be read.
    """
    folder = _folder(folder)
    photos = sorted(
        p for p in folder.iterdir() if p.stem == "img" and p.suffix.lower() in Image.registered_extensions()
    )
    if not photos:
        raise FileNotFoundError(f"{folder}: no photo; expected img.jpg or img.png")
    photo = _open_rgb(photos[0])
    c2w, intrinsics = load_trajectory(folder, (photo.height, photo.width))
    if intrinsics is None:
        raise FileNotFoundError(f"{folder / 'intrinsics.txt'}: missing; expected fx fy cx cy over width and height")
    image, cameras = centre_crop_resize(photo, Cameras(c2w, intrinsics, (photo.height, photo.width)), size)
    prompt = folder / "prompt.txt"
    return PosedPhoto(image, cameras, prompt.read_text().strip() if prompt.exists() else "")


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


def depth_agreement(depth: Tensor, cameras: Cameras, tolerance: float = 0.05) -> float:
    """How far the first frame's depth foretells the last one's: a check of poses, depth and intrinsics together.

    The points of the first depth map (of (T, H, W)) are projected into the last camera. Of those that land on a known
    depth, returns the share whose z-depth differs from it by less than `tolerance`, relatively; 0 if none lands. What
    moved or got occluded counts as a miss.
    """
    depth = torch.where(depth.isfinite() & (depth > 0), depth, 0)
    known = depth[0] > 0
    uv, z = cameras[-1].project(cameras[0].unproject(depth[:1])[0][known])
    uv, z = uv[0], z[0]
    height, width = cameras.size
    inside = (z > 0) & (uv[:, 0] >= 0) & (uv[:, 0] < width) & (uv[:, 1] >= 0) & (uv[:, 1] < height)
    column, row = uv[inside].floor().long().unbind(1)
    there = depth[-1][row, column]
    agrees = (z[inside] / there - 1).abs() < tolerance
    return agrees[there > 0].float().mean().nan_to_num(0.0).item()


def looks_like_w2c(depth: Tensor, cameras: Cameras) -> bool:
    """Whether the depth (T, H, W) contradicts the poses and fits their inverses: w2c was passed for c2w.

    Matrices alone cannot tell. Depth can, once the camera has turned: the first frame is compared with the one turned
    furthest from it. Says no unless the evidence is clear.
    """
    if len(cameras) < 2:
        return False
    turned = (cameras.c2w[0, :3, :3].mT @ cameras.c2w[:, :3, :3]).diagonal(dim1=1, dim2=2).sum(1)
    pair = [0, int(turned.argmin())]
    inverted = Cameras(cameras.w2c, cameras.intrinsics, cameras.size)
    as_given, as_inverse = (depth_agreement(depth[pair], c[pair]) for c in (cameras, inverted))
    return as_inverse > 0.6 and as_given < 0.5 * as_inverse


def _folder(folder: str | Path) -> Path:
    if not Path(folder).is_dir():
        raise FileNotFoundError(f"input: no such folder: {folder}")
    return Path(folder)


def _frame_names(folder: Path) -> list[str]:
    """The names of the frames, each of which has colour, depth and pose."""
    found = {kind: {p.name.split(".")[0] for p in folder.glob(f"*.{kind}.*")} for kind in ("color", "depth", "pose")}
    names = set.union(*found.values())
    if not names:
        raise FileNotFoundError(
            f"{folder}: no frames; expected NAME.color.jpg, NAME.depth.png, NAME.pose.txt (7-Scenes)"
        )
    for kind, have in found.items():
        if have != names:
            counts = ", ".join(f"{len(v)} {k}" for k, v in found.items())
            raise FileNotFoundError(f"{folder}: {min(names - have)} has no {kind} file (found {counts})")
    return sorted(names)


def _pick(names: list[str], frames: slice | Sequence[int] | None) -> list[str]:
    frames = slice(None) if frames is None else frames
    try:
        picked = names[frames] if isinstance(frames, slice) else [names[i] for i in frames]
    except IndexError:
        raise ValueError(f"frames: expected indices below {len(names)}, got {list(frames)}") from None
    if not picked:
        raise ValueError(f"frames: {frames} selects none of the {len(names)} frames")
    return picked


def _colour_path(folder: Path, name: str) -> Path:
    return min(folder.glob(f"{name}.color.*"))


def _open_rgb(path: Path) -> Image.Image:
    try:
        with Image.open(path) as image:
            return ImageOps.exif_transpose(image).convert("RGB")
    except (UnidentifiedImageError, OSError) as error:
        raise ValueError(f"{path}: expected an image ({error})") from None


def _read_depth(path: Path) -> np.ndarray:
    """(H, W) float32 metres, 0 = unknown."""
    try:
        with Image.open(path) as image:
            millimetres = np.array(image)
    except (UnidentifiedImageError, OSError) as error:
        raise ValueError(f"{path}: expected a depth PNG ({error})") from None
    if millimetres.ndim != 2 or millimetres.dtype not in (np.uint16, np.int32):
        raise ValueError(f"{path}: expected a 16-bit PNG of one channel, got {millimetres.dtype} {millimetres.shape}")
    return np.where((millimetres <= 0) | (millimetres >= 65535), 0, millimetres / 1000).astype(np.float32)


def _centre_box(old: tuple[int, int], new: tuple[int, int]) -> tuple[int, int, int, int]:
    """top, left, height, width of the largest centred part of `old` with the aspect ratio of `new`, in whole pixels."""
    if len(new) != 2 or min(new) < 1:
        raise ValueError(f"size: expected (height, width) of at least 1, got {tuple(new)}")
    height = min(old[0], max(1, round(old[1] * new[0] / new[1])))
    width = min(old[1], max(1, round(old[0] * new[1] / new[0])))
    return (old[0] - height) // 2, (old[1] - width) // 2, height, width


def _centre_crop_nearest(depth: np.ndarray, size: tuple[int, int]) -> Tensor:
    """The depth at the centre of each new pixel: a value that was measured, never a mix."""
    top, left, height, width = _centre_box(depth.shape, size)
    rows = top + ((np.arange(size[0]) + 0.5) * height / size[0]).astype(int)
    columns = left + ((np.arange(size[1]) + 0.5) * width / size[1]).astype(int)
    return torch.from_numpy(depth[np.ix_(rows, columns)])
