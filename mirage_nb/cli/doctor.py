"""`mirage-nb doctor`: what this machine can run, what is missing and how big it is, and what to do about it."""

from __future__ import annotations

import ctypes.util
import importlib
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import mirage_nb
from mirage_nb.models.weights import GIB, folder_parts, free_memory

# What Open3D's library is linked to, by the Debian package that brings it (apt.txt).
OPEN3D_LIBRARIES = {"GL": "libgl1", "gomp": "libgomp1", "usb-1.0": "libusb-1.0-0", "X11": "libx11-6"}
BUNDLED_BYTES = 2 * GIB  # main memory that the bundled model wants, with some room


class Finding(NamedTuple):
    """One thing looked at. ok: True, False, or None where it only matters to the full-size model. do: the remedy."""

    name: str
    ok: bool | None
    says: str
    do: str = ""


def _gib(size: float) -> str:
    return f"{size / GIB:.1f} GiB"


def _python() -> Finding:
    versions = [f"Python {platform.python_version()}"]
    for name in ("torch", "diffusers", "transformers"):
        try:
            versions.append(f"{name} {importlib.import_module(name).__version__}")
        except ImportError as error:
            return Finding("software", False, f"{name} can't be imported ({error})", "pip install -e . (or make setup)")
    versions.insert(0, f"mirage_nb {mirage_nb.__version__}")
    return Finding("software", sys.version_info >= (3, 10), ", ".join(versions))


def _gpu() -> tuple[Finding, int]:
    """The finding, and the free memory in bytes."""
    import torch

    if not torch.cuda.is_available():
        do = "the bundled model needs none; wan2.2 wants one, and a build of torch that knows it"
        return Finding("GPU", None, f"none that torch {torch.__version__} can use", do), 0
    free, total = torch.cuda.mem_get_info()
    properties = torch.cuda.get_device_properties(0)
    says = f"{properties.name}, {_gib(free)} of {_gib(total)} free"
    if properties.major < 8:
        return Finding("GPU", None, f"{says}, slow at bfloat16", "wan2.2: an Ampere GPU or newer is faster"), free
    return Finding("GPU", True, says), free


def _memory() -> tuple[Finding, int]:
    free = free_memory()
    do = "" if free >= BUNDLED_BYTES else "close other programs"
    return Finding("main memory", free >= BUNDLED_BYTES, f"{_gib(free)} free, {os.cpu_count()} cores", do), free


def _bundled() -> Finding:
    from mirage_nb.checks import check_model_folder
    from mirage_nb.models.presets import bundled_model

    try:
        check_model_folder(bundled_model())
    except (FileNotFoundError, ValueError) as error:
        return Finding("bundled model", False, str(error), "check the folder data/mirage-tiny out again")
    count = sum(folder_parts(bundled_model()).values())
    return Finding("bundled model", True, f"whole, {count / 1e6:.1f} million parameters")


def _cached(name: str, file: str) -> Path | None:
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(name, file)
    return Path(found) if isinstance(found, str) else None


