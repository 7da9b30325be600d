"""`mirage-nb doctor`: what this machine can run, what is missing, and what to do about it."""

from __future__ import annotations

import ctypes.util
import os
import platform
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import torch
from huggingface_hub import try_to_load_from_cache

import mirage_nb
from mirage_nb.checks import check_model_folder
from mirage_nb.models.full_size import GIB, folder_parts, free_memory, memory_plan
from mirage_nb.models.photo_depth import DEPTH_ANYTHING
from mirage_nb.models.presets import bundled_model
from mirage_nb.models.wan import WAN, is_wan_folder

# What Open3D's library is linked to, and the Debian package of each (apt.txt).
OPEN3D_LIBRARIES = {"GL": "libgl1", "gomp": "libgomp1", "usb-1.0": "libusb-1.0-0", "X11": "libx11-6"}
BUNDLED_BYTES = 2 * GIB  # main memory for the bundled model


class Finding(NamedTuple):
    """One thing that was examined. ok: None if it only matters to the full-size model. do: the remedy."""

    name: str
    ok: bool | None
    says: str
    do: str = ""


def _gib(size: float) -> str:
    return f"{size / GIB:.1f} GiB"


def _software() -> Finding:
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "diffusers", "transformers", "av"))
    return Finding(
        "software", True, f"mirage_nb {mirage_nb.__version__}, Python {platform.python_version()}, {versions}"
    )


def _gpu() -> tuple[Finding, int]:
    """The finding, and the free memory in bytes."""
    if not torch.cuda.is_available():
        do = "the bundled model needs none; wan2.2 wants one, and a build of torch that knows it"
        return Finding("GPU", None, f"none that torch {torch.__version__} can use", do), 0
    free, total = torch.cuda.mem_get_info()
    says = f"{torch.cuda.get_device_name(0)}, {_gib(free)} of {_gib(total)} free"
    slow = not torch.cuda.is_bf16_supported(including_emulation=False)
    return Finding("GPU", None if slow else True, says, "slow at bfloat16; an Ampere GPU is faster" * slow), free


def _memory() -> tuple[Finding, int]:
    """The finding, and the free memory in bytes."""
    free = free_memory()
    do = "" if free >= BUNDLED_BYTES else "close other programs"
    return Finding("main memory", free >= BUNDLED_BYTES, f"{_gib(free)} free, {os.cpu_count()} cores", do), free


def _bundled() -> Finding:
    try:
        check_model_folder(bundled_model())
    except (FileNotFoundError, ValueError) as error:
        return Finding("bundled model", False, str(error), "check the folder data/mirage-tiny out again")
    count = sum(folder_parts(bundled_model()).values())
    return Finding("bundled model", True, f"whole, {count / 1e6:.1f} million parameters")


def _open3d() -> Finding:
    # In a process of its own: without its libraries the import may end the process.
    command = [sys.executable, "-c", "import open3d; print(open3d.__version__)"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    last = ((done.stdout if done.returncode == 0 else done.stderr).strip().splitlines() or ["no reason given"])[-1]
    if done.returncode == 0:
        return Finding("open3d", True, f"open3d {last}")
    missing = [package for name, package in OPEN3D_LIBRARIES.items() if ctypes.util.find_library(name) is None]
    remedy = f"apt-get install {' '.join(missing or OPEN3D_LIBRARIES.values())}"
    return Finding("open3d", False, f"can't be imported ({last})", remedy)


def _wan_weights(folder: str | None) -> Finding:
    """Wan's weights in a folder, or in the hub's cache."""
    name, needed = "wan2.2 weights", {"transformer", "vae", "text_encoder"}
    if folder is not None:
        try:
            check_model_folder(folder)
        except (FileNotFoundError, ValueError) as error:
            return Finding(name, False, str(error), "fetch that part again")
        if not is_wan_folder(folder):
            return Finding(name, False, f"{folder} is no Wan pipeline of diffusers", f"take one as {WAN}")
        if missing := sorted(needed - set(folder_parts(folder))):
            return Finding(name, False, f"{folder} lacks {', '.join(missing)}", "fetch these folders, too")
        size = sum(file.stat().st_size for file in Path(folder).rglob("*.safetensors"))
        return Finding(name, True, f"{folder}: {_gib(size)}")
    index = try_to_load_from_cache(WAN, "model_index.json")
    have = {part for part in needed if isinstance(index, str) and any(Path(index).parent.glob(f"{part}/*.safetensors"))}
    if have == needed:
        return Finding(name, True, f"in the hub's cache, {Path(index).parent}")
    parts = memory_plan().parts
    sizes = parts | {"transformer": parts["backbone"]}
    lacking = ", ".join(f"{part} {_gib(sizes[part])}" for part in sorted(needed - have))
    free = shutil.disk_usage(Path.home()).free
    do = f"hf download {WAN} (about twice the space if parts are stored in float32; {_gib(free)} of disk are free)"
    return Finding(name, None, f"not here: {lacking}, counted in bfloat16 (the VAE in float32)", do)


def _depth() -> Finding:
    if isinstance(try_to_load_from_cache(DEPTH_ANYTHING, "model.safetensors"), str):
        return Finding("depth for photos", True, f"{DEPTH_ANYTHING}, in the hub's cache")
    do = f"hf download {DEPTH_ANYTHING} (0.1 GiB), or name another with --depth-model"
    return Finding("depth for photos", None, "not here (the bundled model brings its own)", do)


def _plan(gpu: int, main: int) -> Finding:
    """The full-size model with so many bytes of GPU and main memory."""
    plan = memory_plan()
    ways = ", ".join(f"{_gib(need)} {way}" for way, need in plan.ways.items())
    weights = sum(plan.parts.values())
    says = f"GPU memory: {ways} (estimates); main memory {_gib(weights)}"
    fits = gpu >= min(plan.ways.values()) and main >= weights
    do = plan.advice(gpu, main) if gpu else "no GPU: not in a useful time"
    return Finding("wan2.2 here", True if fits else None, says, do)


def examine(folder: str | None = None) -> list[Finding]:
    """Examine everything; nothing is loaded or fetched.

    Args:
        folder: of a Wan2.2 model, to be examined instead of the hub's cache.
    """
    (gpu, gpu_free), (memory, main_free) = _gpu(), _memory()
    return [
        _software(), gpu, memory, _bundled(), _open3d(), _wan_weights(folder), _depth(), _plan(gpu_free, main_free)
    ]  # fmt: skip


def print_findings(findings: list[Finding]) -> bool:
    """Print them; returns whether nothing is wrong."""
    from rich.console import Console
    from rich.markup import escape

    console = Console(soft_wrap=True, highlight=False)
    marks = {True: "[green]ok[/]  ", False: "[red]no[/]  ", None: "[yellow]--[/]  "}
    for finding in findings:
        console.print(f"{marks[finding.ok]}[bold]{finding.name}[/]: {escape(finding.says)}")
        if finding.do:
            console.print(f"      {escape(finding.do)}")
    return not any(finding.ok is False for finding in findings)
