"""Exports of a walk for other tools: what a Gaussian splat, a mesher or another viewer can start from.

    nerfstudio/transforms.json, images/*.png, depths/*.png (millimetres, 16 bit), points.ply
    colmap/images/*.png, colmap/sparse/0/{cameras,images,points3D}.{txt,bin}

Poses and depth are those of the run: metres, the world of the memory. Nothing is estimated again.
"""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from mirage_nb.cameras import Cameras
from mirage_nb.formats.colmap import write_colmap
from mirage_nb.formats.trajectory_writers import FRAME, nerfstudio_content
from mirage_nb.memory.io import write_aside

FORMATS = ("nerfstudio", "colmap")
POINTS = 200_000  # what a splat is usually started from, at most
FARTHEST = 65.535  # metres that 16 bits of millimetres hold


def _png(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(array).save(file, "PNG")
    return file.getvalue()


def surface_points(frames: Tensor, depth: Tensor, cameras: Cameras, count: int = POINTS) -> tuple[Tensor, Tensor]:
    """At most `count` coloured world points of posed frames: (P, 3) metres and (P, 3) uint8.

    Pixels are taken at even steps over all frames, so the same call gives the same points.

    Args:
        frames: (N, H, W, 3) uint8. depth: (N, H, W) metres, 0 or non-finite = unknown. cameras: N of that size.
    """
    known = (torch.isfinite(depth) & (depth > 0)).flatten().nonzero()[:, 0]
    chosen = known[torch.linspace(0, len(known) - 1, min(count, len(known))).round().long()] if len(known) else known
    points = cameras.unproject(torch.where(torch.isfinite(depth), depth, 0.0)).reshape(-1, 3)
    return points[chosen], frames.reshape(-1, 3)[chosen]


def export_run(
    folder: str | Path, frames: Tensor, cameras: Cameras, depth: Tensor, formats: tuple[str, ...] = FORMATS,
    binary: bool = True,
) -> list[Path]:  # fmt: skip
    """Write a walk's frames, poses, depth and surface as training data of other tools.

    Args:
        folder: where; a folder for each format is made in it.
        frames: (T, H, W, 3) uint8, all of them.
        cameras: T cameras of the frames' size, metres.
        depth: (t, H, W) z-depth in metres of every s-th frame, T = s * (t - 1) + 1, as a run reports it; 0 = unknown.
        formats: of FORMATS.
        binary: COLMAP's files in binary instead of text.

    Returns:
        The folders.

    Raises:
        ValueError: an unknown format, or counts and sizes that do not fit. Raised before anything is written.
    """
    for name in formats:
        if name not in FORMATS:
            raise ValueError(f"export: expected one of {', '.join(FORMATS)}, got {name!r}")
    frames, depth, cameras = frames.cpu(), depth.cpu().float(), cameras.to("cpu")
    count = len(frames)
    if tuple(frames.shape) != (count, *cameras.size, 3) or frames.dtype != torch.uint8 or len(cameras) != count:
        expected = (len(cameras), *cameras.size, 3)
        raise ValueError(f"frames: expected {expected} uint8, got {tuple(frames.shape)} {frames.dtype}")
    if depth.ndim != 3 or tuple(depth.shape[1:]) != cameras.size or (count - 1) % max(1, len(depth) - 1):
        raise ValueError(f"depth: expected (t, {cameras.size[0]}, {cameras.size[1]}) of every s-th of {count} frames")
    step = (count - 1) // max(1, len(depth) - 1) if count > 1 else 1
    with_depth = list(range(0, count, step))[: len(depth)]
    points, colours = surface_points(frames[with_depth], depth, cameras[with_depth])
    made = []
    for name in formats:
        place = Path(folder) / name
        (place / "images").mkdir(parents=True, exist_ok=True)
        for index, frame in enumerate(frames.numpy()):
            write_aside(place / "images" / FRAME.format(index), _png(frame))
        if name == "colmap":
            names = [FRAME.format(index) for index in range(count)]
            write_colmap(place / "sparse" / "0", cameras, names, points, colours, binary)
        else:
            _nerfstudio(place, cameras, dict(zip(with_depth, depth)), points, colours)
        made.append(place)
    return made


def _nerfstudio(place: Path, cameras: Cameras, depth: dict[int, Tensor], points: Tensor, colours: Tensor) -> None:
    content = nerfstudio_content(cameras, [f"images/{FRAME.format(index)}" for index in range(len(cameras))])
    (place / "depths").mkdir(exist_ok=True)
    for index, metres in depth.items():
        known = torch.isfinite(metres) & (metres > 0) & (metres <= FARTHEST)
        millimetres = torch.where(known, metres * 1000, 0.0).round().numpy().astype(np.uint16)
        write_aside(place / "depths" / FRAME.format(index), _png(millimetres))
        content["frames"][index]["depth_file_path"] = f"depths/{FRAME.format(index)}"
    content |= {"depth_unit_scale_factor": 1e-3, "ply_file_path": "points.ply"}
    write_aside(place / "points.ply", ply(points, colours))
    write_aside(place / "transforms.json", (json.dumps(content, indent=1) + "\n").encode())


def ply(points: Tensor, colours: Tensor) -> bytes:
    """A binary PLY of points (P, 3) in metres with colours (P, 3) uint8."""
    fields = [("x", "<f4"), ("y", "<f4"), ("z", "<f4"), ("red", "u1"), ("green", "u1"), ("blue", "u1")]
    table = np.zeros(len(points), fields)
    for (name, _), column in zip(fields, [*points.T.numpy(), *colours.T.numpy()]):
        table[name] = column
    kinds = {"<f4": "float", "u1": "uchar"}
    header = ["ply", "format binary_little_endian 1.0", "comment metres, the world of the memory"]
    header += [f"element vertex {len(points)}", *(f"property {kinds[kind]} {name}" for name, kind in fields)]
    return ("\n".join([*header, "end_header"]) + "\n").encode() + table.tobytes()
