"""Readers of trajectories that are not lines of text: JSON (nerfstudio, Blender, WorldScore) and NumPy archives.

`trajectory_files` has the table of formats and is what one calls.
"""

from __future__ import annotations

import json
import math
import warnings
import zipfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

# Between OpenCV's camera axes and those of OpenGL and Blender (y up, z back), either way.
OPENGL = torch.diag(torch.tensor([1.0, -1.0, -1.0, 1.0], dtype=torch.float64))
_DISTORTION = ("k1", "k2", "k3", "k4", "p1", "p2")


class Recorded(NamedTuple):
    """What a file holds: c2w (T, 4, 4), intrinsics (T, 4) and the (height, width) that they are given for.

    Normalised intrinsics are those of an image of size (1, 1), so every file scales to an image by one rule.
    """

    c2w: Tensor
    intrinsics: Tensor | None = None
    size: tuple[int, int] | None = None


def inverse(w2c: Tensor) -> Tensor:
    """c2w (T, 4, 4) of w2c (T, 3, 4), for rigid matrices."""
    c2w = torch.eye(4, dtype=w2c.dtype).repeat(len(w2c), 1, 1)
    c2w[:, :3, :3] = w2c[:, :, :3].mT
    c2w[:, :3, 3:] = -w2c[:, :, :3].mT @ w2c[:, :, 3:]
    return c2w


def warn_distortion(path: Path) -> None:
    warnings.warn(f"{path}: lens distortion is ignored; undistort the images if it matters", stacklevel=4)


def _matrices(name: str, value) -> Tensor:
    """(T, 4, 4) float64 of a list of matrices 4x4 or 3x4."""
    try:
        matrices = torch.as_tensor(np.asarray(value, dtype=np.float64))
    except (TypeError, ValueError):
        raise ValueError(f"{name}: expected matrices of one shape") from None
    if matrices.ndim == 3 and matrices.shape[1:] == (3, 4):
        bottom = torch.tensor([0.0, 0, 0, 1], dtype=torch.float64).expand(len(matrices), 1, 4)
        matrices = torch.cat([matrices, bottom], 1)
    if matrices.ndim != 3 or matrices.shape[1:] != (4, 4):
        raise ValueError(f"{name}: expected (T, 4, 4) matrices, got {tuple(matrices.shape)}")
    return matrices


def read_json(path: Path) -> Recorded:
    """`transforms.json` of nerfstudio and of Blender's NeRF scenes, or WorldScore's `camera_data.json`."""
    folder_files = (path / "transforms.json", path / "transforms_train.json", path / "camera_data.json")
    file = next((f for f in folder_files if f.is_file()), path)
    content = json.loads(file.read_text())
    if "cameras_interp" in content or ("cameras" in content and "frames" not in content):
        return _worldscore(content)
    frames = content["frames"]
    if any(content.get(k) or any(frame.get(k) for frame in frames) for k in _DISTORTION):
        warn_distortion(file)
    matrices = torch.tensor([frame["transform_matrix"] for frame in frames], dtype=torch.float64)
    if matrices.shape != (len(frames), 4, 4) or not frames:
        raise ValueError(f"expected a list of frames, each with a 4x4 transform_matrix, got {tuple(matrices.shape)}")
    c2w = matrices @ OPENGL
    if not any("fl_x" in holder for holder in [content, *frames]):
        return Recorded(c2w, *_blender_lens(content, file, len(frames)))
    merged = [{**content, **frame} for frame in frames]
    rows = [[m["fl_x"], m.get("fl_y", m["fl_x"]), m.get("cx", m["w"] / 2), m.get("cy", m["h"] / 2)] for m in merged]
    sizes = {(int(m["h"]), int(m["w"])) for m in merged}
    if len(sizes) > 1:
        raise ValueError(f"expected frames of one size, got {sorted(sizes)}")
    return Recorded(c2w, torch.tensor(rows, dtype=torch.float64), sizes.pop())


def _blender_lens(content: dict, file: Path, count: int) -> tuple[Tensor | None, tuple[int, int] | None]:
    """Blender's NeRF scenes state an angle of view; the pixels are square, and the picture tells the rest."""
    if "camera_angle_x" not in content:
        return None, None
    half = 0.5 / math.tan(content["camera_angle_x"] / 2)  # focal length over width
    if "camera_angle_y" in content:
        row, size = [half, 0.5 / math.tan(content["camera_angle_y"] / 2), 0.5, 0.5], (1, 1)
    else:
        size = (int(content["h"]), int(content["w"])) if "w" in content and "h" in content else None
        size = size or _picture_size(file.parent / content["frames"][0].get("file_path", ""))
        if size is None:
            return None, None
        row = [half * size[1], half * size[1], size[1] / 2, size[0] / 2]
    return torch.tensor([row], dtype=torch.float64).expand(count, 4), size


