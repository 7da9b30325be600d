"""Tables of a race: rows of words, the first row the head."""

from __future__ import annotations

from collections.abc import Callable

from mirage_nb.benchmarks.race import MEMORY_STAGES, PUBLISHED, STAGES, ratios
from mirage_nb.viz.base import title_of

CHUNK = 5  # of the tables: the last chunk that was published
Rows = list[list[str]]


def seconds(value: dict | None) -> str:
    """A time with its range: "12.3 ms (11.9 to 13.0)"."""
    if value is None:
        return "–"
    unit, factor = ("s", 1) if value["median"] >= 1 else ("ms", 1e3) if value["median"] >= 1e-3 else ("µs", 1e6)
    return _with_range(value, lambda x: _short(x * factor), f" {unit}")


def size(number: float) -> str:
    """Bytes: "1.99 MiB"."""
    for unit, factor in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if number >= factor:
            return f"{_short(number / factor)} {unit}"
    return f"{number:.0f} B"


def times(x: float) -> str:
    """A ratio: "10.6 x"."""
    return f"{x:,.0f} x" if x >= 99.5 else f"{x:.3g} x"


def _with_range(value: dict, text: Callable[[float], str], unit: str = "") -> str:
    middle, low, high = (text(value[k]) for k in ("median", "low", "high"))
    return f"{middle}{unit}" + (f" ({low} to {high})" if value["runs"] > 1 else "")


def _short(x: float) -> str:
    return f"{x:.0f}" if abs(x) >= 99.5 else f"{x:.1f}" if abs(x) >= 9.95 else f"{x:.2f}"


def memory_rows(report: dict, chunk: int = CHUNK) -> Rows:
    """What each memory itself takes and holds, and how many times the latent memory's that is."""
    over = ratios(report["memories"], chunk, stages=MEMORY_STAGES)
    rows = [[f"after {chunk} chunks, for each frame", "write", "read or render", "VAE encode", "all, over latent",
             "memory", "over latent"]]  # fmt: skip
    for name, memory in report["memories"].items():
        row = memory["chunks"][chunk - 1]
        if not row["bytes"]["median"]:
            continue
        ratio = over.get(name, {"time": 1.0, "bytes": 1.0})
        per_frame = [seconds(row["seconds_per_frame"][stage]) for stage in ("write", "read", "encode")]
        rows.append([title_of(name), *per_frame, times(ratio["time"]), size(row["bytes"]["median"]),
                     times(ratio["bytes"])])  # fmt: skip
    return rows


def stage_rows(report: dict, chunk: int = 0) -> Rows:
    """Milliseconds per frame of every stage that was measured, at one chunk; 0 is the last one."""
    memories = report["memories"]
    parts = {name: memory["chunks"][chunk - 1] for name, memory in memories.items()}
    chunk = parts["latent"]["chunk"]
    stages = [s for s in STAGES if any(row["seconds_per_frame"][s] for row in parts.values())]
    closes = any(memory["closed_loop_psnr"] for memory in memories.values())
    rows = [[f"chunk {chunk}, ms per frame", *stages, "all", "over latent", "memory"] + ["closed loop"] * closes]
    over = ratios(memories, chunk)
    for name, row in parts.items():
        values = [row["seconds_per_frame"][s] for s in stages]
        cells = [_short(1e3 * v["median"]) if v else "–" for v in values]
        cells += [_with_range(row["total"], lambda x: _short(1e3 * x)), times(over[name]["time"] if name in over else 1)]
        cells.append(size(row["bytes"]["median"]))
        if closes:
            cells.append(_with_range(memories[name]["closed_loop_psnr"], lambda x: f"{x:.1f}", " dB"))
        rows.append([title_of(name), *cells])
    return rows


def published_rows() -> Rows:
    """The published figures, marked as published."""
    rows = [["published (one H100, end to end)", "s per frame, chunk 1", f"chunk {CHUNK}", f"MiB after {CHUNK} chunks"]]
    for name, figures in PUBLISHED.items():
        time, mib = figures["seconds_per_frame"], figures["mib"]
        rows.append([name, f"{time[0]:.2f}", f"{time[CHUNK - 1]:.2f}", f"{mib[CHUNK - 1]:g}"])
    return rows


def markdown(rows: Rows) -> str:
    """Rows as a table in Markdown."""
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([lines[0], "| " + " | ".join("---" for _ in rows[0]) + " |", *lines[1:]])
