"""What a denoising step is worth: seconds against quality, measured with `Walk` itself."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image

from mirage_nb.data.rooms.room import Room
from mirage_nb.evaluation import closed_loop_psnr, psnr
from mirage_nb.viz.figures import lines
from mirage_nb.viz.widgets.walk import Walk

TURNS = ("left", "left", "right", "right")  # presses that end where they began; no wall can be in the way of a turn


def measure_steps(
    pipe, seeds: Sequence[int] = (900001, 900002, 900003), steps: Sequence[int] = (1, 2, 4, 8)
) -> list[dict[str, float]]:
    """Turn away and back in a few rooms with each number of denoising steps a press.

    Args:
        pipe: a `MiragePipeline`.
        seeds: of rooms; each is its noise's seed, too.
        steps: the numbers to try.

    Returns:
        For each number of steps: steps; seconds, the median press; closed_loop_psnr, of the last frame to the first;
        psnr_to_truth, of all generated frames; in dB, means over the rooms.
    """
    rows = []
    for number in steps:
        seconds, loops, truths = [], [], []
        for seed in seeds:
            room = Room(seed, moving=0)
            walk = Walk(pipe, room, seed=seed, num_inference_steps=number)
            for key in TURNS:
                walk.press(key)
            truth = room.render(walk.cameras, times=torch.zeros(len(walk.cameras))).frames
            seconds += walk.seconds
            loops.append(closed_loop_psnr(walk.frames))
            truths.append(psnr(walk.frames[1:], truth[1:]).mean().item())
        row = {"closed_loop_psnr": float(np.mean(loops)), "psnr_to_truth": float(np.mean(truths))}
        rows.append({"steps": number, "seconds": float(np.median(seconds))} | row)
    return rows


def steps_curve(rows: Sequence[dict[str, float]]) -> Image.Image:
    """Seconds a press against quality, for each number of steps of `measure_steps`."""
    seconds = [row["seconds"] for row in rows]
    marks = {row["seconds"]: f"{row['steps']} steps" for row in rows}
    curves = {"closed loop": "closed_loop_psnr", "to the truth": "psnr_to_truth"}
    values = {words: [row[key] for row in rows] for words, key in curves.items()}
    return lines(values, "seconds a press, on this machine", "PSNR (dB)", seconds, marks, (6.4, 3.2))
