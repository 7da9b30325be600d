"""The race in pictures: growth of time and memory, the split of a frame's time, and the cost model beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from mirage_nb.benchmarks.race import STAGES
from mirage_nb.benchmarks.report import size
from mirage_nb.viz.base import drawn
from mirage_nb.viz.video import COLOURS, INK, QUIET, title_of

STAGE_COLOURS = dict(zip(STAGES, ("#009e73", "#cc79a7", "#0072b2", "#56b4e9", "#e69f00", "#999999")))


def _plain(axis: Axes) -> None:
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(axis="y", color=QUIET, alpha=0.25)


def _line(axis: Axes, name: str, values: Sequence[Mapping | None], factor: float = 1.0) -> None:
    known = [(i + 1, v) for i, v in enumerate(values) if v]
    if not known or not any(v["median"] > 0 for _, v in known):
        return
    x, colour = [i for i, _ in known], COLOURS.get(name, INK)
    low, high = ([v[k] * factor for _, v in known] for k in ("low", "high"))
    axis.plot(x, [v["median"] * factor for _, v in known], "o-", markersize=3, color=colour, label=title_of(name))
    axis.fill_between(x, low, high, color=colour, alpha=0.2, linewidth=0)


def growth(report: dict) -> Image.Image:
    """Bytes, seconds a frame and, where measured, quality of each memory, chunk by chunk; the band is the range of all
    runs."""
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
    axes[0].set(yscale="log", ylabel="memory (MiB)", title="What is held")
    measured = [s for s in STAGES if any(m["chunks"][-1]["seconds_per_frame"][s] for m in memories.values())]
    totals = [chunk["total"]["median"] for memory in memories.values() for chunk in memory["chunks"]]
    label = "ms a frame" + (f" ({', '.join(measured)})" if len(measured) < 4 else "")
    axes[1].set(yscale="log" if max(totals) > 20 * min(totals) else "linear", ylabel=label, title="What a frame takes")
    if rated:
        axes[2].set(ylabel="PSNR to the truth (dB)", title="What it is worth")
    for axis in axes:
        axis.set_xlabel("chunk")
        axis.xaxis.get_major_locator().set_params(integer=True)
        _plain(axis)
    handles = {label: h for axis in axes for h, label in zip(*axis.get_legend_handles_labels())}
    figure.legend(handles.values(), handles, loc="outside lower center", ncols=3 if not rated else 5, frameon=False)
    return drawn(figure)


def split(report: dict, chunk: int | None = None) -> Image.Image:
    """Where a frame's time goes, as stacked bars, at one chunk (by default the last). The line is the total's range."""
    names = list(report["memories"])
    rows = [report["memories"][name]["chunks"][(chunk or 0) - 1] for name in names]
    figure = Figure(figsize=(8.4, 0.55 * len(names) + 1.4), layout="constrained")
    axis = figure.subplots()
    widest = max(row["total"]["high"] for row in rows)
    left = [0.0] * len(names)
    for stage in STAGES:
        values = [(row["seconds_per_frame"][stage] or {"median": 0.0})["median"] for row in rows]
        if any(row["seconds_per_frame"][stage] for row in rows):
            axis.barh(range(len(names)), values, left=left, color=STAGE_COLOURS[stage], label=stage, height=0.62)
        left = [a + b for a, b in zip(left, values)]
    for y, row in enumerate(rows):
        total = row["total"]
        axis.plot([total["low"], total["high"]], [y, y], color=INK, linewidth=1.5)
        text = f"{total['median']:.1f} s" if total["median"] >= 1 else f"{1e3 * total['median']:.3g} ms"
        axis.annotate(text, (total["high"], y), (6, 0), textcoords="offset points", va="center", color=INK)
    axis.set_yticks(range(len(names)), [title_of(name) for name in names])
    axis.invert_yaxis()
    axis.set(xlabel=f"seconds a frame, chunk {rows[0]['chunk']}", xlim=(0, widest * 1.14))
    axis.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower center", ncols=len(STAGES), frameon=False)
    return drawn(figure)


def predicted(costs: Mapping[str, Sequence[Mapping]]) -> Image.Image:
    """What the cost model says against what was measured, a panel each for seconds and bytes.

    Args:
        costs: label -> rows of `predictions`.
    """
    figure = Figure(figsize=(8.8, 4.2), layout="constrained")
    axes = figure.subplots(1, 2)
    for axis, unit, title in zip(axes, ("s", "B"), ("seconds a chunk", "bytes")):
        values = []
        for (label, rows), marker, colour in zip(costs.items(), "os^", ("#0072b2", "#d55e00", "#009e73")):
            pairs = [(row["measured"], row["predicted"]) for row in rows if row["unit"] == unit and row["measured"]]
            values += [x for pair in pairs for x in pair]
            axis.plot(*zip(*pairs), marker, color=colour, label=label, alpha=0.75, markersize=5, linestyle="none")
        ends = [min(values) / 2, max(values) * 2]
        axis.plot(ends, ends, color=INK, linewidth=1)
        axis.fill_between(ends, [x / 2 for x in ends], [x * 2 for x in ends], color=QUIET, alpha=0.18, linewidth=0)
        axis.set(xscale="log", yscale="log", xlabel="measured", ylabel="predicted", title=title, xlim=ends, ylim=ends)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].legend(frameon=False, loc="upper left")
    axes[1].annotate("within a factor of two", (0.97, 0.05), xycoords="axes fraction", ha="right", color=QUIET)
    return drawn(figure)


def worlds(beyond: Mapping[str, Mapping[str, float]]) -> Image.Image:
    """Predicted bytes of each memory in worlds that nobody has walked, on a scale of powers."""
    names = ("latent", "append", "rgb_capped", "rgb")
    figure = Figure(figsize=(8.8, 3.6), layout="constrained")
    axis = figure.subplots()
    for column, name in enumerate(names):
        heights = [held[name] / 2**20 for held in beyond.values()]
        places = [i + 0.2 * (column - 1.5) for i in range(len(beyond))]
        axis.bar(places, heights, 0.18, color=COLOURS[name], label=title_of(name))
        for x, height in zip(places, heights):
            style = {"textcoords": "offset points", "ha": "center", "fontsize": 7.5, "color": INK}
            axis.annotate(size(height * 2**20), (x, height), (0, 3), **style)
    axis.set(yscale="log", ylabel="memory (MiB)")
    axis.set_ylim(axis.get_ylim()[0], axis.get_ylim()[1] * 3)
    axis.set_xticks(range(len(beyond)), list(beyond))
    axis.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower center", ncols=4, frameon=False)
    return drawn(figure)


def race_picture(report: dict) -> Image.Image:
    """Growth and split, one above the other."""
    pictures = [growth(report), split(report)]
    width = max(p.width for p in pictures)
    page = Image.new("RGB", (width, sum(p.height for p in pictures)), "white")
    top = 0
    for picture in pictures:
        page.paste(picture, ((width - picture.width) // 2, top))
        top += picture.height
    return page
