"""A rendered walk as a posed video without depth, and writers of trajectories, for the tests of recordings."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

from mirage_nb.cameras import Cameras
from mirage_nb.data import Clip, Room
from mirage_nb.formats.agreement import moved
from mirage_nb.formats.trajectory import OPENGL
from mirage_nb.viz.video import mp4_bytes

SIZE = (48, 64)
UNIT = 3.7  # units of the written poses in a metre


@cache
def rendered_clip() -> Clip:
    room = Room(5, moving=0)
    return room.render(room.walk(18, size=SIZE))


def write_recording(folder: Path) -> Path:
    """The walk as `video.mp4`, with `transforms.json` in another unit."""
    folder.mkdir()
    (folder / "video.mp4").write_bytes(mp4_bytes(rendered_clip().frames))
    write_transforms(folder / "transforms.json", moved(rendered_clip().cameras, UNIT))
    return folder


def write_transforms(path: Path, cameras: Cameras) -> None:
    (height, width), matrices = cameras.size, (cameras.c2w.double() @ OPENGL).tolist()
    frames = [
        {"fl_x": fx, "fl_y": fy, "cx": cx, "cy": cy, "transform_matrix": matrix}
        for (fx, fy, cx, cy), matrix in zip(cameras.intrinsics.tolist(), matrices)
    ]
    path.write_text(json.dumps({"w": width, "h": height, "frames": frames}))


def write_realestate10k(path: Path, cameras: Cameras) -> None:
    normalised = cameras.resize((1, 1)).intrinsics.tolist()
    lines = ["https://example.org/"]
    for index, (lens, pose) in enumerate(zip(normalised, cameras.w2c[:, :3].flatten(1).tolist())):
        lines.append(" ".join(map(str, [index * 33333, *lens, 0, 0, *pose])))
    path.write_text("\n".join(lines))
