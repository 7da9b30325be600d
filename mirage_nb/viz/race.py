"""The race in pictures, drawn from a report of `benchmarks.race`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from mirage_nb.viz.base import COLOURS, INK, QUIET, drawn, title_of

STAGE_COLOURS = {
    "read": "#009e73", "encode": "#cc79a7", "denoise": "#0072b2", "decode": "#56b4e9", "depth": "#e69f00",
    "write": "#999999",
}  # fmt: skip
LOG_FROM = 20  # times apart: from here on times are drawn on a logarithmic axis


def _line(axis: Axes, name: str, values: Sequence[Mapping | None], factor: float = 1.0) -> None:
    measured = [(i + 1, v) for i, v in enumerate(values) if v]
    if not any(v["median"] > 0 for _, v in measured):
        return
    x, colour = [i for i, _ in measured], COLOURS.get(name, INK)
    low, high = ([v[k] * factor for _, v in measured] for k in ("low", "high"))
    axis.plot(x, [v["median"] * factor for _, v in measured], "o-", markersize=3, color=colour, label=title_of(name))
    axis.fill_between(x, low, high, color=colour, alpha=0.2, linewidth=0)


def growth(report: dict) -> Image.Image:
    """Bytes, time per frame and, where it was measured, quality of each memory, chunk by chunk. A band is the range of
    all runs."""
    memories = report["memories"]
    rated = any(chunk["psnr_to_truth"] for memory in memories.values() for chunk in memory["chunks"])
    figure = Figure(figsize=(4.4 * (2 + rated), 3.4), layout="constrained")
    axes = figure.subplots(1, 2 + rated)
    for name, memory in memories.items():
        chunks = memory["chunks"]
        _line(axes[0], name, [c["bytes"] for c in chunks], 2**-20)
        _line(axes[1], name, [c["total"] for c in chunks], 1e3)
        if rated:
            _line(axes[2], name, [c["psnr_to_truth"] for c in chunks])
            axes[2].set(ylabel="PSNR to the truth (dB)", title="Quality")
    totals = [chunk["total"]["median"] for memory in memories.values() for chunk in memory["chunks"]]
    scale = "log" if max(totals) > LOG_FROM * min(totals) else "linear"
    axes[0].set(yscale="log", ylabel="memory (MiB)", title="Size")
    axes[1].set(yscale=scale, ylabel="ms per frame", title="Time")
    for axis in axes:
        axis.set_xlabel("chunk")
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(axis="y", color=QUIET, alpha=0.25)
    handles = {label: h for axis in axes for h, label in zip(*axis.get_legend_handles_labels())}
    figure.legend(handles.values(), handles, loc="outside lower center", ncols=5 if rated else 3, frameon=False)
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
