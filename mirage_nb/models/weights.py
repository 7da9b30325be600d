"""How big a model's weights are before they are loaded, and what memory there is: only headers are read."""

from __future__ import annotations

import json
import math
import os
import struct
from pathlib import Path

import torch

GIB = 1 << 30  # as nvidia-smi counts


def read_header(file: str | Path) -> dict[str, dict]:
    """`{name: {"dtype": ..., "shape": [...]}}` of a safetensors file, without reading its tensors.

    Raises:
        ValueError: it is no whole safetensors file.
    """
    file = Path(file)
    with file.open("rb") as stream:
        start = stream.read(8)
        size = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
        if not 2 <= size <= min(100 << 20, file.stat().st_size - 8):
            raise ValueError(f"{file}: not a whole safetensors file, perhaps truncated")
        header = json.loads(stream.read(size))
    return {name: entry for name, entry in header.items() if name != "__metadata__"}


def folder_parts(folder: str | Path) -> dict[str, int]:
    """How many numbers each component's weights of a pipeline's folder hold."""
    counts = {}
    for part in sorted(p for p in Path(folder).iterdir() if p.is_dir()):
        entries = [entry for file in part.glob("*.safetensors") for entry in read_header(file).values()]
        if entries:
            counts[part.name] = sum(math.prod(entry["shape"]) for entry in entries)
    return counts


def folder_bytes(folder: str | Path, dtype: torch.dtype) -> int:
    """Bytes of a Wan pipeline's folder once it is loaded, the memory branch (half the transformer again) included."""
    counts = folder_parts(folder)
    sizes = {name: count * (4 if name == "vae" else dtype.itemsize) for name, count in counts.items()}
    return sum(sizes.values()) + sizes.get("transformer", 0) // 2


def free_memory() -> int:
    """Bytes of main memory that can be had now; the limit of a container counts."""
    free = math.inf
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
        limit = Path("/sys/fs/cgroup/memory.max").read_text().strip()
        if limit.isdigit():
            used = int(Path("/sys/fs/cgroup/memory.current").read_text())
            free = min(free, max(0, int(limit) - used))
    except (OSError, StopIteration, ValueError):
        if free is math.inf and hasattr(os, "sysconf") and "SC_AVPHYS_PAGES" in os.sysconf_names:
            free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return int(free) if free is not math.inf else 1 << 62  # unknown: nothing is forbidden
