"""Trajectories as JSON: `transforms.json` of nerfstudio and of Blender's NeRF scenes, `camera_data.json` of WorldScore.

All three have c2w matrices with OpenGL's axes (y up, z back).
"""

from __future__ import annotations

import json
import math
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from mirage_nb.cameras import Cameras
from mirage_nb.formats.base import OPENGL, Trajectory, as_matrices, warn_distortion

FILES = ("transforms.json", "transforms_train.json", "camera_data.json")  # what such a file is called in a folder
_DISTORTION = ("k1", "k2", "k3", "k4", "p1", "p2")


def read_json(path: Path) -> Trajectory:
    file = next((path / name for name in FILES if (path / name).is_file()), path)
    content = json.loads(file.read_text())
    if "frames" not in content and "cameras_interp" in content:  # WorldScore
        # Its focal length is in pixels of a picture whose size depends on the model that is scored: no intrinsics.
        return Trajectory(as_matrices("cameras_interp", content["cameras_interp"]) @ OPENGL)
    frames = content["frames"]
    if not frames:
        raise ValueError("expected a list of frames, each with a 4x4 transform_matrix")
    c2w = as_matrices("transform_matrix", [frame["transform_matrix"] for frame in frames]) @ OPENGL
    merged = [{**content, **frame} for frame in frames]  # what all frames share may stand above them
    if any(frame.get(key) for frame in merged for key in _DISTORTION):
        warn_distortion(file)
    pictures = None
    if all("file_path" in frame for frame in frames):
        pictures = [_picture(file.parent / frame["file_path"]) for frame in frames]
    if any("fl_x" in frame for frame in merged):
        intrinsics, sizes = _lenses(merged)
    elif "camera_angle_x" in content:
        intrinsics, sizes = _angles_of_view(content, pictures)
    else:
        return Trajectory(c2w, pictures=pictures)
    return Trajectory(c2w, intrinsics, sizes, pictures)


def _picture(path: Path) -> Path:
    """The file of a picture's name; Blender's scenes leave the ending out."""
    with_ending = path.with_name(f"{path.name}.png")
    return with_ending if with_ending.is_file() and not path.is_file() else path


def _lenses(frames: list[dict]) -> tuple[Tensor, tuple[int, int]]:
    sizes = {(int(frame["h"]), int(frame["w"])) for frame in frames}
    if len(sizes) > 1:
        raise ValueError(f"expected frames of one size, got {sorted(sizes)}")
    height, width = sizes.pop()
    rows = [[f["fl_x"], f.get("fl_y", f["fl_x"]), f.get("cx", width / 2), f.get("cy", height / 2)] for f in frames]
    return torch.tensor(rows, dtype=torch.float64), (height, width)


def _angles_of_view(content: dict, pictures: list[Path] | None) -> tuple[Tensor | None, tuple[int, int] | None]:
    """Blender states an angle of view in radians; its pixels are square, and the picture tells how high it is."""
    fx = 0.5 / math.tan(content["camera_angle_x"] / 2)  # focal length over width
    if "camera_angle_y" in content:
        return torch.tensor([[fx, 0.5 / math.tan(content["camera_angle_y"] / 2), 0.5, 0.5]]), (1, 1)
    if "w" in content and "h" in content:
        width, height = int(content["w"]), int(content["h"])
    elif pictures and pictures[0].is_file():
        with Image.open(pictures[0]) as image:
            width, height = image.size
    else:
        return None, None
    return torch.tensor([[fx * width, fx * width, width / 2, height / 2]]), (height, width)


def nerfstudio_content(cameras: Cameras, pictures: list[str]) -> dict:
    """A nerfstudio `transforms.json` of cameras and their pictures' files; intrinsics once if all frames share them."""
    rows = [dict(zip(("fl_x", "fl_y", "cx", "cy"), row)) for row in cameras.intrinsics.double().tolist()]
    shared = rows[0] if all(row == rows[0] for row in rows) else {}
    frames = [
        {"file_path": picture, **({} if shared else row), "transform_matrix": matrix}
        for picture, row, matrix in zip(pictures, rows, (cameras.c2w.double() @ OPENGL).tolist(), strict=True)
    ]
    height, width = cameras.size
    return {"camera_model": "OPENCV", "w": width, "h": height, **shared, "frames": frames}
