"""How the benchmarks measure: on one thread, as the spread of repeated runs, and on which machine."""

import platform
import re
import statistics
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch


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


def machine(device: torch.device) -> dict:
    """What the figures are measured on."""
    name, cpuinfo = platform.machine(), Path("/proc/cpuinfo")
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    elif cpuinfo.exists() and (model := re.search(r"model name\s*:\s*(.+)", cpuinfo.read_text())):
        name = model[1]
    return {"device": device.type, "name": name, "threads": torch.get_num_threads(), "torch": torch.__version__}
