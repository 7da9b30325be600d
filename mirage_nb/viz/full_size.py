"""Pictures of notebook 09: the small model beside the full-size one, and what fits into a GPU."""

from __future__ import annotations

from collections.abc import Mapping

from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image

from mirage_nb.models.full_size import Plan
from mirage_nb.viz.base import drawn
from mirage_nb.viz.video import COLOURS

INK, QUIET = COLOURS["truth"], "#8a93a5"
PARTS = {  # name in a plan -> (title, colour)
    "text_encoder": ("text encoder", "#56b4e9"),
    "backbone": ("backbone", "#0072b2"),
    "branch": ("memory branch", COLOURS["memory"]),
    "vae": ("VAE", "#e69f00"),
    "depth": ("depth network", "#cc79a7"),
}


def grids(models: Mapping[str, tuple[tuple[int, int], int]]) -> Image.Image:
    """Pictures and their latent cells, to one scale.

    Args:
        models: title -> (height and width of the picture in pixels, edge of a latent cell in pixels).
    """
    figure = Figure(figsize=(9, 4.6), layout="constrained")
    axis, left = figure.subplots(), 0
    tallest = max(height for (height, _), _ in models.values())
    for title, ((height, width), stride) in models.items():
        rows, columns = height // stride, width // stride
        axis.add_patch(Rectangle((left, 0), width, height, facecolor="#eef1f6", edgecolor=INK, linewidth=1.2))
        for x in range(1, columns):
            axis.plot([left + x * stride] * 2, [0, height], color=QUIET, linewidth=0.4)
        for y in range(1, rows):
            axis.plot([left, left + width], [y * stride] * 2, color=QUIET, linewidth=0.4)
        words = f"{title}\n{width} x {height} pixels\n{columns} x {rows} cells of {stride} x {stride}"
        axis.text(left, height + 20, words, color=INK, va="bottom", fontsize=10)
        left += width + 260
    axis.set(xlim=(-20, left), ylim=(-20, tallest + 190), aspect="equal")
    axis.axis("off")
    return drawn(figure)


def weights(models: Mapping[str, Mapping[str, int]]) -> Image.Image:
    """Parameters of each part of each model, on a logarithmic scale.

    Args:
        models: title -> part's name in PARTS -> number of parameters.
    """
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    axis = figure.subplots()
    names = [name for name in PARTS if any(name in parts for parts in models.values())]
    for row, (title, parts) in enumerate(models.items()):
        for index, name in enumerate(names):
            if not parts.get(name):
                continue
            y = index + 0.38 * (row - (len(models) - 1) / 2)
            axis.barh(y, parts[name], 0.34, color=PARTS[name][1], alpha=0.55 if row == 0 else 1.0)
            axis.text(parts[name] * 1.15, y, f"{_words(parts[name])}, {title}", va="center", fontsize=9, color=INK)
    axis.set_yticks(range(len(names)), [PARTS[name][0] for name in names])
    biggest = max(max(parts.values()) for parts in models.values())
    axis.set(xscale="log", xlim=(1e5, biggest * 30), xlabel="parameters")
    axis.invert_yaxis()
    axis.spines[["top", "right"]].set_visible(False)
    return drawn(figure)


def _words(count: float) -> str:
    return f"{count / 1e9:.2f} billion" if count >= 1e9 else f"{count / 1e6:.1f} million"


def memory_bars(plan: Plan, gpu: float, main: float = 64) -> Image.Image:
    """What must be on the GPU at once in the three ways to run a model, against its memory.

    Args:
        plan: weights by part, bytes.
        gpu, main: memory of the GPU and of the machine in GiB.
    """
    gib, headroom = 1 << 30, plan.together - sum(plan.parts.values())
    ways = {
        "everything at once": dict(plan.parts),
        "part by part": {"backbone": plan.parts["backbone"], "branch": plan.parts["branch"]},
        "block by block": {"vae": plan.parts["vae"], "backbone": plan.by_blocks - headroom - plan.parts["vae"]},
    }
    if plan.one_by_one - headroom == plan.parts["text_encoder"]:
        ways["part by part"] = {"text_encoder": plan.parts["text_encoder"]}
    figure = Figure(figsize=(9, 3.2), layout="constrained")
    axis, named = figure.subplots(), set()
    for y, parts in enumerate(ways.values()):
        left = 0.0
        for name, size in [*parts.items(), ("room", headroom)]:
            title, colour = PARTS.get(name, ("room to compute (an estimate)", "#d8dee9"))
            label = None if title in named else title
            named.add(title)
            axis.barh(y, size / gib, left=left, color=colour, label=label, edgecolor="white")
            left += size / gib
        axis.text(
            left + 0.4, y, f"{left:.1f} GiB", va="center", color=INK, zorder=5,
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 1.5},
        )  # fmt: skip
    axis.axvline(gpu, color=COLOURS["none"], linewidth=2)
    axis.text(gpu, 2.62, f" GPU: {gpu:g} GiB", color=COLOURS["none"], va="bottom")
    axis.set_yticks(range(len(ways)), list(ways))
    axis.set(xlabel="GiB on the GPU", xlim=(0, max(48, gpu + 8)), ylim=(-0.5, 2.7))
    axis.invert_yaxis()
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(loc="lower right", fontsize=8, frameon=False)
    axis.set_title(plan.advice(int(gpu * gib), int(main * gib)), color=INK, fontsize=10, loc="left")
    return drawn(figure)
