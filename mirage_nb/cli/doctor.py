"""`mirage-nb doctor`: what this machine can run, what is missing, and what to do. Nothing is loaded or fetched."""

import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, NamedTuple

import typer

from mirage_nb.cli.console import one_line


class Finding(NamedTuple):
    """One thing that was examined. ok: None if it only matters to the full-size model. do: the remedy."""

    name: str
    ok: bool | None
    says: str
    do: str = ""


def doctor(
    model: Annotated[str | None, typer.Option(help="A folder of a Wan2.2 model, to be looked through as well.")] = None,
) -> None:
    """What this machine can run, what is missing, and what to do about it."""
    with one_line():
        findings = examine(model)
    for name, ok, says, do in findings:
        mark, colour = {True: ("ok", "green"), False: ("no", "red"), None: ("--", "yellow")}[ok]
        typer.echo(f"{typer.style(mark, fg=colour)}  {name}: {says}" + f"\n      {do}" * bool(do))
    if any(finding.ok is False for finding in findings):
        raise typer.Exit(1)


def examine(folder: str | None = None) -> list[Finding]:
    """Examine everything; `folder` of a Wan2.2 model instead of the hub's cache."""
    import psutil
    import torch

    from mirage_nb.models.photo_depth import DEPTH_ANYTHING
    from mirage_nb.models.presets import bundled_model
    from mirage_nb.models.wan import WAN

    names = ("mirage_nb", "torch", "diffusers", "transformers", "av")
    gpu = torch.cuda.mem_get_info()[0] if torch.cuda.is_available() else 0
    wan = _hub("wan2.2 weights", WAN, "vae/diffusion_pytorch_model.safetensors")
    return [
        Finding("software", True, ", ".join(f"{name} {version(name)}" for name in names)),
        _folder("bundled model", bundled_model(), "check the folder data/mirage-tiny out again"),
        _open3d(),
        wan if folder is None else _folder("wan2.2 weights", folder, "fetch that part again"),
        _hub("depth for photos", DEPTH_ANYTHING, "model.safetensors"),
        _full_size(gpu, psutil.virtual_memory().available),
    ]


def _gib(size: float) -> str:
    return f"{size / 2**30:.1f} GiB"


def _folder(name: str, folder: str | Path, remedy: str) -> Finding:
    from mirage_nb.checks import check_model_folder

    try:
        check_model_folder(folder)
    except (FileNotFoundError, ValueError) as error:
        return Finding(name, False, str(error), remedy)
    return Finding(name, True, f"{folder}, whole")


def _hub(name: str, model: str, file: str) -> Finding:
    from huggingface_hub import try_to_load_from_cache

    if isinstance(try_to_load_from_cache(model, file), str):
        return Finding(name, True, f"{model}, in the hub's cache")
    return Finding(name, None, f"{model}, not in the hub's cache", f"hf download {model}")


def _open3d() -> Finding:
    # In a process of its own: without its libraries the import may end the process.
    done = subprocess.run([sys.executable, "-c", "import open3d"], capture_output=True, text=True, timeout=120)
    if done.returncode == 0:
        return Finding("open3d", True, version("open3d"))
    return Finding("open3d", False, done.stderr.strip().splitlines()[-1], "apt-get install $(cat apt.txt)")


def _full_size(gpu: int, main: int) -> Finding:
    """The full-size model with so many bytes of GPU and main memory."""
    from mirage_nb.models.full_size import HEADROOM, HOW, memory_plan

    plan = memory_plan()
    weights, way = plan["all at once"] - HEADROOM, next((way for way, need in plan.items() if need <= gpu), None)
    ways = ", ".join(f"{_gib(need)} {way}" for way, need in plan.items())
    says = f"GPU memory: {_gib(gpu)} free, it takes {ways}; main memory: {_gib(main)} free, it takes {_gib(weights)}"
    fits = way is not None and main >= weights
    gpu_needed = f"it needs a GPU with {_gib(min(plan.values()))} free"
    remedy = "quantise the backbone and the text encoder as they load" if way else gpu_needed
    return Finding("wan2.2 here", fits or None, says, HOW[way] if fits else remedy)
