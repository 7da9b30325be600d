"""What a denoising step is worth: seconds against quality, measured with `Walk` itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from matplotlib.figure import Figure
from PIL import Image

from mirage_nb.data.rooms.room import Room
from mirage_nb.evaluation import closed_loop_psnr, psnr
from mirage_nb.viz.base import drawn
from mirage_nb.viz.video import COLOURS
from mirage_nb.viz.widgets.walk import Walk

OUT_AND_BACK = ("left", "left", "right", "right")


def measure_steps(
    pipe,
    seeds: Sequence[int] = (900001, 900002, 900003),
    steps: Sequence[int] = (1, 2, 4, 8),
    presses: Sequence[str] = OUT_AND_BACK,
    progress: Callable[[int, int], None] | None = None,
) -> list[dict[str, float]]:
    """Walk out and back in a few rooms with each number of denoising steps a press.

    Args:
        pipe: a `MiragePipeline`.
        seeds: of rooms; each is its noise's seed, too.
        presses: that end where they began.
        progress: called with walks done and walks in all.

    Returns:
        For each number of steps: steps; seconds, the median press; closed_loop_psnr, of the last frame to the first;
        psnr_to_truth, of all generated frames; in dB, means over the rooms.
    """
    rows, count = [], 0
    for number in steps:
        seconds, loops, truths = [], [], []
        for seed in seeds:
            room = Room(seed, moving=0)
            walk = Walk(pipe, room, seed=seed, num_inference_steps=number)
            walk.room = None  # it only turns: no wall can be in the way, and none should end a measurement
            for key in presses:
                walk.press(key)
            truth = room.render(walk.cameras, times=torch.zeros(len(walk.cameras))).frames
            seconds += walk.seconds
            loops.append(closed_loop_psnr(walk.frames))
            truths.append(psnr(walk.frames[1:], truth[1:]).mean().item())
            count += 1
            if progress:
                progress(count, len(seeds) * len(steps))
        rows.append(
            {
                "steps": number,
                "seconds": float(np.median(seconds)),
                "closed_loop_psnr": float(np.mean(loops)),
                "psnr_to_truth": float(np.mean(truths)),
            }
        )
    return rows


def steps_curve(rows: Sequence[dict[str, float]], chosen: int | None = None) -> Image.Image:
    """Seconds a press against quality, a point for each number of steps of `measure_steps`; one of them ringed."""
    figure = Figure(figsize=(6.4, 3.4), layout="constrained")
    axis = figure.subplots()
    seconds = [row["seconds"] for row in rows]
    lines = (("closed_loop_psnr", "memory", "closed loop"), ("psnr_to_truth", "truth", "to the truth"))
    for key, colour, words in lines:
        values = [row[key] for row in rows]
        axis.plot(seconds, values, "o-", color=COLOURS[colour], label=words)
        for row, value in zip(rows, values):
            axis.annotate(f"{row['steps']}", (row["seconds"], value), (5, 5), textcoords="offset points")
            if row["steps"] == chosen:
                axis.plot(row["seconds"], value, "o", ms=13, mfc="none", mew=2, color=COLOURS["hole"])
    axis.set(xlabel="seconds a press, on this machine", ylabel="PSNR (dB)", xlim=(0, None))
    axis.set_title("denoising steps a press: time against quality", fontsize=10)
    axis.spines[["top", "right"]].set_visible(False)
    axis.margins(y=0.15)
    axis.legend(frameon=False, labelcolor="linecolor")
    return drawn(figure)
