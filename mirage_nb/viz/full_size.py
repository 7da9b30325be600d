"""The picture of notebook 09: what fits into a GPU."""

from __future__ import annotations

from matplotlib.figure import Figure
from PIL import Image

from mirage_nb.models.full_size import GIB, HOW
from mirage_nb.viz.base import COLOURS, drawn


def memory_bars(plan: dict[str, int], gpu: float) -> Image.Image:
    """The memory that each way of a `memory_plan` needs on a GPU of so many GiB; the title says what to call."""
    figure = Figure(figsize=(9, 2.6), layout="constrained")
    axis = figure.subplots()
    for way, need in plan.items():
        fits = need <= gpu * GIB
        bar = axis.barh(way, need / GIB, color=COLOURS["memory" if fits else "none"], alpha=1.0 if fits else 0.4)
        axis.bar_label(bar, fmt="%.1f GiB", padding=4)
    axis.axvline(gpu, color=COLOURS["truth"], linewidth=2)
    axis.set(xlabel="GiB on the GPU", xlim=(0, max(80, gpu + 8)))
    axis.invert_yaxis()
    axis.spines[["top", "right"]].set_visible(False)
    fitting = [HOW[way] for way, need in plan.items() if need <= gpu * GIB]
    axis.set_title(fitting[0] if fitting else "too small for 704 x 1280 pixels", fontsize=10, loc="left")
    return drawn(figure)
