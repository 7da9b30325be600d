"""Still figures: pictures in rows, and curves."""

from collections.abc import Mapping, Sequence
from itertools import chain, repeat, zip_longest

import numpy as np
from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageFont

from mirage_nb.viz.base import COLOURS, INK, PAPER, QUIET, drawn, title_of

OTHER_CURVES = ("#0072b2", "#cc79a7", "#56b4e9", "#e69f00", "#7b8494")  # of names that are not in COLOURS


def tile_of(picture, side: int) -> Image.Image:
    """An array (H, W, 3) uint8 as a picture `side` pixels high; a PIL image stays as it is.

    An array that is enlarged much, a grid of cells for example, keeps its sharp squares.
    """
    if isinstance(picture, Image.Image):
        return picture
    image = Image.fromarray(np.asarray(picture))
    how = Image.Resampling.NEAREST if image.height * 3 <= side else Image.Resampling.LANCZOS
    return image.resize((round(side * image.width / image.height), side), how)


def pictures(
    rows: Mapping[str, Sequence], columns: Sequence[str] = (), size: float = 1.55, note: str = ""
) -> Image.Image:
    """A table of pictures: a named row each, with a title above each column and a line below.

    Args:
        rows: name -> pictures (H, W, 3) uint8, as (T, H, W, 3) or a list; the rows may differ in length.
        size: height of a picture in inches of 84 pixels.

    Returns:
        An image with a palette of 256 colours, so that a notebook full of photographs stays a small file.
    """
    named = []
    for number, (name, row) in enumerate(rows.items()):
        titles = chain(() if number else columns, repeat(""))  # only the first row has titles
        named.append((name, [(title, tile_of(picture, round(84 * size))) for title, picture in zip(titles, row)]))
    return _page(named, note).quantize(256, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)


def board(tiles: Mapping, side: int = 168, columns: int = 4, note: str = "") -> Image.Image:
    """Pictures (at least one) under their names, `columns` in a row, with a line below: name -> (H, W, 3) uint8, which
    becomes `side` pixels high, or a PIL image, which stays as it is."""
    if not tiles:
        raise ValueError("tiles: expected at least one picture")
    cells = [(name, tile_of(tile, side)) for name, tile in tiles.items()]
    return _page([("", cells[i : i + columns]) for i in range(0, len(cells), columns)], note)


def _page(rows: Sequence[tuple[str, Sequence[tuple[str, Image.Image]]]], note: str) -> Image.Image:
    """Rows of (title, picture): the name of a row at its left, each title above its picture, a line below."""
    gap, font = 6, ImageFont.load_default(13)

    def width_of(words: str) -> int:
        return round(max(font.getlength(line) for line in words.split("\n")))

    names = [title_of(name).replace(", ", ",\n") for name, _ in rows]
    left = gap + max(map(width_of, names)) + (gap if any(names) else 0)
    columns = [
        gap + max(max(picture.width, width_of(title_of(title))) for title, picture in filter(None, column))
        for column in zip_longest(*(row for _, row in rows))
    ]
    banners = [22 if any(title for title, _ in row) else 0 for _, row in rows]
    heights = [max((picture.height for _, picture in row), default=0) + gap for _, row in rows]
    width = max(left + sum(columns), width_of(note) + 2 * gap)
    page = Image.new("RGB", (width, gap + sum(banners) + sum(heights) + (16 if note else 0)), PAPER)
    pen, y = ImageDraw.Draw(page), gap
    for (name, row), words, banner, height in zip(rows, names, banners, heights):
        x, y = left, y + banner
        pen.multiline_text((x - gap, y + height / 2), words, COLOURS.get(name, INK), font, "rm", align="right")
        for (title, picture), column in zip(row, columns):
            pen.text((x, y - 6), title_of(title), COLOURS.get(title, INK), font, "ls")
            page.paste(picture, (x, y))
            x += column
        y += height
    pen.text((gap, page.height - 6), note, QUIET, font, "ls")
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
        axis.text(at, 1, f" {text}", color=QUIET, va="top", fontsize=9, transform=axis.get_xaxis_transform())
    axis.set(xlabel=xlabel, ylabel=ylabel)
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(axis="y", color=QUIET, alpha=0.25)
    axis.legend(frameon=False, labelcolor="linecolor", fontsize=9)
    return drawn(figure)
