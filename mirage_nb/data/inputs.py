"""What the command line can start from: a procedural room, an RGB-D folder, a photo with or without a trajectory."""

from __future__ import annotations

import contextlib
import warnings
from dataclasses import replace
from pathlib import Path

import torch

from mirage_nb.cameras import Cameras, default_intrinsics
from mirage_nb.data.clip import Scene
from mirage_nb.data.photos import read_photo
from mirage_nb.data.recordings.rgbd import read_rgbd
from mirage_nb.data.rooms.room import Room
from mirage_nb.formats import Trajectory, load_trajectory
from mirage_nb.paths import RETURNING, actions_to_c2w, camera_path


def choose_path(
    path: str | None, action: str | None, trajectory: str | Path | None, frames: int
) -> str | Trajectory | None:
    """The `path` of `read_input` from options of the command line, of which one at most may be given: a name, or the
    trajectory of keystrokes or of a file, whose first `frames` poses are taken."""
    if sum(x is not None for x in (path, action, trajectory)) > 1:
        raise ValueError("path: expected at most one of --path, --action and --trajectory")
    if action is not None:
        return Trajectory(actions_to_c2w(action))
    return path if trajectory is None else load_trajectory(trajectory)[:frames]


def read_input(
    source: str, path: str | Trajectory | None = None, *, frames: int = 49, size: tuple[int, int] = (128, 128),
    fov: float | None = None,
) -> Scene:  # fmt: skip
    """Read INPUT of `mirage-nb generate`.

    Args:
        source: `room:SEED`; a folder of RGB-D frames (`read_rgbd`); a photo, or a folder with one (`read_photo`).
        path: a name that `camera_path` knows, or a trajectory, which is carried to the first camera of the source and
            walked whole. By default a folder has its own path; others go there and back.
        frames: length of a named path; at most so many are taken of a folder's.
        size: (height, width) that pictures are centre-cropped and resized to.
        fov: a photo's horizontal field of view in degrees, instead of what its EXIF says.
    """
    if source.startswith("room:"):
        if not source[5:].isdigit():
            raise ValueError(f"INPUT: expected room:SEED with a non-negative integer, got {source!r}")
        return _read_room(int(source[5:]), path or RETURNING, frames, size)
    file = Path(source)
    if not file.exists():
        raise FileNotFoundError(f"INPUT: no such file or folder: {source} (a procedural room is spelt room:17)")
    if file.is_dir() and any(file.glob("*.pose.txt")):
        clip = read_rgbd(file, size, slice(frames if path is None else 1))
        scene = Scene(clip.frames[0], clip.cameras, depth=clip.depth, truth=clip.frames)
    elif file.is_dir():
        scene = read_photo(file, size)
        scene.cameras = scene.cameras[:frames]
    elif isinstance(path, Trajectory):
        scene, path = read_photo(file, size, fov=fov, trajectory=path), None
    else:
        scene, path = read_photo(file, size, fov=fov), path or RETURNING
    if scene.depth is None:
        scene.note = f"depth is estimated, trust its shape more than its metres; {scene.note}"
    if path is None:
        return scene
    depth = None if scene.depth is None else scene.depth[:1]
    return replace(scene, cameras=_walk(scene.cameras, path, frames), depth=depth, truth=None)


def _walk(cameras: Cameras, path: str | Trajectory, frames: int) -> Cameras:
    """Cameras along a path from the first of those given."""
    start = cameras.c2w[0]
    if isinstance(path, str):
        return Cameras(camera_path(path, frames, start), cameras.intrinsics[:1], cameras.size)
    c2w = start.double() @ torch.linalg.inv(path.c2w[0].double()) @ path.c2w.double()
    return Cameras(c2w, cameras.intrinsics[:1], cameras.size)


def _read_room(seed: int, path: str | Trajectory, frames: int, size: tuple[int, int]) -> Scene:
    room, cameras = Room(seed), None
    if isinstance(path, str):
        with contextlib.suppress(ValueError):  # the path is too long for the room: walk it all the same, and warn
            cameras = room.walk(frames, path=path, size=size)
    if cameras is None:
        cameras = _walk(Cameras(room.start(), default_intrinsics(size), size), path, frames)
        if (hit := room.blocked(cameras.c2w)) is not None:
            warnings.warn(f"path: it runs through a wall or a thing from frame {hit} on", stacklevel=3)
    clip = room.render(cameras, times=torch.zeros(len(cameras)))
    return Scene(clip.frames[0], cameras, truth=clip.frames)
