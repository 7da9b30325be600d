"""Exports of a run for other tools: what a Gaussian splat, a mesher or another viewer can start from.

nerfstudio/transforms.json, images/*.png, depths/*.png (millimetres, 16 bit), points.ply
colmap/images/*.png, colmap/sparse/0/{cameras,images,points3D}.txt
"""

import io
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from scipy.spatial.transform import Rotation
from torch import Tensor

from mirage_nb.cameras import Cameras
from mirage_nb.checks import one_of
from mirage_nb.formats.trajectory import OPENGL, invert
from mirage_nb.memory.io import save_ply, write_aside

EXPORTS = ("nerfstudio", "colmap")
FRAME = "frame_{:05d}.png"
MAX_POINTS = 200_000  # about what a splat is started from; more make files large and change little
MAX_DEPTH = 65.535  # metres: what 16 bits of millimetres hold


def export_run(
    folder: str | Path, frames: Tensor, cameras: Cameras, depth: Tensor, formats: Sequence[str] = EXPORTS
) -> list[Path]:
    """Write the frames, poses, depth and surface of a run as training data of other tools; returns their folders.

    Args:
        folder: gets a folder for each of the formats.
        frames: (T, H, W, 3) uint8.
        cameras: T cameras of the frames' size, metres.
        depth: (t, H, W) z-depth in metres of every s-th frame, T = s * (t - 1) + 1, as a run reports it; 0 = unknown.
        formats: names of EXPORTS.
    """
    frames, depth, cameras = frames.cpu(), depth.cpu().float(), cameras.to("cpu")
    count, expected = len(frames), (len(cameras), *cameras.size, 3)
    if tuple(frames.shape) != expected or frames.dtype != torch.uint8:
        raise ValueError(f"frames: expected {expected} uint8, got {tuple(frames.shape)} {frames.dtype}")
    if tuple(depth.shape[1:]) != cameras.size or (count - 1) % max(1, len(depth) - 1):
        raise ValueError(f"depth: expected (t, {cameras.size[0]}, {cameras.size[1]}) of every s-th of {count} frames")
    with_depth = torch.linspace(0, count - 1, len(depth)).round().int().tolist()
    points = surface_points(frames[with_depth], depth, cameras[with_depth])
    folders = [Path(folder) / one_of("export", name, EXPORTS) for name in formats]
    for target in folders:
        (target / "images").mkdir(parents=True, exist_ok=True)
        for index, frame in enumerate(frames.numpy()):
            _write_png(target / "images" / FRAME.format(index), frame)
        if target.name == "colmap":
            _write_colmap(target / "sparse" / "0", cameras, *points)
        else:
            save_ply(target / "points.ply", *points)
            _write_nerfstudio(target, cameras, dict(zip(with_depth, depth)))
    return folders


def surface_points(frames: Tensor, depth: Tensor, cameras: Cameras, count: int = MAX_POINTS) -> tuple[Tensor, Tensor]:
    """At most `count` world points (P, 3) of frames (N, H, W, 3) with depth (N, H, W), and their colours (P, 3) uint8,
    at even steps over all pixels."""
    depth = torch.where(depth.isfinite() & (depth > 0), depth, 0.0)
    measured = depth.flatten().nonzero()[:, 0]
    if len(measured) > count:
        measured = measured[torch.linspace(0, len(measured) - 1, count).round().long()]
    return cameras.unproject(depth).reshape(-1, 3)[measured], frames.reshape(-1, 3)[measured]


def _write_nerfstudio(folder: Path, cameras: Cameras, depth: dict[int, Tensor]) -> None:
    (folder / "depths").mkdir(exist_ok=True)
    (height, width), frames = cameras.size, []
    matrices, lenses = (cameras.c2w.double() @ OPENGL).tolist(), cameras.intrinsics.double().tolist()
    for index, (matrix, lens) in enumerate(zip(matrices, lenses)):
        name = FRAME.format(index)
        frame = {"file_path": f"images/{name}", **dict(zip(("fl_x", "fl_y", "cx", "cy"), lens))}
        if index in depth:
            metres = torch.where(depth[index].isfinite() & (depth[index] <= MAX_DEPTH), depth[index], 0.0).clamp(min=0)
            _write_png(folder / "depths" / name, (metres * 1000).round().numpy().astype(np.uint16))
            frame["depth_file_path"] = f"depths/{name}"
        frames.append({**frame, "transform_matrix": matrix})
    content = {"camera_model": "OPENCV", "w": width, "h": height, "depth_unit_scale_factor": 1e-3}
    content |= {"ply_file_path": "points.ply", "frames": frames}
    write_aside(folder / "transforms.json", (json.dumps(content, indent=1) + "\n").encode())


def _write_colmap(folder: Path, cameras: Cameras, points: Tensor, colours: Tensor) -> None:
    """Text: a PINHOLE camera for each lens, poses, and points."""
    folder.mkdir(parents=True, exist_ok=True)
    lenses, lens_of = cameras.intrinsics.double().unique(dim=0, return_inverse=True)
    w2c, (height, width) = invert(cameras.c2w.double()), cameras.size
    quaternions = torch.from_numpy(Rotation.from_matrix(w2c[:, :3, :3].numpy()).as_quat())  # x y z w
    poses = torch.cat([quaternions[:, [3, 0, 1, 2]], w2c[:, :3, 3]], 1)
    files = {
        "cameras": [f"{i} PINHOLE {width} {height} {_words(lens)}" for i, lens in enumerate(lenses, 1)],
        "images": [f"{i + 1} {_words(poses[i])} {lens_of[i] + 1} {FRAME.format(i)}\n" for i in range(len(poses))],
        "points3D": [f"{i} {_words(xyz)} {_words(rgb)} 0" for i, (xyz, rgb) in enumerate(zip(points, colours), 1)],
    }
    for name, lines in files.items():
        write_aside(folder / f"{name}.txt", "".join(line + "\n" for line in lines).encode())


def _words(numbers) -> str:
    """Numbers as text, each in the shortest form that reads back as the same number."""
    return " ".join(map(repr, numbers.tolist()))


def _write_png(path: Path, array: np.ndarray) -> None:
    file = io.BytesIO()
    Image.fromarray(array).save(file, "PNG")
    write_aside(path, file.getvalue())
