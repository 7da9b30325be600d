"""What a training sample looks like, and what training changes."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from mirage_nb.models.vae import as_uint8, decode
from mirage_nb.viz.base import COLOURS, INK, drawn, small


@torch.no_grad()
def decoded(vae, latents: Tensor) -> Tensor:
    """Latents (C, T, h, w) as frames (T, H, W, 3) uint8."""
    return as_uint8(decode(vae, latents[None].float())[0].transpose(0, 1))


def film(rows: Mapping[str, Tensor], titles: list[str]) -> Image.Image:
    """Rows of frames, {name: (T, H, W, 3) uint8}, with a title over each column."""
    figure = Figure(figsize=(1.5 * len(titles) + 1.2, 1.55 * len(rows) + 0.3), layout="constrained")
    axes = figure.subplots(len(rows), len(titles), squeeze=False)
    for axis, title in zip(axes[0], titles):
        axis.set_title(title, fontsize=9, color=INK)
    for line, (name, frames) in zip(axes, rows.items()):
        for axis, frame in zip(line, frames):
            axis.imshow(frame.numpy())
            axis.set(xticks=[], yticks=[])
        line[0].set_ylabel(name, fontsize=9, color=INK)
    return small(drawn(figure))


def loss_curve(rows: list[dict]) -> Figure:
    """The loss, batch by batch and smoothed, from rows of a training's log (`training.loop.read_log`)."""
    figure = Figure(figsize=(7, 3), layout="constrained")
    axis, steps = figure.subplots(), [row["step"] for row in rows]
    axis.plot(steps, [row["loss"] for row in rows], color="#c3c8d1", linewidth=1, label="batches")
    axis.plot(steps, [row["smooth"] for row in rows], color=COLOURS["memory"], linewidth=2, label="smoothed")
    axis.set(xlabel="step", ylabel="loss")
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False)
    return figure


def bars(values: Mapping[str, float], label: str, best: str | None = None) -> Image.Image:
    """Named values as horizontal bars, each with its number; `best` in the memory's colour."""
    figure = Figure(figsize=(7, 0.42 * len(values) + 0.7), layout="constrained")
    axis, names = figure.subplots(), list(values)
    shades = [COLOURS["memory"] if name == best else "#aab2bf" for name in names]
    axis.barh(names, list(values.values()), color=shades)
    for row, value in enumerate(values.values()):
        axis.annotate(f"{value:.3g}", (value, row), (4, 0), textcoords="offset points", va="center", color=INK)
    axis.invert_yaxis()
    axis.set_xlabel(label)
    axis.margins(x=0.12)
    axis.spines[["top", "right"]].set_visible(False)
    return drawn(figure)
