"""Exports of a run for other tools: what a Gaussian splat, a mesher or another viewer can start from.

    nerfstudio/transforms.json, images/*.png, depths/*.png (millimetres, 16 bit), points.ply
    colmap/images/*.png, colmap/sparse/0/{cameras,images,points3D}.txt

Poses and depth are those of the run, in metres. Nothing is estimated again.
"""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from mirage_nb.cameras import Cameras
from mirage_nb.checks import one_of
from mirage_nb.formats.colmap import write_colmap
from mirage_nb.formats.nerfstudio import nerfstudio_content
from mirage_nb.memory.io import save_ply, write_aside

EXPORTS = ("nerfstudio", "colmap")
MAX_POINTS = 200_000  # about what a splat is started from; more make files large and change little
MAX_DEPTH = 65.535  # metres: what 16 bits of millimetres hold


def surface_points(frames: Tensor, depth: Tensor, cameras: Cameras, count: int = MAX_POINTS) -> tuple[Tensor, Tensor]:
    """At most `count` coloured world points of posed frames: (P, 3) metres and (P, 3) uint8.

    Pixels are taken at even steps over all frames, so the same call gives the same points.

    Args:
        frames: (N, H, W, 3) uint8. depth: (N, H, W) metres, 0 or non-finite = unknown. cameras: N of that size.
    """
    depth = torch.where(depth.isfinite() & (depth > 0), depth, 0.0)
    measured = depth.flatten().nonzero()[:, 0]
    if len(measured) > count:
        measured = measured[torch.linspace(0, len(measured) - 1, count).round().long()]
    return cameras.unproject(depth).reshape(-1, 3)[measured], frames.reshape(-1, 3)[measured]


def export_run(
    folder: str | Path, frames: Tensor, cameras: Cameras, depth: Tensor, formats: Sequence[str] = EXPORTS
) -> list[Path]:
    """Write the frames, poses, depth and surface of a run as training data of other tools.

    Args:
        folder: where; a folder for each format is made in it.
        frames: (T, H, W, 3) uint8, all of them.
        cameras: T cameras of the frames' size, metres.
        depth: (t, H, W) z-depth in metres of every s-th frame, T = s * (t - 1) + 1, as a run reports it; 0 = unknown.
        formats: names of EXPORTS.

    Returns:
        The folders.

    Raises:
        ValueError: an unknown format, or counts and sizes that do not fit. Raised before anything is written.
    """
    for name in formats:
        one_of("export", name, EXPORTS)
    frames, depth, cameras = frames.cpu(), depth.cpu().float(), cameras.to("cpu")
    count, expected = len(frames), (len(cameras), *cameras.size, 3)
    if tuple(frames.shape) != expected or frames.dtype != torch.uint8:
        raise ValueError(f"frames: expected {expected} uint8, got {tuple(frames.shape)} {frames.dtype}")
    if tuple(depth.shape[1:]) != cameras.size or (count - 1) % max(1, len(depth) - 1):
        raise ValueError(f"depth: expected (t, {cameras.size[0]}, {cameras.size[1]}) of every s-th of {count} frames")
    step = max(1, (count - 1) // max(1, len(depth) - 1))
    with_depth = list(range(0, count, step))[: len(depth)]
    points, colours = surface_points(frames[with_depth], depth, cameras[with_depth])
    names, folders = [f"frame_{index:05d}.png" for index in range(count)], [Path(folder) / name for name in formats]
    for target in folders:
        (target / "images").mkdir(parents=True, exist_ok=True)
        for name, frame in zip(names, frames.numpy()):
            write_aside(target / "images" / name, _png(frame))
        if target.name == "colmap":
            write_colmap(target / "sparse" / "0", cameras, names, points, colours)
        else:
            save_ply(target / "points.ply", points, colours)
            content = nerfstudio_content(cameras, [f"images/{name}" for name in names])
            content |= {"depth_unit_scale_factor": 1e-3, "ply_file_path": "points.ply"}
            for index, metres in zip(with_depth, depth):
                content["frames"][index]["depth_file_path"] = f"depths/{names[index]}"
                _write_depth(target / "depths" / names[index], metres)
            write_aside(target / "transforms.json", (json.dumps(content, indent=1) + "\n").encode())
    return folders


def _write_depth(path: Path, metres: Tensor) -> None:
    path.parent.mkdir(exist_ok=True)
    measured = metres.isfinite() & (metres > 0) & (metres <= MAX_DEPTH)
    write_aside(path, _png(torch.where(measured, metres * 1000, 0.0).round().numpy().astype(np.uint16)))


def _png(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(array).save(file, "PNG")
    return file.getvalue()
