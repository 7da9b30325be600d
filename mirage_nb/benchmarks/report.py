"""Tables of a race: rows of words, the first row the head."""

from __future__ import annotations

from mirage_nb.benchmarks.race import MEMORY_STAGES, STAGES, ratios
from mirage_nb.viz.base import title_of

CHUNK = 5  # of the tables: the last chunk that was published
Rows = list[list[str]]
# Of whole systems, not only of the memory (arXiv 2606.09828).
PUBLISHED: Rows = [
    ["published (one H100, end to end)", "s per frame, chunk 1", "chunk 5", "MiB after 5 chunks"],
    ["Mirage", "0.79", "0.25", "2.25"],
    ["GEN3C", "2.80", "2.90", "43.8"],
    ["Spatia", "4.03", "7.63", "124"],
    ["VMem", "4.07", "7.25", "78.8"],
]


def seconds(value: dict | None) -> str:
    """A time with its range: "12.3 ms (11.9 to 13.0)"."""
    if value is None:
        return "–"
    unit, factor = ("s", 1) if value["median"] >= 1 else ("ms", 1e3) if value["median"] >= 1e-3 else ("µs", 1e6)
    return _with_range(value, factor, unit)


def size(number: float) -> str:
    """Bytes: "1.99 MiB"."""
    for unit, factor in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if number >= factor:
            return f"{_short(number / factor)} {unit}"
    return f"{number:.0f} B"


def times(x: float) -> str:
    """A ratio: "10.6 x"."""
    return f"{x:,.0f} x" if x >= 99.5 else f"{x:.3g} x"


def _with_range(value: dict, factor: float, unit: str) -> str:
    middle, low, high = (_short(value[k] * factor) for k in ("median", "low", "high"))
    return f"{middle} {unit}" + (f" ({low} to {high})" if value["runs"] > 1 else "")


def _short(x: float) -> str:
    return f"{x:.0f}" if abs(x) >= 99.5 else f"{x:.1f}" if abs(x) >= 9.95 else f"{x:.2f}"


def memory_rows(report: dict, chunk: int = CHUNK) -> Rows:
    """What each memory itself takes and holds, and how many times the latent memory's that is."""
    over = ratios(report["memories"], chunk, stages=MEMORY_STAGES)
    head = [f"after {chunk} chunks, per frame", "write", "read or render", "VAE encode", "all, over latent"]
    rows = [[*head, "memory", "over latent"]]
    for name, memory in report["memories"].items():
        row = memory["chunks"][chunk - 1]
        if held := row["bytes"]["median"]:
            cells = [seconds(row["seconds_per_frame"][stage]) for stage in ("write", "read", "encode")]
            cells += [times(over[name]["time"]), size(held), times(over[name]["bytes"])]
            rows.append([title_of(name), *cells])
    return rows


def stage_rows(report: dict, chunk: int = 0) -> Rows:
    """Milliseconds per frame of every stage that was measured, at one chunk; 0 is the last one."""
    memories = report["memories"]
    parts = {name: memory["chunks"][chunk - 1] for name, memory in memories.items()}
    number = next(iter(parts.values()))["chunk"]
    stages = [s for s in STAGES if any(row["seconds_per_frame"][s] for row in parts.values())]
    over, rows = ratios(memories, number), [[f"chunk {number}, ms per frame", *stages, "all", "over latent", "memory"]]
    rows[0] += ["closed loop"]
    for name, row in parts.items():
        values = [row["seconds_per_frame"][s] for s in stages]
        cells = [_short(1e3 * v["median"]) if v else "–" for v in values]
        cells += [_with_range(row["total"], 1e3, "ms"), times(over[name]["time"]), size(row["bytes"]["median"])]
        closed = memories[name]["closed_loop_psnr"]
        rows.append([title_of(name), *cells, _with_range(closed, 1, "dB") if closed else "–"])
    return rows


def markdown(rows: Rows) -> str:
    """Rows as a table in Markdown."""
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([lines[0], "| " + " | ".join("---" for _ in rows[0]) + " |", *lines[1:]])
