"""Pictures of stages 1 to 3: latents, depth, tokens in space, and readouts.

Those that are drawn while a slider moves (`board`, `cloud_view`, `plan_view`, `chart`) are composed of arrays, in a few
milliseconds; a matplotlib figure would take longer than everything that it shows.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from matplotlib import colormaps
from matplotlib.colors import to_rgb
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from mirage_nb.cameras import Cameras
from mirage_nb.viz.cloud import frustum
from mirage_nb.viz.video import COLOURS, INK, PAPER, QUIET, title_of, token_colours

VIRIDIS = (colormaps["viridis"](np.linspace(0, 1, 256))[:, :3] * 255).round().astype(np.uint8)
PALE = "#e7eaef"
MARK = "#e6007a"  # what is picked; in none of the rooms


def heat(values: Tensor, low: float | None = None, high: float | None = None) -> np.ndarray:
    """Values (h, w), depth say, as colours (h, w, 3) uint8; those that are not finite or not above 0 are white."""
    values = values.detach().float().cpu().numpy()
    known = np.isfinite(values) & (values > 0)
    low = low if low is not None else values[known].min() if known.any() else 0.0
    high = high if high is not None else values[known].max() if known.any() else 1.0
    scaled = np.clip((np.where(known, values, low) - low) / max(high - low, 1e-6), 0, 1)
    return np.where(known[..., None], VIRIDIS[(scaled * 255).astype(np.uint8)], np.uint8(255))


def readout_cells(latents: Tensor, visible: Tensor, colours: Tensor) -> np.ndarray:
    """A readout (C, h, w), visible (h, w) bool, by the tokens' colours: (h, w, 3) uint8, holes in their colour."""
    channels, h, w = latents.shape
    rgb = token_colours(latents.reshape(channels, -1).T, colours).reshape(h, w, 3).numpy()
    return np.where(visible.cpu().numpy()[..., None], rgb, _rgb(COLOURS["hole"]))


def yes_no(mask: Tensor) -> np.ndarray:
    """A mask (h, w) as colours: True as the memory's, False as a hole's."""
    return np.where(mask.cpu().numpy()[..., None], _rgb(COLOURS["memory"]), _rgb(COLOURS["hole"]))


