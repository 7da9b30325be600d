"""Files: safetensors with a versioned header, PLY, and Open3D's point cloud. Nothing is pickled."""

from __future__ import annotations

import json
import os
from pathlib import Path
from tempfile import mkstemp

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

VERSION = "1"


def write_aside(path: str | Path, data: bytes) -> None:
    """Write a file under a temporary name in its folder and rename it, so that a broken one never takes its name."""
    path = Path(path)
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{path}: the folder {path.parent} does not exist")
    handle, temporary = mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        os.chmod(temporary, 0o644)  # mkstemp's files are private
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def save_tensors(path: str | Path, kind: str, tensors: dict[str, Tensor], settings: dict) -> None:
    """Write tensors to a safetensors file whose header names its format `kind`, its version, and JSON settings."""
    header = {"format": kind, "version": VERSION}
    header |= {name: value if isinstance(value, str) else json.dumps(value) for name, value in settings.items()}
    write_aside(path, save({name: value.detach().cpu().contiguous() for name, value in tensors.items()}, header))


def load_tensors(path: str | Path, kind: str, names: tuple[str, ...]) -> tuple[dict[str, Tensor], dict]:
    """Read the tensors `names` and the settings of a file that `save_tensors` wrote. Tensors are mapped from the file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is truncated, not of this format and version, or lacks a tensor.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path}: no such file")
    try:
        with safe_open(path, framework="pt") as file:
            header, found = file.metadata() or {}, set(file.keys())
            if header.get("format") != kind or header.get("version") != VERSION:
                what = f"{header.get('format')!r}, version {header.get('version')!r}"
                raise ValueError(f"{path}: expected format {kind!r}, version {VERSION!r}, found {what}")
            if missing := set(names) - found:
                raise ValueError(f"{path}: lacks the tensors {', '.join(sorted(missing))}")
            tensors = {name: file.get_tensor(name) for name in names}
    except SafetensorError as error:
        raise ValueError(f"{path}: not a whole safetensors file, perhaps truncated ({error})") from None
    settings = {}
    for name, value in header.items():
        try:
            settings[name] = json.loads(value)
        except json.JSONDecodeError:
            settings[name] = value
    return tensors, {name: value for name, value in settings.items() if name not in ("format", "version")}


def colors_as_bytes(colors: Tensor, count: int) -> np.ndarray:
    """(count, 3) uint8 from colours in uint8 or in floats of 0..1."""
    colors = torch.as_tensor(colors).detach().cpu()
    if tuple(colors.shape) != (count, 3):
        raise ValueError(f"colors: expected ({count}, 3), one row a point, got {tuple(colors.shape)}")
    return (colors if colors.dtype == torch.uint8 else (colors.clamp(0, 1) * 255).round().byte()).numpy()


def save_ply(path: str | Path, positions: Tensor, colors: Tensor | None = None) -> None:
    """Write points (P, 3) as a binary little-endian PLY, with colours (P, 3) if given, uint8 or floats in 0..1."""
    kinds = [(axis, "<f4", "float") for axis in "xyz"]
    columns = list(positions.detach().cpu().float().numpy().T)
    if colors is not None:
        kinds += [(channel, "u1", "uchar") for channel in ("red", "green", "blue")]
        columns += list(colors_as_bytes(colors, len(positions)).T)
    rows = np.empty(len(positions), dtype=[(name, kind) for name, kind, _ in kinds])
    for (name, _, _), column in zip(kinds, columns):
        rows[name] = column
    header = ["ply", "format binary_little_endian 1.0", f"element vertex {len(rows)}"]
    header += [f"property {ply} {name}" for name, _, ply in kinds] + ["end_header", ""]
    write_aside(path, "\n".join(header).encode("ascii") + rows.tobytes())


def to_open3d(positions: Tensor, colors: Tensor | None = None):
    """An `open3d.geometry.PointCloud` of points (P, 3); needs open3d and its system libraries."""
    import open3d

    cloud = open3d.geometry.PointCloud()
    cloud.points = open3d.utility.Vector3dVector(positions.double().cpu().numpy())
    if colors is not None:
        cloud.colors = open3d.utility.Vector3dVector(colors_as_bytes(colors, len(positions)) / 255.0)
    return cloud
