"""The race in pictures, drawn from a report of `benchmarks.race`."""

from __future__ import annotations

from matplotlib.figure import Figure
from PIL import Image

from mirage_nb.viz.base import COLOURS, INK, QUIET, drawn, title_of

STAGE_COLOURS = {
    "read": "#009e73", "encode": "#cc79a7", "denoise": "#0072b2", "decode": "#56b4e9", "depth": "#e69f00",
    "write": "#999999",
}  # fmt: skip
# key of a chunk's figures, title, label, and the factor from its unit to the label's
PANELS = (
    ("bytes", "Size", "memory (MiB)", 2**-20),
    ("total", "Time", "ms per frame", 1e3),
    ("psnr_to_truth", "Quality", "PSNR to the truth (dB)", 1.0),
)
LOG_FROM = 20  # times apart: from here on a panel has a logarithmic axis


def growth(report: dict) -> Image.Image:
    """Bytes, time per frame and, where it was measured, quality of each memory, chunk by chunk; a band is the range."""
    memories = {name: memory["chunks"] for name, memory in report["memories"].items()}
    panels = [panel for panel in PANELS if any(chunk[panel[0]] for chunks in memories.values() for chunk in chunks)]
    figure = Figure(figsize=(4.4 * len(panels), 3.4), layout="constrained")
    for axis, (key, title, label, factor) in zip(figure.subplots(1, len(panels)), panels):
        drawn_values = []
        for name, chunks in memories.items():
            chunks = [chunk for chunk in chunks if chunk[key] and chunk[key]["median"] > 0]
            x = [chunk["chunk"] for chunk in chunks]
            low, middle, high = ([chunk[key][k] * factor for chunk in chunks] for k in ("low", "median", "high"))
            colour = COLOURS.get(name, INK)
            axis.plot(x, middle, "o-", markersize=3, color=colour, label=title_of(name))
            axis.fill_between(x, low, high, color=colour, alpha=0.2, linewidth=0)
            drawn_values += middle
        scale = "log" if max(drawn_values) > LOG_FROM * min(drawn_values) else "linear"
        axis.set(xlabel="chunk", ylabel=label, title=title, yscale=scale)
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(axis="y", color=QUIET, alpha=0.25)
    handles, labels = figure.axes[1].get_legend_handles_labels()  # every memory takes time
    figure.legend(handles, labels, loc="outside lower center", ncols=5, frameon=False)
    return drawn(figure)


def split(report: dict, chunk: int = 0) -> Image.Image:
    """The time of a frame by stage, as stacked bars, at one chunk; 0 is the last one. The line is the total's range."""
    rows = {name: memory["chunks"][chunk - 1] for name, memory in report["memories"].items()}
    figure = Figure(figsize=(8.4, 0.55 * len(rows) + 1.4), layout="constrained")
    axis, left = figure.subplots(), [0.0] * len(rows)
    for stage, colour in STAGE_COLOURS.items():
        values = [(row["seconds_per_frame"][stage] or {"median": 0.0})["median"] for row in rows.values()]
        if any(values):
            axis.barh(range(len(rows)), values, left=left, color=colour, label=stage, height=0.62)
        left = [a + b for a, b in zip(left, values)]
    for y, total in enumerate(row["total"] for row in rows.values()):
        axis.plot([total["low"], total["high"]], [y, y], color=INK, linewidth=1.5)
        text = f"{total['median']:.1f} s" if total["median"] >= 1 else f"{1e3 * total['median']:.3g} ms"
        axis.annotate(text, (total["high"], y), (6, 0), textcoords="offset points", va="center", color=INK)
    axis.set_yticks(range(len(rows)), [title_of(name) for name in rows])
    axis.invert_yaxis()
    widest = max(row["total"]["high"] for row in rows.values())
    number = next(iter(rows.values()))["chunk"]
    axis.set(xlabel=f"seconds per frame, chunk {number}", xlim=(0, widest * 1.14))  # space for the words at its end
    axis.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower center", ncols=len(STAGE_COLOURS), frameon=False)
    return drawn(figure)