def ringed(picture: np.ndarray | Tensor, cell: tuple[int, int], size: int, enlarge: int = 1) -> np.ndarray:
    """A picture (H, W, 3), enlarged, with one cell (row, column) of `size` pixels of it framed."""
    array = np.asarray(picture).repeat(enlarge, 0).repeat(enlarge, 1)
    image = Image.fromarray(array)
    x, y, edge = cell[1] * size * enlarge, cell[0] * size * enlarge, size * enlarge
    ImageDraw.Draw(image).rectangle((x - 1, y - 1, x + edge, y + edge), outline=MARK, width=max(1, enlarge // 2))
    return np.asarray(image)


def board(
    tiles: Mapping[str, np.ndarray | Tensor | Image.Image], side: int = 168, columns: int = 4, note: str = ""
) -> Image.Image:
    """Pictures side by side under their names, with a line below: quick enough to follow a slider.

    Args:
        tiles: name -> (H, W, 3) uint8 or a PIL image. Arrays are brought to `side` pixels in height; images stay as
            they are.
        columns: pictures in a row.
        note: the line below.
    """
    if not tiles:
        raise ValueError("tiles: expected at least one picture")
    font, gap, banner = _font(13), 8, 22
    images = {name: _tile(tile, side) for name, tile in tiles.items()}
    names = list(images)
    rows = [names[i : i + columns] for i in range(0, len(names), columns)]
    cell = {n: max(images[n].width, round(font.getlength(title_of(n)))) for n in names}
    width = max(*(sum(cell[n] + gap for n in row) + gap for row in rows), round(font.getlength(note)) + 2 * gap)
    heights = [max(images[n].height for n in row) + banner + gap for row in rows]
    page = Image.new("RGB", (width, sum(heights) + (26 if note else 4)), PAPER)
    draw, y = ImageDraw.Draw(page), 0
    for row, height in zip(rows, heights):
        x = gap
        for name in row:
            draw.text((x, y + banner - 7), title_of(name), COLOURS.get(name, INK), font, "ls")
            page.paste(images[name], (x, y + banner))
            x += cell[name] + gap
        y += height
    draw.text((gap, y + 4), note, QUIET, font)
    return page


def cloud_view(
    positions: Tensor, colours: Tensor, azimuth: float = 30.0, elevation: float = 20.0,
    size: tuple[int, int] = (360, 260), cameras: Cameras | None = None, marked: Tensor | None = None,
    focus: Tensor | None = None,
) -> Image.Image:  # fmt: skip
    """Tokens in space from the side, near ones before far ones.

    Args:
        positions: (P, 3) metres. colours: (P, 3) uint8.
        azimuth: degrees about the vertical that the eye turns to the right, away from behind the first camera (or
            from looking along z).
        elevation: degrees that the eye is raised.
        size: (width, height) of the picture in pixels.
        cameras: whose views are drawn.
        marked: rows of tokens that are picked.
        focus: (2, 3) lowest and highest corner of what is to fill the picture; by default of the tokens.
    """
    points = positions.detach().float().cpu().numpy()
    page = Image.new("RGB", size, PAPER)
    lines = [] if cameras is None else [frustum(cameras[i]) for i in range(len(cameras))]
    if focus is None and not len(points) and not lines:
        return page
    box = np.asarray(focus) if focus is not None else np.stack([f(np.concatenate([points, *lines]), 0) for f in _RANGE])
    yaw = 0.0 if cameras is None else float(torch.atan2(cameras.c2w[0, 0, 2], cameras.c2w[0, 2, 2]))
    turn = _rotation(yaw - np.radians(azimuth), np.radians(elevation))
    middle, reach = box.mean(0), max(np.linalg.norm(box[1] - box[0]) / 2, 0.1)

    def flat(xyz: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        seen = (xyz - middle) @ turn.T
        away = seen[:, 2] + 4 * reach
        return seen[:, :2] / away[:, None], away

    corners = flat(np.stack(np.meshgrid(*box.T), -1).reshape(-1, 3))[0]
    low, high = corners.min(0), corners.max(0)
    scale = ((np.array(size) - 20) / np.maximum(high - low, 1e-6)).min()

    def to_page(xyz: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        at, away = flat(xyz)
        return (at - (low + high) / 2) * scale + np.array(size) / 2, away

    draw = ImageDraw.Draw(page)
    if len(points):
        at, deep = to_page(points)
        order = np.argsort(-deep, kind="stable")
        radius = 2 if len(points) > 600 else 3
        _dots(page, at[order], colours.cpu().numpy()[order], radius)
    for line in lines:
        _polyline(draw, to_page(line)[0], COLOURS["camera"])
    if marked is not None and len(points):
        for x, y in at[np.atleast_1d(np.asarray(marked))]:
            draw.ellipse((x - 7, y - 7, x + 7, y + 7), outline=MARK, width=3)
    return page


def plan_view(
    positions: Tensor, colours: Tensor, bounds: Tensor, size: int = 260, cameras: Cameras | None = None,
    view: int | None = None, box: Tensor | None = None, marked: Tensor | None = None,
) -> Image.Image:  # fmt: skip
    """Tokens from above, x to the right and z away, the higher ones on top.

    Args:
        positions: (P, 3) metres. colours: (P, 3) uint8.
        bounds: (2, 3) lowest and highest corner of what is drawn.
        size: of the picture's longer side in pixels.
        cameras: of a path, drawn as a line. view: which of them is drawn with its view.
        box: (2, 3), a box that is drawn dashed. marked: rows of tokens that are picked.
    """
    low, high = (np.asarray(b, dtype=float)[[0, 2]] for b in bounds)
    scale = (size - 16) / max(high - low)
    width, height = (int(n) + 16 for n in (high - low) * scale)
    page = Image.new("RGB", (width, height), PAPER)

    def to_page(xyz: np.ndarray) -> np.ndarray:
        x, z = xyz[:, 0], xyz[:, 2]
        return np.stack([(x - low[0]) * scale + 8, (high[1] - z) * scale + 8], 1)

    points = positions.detach().float().cpu().numpy()
    order = np.argsort(-points[:, 1], kind="stable")
    _dots(page, to_page(points[order]), colours.cpu().numpy()[order], 2)
    draw = ImageDraw.Draw(page)
    if cameras is not None:
        _polyline(draw, to_page(cameras.centers.cpu().numpy()), COLOURS["camera"], 3)
        if view is not None:
            _polyline(draw, to_page(frustum(cameras[view])), COLOURS["camera"])
    if box is not None:
        (x0, y1), (x1, y0) = to_page(np.asarray(box, dtype=float))
        draw.rectangle((min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1)), outline=MARK, width=2)
    if marked is not None:
        for x, y in to_page(points[np.atleast_1d(np.asarray(marked))]):
            draw.ellipse((x - 6, y - 6, x + 6, y + 6), outline=MARK, width=3)
    draw.line((8, height - 5, 8 + scale, height - 5), QUIET, 2)
    draw.text((12 + scale, height - 5), "1 m", QUIET, _font(11), "lm")
    return page


def chart(
    curves: Mapping[str, Sequence[float]], at: int, size: tuple[int, int] = (260, 150), title: str = ""
) -> Image.Image:
    """Curves over the frames of a walk up to frame `at`, the rest pale: quick enough to follow a slider."""
    page = Image.new("RGB", size, PAPER)
    draw, font = ImageDraw.Draw(page), _font(11)
    length, top = max(map(len, curves.values())), max(max(map(max, curves.values())), 1e-9)
    left, right, upper, lower = 8, size[0] - 66, 24, size[1] - 10
    draw.text((left, 2), title, INK, _font(12))
    draw.line((left, lower, right, lower), QUIET, 1)
    for name, values in curves.items():
        x = left + np.arange(len(values)) * (right - left) / max(length - 1, 1)
        line = np.stack([x, lower - np.asarray(values, dtype=float) / top * (lower - upper)], 1)
        _polyline(draw, line, PALE, 2)
        _polyline(draw, line[: at + 1], COLOURS.get(name, INK), 3)
        now = line[min(at, len(values) - 1)]
        label = f"{values[min(at, len(values) - 1)]:,.0f}"
        draw.text((min(now[0] + 5, right + 4), now[1]), label, COLOURS.get(name, INK), font, "lm")
    return page


def open_viewer(memory, colours: Tensor | None = None, title: str = "memory") -> str:
    """Open3D's own window with a memory's tokens, colours (P, 3) uint8, where there is a display; says what it did."""
    if os.environ.get("MIRAGE_HEADLESS"):  # `notebook_runs.execute`: nobody is there to close a window
        return "no display here, so no window of Open3D's"
    if sys.platform.startswith("linux") and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        return "no display here, so no window of Open3D's"
    import open3d

    open3d.visualization.draw_geometries([memory.to_open3d(colours)], window_name=title, width=900, height=700)
    return "the window was closed"


_RANGE = (np.nanmin, np.nanmax)


def _rgb(colour: str) -> np.ndarray:
    return np.array([round(255 * part) for part in to_rgb(colour)], dtype=np.uint8)


def _font(size: int):
    return ImageFont.load_default(size)


def _tile(tile, side: int) -> Image.Image:
    if isinstance(tile, Image.Image):
        return tile
    image = Image.fromarray(np.asarray(tile))
    return image.resize((round(side * image.width / image.height), side), Image.Resampling.NEAREST)


def _rotation(yaw: float, elevation: float) -> np.ndarray:
    """World to eye: turned by yaw about the vertical (y), raised by elevation and looking down."""
    c, s, ce, se = np.cos(yaw), np.sin(yaw), np.cos(elevation), np.sin(elevation)
    level = np.array([[c, 0, -s], [0, 1, 0], [s, 0, c]])
    return np.array([[1, 0, 0], [0, ce, -se], [0, se, ce]]) @ level


def _dots(page: Image.Image, at: np.ndarray, colours: np.ndarray, radius: int) -> None:
    """Squares in the order given, later ones on top."""
    pixels = np.array(page)
    around = np.stack(np.meshgrid(*[np.arange(-radius, radius + 1)] * 2), -1).reshape(1, -1, 2)
    xy = (at.round().astype(int)[:, None] + around).reshape(-1, 2)
    inside = ((xy >= 0) & (xy < page.size)).all(1)
    x, y = xy[inside].T
    pixels[y, x] = colours.repeat(around.shape[1], 0)[inside]
    page.paste(Image.fromarray(pixels))


def _polyline(draw: ImageDraw.ImageDraw, points: np.ndarray, colour: str, width: int = 1) -> None:
    """A line through points (K, 2); a row of NaN lifts the pen."""
    for a, b in zip(points[:-1], points[1:]):
        if np.isfinite([*a, *b]).all():
            draw.line((*a, *b), colour, width)