def _weights(folder: str | None) -> Finding:
    """Wan's weights: in a folder, or in the hub's cache; and how big what is missing is."""
    from mirage_nb.checks import check_model_folder
    from mirage_nb.models.full_size import memory_plan
    from mirage_nb.models.wan import WAN, is_wan_folder

    needed = {"transformer", "vae", "text_encoder"}
    if folder is not None:
        try:
            check_model_folder(folder)
        except (FileNotFoundError, ValueError) as error:
            return Finding("wan2.2 weights", False, str(error), "fetch that part again")
        if not is_wan_folder(folder):
            return Finding("wan2.2 weights", False, f"{folder} is no Wan pipeline of diffusers", f"take one as {WAN}")
        parts = folder_parts(folder)
        missing = sorted(needed - set(parts))
        size = sum(file.stat().st_size for file in Path(folder).rglob("*.safetensors"))
        if missing:
            return Finding("wan2.2 weights", False, f"{folder} lacks {', '.join(missing)}", "fetch these folders, too")
        return Finding("wan2.2 weights", True, f"{folder}: {_gib(size)}")
    plan = memory_plan().parts
    sizes = {"transformer": plan["backbone"], "vae": plan["vae"], "text_encoder": plan["text_encoder"]}
    index = _cached(WAN, "model_index.json")
    have = {part for part in needed if index and any((index.parent / part).glob("*.safetensors"))}
    if have == needed:
        return Finding("wan2.2 weights", True, f"in the hub's cache, {index.parent}")
    lacking = ", ".join(f"{part} {_gib(sizes[part])}" for part in sorted(needed - have))
    free = shutil.disk_usage(Path.home()).free
    do = f"hf download {WAN} (about twice the space where parts are stored in float32; {_gib(free)} of disk are free)"
    return Finding("wan2.2 weights", None, f"not here: {lacking}, counted in bfloat16 (the VAE in float32)", do)


def _depth() -> Finding:
    from mirage_nb.models.photo_depth import DEPTH_ANYTHING

    if _cached(DEPTH_ANYTHING, "model.safetensors"):
        return Finding("depth for photos", True, f"{DEPTH_ANYTHING}, in the hub's cache")
    do = f"hf download {DEPTH_ANYTHING} (0.1 GiB), or name another with --depth-model"
    return Finding("depth for photos", None, "not here (the bundled model brings its own)", do)


def _video() -> Finding:
    try:
        import av

        writes = "libx264" in av.codecs_available or "h264" in av.codecs_available
    except ImportError as error:
        return Finding("video", False, f"av can't be imported ({error})", "pip install av")
    ffmpeg = shutil.which("ffmpeg")
    says = f"av {av.__version__} {'writes' if writes else 'can not write'} H.264; the program ffmpeg: "
    says += ffmpeg or "none, and none is needed"
    return Finding("video", writes, says, "" if writes else "pip install --force-reinstall av (it brings FFmpeg)")


def _open3d() -> Finding:
    missing = [package for name, package in OPEN3D_LIBRARIES.items() if ctypes.util.find_library(name) is None]
    remedy = f"apt-get install {' '.join(missing or OPEN3D_LIBRARIES.values())}"
    # In a process of its own: it talks, and without its libraries it may take the process with it.
    command = [sys.executable, "-c", "import open3d; print(open3d.__version__)"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    last = ((done.stdout if done.returncode == 0 else done.stderr).strip().splitlines() or ["no reason given"])[-1]
    if done.returncode:
        return Finding("open3d", False, f"can't be imported ({last})", remedy)
    return Finding("open3d", True, f"open3d {last}")


def _plan(gpu: int, main: int) -> list[Finding]:
    """The full-size model on this machine, by the bytes of its weights."""
    from mirage_nb.models.full_size import memory_plan

    plan = memory_plan()
    says = (
        f"GPU memory: {_gib(plan.together)} all at once, {_gib(plan.one_by_one)} part by part, {_gib(plan.by_blocks)} "
        f"block by block; main memory {_gib(sum(plan.parts.values()))} (weights counted, room to compute estimated)"
    )
    if not gpu:
        return [Finding("wan2.2 here", None, says, "no GPU: not in a useful time")]
    advice = plan.advice(gpu, main)
    fits = gpu >= plan.by_blocks and main >= sum(plan.parts.values())
    return [Finding("wan2.2 here", True if fits else None, says, advice)]


def examine(folder: str | None = None) -> list[Finding]:
    """Look at everything; nothing is loaded, nothing fetched.

    Args:
        folder: of a Wan2.2 model, to be looked through instead of the hub's cache.
    """
    software = _python()
    if software.ok is False:
        return [software]
    (gpu, gpu_free), (memory, main_free) = _gpu(), _memory()
    return [
        software, gpu, memory, _bundled(), _video(), _open3d(), _weights(folder), _depth(), *_plan(gpu_free, main_free)
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
