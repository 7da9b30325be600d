"""Files: safetensors with a versioned header, PLY, and Open3D's point cloud. Nothing is pickled."""

import contextlib
import json
import warnings
from pathlib import Path

import numpy as np
import torch
from pydantic import Field
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from mirage_nb.files import Schema, Schema_, parse, regular_file, write_aside

VERSION = "1"
FLOATS = ("float16", "bfloat16", "float32", "float64")


class MemorySettings(Schema):
    """What the header of every memory's file holds."""

    stride: int | None = Field(ge=1, le=4096)
    channels: int | None = Field(ge=1, le=2**16)
    frames: int = Field(ge=0, lt=2**31)


def save_tensors(path: str | Path, kind: str, tensors: dict[str, Tensor], settings: dict) -> None:
    """Write tensors to a safetensors file whose header names its format `kind`, its version, and JSON settings.

    The same tensors and settings give the same bytes.
    """
    header = {"format": kind, "version": VERSION}
    header |= {name: value if isinstance(value, str) else json.dumps(value) for name, value in settings.items()}
    data = save({name: value.detach().cpu().contiguous() for name, value in tensors.items()}, header)
    end = 8 + int.from_bytes(data[:8], "little")
    # safetensors writes the settings in any order.
    ordered = json.dumps(json.loads(data[8:end]), sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    write_aside(path, data[:8], ordered.ljust(end - 8), memoryview(data)[end:])


def is_whole(path: Path) -> bool:
    """Whether a safetensors file is there. One that was cut, by a full disk, is dropped with a warning."""
    if not path.exists():
        return False
    try:
        with safe_open(regular_file(path), framework="pt"):
            return True
    except SafetensorError:
        warnings.warn(f"{path}: cut off, perhaps by a full disk; it is dropped, and what made it goes on", stacklevel=2)
        path.unlink()
        return False


def load_tensors(
    path: str | Path, kind: str, layout: dict[str, str], schema: type[Schema_] = Schema
) -> tuple[dict[str, Tensor], Schema_]:
    """Read the tensors of a layout and the settings of a file that `save_tensors` wrote, mapped from the file.

    Args:
        layout: dtype and shape by name, as `{"positions": "float32 P 3"}`. A letter stands for one size in the whole
            file, `float` for one of `FLOATS`, and only `~float` may be NaN or infinite.
        schema: of the settings.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is truncated, not of this format and version, lacks a tensor, or does not fit layout and schema.
    """
    try:
        with safe_open(regular_file(path), framework="pt") as file:
            header, found = file.metadata() or {}, set(file.keys())
            if header.get("format") != kind or header.get("version") != VERSION:
                what = f"{header.get('format')!r}, version {header.get('version')!r}"
                raise ValueError(f"{path}: expected format {kind!r}, version {VERSION!r}, found {what}")
            if missing := set(layout) - found:
                raise ValueError(f"{path}: lacks the tensors {', '.join(sorted(missing))}")
            tensors = {name: file.get_tensor(name) for name in layout}
    except SafetensorError as error:
        raise ValueError(f"{path}: not a whole safetensors file, perhaps truncated ({error})") from None
    sizes = {}
    for name, tensor in tensors.items():
        _check_layout(f"{path}: {name}", tensor, layout[name], sizes)
    settings = {name: _from_json(value) for name, value in header.items()}
    return tensors, parse(schema, settings, f"{path}: broken header")


def _check_layout(where: str, tensor: Tensor, layout: str, sizes: dict[str, int]) -> None:
    """Raise ValueError unless a tensor fits its layout; `sizes` gets the letters' values."""
    (kind, *letters), dtype = layout.split(), str(tensor.dtype).removeprefix("torch.")
    shape, plain = tuple(tensor.shape), kind.lstrip("~")
    if len(letters) == len(shape):
        letters = [int(side) if side.isdigit() else sizes.setdefault(side, n) for side, n in zip(letters, shape)]
    if tuple(letters) != shape or dtype not in (FLOATS if plain == "float" else (plain,)):
        raise ValueError(f"{where}: expected {plain} ({', '.join(map(str, letters))}), got {dtype} {shape}")
    if plain == kind and not tensor.isfinite().all():
        raise ValueError(f"{where}: expected finite numbers, found NaN or infinity")


def _from_json(value: str):
    """JSON, or the words themselves where they are none."""
    with contextlib.suppress(ValueError, RecursionError):
        return json.loads(value)
    return value


def colors_as_bytes(colors: Tensor, count: int) -> np.ndarray:
    """(count, 3) uint8 from colours in uint8 or in floats of 0..1."""
    colors = torch.as_tensor(colors).detach().cpu()
    if tuple(colors.shape) != (count, 3):
        raise ValueError(f"colors: expected ({count}, 3), one row a point, got {tuple(colors.shape)}")
    return (colors if colors.dtype == torch.uint8 else (colors.clamp(0, 1) * 255).round().byte()).numpy()


def save_ply(path: str | Path, positions: Tensor, colors: Tensor | None = None) -> None:
    """Write points (P, 3) as a binary little-endian PLY, with colours (P, 3) if given, uint8 or floats in 0..1."""
    kinds, columns = ["float x", "float y", "float z"], list(positions.detach().cpu().numpy().astype("<f4").T)
    if colors is not None:
        kinds += ["uchar red", "uchar green", "uchar blue"]
        columns += list(colors_as_bytes(colors, len(positions)).T)
    rows = np.rec.fromarrays(columns)
    header = ["ply", "format binary_little_endian 1.0", f"element vertex {len(rows)}"]
    header += [f"property {kind}" for kind in kinds] + ["end_header", ""]
    write_aside(path, "\n".join(header).encode("ascii") + rows.tobytes())


def to_open3d(positions: Tensor, colors: Tensor | None = None):
    """An `open3d.geometry.PointCloud` of points (P, 3); needs open3d and its system libraries."""
    import open3d

    cloud = open3d.geometry.PointCloud()
    cloud.points = open3d.utility.Vector3dVector(positions.cpu().double().numpy())
    if colors is not None:
        cloud.colors = open3d.utility.Vector3dVector(colors_as_bytes(colors, len(positions)) / 255.0)
    return cloud
