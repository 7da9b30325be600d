"""How the benchmarks measure: a clock, one thread, the spread of repeated runs, and on which machine."""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch


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


def spread(values: Iterable[float | None]) -> dict[str, float] | None:
    """Median, lowest, highest and count of the values that were measured (neither None nor NaN); None without any."""
    measured = [float(v) for v in values if v is not None and v == v]
    if not measured:
        return None
    return {"median": statistics.median(measured), "low": min(measured), "high": max(measured), "runs": len(measured)}


def machine(device: torch.device, threads: int) -> dict:
    """What the figures were measured on."""
    name, cpuinfo = platform.processor(), Path("/proc/cpuinfo")
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    elif cpuinfo.exists() and "model name" in (text := cpuinfo.read_text()):
        name = text.split("model name", 1)[1].split("\n", 1)[0].strip(" \t:")
    return {"device": device.type, "name": name, "threads": threads, "torch": torch.__version__}
