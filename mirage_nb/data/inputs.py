"""What the command line can start from: a procedural room, an RGB-D folder, a photo with or without a trajectory."""

from __future__ import annotations

import contextlib
import warnings
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from mirage_nb.cameras import Cameras, default_intrinsics
from mirage_nb.data.photos import read_photo
from mirage_nb.data.recordings.rgbd import centre_crop_resize, read_posed_photo, read_rgbd
from mirage_nb.data.rooms.room import Room
from mirage_nb.formats.trajectory_files import load_trajectory
from mirage_nb.paths import actions_to_c2w, camera_path


@dataclass
class Scene:
    """A first frame (H, W, 3) uint8 and a camera path, and what is known beside.

    depth: (H, W) of the first frame or (T, H, W), metres, or None. truth: (T, H, W, 3) or None. note: what to trust.
    """

    image: Tensor
    cameras: Cameras
    depth: Tensor | None = None
    truth: Tensor | None = None
    prompt: str | None = None
    note: str = ""


def read_input(
    source: str, *, frames: int = 49, path: str | None = None, action: str | None = None,
    trajectory: str | Path | None = None,
    size: tuple[int, int] = (128, 128), given_depth: bool = False, fov: float | None = None,
    depth_model: str | None = None,
) -> Scene:  # fmt: skip
    """Read INPUT of `mirage-nb generate`.

    Args:
        source: `room:SEED`; a folder of RGB-D frames in the 7-Scenes layout; a folder with a photo and its path in
            Spatia's layout; or a photo.
        frames: length of the walk; a recorded path that is shorter sets it.
        path, action, trajectory: one of them at most: a named path, keystrokes, a trajectory file. By default a room
            and a photo are walked there and back, and a recording along its own path.
        size: (height, width) that pictures are centre-cropped and resized to.
        fov: a photo's horizontal field of view in degrees, in place of what its EXIF says.
        depth_model: what estimates its depth, for the note; by default the bundled network.
        given_depth: use the depth of every recorded frame, not only of the first.

    Raises:
        ValueError, FileNotFoundError: the message names the argument.
    """
    if sum(x is not None for x in (path, action, trajectory)) > 1:
        raise ValueError("path: expected at most one of --path, --action and --trajectory")
    kind, colon, seed = source.partition(":")
    if colon and kind == "room":
        if not seed.isdigit():
            raise ValueError(f"INPUT: expected room:SEED with a non-negative integer, got {source!r}")
        return _room(int(seed), frames, path, action, trajectory, size)
    place = Path(source)
    if not place.exists():
        raise FileNotFoundError(f"INPUT: no such file or folder: {source} (a procedural room is spelt room:17)")
    if place.is_dir() and any(place.glob("*.pose.txt")):
        return _recording(place, frames, path, action, trajectory, size, given_depth)
    if place.is_dir():
        photo = read_posed_photo(place, size)
        scene = Scene(photo.image, photo.cameras[: min(frames, len(photo.cameras))], prompt=photo.prompt or None)
    else:
        try:
            picture, lens, told = read_photo(place, fov)
        except ValueError as error:
            raise ValueError(f"INPUT: {str(error).removeprefix('image: ')}") from None
        width, height = picture.size
        known = load_trajectory(trajectory, (height, width))[1] if trajectory else None
        lens = lens if known is None else known[0]
        whole = Cameras(torch.eye(4), lens, (height, width))
        image, cameras = centre_crop_resize(picture, whole, size)
        scene = Scene(image, cameras)
        path = path or (None if action or trajectory else "there_and_back")
        scene.note = f"; the lens: {told}" if known is None else ""
    source = depth_model or "a network that learnt procedural rooms"
    scene.note = f"depth comes from {source}: trust its shape more than its metres{scene.note}"
    return _along(scene, frames, path, action, trajectory)


def _along(scene: Scene, frames: int, path: str | None, action: str | None, trajectory) -> Scene:
    """The scene with its cameras replaced by a path, where one is asked for."""
    start, size = scene.cameras.c2w[0], scene.cameras.size
    intrinsics = scene.cameras.intrinsics[:1]
    if path is not None:
        c2w = camera_path(path, frames, start)
    elif action is not None:
        c2w = actions_to_c2w(action, start)
    elif trajectory is not None:
        c2w, _ = load_trajectory(trajectory)
        to_start = start.double() @ torch.linalg.inv(c2w[0].double())  # so that the path begins at the image
        c2w = (to_start @ c2w[:frames].double()).float()
    else:
        return scene
    scene.cameras, scene.truth = Cameras(c2w, intrinsics, size), None
    if scene.depth is not None and scene.depth.ndim == 3:
        scene.depth = scene.depth[0]
    return scene


def _room(seed: int, frames: int, path, action, trajectory, size) -> Scene:
    room = Room(seed)
    start = Cameras(room.start(), default_intrinsics(size), size)
    cameras = None
    if action is None and trajectory is None:
        path = path or "there_and_back"
        with contextlib.suppress(ValueError):  # nowhere in the room is there space for it
            cameras = room.walk(frames, path=path, size=size)
    if cameras is None:
        cameras = _along(Scene(torch.zeros(0), start), frames, path, action, trajectory).cameras
        hit = room.blocked(cameras.c2w)
        if hit is not None:
            warnings.warn(f"path: it runs through a wall or a thing from frame {hit} on", stacklevel=3)
    clip = room.render(cameras, times=torch.zeros(len(cameras)))
    return Scene(clip.frames[0], cameras, truth=clip.frames)


def _recording(folder: Path, frames: int, path, action, trajectory, size, given_depth: bool) -> Scene:
    own = path is None and action is None and trajectory is None
    clip = read_rgbd(folder, size, frames=slice(0, frames) if own else slice(0, 1))
    depth = clip.depth if given_depth and own else clip.depth[0]
    scene = Scene(clip.frames[0], clip.cameras, depth=depth, truth=clip.frames if own else None)
    return _along(scene, frames, path, action, trajectory)
