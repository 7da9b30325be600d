"""What the command line can start from: a procedural room, a recording, a photo with or without a trajectory."""

import contextlib
import math
import re
import warnings
from dataclasses import replace
from pathlib import Path

import torch
from PIL import ExifTags, Image, ImageOps
from torch import Tensor

from mirage_nb.cameras import Cameras, default_intrinsics
from mirage_nb.data.clip import Scene
from mirage_nb.data.images import centre_crop_resize, open_picture, undistort
from mirage_nb.data.recordings import VIDEOS, load_recording, read_posed_video, read_rgbd
from mirage_nb.data.rooms.room import Room
from mirage_nb.formats import Trajectory, load_trajectory
from mirage_nb.formats.agreement import moved
from mirage_nb.paths import RETURNING, actions_to_c2w, camera_path

PANORAMA = 2.2  # width over height from which a photo is no single view, unless its field of view is stated
FILM_DIAGONAL = math.hypot(36.0, 24.0)  # millimetres; what "35 mm equivalent" refers to


def choose_path(
    path: str | None, action: str | None, trajectory: str | Path | None, frames: int, scale: float = 1.0
) -> str | Trajectory | None:
    """The `path` of `read_input` from options of the command line, of which one at most may be given: a name, or the
    trajectory of keystrokes or of a file, whose first `frames` poses are taken, `scale` metres a unit."""
    if sum(x is not None for x in (path, action, trajectory)) > 1:
        raise ValueError("path: expected at most one of --path, --action and --trajectory")
    if action is not None:
        return Trajectory(actions_to_c2w(action))
    return path if trajectory is None else moved(load_trajectory(trajectory)[:frames], scale)


def read_input(
    source: str, path: str | Trajectory | None = None, *, frames: int = 49, size: tuple[int, int] = (128, 128),
    fov: float | None = None, scale: float = 1.0, allow_collisions: bool = False, **reading,
) -> Scene:  # fmt: skip
    """Read INPUT of `mirage-nb generate`.

    Args:
        source: `room:SEED`; a photo, or a folder with one (`read_photo`); or a recording: a folder with RGB-D
            (`read_rgbd`), a folder or a video file with poses (`read_posed_video`).
        path: a name that `camera_path` knows, or a trajectory, which is carried to the first camera of the source and
            walked whole, with its zoom. By default a recording has its own path; others go there and back.
        frames: length of a named path; at most so many are taken of a recording.
        size: (height, width) that pictures are centre-cropped and resized to.
        fov: a photo's horizontal field of view in degrees, instead of what its EXIF says.
        scale: metres of a unit of the source's own path; where it has depth, that tells.
        allow_collisions: don't warn of a path through what is known of the scene (`warn_collisions`).
        reading: options of `read_rgbd` for a recording whose numbers are not in its format's convention.
    """
    given = [name for name, value in reading.items() if value is not None]
    if source.startswith("room:"):
        if given or not source[5:].isdigit():
            options = "".join(f", {name}" for name in given)
            raise ValueError(f"INPUT: expected room:SEED with a non-negative integer, got {source!r}{options}")
        return _read_room(int(source[5:]), path or RETURNING, frames, size, allow_collisions)
    file = Path(source)
    if not file.exists():
        raise FileNotFoundError(f"INPUT: no such file or folder: {source} (a procedural room is spelt room:17)")
    if not 0 < scale < float("inf"):
        raise ValueError(f"scale: expected a positive number, got {scale}")
    if (file.is_dir() and not any(file.glob("img.*"))) or file.suffix.lower() in VIDEOS:
        scene = _read_recording(file, frames, size, scale, reading)
    elif file.is_dir():
        scene = read_photo(file, size)
        scene.cameras = moved(scene.cameras[:frames], scale)
    elif isinstance(path, Trajectory):
        scene, path = read_photo(file, size, fov=fov, trajectory=path), None
    else:
        scene, path = read_photo(file, size, fov=fov), path or RETURNING
    if scene.depth is None:
        scene.note = f"depth is estimated, trust its shape more than its metres; {scene.note}"
    if scene.depth is None and given:
        raise ValueError(f"INPUT: it has no depth, which the options {', '.join(given)} are for")
    if path is None:
        return scene
    cameras, depth = _walk(scene.cameras, path, frames), None if scene.depth is None else scene.depth[:1]
    if depth is not None and not allow_collisions:
        warn_collisions(depth[0], cameras)
    return replace(scene, cameras=cameras, depth=depth, truth=None)


