"""The race in pictures, drawn from a report of `benchmarks.race`."""

from matplotlib.figure import Figure
from PIL import Image

from mirage_nb.viz.base import COLOURS, INK, QUIET, drawn, title_of

BARS = dict(read="#009e73", encode="#cc79a7", denoise="#0072b2", decode="#56b4e9", depth="#e69f00", write="#999999")
# Key of a chunk's figures, label, and the factor from its unit to the label's.
PANELS = (("bytes", "memory (MiB)", 2**-20), ("total", "ms per frame", 1e3), ("psnr_to_truth", "PSNR (dB)", 1.0))
LOG_FROM = 20  # a panel whose largest value is so many times its smallest has a logarithmic axis


def growth(report: dict) -> Image.Image:
    """Bytes, time per frame and quality of each memory, chunk by chunk; a band is the range."""
    memories = {name: memory["chunks"] for name, memory in report["memories"].items()}
    figure = Figure(figsize=(4.4 * len(PANELS), 3.4), layout="constrained")
    for axis, (key, label, factor) in zip(figure.subplots(1, len(PANELS)), PANELS):
        shown = []
        for name, chunks in memories.items():
            x = [chunk["chunk"] for chunk in chunks if chunk[key]["median"] > 0]
            low, middle, high = ([chunks[i - 1][key][k] * factor for i in x] for k in ("low", "median", "high"))
            axis.plot(x, middle, "o-", markersize=3, color=COLOURS[name], label=title_of(name))
            axis.fill_between(x, low, high, color=COLOURS[name], alpha=0.2, linewidth=0)
            shown += middle
        axis.set(xlabel="chunk", ylabel=label, yscale="log" if max(shown) > LOG_FROM * min(shown) else "linear")
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(axis="y", color=QUIET, alpha=0.25)
    handles, labels = figure.axes[1].get_legend_handles_labels()  # every memory takes time
    figure.legend(handles, labels, loc="outside lower center", ncols=5, frameon=False, fontsize=9)
    return drawn(figure)


def split(report: dict, chunk: int = 0) -> Image.Image:
    """The time of a frame by stage, as stacked bars, at one chunk; 0 is the last one. The line is the total's range."""
    rows = [memory["chunks"][chunk - 1] for memory in report["memories"].values()]
    figure = Figure(figsize=(8.4, 0.55 * len(rows) + 1.4), layout="constrained")
    axis, left = figure.subplots(), [0.0] * len(rows)
    for stage, colour in BARS.items():
        values = [row["seconds_per_frame"][stage]["median"] for row in rows]
        if any(values):
            axis.barh(range(len(rows)), values, left=left, color=colour, label=stage, height=0.62)
        left = [a + b for a, b in zip(left, values)]
    for y, total in enumerate(row["total"] for row in rows):
        axis.plot([total["low"], total["high"]], [y, y], color=INK, linewidth=1.5)
        text = f"{total['median']:.3g} s" if total["median"] >= 1 else f"{1e3 * total['median']:.3g} ms"
        axis.annotate(text, (total["high"], y), (6, 0), textcoords="offset points", va="center")
    axis.set_yticks(range(len(rows)), map(title_of, report["memories"]))
    axis.invert_yaxis()
    axis.margins(x=0.14)  # space for the words at a bar's end
    axis.set(xlabel=f"seconds per frame, chunk {rows[0]['chunk']}", xlim=(0, None))
    axis.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower center", ncols=len(BARS), frameon=False)
    return drawn(figure)
