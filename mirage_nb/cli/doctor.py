"""`mirage-nb doctor`: what this machine can run, what is missing, and what to do. Nothing is loaded or fetched."""

import subprocess
import sys
from importlib.metadata import version
from typing import Annotated, NamedTuple

import typer

from mirage_nb.models.folders import check_model_folder

WEIGHTS = "diffusion_pytorch_model.safetensors"


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
    from mirage_nb.models.wan import WAN

    names, main = ("mirage_nb", "torch", "diffusers", "transformers", "av"), psutil.virtual_memory().available
    machine = ("none, the processor does the work", 0, "cuda")
    if torch.cuda.is_available():
        machine = (torch.cuda.get_device_name(), torch.cuda.mem_get_info()[0], "cuda")
    elif torch.backends.mps.is_available():
        machine = ("Apple's, which shares the main memory (mps)", main, "mps")
    wan = "wan2.2 weights"
    return [
        Finding("software", True, ", ".join(f"{name} {version(name)}" for name in names)),
        Finding("GPU", machine[1] > 0 or None, machine[0]),
        _folder("bundled model", None, "check the folder data/mirage-tiny out again"),
        _open3d(),
        _folder(wan, folder, "fetch that part again") if folder else _hub(wan, WAN, "vae/" + WEIGHTS),
        _hub("depth for photos", DEPTH_ANYTHING, "model.safetensors"),
        _full_size(*machine[1:], main),
    ]


def _folder(name: str, folder: str | None, remedy: str) -> Finding:
    try:
        return Finding(name, True, f"{check_model_folder(folder)}, whole")
    except (FileNotFoundError, ValueError) as error:
        return Finding(name, False, str(error), remedy)


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


def _full_size(gpu: int, device: str, main: int) -> Finding:
    """The full-size model with so many bytes of GPU memory, on a device of this name, and of main memory."""
    from mirage_nb.models.full_size import GIB, HEADROOM, HOW, memory_plan

    plan = {way: need / GIB for way, need in memory_plan().items()}
    gpu, main, weights = gpu / GIB, main / GIB, plan["all at once"] - HEADROOM / GIB
    way, ways = next((way for way in plan if plan[way] <= gpu), None), (f"{plan[way]:.1f} GiB {way}" for way in plan)
    says = f"GPU memory: {gpu:.1f} GiB free, it takes {', '.join(ways)}; "
    says += f"main memory: {main:.1f} GiB free, it takes {weights:.1f} GiB"
    if way is None:
        return Finding("wan2.2 here", None, says, f"it needs a GPU with {min(plan.values()):.1f} GiB free")
    if main < weights:
        return Finding("wan2.2 here", None, says, "quantise the backbone and the text encoder as they load")
    return Finding("wan2.2 here", True, says, HOW[way].replace("cuda", device))
