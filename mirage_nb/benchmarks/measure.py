"""How the benchmarks measure: clocks, one thread, the spread of repeated runs, and files that survive an interruption."""

from __future__ import annotations

import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from mirage_nb.memory.io import write_aside


def clock_of(device: torch.device) -> Callable[[], float]:
    """The wall clock in seconds; on a GPU it waits until the GPU has finished its work."""

    def now() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter()

    return now


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch compute on one CPU thread, so that times can be compared and a scatter goes in order."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def medians(runs: int, **steps: Callable[[], object]) -> dict[str, float]:
    """Median milliseconds of steps. They take turns, so that a slow moment of the machine hits all of them."""
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(runs):
        for name, step in steps.items():
            start = time.perf_counter()
            step()
            times[name].append(1000 * (time.perf_counter() - start))
    return {name: statistics.median(values) for name, values in times.items()}


def spread(values: Iterable[float | None]) -> dict[str, float] | None:
    """Median, lowest, highest and count of the values that were measured (neither None nor NaN); None without any."""
    measured = [float(v) for v in values if v is not None and v == v]
    if not measured:
        return None
    return {"median": statistics.median(measured), "low": min(measured), "high": max(measured), "runs": len(measured)}


class Results:
    """Finished measurements in a folder, one JSON file each: what is there is not measured again.

    Args:
        folder: created if it does not exist.
        settings: everything that the measurements depend on.

    Raises:
        ValueError: the folder holds measurements with other settings.
    """

    def __init__(self, folder: Path, settings: dict) -> None:
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        path, text = self.folder / "settings.json", json.dumps(settings, indent=1, sort_keys=True)
        if not path.exists():
            write_aside(path, text.encode())
        elif json.loads(path.read_text()) != json.loads(text):
            raise ValueError(f"out: {self.folder} holds measurements with other settings; choose another folder")

    def once(self, name: str, task: Callable[[], dict]) -> dict:
        """The measurement of this name. The task runs only if its file is not there."""
        path = self.folder / f"{name}.json"
        if not path.exists():
            write_aside(path, json.dumps(task(), indent=1).encode())
        return json.loads(path.read_text())


def machine(device: torch.device) -> dict:
    """What the figures are measured on."""
    import diffusers

    if device.type == "cuda":
        name, threads = torch.cuda.get_device_name(device), None
    else:
        name, threads = platform.processor() or platform.machine(), torch.get_num_threads()
        cpuinfo = Path("/proc/cpuinfo")
        if cpuinfo.exists() and "model name" in (text := cpuinfo.read_text()):
            name = text.split("model name", 1)[1].split("\n", 1)[0].strip(" \t:")
    versions = {"torch": torch.__version__, "diffusers": diffusers.__version__, "python": platform.python_version()}
    return {"device": device.type, "name": name, "threads": threads, "cores": os.cpu_count(), "versions": versions}
