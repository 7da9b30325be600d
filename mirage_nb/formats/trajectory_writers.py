"""Camera trajectories written for other tools; `trajectory_files` reads every one of them back."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from mirage_nb.cameras import Cameras
from mirage_nb.formats.colmap import matrix_to_quaternion, write_colmap
from mirage_nb.formats.trajectory_formats import OPENGL
from mirage_nb.memory.io import write_aside

FRAME = "frame_{:05d}.png"


def save_trajectory(path: str | Path, cameras: Cameras, format: str = "nerfstudio") -> Path:
    """Write cameras (metres, OpenCV axes, c2w) in a format of other tools (see `trajectory_files`).

    Args:
        path: the file to write (`colmap`: the folder). What is there is replaced, in one step.
        cameras: any batch.
        format: "nerfstudio", "realestate10k", "tum" (no intrinsics), "spatia" (with `intrinsics.txt` beside it),
            "colmap", "worldscore" (no intrinsics) or "geometry" (an .npz of plain arrays).

    Raises:
        ValueError: an unknown format; FileNotFoundError: the folder to write to does not exist.
    """
    if format not in WRITERS:
        raise ValueError(f"format: expected one of {', '.join(WRITERS)}, got {format!r}")
    path = Path(path)
    WRITERS[format](path, cameras.to("cpu"))
    return path


def nerfstudio_content(cameras: Cameras, names: list[str] | None = None) -> dict:
    """A nerfstudio `transforms.json` (OpenGL axes, c2w); intrinsics once if all frames share them."""
    keys = ("fl_x", "fl_y", "cx", "cy")
    rows = [dict(zip(keys, row, strict=True)) for row in cameras.intrinsics.double().tolist()]
    shared = rows[0] if all(row == rows[0] for row in rows) else {}
    frames = [
        {
            "file_path": FRAME.format(i) if names is None else names[i],
            **({} if shared else rows[i]),
            "transform_matrix": matrix,
        }
        for i, matrix in enumerate((cameras.c2w.cpu().double() @ OPENGL).tolist())
    ]
    height, width = cameras.size
    return {"camera_model": "OPENCV", "w": width, "h": height, **shared, "frames": frames}


def _nerfstudio(path: Path, cameras: Cameras) -> None:
    write_aside(path, (json.dumps(nerfstudio_content(cameras), indent=1) + "\n").encode())


def _words(numbers) -> str:
    return " ".join(repr(float(number)) for number in numbers)


def _normalised(cameras: Cameras) -> torch.Tensor:
    height, width = cameras.size
    return cameras.intrinsics.double() / torch.tensor([width, height, width, height], dtype=torch.float64)


def _realestate10k(path: Path, cameras: Cameras) -> None:
    poses = cameras.w2c.double()[:, :3].flatten(1)
    lines = ["https://example.org/"]  # the format's first line is a video's address
    for index, (lens, pose) in enumerate(zip(_normalised(cameras), poses)):
        lines.append(f"{index * 33333} {_words(lens)} 0 0 {_words(pose)}")  # microseconds
    write_aside(path, ("\n".join(lines) + "\n").encode())


def _tum(path: Path, cameras: Cameras) -> None:
    q = matrix_to_quaternion(cameras.c2w[:, :3, :3])
    rows = torch.cat([cameras.centers.double(), q[:, 1:], q[:, :1]], 1)
    lines = ["# timestamp tx ty tz qx qy qz qw"] + [f"{i / 30:.6f} {_words(row)}" for i, row in enumerate(rows)]
    write_aside(path, ("\n".join(lines) + "\n").encode())


def _spatia(path: Path, cameras: Cameras) -> None:
    lens = _normalised(cameras)
    if not (lens == lens[0]).all():
        raise ValueError("intrinsics: spatia's format has one lens for all frames")
    write_aside(path, ("\n".join(json.dumps(matrix) for matrix in cameras.w2c.double().tolist()) + "\n").encode())
    fx, fy, cx, cy = lens[0].tolist()
    write_aside(path.with_name("intrinsics.txt"), f"[{fx} {fy} {cx} {cy}]\n".encode())


def _colmap(path: Path, cameras: Cameras) -> None:
    write_colmap(path, cameras, [FRAME.format(i) for i in range(len(cameras))])


def _worldscore(path: Path, cameras: Cameras) -> None:
    matrices = (cameras.c2w.double() @ OPENGL).tolist()
    content = {"focal_length": cameras.intrinsics[0, 0].item(), "scale": 1.0, "cameras_interp": matrices}
    content["cameras"] = [matrices[0], matrices[-1]]
    write_aside(path, (json.dumps(content, indent=1) + "\n").encode())


def _geometry(path: Path, cameras: Cameras) -> None:
    import io

    fx, fy, cx, cy = cameras.intrinsics.double().unbind(1)
    zero, one = torch.zeros_like(fx), torch.ones_like(fx)
    # As in MapAnything, whose pixel centres are integers.
    k = torch.stack([fx, zero, cx - 0.5, zero, fy, cy - 0.5, zero, zero, one], 1).reshape(-1, 3, 3)
    file = io.BytesIO()
    np.savez(file, camera_poses=cameras.c2w.numpy(), intrinsics=k.numpy())
    write_aside(path, file.getvalue())


WRITERS: dict[str, Callable[[Path, Cameras], None]] = {
    "nerfstudio": _nerfstudio, "realestate10k": _realestate10k, "tum": _tum, "spatia": _spatia, "colmap": _colmap,
    "worldscore": _worldscore, "geometry": _geometry,
}  # fmt: skip
