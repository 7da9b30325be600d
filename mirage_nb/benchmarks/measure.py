"""How the race is timed: stop watches, peaks of memory, the spread of repeated runs, and files that survive a stop."""

from __future__ import annotations

import json
import os
import platform
import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from mirage_nb.memory.io import write_aside


def timer_of(device: torch.device) -> Callable[[], float]:
    """The clock of a device, in seconds.

    On an accelerator that is the time on the wall, its queue waited for. On the CPU it is the time that the processor
    spent on this process: with one thread it is the wall's time on an idle machine, and other programs do not show.
    """
    if device.type != "cuda":
        return time.process_time

    def wall() -> float:
        torch.cuda.synchronize(device)
        return time.perf_counter()

    return wall


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch compute on one thread: the processor's time is a duration, and a scatter goes in order."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


class Peak:
    """The most memory that was in use since the peak was set back, in bytes.

    On a GPU that of torch's allocator; on the CPU the process' resident memory (Linux; elsewhere, where its peak cannot
    be set back, the highest since the process began).
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def reset(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
            return
        try:
            Path("/proc/self/clear_refs").write_text("5")
        except OSError:
            pass

    def bytes(self) -> int:
        if self.device.type == "cuda":
            return int(torch.cuda.max_memory_allocated(self.device))
        try:
            status = Path("/proc/self/status").read_text()
            return 1024 * int(status.split("VmHWM:")[1].split()[0])
        except (OSError, IndexError):
            unit = 1 if sys.platform == "darwin" else 1024
            return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def measured(task: Callable[[], object], device: torch.device) -> tuple[dict[str, float], object]:
    """Run a task once: {"seconds", "wall_seconds", "peak_bytes"}, and what it returned."""
    clock, peak = timer_of(device), Peak(device)
    peak.reset()
    wall, start = time.perf_counter(), clock()
    result = task()
    seconds = clock() - start
    return {"seconds": seconds, "wall_seconds": time.perf_counter() - wall, "peak_bytes": peak.bytes()}, result


def spread(values: Iterable[float | None]) -> dict[str, float] | None:
    """Median, lowest and highest of repeated runs, and how many there were; None where nothing was measured."""
    known = [float(v) for v in values if v is not None and v == v]
    if not known:
        return None
    return {"median": statistics.median(known), "low": min(known), "high": max(known), "runs": len(known)}


class Results:
    """Finished measurements in a folder, a JSON file each: what is there is not measured again.

    Args:
        folder: created where it does not exist.
        settings: what the measurements depend on; those made with others are refused.

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
        """The measurement of this name, made now if it is not there."""
        path = self.folder / f"{name}.json"
        if path.exists():
            return json.loads(path.read_text())
        result = task()
        write_aside(path, json.dumps(result, indent=1).encode())
        return result


def machine(device: torch.device) -> dict:
    """What the figures were measured on."""
    import diffusers

    name = torch.cuda.get_device_name(device) if device.type == "cuda" else _processor()
    threads = None if device.type == "cuda" else torch.get_num_threads()
    versions = {"torch": torch.__version__, "diffusers": diffusers.__version__, "python": platform.python_version()}
    return {"device": device.type, "name": name, "threads": threads, "cores": os.cpu_count(), "versions": versions}


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
