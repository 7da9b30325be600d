"""Tables of a race: rows of words, the first row the head."""

from collections.abc import Sequence

from mirage_nb.benchmarks.race import STAGES, ratios
from mirage_nb.viz.base import title_of

CHUNK = 5  # of the tables: the last chunk that was published
# Of whole systems, not only of the memory (arXiv 2606.09828).
PUBLISHED = [
    ["published (one H100, end to end)", "s per frame, chunk 1", "chunk 5", "MiB after 5 chunks"],
    ["Mirage", "0.79", "0.25", "2.25"], ["GEN3C", "2.80", "2.90", "43.8"],
    ["Spatia", "4.03", "7.63", "124"], ["VMem", "4.07", "7.25", "78.8"],
]  # fmt: skip
SECONDS = {"s": 1, "ms": 1e-3, "µs": 1e-6}
BYTES = {"GiB": 2**30, "MiB": 2**20, "KiB": 2**10, "B": 1}


def in_units(x: float, units: dict[str, float]) -> str:
    """In the largest unit that x has one of, with three digits: "12.3 ms", "1.99 MiB"; nothing is a dash."""
    for unit, factor in units.items():
        if x >= factor:
            return f"{x / factor:#.3g}".rstrip(".") + f" {unit}" if x < 999.5 * factor else f"{x / factor:,.0f} {unit}"
    return "–"


def times(x: float) -> str:
    """A ratio: "10.6 x"."""
    return f"{x:,.0f} x" if x >= 99.5 else f"{x:.3g} x"


def stage_rows(report: dict, chunk: int = 0, stages: Sequence[str] = STAGES) -> list[list[str]]:
    """What each memory takes and holds at one chunk (0 is the last one), and how many times the latent memory's.

    Times are medians per frame of the `stages`; the report and the pictures have their ranges.
    """
    memories = report["memories"]
    parts = {name: memory["chunks"][chunk - 1] for name, memory in memories.items()}
    over = ratios(memories, chunk, stages)
    head = f"chunk {parts['latent']['chunk']}, per frame"
    rows = [[head, *stages, "all", "over latent", "memory", "over latent", "closed loop"]]
    for name, row in parts.items():
        each = [row["seconds_per_frame"][stage]["median"] for stage in stages]
        held, end = row["bytes"]["median"], memories[name]["closed_loop_psnr"]
        seconds = [in_units(x, SECONDS) for x in (*each, sum(each))]
        rows.append([title_of(name), *seconds, times(over[name]["time"]), in_units(held, BYTES)])
        rows[-1] += [times(over[name]["bytes"]), f"{end['median']:.1f} dB"]
    return rows


def markdown(rows: list[list[str]]) -> str:
    """Rows as a table in Markdown."""
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([lines[0], "| " + " | ".join("---" for _ in rows[0]) + " |", *lines[1:]])
