"""Still figures: tables of pictures, curves, and numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from PIL import Image, ImageDraw

from mirage_nb.viz.base import COLOURS, INK, PAPER, QUIET, drawn, font, small, tile_of, title_of

OTHER_CURVES = ("#0072b2", "#cc79a7", "#56b4e9", "#e69f00", "#7b8494")  # of names that are not in COLOURS


def pictures(
    rows: Mapping[str, Sequence], columns: Sequence[str] = (), size: float = 1.55, note: str = ""
) -> Image.Image:
    """A table of pictures: a named row each, with a title a column and a line below.

    Args:
        rows: name -> pictures (H, W, 3) uint8, as (T, H, W, 3) or a list; rows may be shorter than others.
        columns: titles.
        size: height of a picture in inches of 84 pixels.
        note: the line below.
    """
    return small(table(rows, columns, round(84 * size), note))


def table(rows: Mapping[str, Sequence], columns: Sequence[str], side: int, note: str = "") -> Image.Image:
    """What `pictures` makes, in all its colours; `side` is the height of a picture in pixels."""
    tiles = {title_of(name).replace(", ", ",\n"): [tile_of(p, side) for p in row] for name, row in rows.items()}
    width, gap, top = max(tile.width for row in tiles.values() for tile in row) + 6, 6, 24 if columns else 4
    margin = 16 + round(max(font(13).getlength(part) for name in tiles for part in name.split("\n")))
    page_width = max(margin + max(map(len, tiles.values())) * width, round(font(13).getlength(note)) + 16)
    page = Image.new("RGB", (page_width, top + len(tiles) * (side + gap) + (22 if note else 0)), PAPER)
    draw = ImageDraw.Draw(page)
    for index, title in enumerate(columns):
        draw.text((margin + index * width + (width - gap) / 2, top - 6), title, INK, font(13), "ms")
    for y, colour, (name, row) in zip(range(top, page.height, side + gap), map(COLOURS.get, rows), tiles.items()):
        draw.multiline_text((margin - 8, y + side / 2), name, colour or INK, font(13), "rm", align="right")
        for index, tile in enumerate(row):
            page.paste(tile, (margin + index * width, y))
    draw.text((8, page.height - 6), note, QUIET, font(13), "ls")
    return page


def lines(
    curves: Mapping[str, Sequence[float]], xlabel: str, ylabel: str, x: Sequence[float] | None = None,
    marks: Mapping[float, str] | None = None, size: tuple[float, float] = (8.0, 3.0),
) -> Image.Image:  # fmt: skip
    """Named curves over x (by default 0, 1, 2, ...), labelled in their colours, with named vertical marks."""
    figure = Figure(figsize=size, layout="constrained")
    axis, others = figure.subplots(), iter(OTHER_CURVES)
    for name, values in curves.items():
        y = np.asarray(values, dtype=float)
        y = np.where(np.isinf(y), np.nan, y)  # a picture that is the truth itself has no finite PSNR
        style = {"marker": "o", "markersize": 4} if len(y) < 20 else {}
        colour = COLOURS.get(name) or next(others)
        axis.plot(np.arange(len(y)) if x is None else x, y, color=colour, linewidth=2, label=title_of(name), **style)
    for at, text in (marks or {}).items():
        axis.axvline(at, color=QUIET, linewidth=1, linestyle=":")
        style = {"xycoords": ("data", "axes fraction"), "textcoords": "offset points", "va": "top", "fontsize": 9}
        axis.annotate(text, (at, 1), (4, -4), color=QUIET, **style)
    axis.set(xlabel=xlabel, ylabel=ylabel)
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(axis="y", color=QUIET, alpha=0.25)
    axis.legend(frameon=False, labelcolor="linecolor", fontsize=9)
    return drawn(figure)
