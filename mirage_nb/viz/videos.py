"""Videos side by side, their first and last frames, and how near they stay to the truth."""

from __future__ import annotations

import base64
from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from mirage_nb.evaluation import psnr
from mirage_nb.viz.base import drawn
from mirage_nb.viz.video import COLOURS, INK, QUIET, contact_sheet, mp4_bytes, side_by_side, title_of


def show_videos(videos: Mapping[str, Tensor], fps: int = 12, columns: int = 7) -> None:
    """Show videos {name: (T, H, W, 3) uint8} in step: a player, and below it a strip of frames that needs none."""
    from IPython.display import HTML, display

    data = base64.b64encode(mp4_bytes(side_by_side(videos), fps, quality=23)).decode()
    source = f'src="data:video/mp4;base64,{data}"'
    display(HTML(f'<video controls autoplay loop muted playsinline style="max-width:100%" {source}></video>'))
    display(contact_sheet(videos, columns, tile=104))


def first_last(videos: Mapping[str, Tensor]) -> Image.Image:
    """The first and the last frame of each video on a closed path, with the PSNR between them."""
    figure = Figure(figsize=(2.3 * len(videos), 4.6), layout="constrained")
    axes = figure.subplots(2, len(videos), squeeze=False)
    for column, (name, frames) in enumerate(videos.items()):
        value = psnr(frames[-1], frames[0]).item()
        label = "the same picture" if np.isinf(value) else f"{value:.1f} dB"
        for row, (index, caption) in enumerate(((0, "first"), (-1, f"last: {label}"))):
            axis = axes[row, column]
            axis.imshow(frames[index].numpy())
            axis.set(xticks=[], yticks=[])
            axis.set_xlabel(caption, color=COLOURS.get(name, INK))
            axis.spines[:].set_color(COLOURS.get(name, QUIET))
            axis.spines[:].set_linewidth(2)
        axes[0, column].set_title(title_of(name), color=COLOURS.get(name, INK), fontsize=11)
    return drawn(figure)


def psnr_curve(videos: Mapping[str, Tensor], truth: Tensor) -> Image.Image:
    """PSNR of every frame to the true one, along a path there and back.

    Args:
        videos: name -> (T, H, W, 3) uint8, a line each. truth: (T, H, W, 3) uint8.

    Raises:
        ValueError: a video has not the truth's shape.
    """
    figure = Figure(figsize=(8, 3.2), layout="constrained")
    axis = figure.subplots()
    for name, frames in videos.items():
        if frames.shape != truth.shape:
            raise ValueError(f"videos: expected {tuple(truth.shape)} as the truth, got {name} {tuple(frames.shape)}")
        values = psnr(frames, truth).numpy()
        values[np.isinf(values)] = np.nan  # the first frame is the given one
        axis.plot(values, color=COLOURS.get(name, INK), linewidth=2, label=title_of(name))
    turn = (len(truth) - 1) / 2
    axis.axvline(turn, color=QUIET, linewidth=1, linestyle=":")
    axis.annotate(
        "turns back", (turn, 1), (4, -4), xycoords=("data", "axes fraction"), textcoords="offset points", va="top",
        color=QUIET,
    )  # fmt: skip
    axis.set(xlabel="frame", ylabel="PSNR to the truth (dB)", xlim=(0, len(truth) - 1))
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False, loc="lower left", labelcolor="linecolor")
    axis.grid(axis="y", color=QUIET, alpha=0.25)
    return drawn(figure)