def _read_recording(file: Path, frames: int, size: tuple[int, int], scale: float, reading: dict) -> Scene:
    if load_recording(file).depths:
        clip = read_rgbd(file, size, slice(frames), **reading)
        return Scene(clip.frames[0], clip.cameras, depth=clip.depth, truth=clip.frames)
    video, cameras = read_posed_video(file, size, slice(frames))
    cameras = moved(cameras.relative_to(cameras.c2w[0]), scale)
    return Scene(video[0], cameras, truth=video, note=f"a unit of its path is taken for {scale:g} m (--scale)")


def _walk(cameras: Cameras, path: str | Trajectory, frames: int) -> Cameras:
    """Cameras along a path from the first of those given; where the path zooms, so do they."""
    start = cameras.c2w[0]
    if isinstance(path, str):
        return Cameras(camera_path(path, frames, start), cameras.intrinsics[:1], cameras.size)
    c2w = start.double() @ torch.linalg.inv(path.c2w[0].double()) @ path.c2w.double()
    lens = cameras.intrinsics[:1].repeat(len(path), 1)
    if path.intrinsics is not None:
        lens[:, :2] *= path.intrinsics[:, :2] / path.intrinsics[:1, :2]
    return Cameras(c2w, lens, cameras.size)


def warn_collisions(depth: Tensor, cameras: Cameras) -> None:
    """Warn of the first of T cameras that is behind a surface of the first frame, or farther away than all of them.
    depth is the first frame's (H, W) in metres; 0 = unknown."""
    cameras = cameras.relative_to(cameras.c2w[0])
    depth = torch.where(depth.isfinite() & (depth > 0), depth, torch.nan)
    uv, z = (x[0] for x in cameras[0].project(cameras.centers))
    inside = (z > 0) & (uv >= 0).all(-1) & (uv < torch.tensor(cameras.size).flip(0)).all(-1)
    column, row = torch.where(inside[:, None], uv, 0.0).long().unbind(-1)
    far = cameras.centers.norm(dim=1)
    through, beyond = inside & (z > depth[row, column]), far > depth.nan_to_num(0).max()
    hit = through if through.any() else beyond
    if hit.any() and depth.isfinite().any():
        words = "runs through a surface" if through.any() else "leaves what was seen"
        words += f" from frame {int(hit.nonzero()[0])} on, at {far[hit][0]:.2f} m from the start"
        warnings.warn(f"path: it {words} (is its unit the metre? --scale)", stacklevel=3)


def _read_room(seed: int, path: str | Trajectory, frames: int, size: tuple[int, int], allow_collisions: bool) -> Scene:
    room, cameras = Room(seed), None
    if isinstance(path, str):
        with contextlib.suppress(ValueError):  # the path is too long for the room: walk it all the same, and warn
            cameras = room.walk(frames, path=path, size=size)
    if cameras is None:
        cameras = _walk(Cameras(room.start(), default_intrinsics(size), size), path, frames)
        if not allow_collisions and (hit := room.blocked(cameras.c2w)) is not None:
            warnings.warn(f"path: it runs through a wall or a thing from frame {hit} on", stacklevel=3)
    clip = room.render(cameras, times=torch.zeros(len(cameras)))
    return Scene(clip.frames[0], cameras, truth=clip.frames)


def read_photo(
    path: str | Path, size: tuple[int, int] = (128, 128), *, fov: float | None = None,
    trajectory: Trajectory | None = None,
) -> Scene:  # fmt: skip
    """Read a photo, turned upright if it is alone, and the path of its camera, if it has one, from the origin on; the
    scene's note says where the intrinsics come from.

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
        raise ValueError(f"image: {path} is an {kind[1].decode()} panorama, expected a pinhole's: cut a view out")
    if not stated and max(image.size) > PANORAMA * min(image.size):
        size = f"{image.width}x{image.height}"
        raise ValueError(f"image: {path}, {size}, looks like a panorama; cut a view out, or state its angle (--fov)")


def _photo_intrinsics(exif: Image.Exif, size: tuple[int, int], fov: float | None) -> tuple[Tensor, str]:
    """`fx, fy, cx, cy` (4,) in pixels of an upright picture of (height, width), and where they come from. They survive
    a resized picture, but not a cropped one: EXIF does not tell."""
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