def _picture_size(path: Path) -> tuple[int, int] | None:
    from PIL import Image

    for file in (path, path.with_name(path.name + ".png")):  # Blender's scenes leave the ending out
        if file.is_file():
            with Image.open(file) as image:
                return image.height, image.width
    return None


def _worldscore(content: dict) -> Recorded:
    """c2w with Blender's axes, the way between key frames included. Its focal length is in pixels of a picture whose
    size depends on the model that is scored, so it can't be used."""
    return Recorded(_matrices("cameras_interp", content.get("cameras_interp") or content["cameras"]) @ OPENGL)


class Geometry(NamedTuple):
    """A NumPy archive of a reconstruction: `Recorded`, and z-depth (T, H, W) in metres if it has one."""

    recorded: Recorded
    depth: Tensor | None


# What arrays are called in the archives that reconstruction code writes: MapAnything's names first; the paper's
# released code has poses_c2w, intrinsics, depths and masks (true where the depth counts, empty if there are none).
_C2W, _W2C = ("camera_poses", "c2w", "cam2world", "poses_c2w"), ("w2c", "extrinsics", "extrinsic", "poses_w2c")
_K, _DEPTH, _MASK = ("intrinsics", "intrinsic", "K"), ("depth_z", "depth", "depths"), ("masks",)


def read_geometry(path: str | Path) -> Geometry:
    """An `.npz` of poses (c2w, or w2c by their name, OpenCV axes), 3x3 intrinsics and, perhaps, z-depth.

    MapAnything, and the paper's released code with it, count pixel centres as integers: intrinsics in pixels are moved
    to ours. That code reconstructs a long video in parts and aligns them by similarities, so the c2w of later frames
    may be scaled. Such a scale goes into the frame's depth, which leaves every point where it was. Depth that a mask
    rules out is 0, unknown. Nothing pickled is ever loaded.

    Raises:
        ValueError: no archive, pickled objects, no poses, or shapes that do not fit.
    """
    path = Path(path)
    try:
        with np.load(path, allow_pickle=False) as archive:
            names = list(archive.files)

            def first(known: tuple[str, ...]) -> np.ndarray | None:
                name = next((name for name in known if name in names), None)
                return None if name is None else archive[name]

            poses, inverted = first(_C2W), first(_W2C)
            k, depth, mask = first(_K), first(_DEPTH), first(_MASK)
    except (ValueError, zipfile.BadZipFile, EOFError, OSError) as error:
        if "allow_pickle" in str(error):
            raise ValueError("it holds pickled objects, which run code when they are read; save plain arrays") from None
        raise ValueError(f"not a whole NumPy archive ({error})") from None
    if poses is None and inverted is None:
        raise ValueError(f"it holds none of {', '.join(_C2W + _W2C)}, but {', '.join(names) or 'nothing'}")
    c2w = _matrices("poses", poses) if poses is not None else inverse(_matrices("w2c", inverted)[:, :3])
    scale = torch.linalg.det(c2w[:, :3, :3]).clamp(min=0) ** (1 / 3)
    if poses is not None and ((scale - 1).abs() > 1e-4).any() and scale.isfinite().all() and (scale > 0).all():
        c2w[:, :3, :3] /= scale[:, None, None]  # what is still not rigid is told by the caller
    else:
        scale = torch.ones(len(c2w))
    size = None
    if depth is not None:
        depth = torch.as_tensor(np.asarray(depth, dtype=np.float32))
        depth = depth[..., 0] if depth.ndim == 4 and depth.shape[-1] == 1 else depth
        if depth.ndim != 3 or len(depth) != len(c2w):
            raise ValueError(f"depth: expected ({len(c2w)}, H, W), got {tuple(depth.shape)}")
        size = tuple(depth.shape[1:])
        depth = depth * scale.to(depth.dtype)[:, None, None]
        if mask is not None and mask.size:
            if mask.shape != tuple(depth.shape):
                raise ValueError(f"masks: expected {tuple(depth.shape)}, got {mask.shape}")
            depth = torch.where(torch.as_tensor(mask.astype(bool)), depth, 0.0)
    if k is None:
        return Geometry(Recorded(c2w), depth)
    k = torch.as_tensor(np.asarray(k, dtype=np.float64))
    k = k.expand(len(c2w), 3, 3) if k.shape == (3, 3) else k
    if k.shape != (len(c2w), 3, 3):
        raise ValueError(f"intrinsics: expected ({len(c2w)}, 3, 3), got {tuple(k.shape)}")
    rows = torch.stack([k[:, 0, 0], k[:, 1, 1], k[:, 0, 2], k[:, 1, 2]], 1)
    if size is None and (rows[:, 2:] < 1).all():
        size = (1, 1)  # normalised
    else:
        rows[:, 2:] += 0.5
    return Geometry(Recorded(c2w, rows, size), depth)
