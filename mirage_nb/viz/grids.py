"""Still figures of stages 1 to 3: channels of a latent, small grids of numbers, voxels, levels and write policies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from matplotlib.figure import Figure
from PIL import Image, ImageDraw
from torch import Tensor

from mirage_nb.viz.base import drawn
from mirage_nb.viz.stages import PALE, VIRIDIS, heat, yes_no
from mirage_nb.viz.video import COLOURS, INK, PAPER, QUIET, title_of

LEVEL_COLOURS = {level: tuple(VIRIDIS[min(max(25 + 70 * (level + 1), 0), 255)].tolist()) for level in range(-8, 8)}


def channel_sheet(latent: Tensor, columns: int = 8) -> Image.Image:
    """The channels of one latent frame (C, h, w), each a picture on one scale: blue below 0, red above."""
    values = latent.detach().float().cpu().numpy()
    rows, reach = -(-len(values) // columns), float(np.abs(values).max())
    figure = Figure(figsize=(columns * 1.05, rows * 1.25), layout="constrained")
    for index, axis in enumerate(figure.subplots(rows, columns, squeeze=False).flat):
        axis.set_axis_off()
        if index < len(values):
            axis.imshow(values[index], cmap="RdBu_r", vmin=-reach, vmax=reach)
            axis.set_title(f"channel {index}", fontsize=8, color=INK)
    return drawn(figure)


def number_grids(grids: Mapping[str, Tensor], digits: int = 1, note: str = "") -> Image.Image:
    """Small grids (h, w) of numbers, side by side, each cell with its number; 0 is a hole, bool is yes or no."""
    count = len(grids)
    figure = Figure(figsize=(2.75 * count, 3.2 + 0.25 * bool(note)), layout="constrained")
    for axis, (name, grid) in zip(figure.subplots(1, count, squeeze=False)[0], grids.items()):
        truth = grid.dtype == torch.bool
        picture = yes_no(grid) if truth else heat(grid.float())
        axis.imshow(picture, alpha=0.75)
        for (row, column), value in np.ndenumerate(grid.cpu().numpy()):
            text = (
                ("yes" if value else "no")
                if truth
                else "·"
                if value <= 0
                else f"{value:.{digits * grid.is_floating_point()}f}"
            )
            dark = truth or not value or picture[row, column].mean() > 110
            axis.text(column, row, text, ha="center", va="center", fontsize=8, color=INK if dark else PAPER)
        axis.set(xticks=np.arange(-0.5, grid.shape[1]), yticks=np.arange(-0.5, grid.shape[0]))
        axis.set(xticklabels=[], yticklabels=[])
        axis.grid(color=PAPER, linewidth=1.5)
        axis.tick_params(length=0)
        axis.spines[:].set_color(QUIET)
        axis.set_title(name, fontsize=10, color=INK)
    if note:
        figure.supxlabel(note, fontsize=9, color=QUIET)
    return drawn(figure)


def voxel_slice(
    memory, colours: Tensor, height: float, thickness: float, bounds: Tensor, size: int = 320
) -> Image.Image:
    """A slice through the grid from above: each voxel as large as it is, with its token's colour and its level's frame.

    Args:
        memory: a `LatentGrid`. colours: (P, 3) uint8 of its tokens.
        height: metres of the slice's middle above the world's y = 0 (y points down). thickness: metres.
        bounds: (2, 3) lowest and highest corner of what is drawn.
        size: of the picture's longer side in pixels.
    """
    low, high = (np.asarray(b, dtype=float)[[0, 2]] for b in bounds)
    scale = (size - 16) / max(high - low)
    page = Image.new("RGB", tuple(int(n) + 16 for n in (high - low) * scale), PAPER)
    draw = ImageDraw.Draw(page)
    inside = (memory.positions[:, 1] + height).abs() <= thickness / 2
    level = memory.level.long()
    edges = memory.voxel_size * torch.exp2(level.float())
    corners = (memory.positions / edges[:, None]).floor() * edges[:, None]
    for x, _, z in memory.positions[~inside].tolist():
        at = (x - low[0]) * scale + 8, (high[1] - z) * scale + 8
        draw.ellipse((at[0] - 1, at[1] - 1, at[0] + 1, at[1] + 1), PALE)
    rows = zip(corners[inside].tolist(), edges[inside].tolist(), level[inside].tolist(), colours[inside].tolist())
    for (x, _, z), edge, which, rgb in rows:
        left, bottom = (x - low[0]) * scale + 8, (high[1] - z) * scale + 8
        square = (left, bottom - edge * scale, left + edge * scale, bottom)
        draw.rectangle(square, tuple(rgb), LEVEL_COLOURS[which], 2)
    draw.line((8, page.height - 5, 8 + scale, page.height - 5), QUIET, 2)
    return page


def level_picture(distance: Tensor, footprints: Tensor, level: Tensor, voxel_size: float) -> Image.Image:
    """Tokens by their distance (P,) and footprint (P,), metres, coloured by level (P,), and each level's share."""
    figure = Figure(figsize=(8.4, 2.9), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1.7, 1))
    found = sorted(set(level.tolist()))
    for number in found:
        mine, colour = level == number, np.array(LEVEL_COLOURS[number]) / 255
        label = f"level {number}: {100 * voxel_size * 2.0**number:.1f} cm"
        left.scatter(distance[mine], 100 * footprints[mine], color=colour, s=10, linewidths=0, label=label)
        right.bar(str(number), int(mine.sum()), color=colour)
    left.set(xlabel="depth at which it was written (m)", ylabel="footprint (cm)")
    left.legend(frameon=False, fontsize=9, title="voxel's edge", title_fontsize=9)
    right.set(xlabel="level", ylabel="tokens")
    for axis in (left, right):
        axis.spines[["top", "right"]].set_visible(False)
        axis.xaxis.label.set_color(INK)
    return drawn(figure)


def policy_picture(rows: Mapping[str, Sequence[float]], names: Sequence[str]) -> Image.Image:
    """Policies side by side: a panel for each measure, a bar for each policy, with its value."""
    figure = Figure(figsize=(2.9 * len(names), 2.5), layout="constrained")
    for column, (axis, name) in enumerate(zip(figure.subplots(1, len(names), squeeze=False)[0], names)):
        values = [row[column] for row in rows.values()]
        colours = [COLOURS["append"] if policy == "append" else COLOURS["memory"] for policy in rows]
        bars = axis.barh([title_of(policy) if policy == "append" else policy for policy in rows], values, color=colours)
        axis.bar_label(
            bars, [f"{v:,.0f}" if v >= 100 else f"{v:.2f}" for v in values], padding=3, fontsize=9, color=INK
        )
        axis.set(xticks=[], xlim=(0, 1.3 * max(values)))
        axis.invert_yaxis()
        axis.set_title(name, fontsize=10, color=INK)
        axis.spines[["top", "right", "bottom"]].set_visible(False)
        if column:
            axis.set_yticklabels([])
    return drawn(figure)
