"""The readout against the size of the world, and against the straightforward way."""

from __future__ import annotations

from matplotlib.figure import Figure
from PIL import Image

from mirage_nb.viz.base import drawn


def scale_figure(report: dict) -> Image.Image:
    """What `mirage-nb benchmark readout` measured: speed, culling and writing, side by side."""
    figure = Figure(figsize=(13, 3.8), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    rows = report["readout"] + report["room"]
    names = [f"{row['tokens'] / 1e6:.2g} M\n{row['scene']}" for row in rows]
    for shift, key, label in (
        (-0.3, "baseline_ms", "gather, sort, scatter"),
        (-0.1, "ms", "LatentGrid"),
        (0.1, "splats_ms", "LatentGrid, splats"),
        (0.3, "limit_ms", "least possible"),
    ):
        left.bar([i + shift for i in range(len(rows))], [row[key] for row in rows], 0.2, label=label)
    left.set_xticks(range(len(rows)), names)
    left.set(yscale="log", ylabel="ms for 9 views", title="Reading")
    curve = report["culling"]
    tokens = [row["tokens"] for row in curve]
    middle.plot(tokens, [row["ms_without"] for row in curve], "o-", label="all blocks")
    middle.plot(tokens, [row["ms"] for row in curve], "o-", label="blocks in view")
    middle.set(xscale="log", yscale="log", xlabel="tokens in the world (100,000 in view)", ylabel="ms for 9 views")
    middle.set_title("Culling")
    middle.set_ylim(bottom=1)
    writing = report["writing"]
    right.plot([row["tokens"] for row in writing], [row["ms"] for row in writing], "o-")
    right.set(xscale="log", xlabel="tokens in the room before", ylabel="ms for 9 latent frames", title="Writing")
    right.set_ylim(bottom=0)
    for axes in (left, middle):
        axes.legend(fontsize=8)
    for axes in (left, middle, right):
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    return drawn(figure)
