"""The picture of notebook 09: what fits into a GPU."""

from __future__ import annotations

from matplotlib.figure import Figure
from PIL import Image

from mirage_nb.models.full_size import GIB, Plan
from mirage_nb.viz.base import COLOURS, drawn


def memory_bars(plan: Plan, gpu: float, main: float) -> Image.Image:
    """The GPU memory that each way to run the full-size model needs, with the plan's advice as its title.

    Args:
        plan: of `memory_plan`.
        gpu, main: memory of the GPU and of the machine in GiB.
    """
    figure = Figure(figsize=(9, 2.6), layout="constrained")
    axis = figure.subplots()
    for way, need in plan.ways.items():
        fits = need <= gpu * GIB
        bar = axis.barh(way, need / GIB, color=COLOURS["memory" if fits else "none"], alpha=1.0 if fits else 0.4)
        axis.bar_label(bar, fmt="%.1f GiB", padding=4)
    axis.axvline(gpu, color=COLOURS["truth"], linewidth=2)
    axis.set(xlabel="GiB on the GPU", xlim=(0, max(80, gpu + 8)))
    axis.invert_yaxis()
    axis.spines[["top", "right"]].set_visible(False)
    axis.set_title(plan.advice(int(gpu * GIB), int(main * GIB)), fontsize=10, loc="left")
    return drawn(figure)
