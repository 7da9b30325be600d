"""Tokens in space: from the side, from above, and to be turned with the mouse.

Pictures that are drawn while a slider moves (`board`, `cloud_view`, `plan_view`) are composed of arrays in a few
milliseconds; a matplotlib figure would take longer than everything that it shows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from mirage_nb.cameras import Cameras
from mirage_nb.data.rooms.room import view
from mirage_nb.viz.base import COLOURS, INK, PAPER, QUIET, font, tile_of, title_of

FRUSTUM = 0.35  # metres from a drawn camera to its image plane
MOST_POINTS = 20_000  # more points make a page slow and large
EDGE = 8  # pixels between a plan and the picture's border


def board(
    tiles: Mapping[str, np.ndarray | Tensor | Image.Image], side: int = 168, columns: int = 4, note: str = ""
) -> Image.Image:
    """Pictures side by side under their names, with a line below.

    Args:
        tiles: name -> (H, W, 3) uint8 or a PIL image. Arrays are brought to `side` pixels in height; images stay as
            they are.
        columns: pictures in a row.
        note: the line below.

    Raises:
        ValueError: there is no picture.
    """
    if not tiles:
        raise ValueError("tiles: expected at least one picture")
    gap, banner = 8, 22
    images = {name: tile_of(tile, side) for name, tile in tiles.items()}
    names = list(images)
    rows = [names[i : i + columns] for i in range(0, len(names), columns)]
    cell = {n: max(images[n].width, round(font(13).getlength(title_of(n)))) for n in names}
    width = max(*(sum(cell[n] + gap for n in row) + gap for row in rows), round(font(13).getlength(note)) + 2 * gap)
    heights = [max(images[n].height for n in row) + banner + gap for row in rows]
    page = Image.new("RGB", (width, sum(heights) + (26 if note else 4)), PAPER)
    draw, y = ImageDraw.Draw(page), 0
    for row, height in zip(rows, heights):
        x = gap
        for name in row:
            draw.text((x, y + banner - 8), title_of(name), COLOURS.get(name, INK), font(13), "ls")
            page.paste(images[name], (x, y + banner))
            if name in COLOURS:
                draw.rectangle((x, y + banner - 4, x + images[name].width - 1, y + banner - 1), COLOURS[name])
            x += cell[name] + gap
        y += height
    draw.text((gap, y + 4), note, QUIET, font(13))
    return page


def cloud_view(
    positions: Tensor, colours: Tensor, azimuth: float = 30.0, elevation: float = 20.0,
    size: tuple[int, int] = (360, 260), cameras: Cameras | None = None, marked: Tensor | None = None,
    focus: Tensor | None = None,
) -> Image.Image:  # fmt: skip
    """Tokens in space from the side; near ones hide far ones.

    Args:
        positions: (P, 3) metres. colours: (P, 3) uint8.
        azimuth: degrees that the eye turns to the right about the vertical; 0 is the first camera's own direction
            (or along z).
        elevation: degrees that the eye is raised.
        size: (width, height) of the picture in pixels.
        cameras: whose views are drawn.
        marked: rows of tokens that are ringed.
        focus: (2, 3) lowest and highest corner of what is to fill the picture; by default of the tokens and cameras.
    """
    page = Image.new("RGB", size, PAPER)
    points = positions.detach().float().cpu()
    outlines = [] if cameras is None else [torch.from_numpy(frustum(cameras[i])) for i in range(len(cameras))]
    if focus is None:
        if not len(points) and not outlines:
            return page
        everything = torch.cat([points, *(line[line.isfinite().all(1)] for line in outlines)])
        focus = torch.stack([everything.amin(0), everything.amax(0)])
    yaw = 0.0 if cameras is None else float(torch.atan2(cameras.c2w[0, 0, 2], cameras.c2w[0, 2, 2]))
    eye = _looking_at(torch.as_tensor(focus), yaw - np.radians(azimuth), -np.radians(elevation), size)
    at, distance = (x[0].numpy() for x in eye.project(points))  # (P, 2) pixels, (P,)
    order = np.argsort(-distance, kind="stable")
    _dots(page, at[order], colours.cpu().numpy()[order], 2 if len(points) > 600 else 3)
    draw = ImageDraw.Draw(page)
    for line in outlines:
        _polyline(draw, eye.project(line)[0][0].numpy(), COLOURS["camera"])
    if marked is not None and len(points):
        _rings(draw, at[np.atleast_1d(np.asarray(marked))], 7)
    return page


class Plan:
    """A picture from above, x to the right and z away, into which points and lines are drawn in metres.

    Args:
        bounds: (2, 3) lowest and highest corner of what is shown.
        size: of the picture's longer side in pixels.

    Attributes:
        image: the picture. draw: Pillow's pen on it. scale: pixels a metre.
    """

    def __init__(self, bounds: Tensor, size: int) -> None:
        self.low, self.high = (np.asarray(b, dtype=float)[[0, 2]] for b in bounds)
        self.scale = (size - 2 * EDGE) / max(self.high - self.low)
        width, height = (int(n) + 2 * EDGE for n in (self.high - self.low) * self.scale)
        self.image = Image.new("RGB", (width, height), PAPER)
        self.draw = ImageDraw.Draw(self.image)

    def at(self, xyz) -> np.ndarray:
        """Points (N, 3) in metres to pixels (N, 2)."""
        xyz = np.asarray(xyz, dtype=float)
        x, z = (xyz[:, 0] - self.low[0]) * self.scale, (self.high[1] - xyz[:, 2]) * self.scale
        return np.stack([x, z], 1) + EDGE

    def tokens(self, positions: Tensor, colours: Tensor, radius: int = 2) -> None:
        """Points (P, 3) as squares of their colours (P, 3) uint8; the higher ones lie on top."""
        points = positions.detach().float().cpu().numpy()
        order = np.argsort(-points[:, 1], kind="stable")  # y points down
        _dots(self.image, self.at(points[order]), colours.cpu().numpy()[order], radius)

    def path(self, cameras: Cameras, views: Sequence[int] = ()) -> None:
        """The way of cameras as a line, and some of their views."""
        _polyline(self.draw, self.at(cameras.centers.cpu().numpy()), COLOURS["camera"], 3)
        for index in views:
            _polyline(self.draw, self.at(frustum(cameras[index])), COLOURS["camera"])

    def ruler(self) -> None:
        """One metre, at the lower border."""
        y = self.image.height - 5
        self.draw.line((EDGE, y, EDGE + self.scale, y), QUIET, 2)
        self.draw.text((EDGE + 4 + self.scale, y), "1 m", QUIET, font(11), "lm")


def plan_view(
    positions: Tensor, colours: Tensor, bounds: Tensor, size: int = 260, cameras: Cameras | None = None,
    view: int | None = None, marked: Tensor | None = None,
) -> Image.Image:  # fmt: skip
    """Tokens from above, x to the right and z away, the higher ones on top.

    Args:
        positions: (P, 3) metres. colours: (P, 3) uint8.
        bounds: (2, 3) lowest and highest corner of what is drawn.
        size: of the picture's longer side in pixels.
        cameras: of a path, drawn as a line. view: which of them is drawn with its view.
        marked: rows, or a mask, of tokens that are ringed.
    """
    plan = Plan(bounds, size)
    plan.tokens(positions, colours)
    if cameras is not None:
        plan.path(cameras, [] if view is None else [view])
    if marked is not None:
        _rings(plan.draw, plan.at(positions.cpu()[marked].reshape(-1, 3)), 6)
    plan.ruler()
    return plan.image


def show_cloud(positions: Tensor, colours: Tensor, cameras: Cameras, hover: Sequence[str] = ()) -> None:
    """Show the memory twice: to be turned with the mouse, and as a still picture.

    JupyterLab draws the first with plotly's own extension, offline; a page made of the notebook fetches plotly.js.

    Args:
        positions: (P, 3) metres. colours: (P, 3) uint8, see `token_colours`. cameras: T of the path.
        hover: what the mouse shows of each of the P tokens.
    """
    import plotly.graph_objects as go
    from IPython.display import display

    if len(colours) != len(positions):
        raise ValueError(f"colours: expected one for each of the {len(positions)} positions, got {len(colours)}")
    step = -(-len(positions) // MOST_POINTS) or 1
    label = f"{len(positions):,} tokens" + f", one in {step} is drawn" * (step > 1)
    points, shades, words = positions[::step].cpu(), colours[::step].cpu(), list(hover[::step])
    views = [cameras[i] for i in sorted({0, len(cameras) // 2})]  # the first, and where a walk there and back turns

    def scatter(xyz, **options):
        x, y, z = np.asarray(xyz, dtype=np.float32).reshape(-1, 3).T
        return go.Scatter3d(x=x, y=y, z=z, **options)

    blue, line = {"color": COLOURS["camera"]}, {"mode": "lines", "hoverinfo": "skip"}
    marker = {"size": 3, "color": [f"rgb({r},{g},{b})" for r, g, b in shades.tolist()]}
    traces = [
        scatter(points, mode="markers", name=label, marker=marker, text=words, hoverinfo="text" if words else "none"),
        scatter(cameras.centers.cpu(), name="the camera's path", line=blue | {"width": 5}, **line),
        scatter(np.concatenate([frustum(view) for view in views]), name="views", line=blue | {"width": 2}, **line),
    ]
    x, _, z = (-1.3 * cameras.c2w[0, :3, 2]).tolist()  # look from behind the first camera, a little from above
    eye = {"up": {"x": 0, "y": -1, "z": 0}, "eye": {"x": x, "y": -0.7, "z": z}}  # y points down
    scene = {f"{axis}axis": {"visible": False} for axis in "xyz"} | {"aspectmode": "data", "camera": eye}
    margin = {"l": 0, "r": 0, "t": 0, "b": 0}
    figure = go.Figure(traces, {"scene": scene, "height": 470, "margin": margin, "legend": {"orientation": "h"}})
    page = figure.to_html(full_html=False, include_plotlyjs="cdn")
    display({"application/vnd.plotly.v1+json": figure.to_plotly_json() | {"config": {}}, "text/html": page}, raw=True)

    above = plan_view(points, shades, _bounds(torch.cat([points, cameras.centers.cpu()])), 300, cameras, 0)
    side = cloud_view(points, shades, 20, 25, (420, above.height), Cameras.cat(views))
    display(board({"from behind the first camera": side, "from above": above}, note=label))


def frustum(camera: Cameras) -> np.ndarray:
    """A camera's pyramid as one line (K, 3) in world coordinates; a row of NaN lifts the pen."""
    (height, width), nan = camera.size, torch.full((3,), torch.nan)
    fx, fy, cx, cy = camera.intrinsics[0].tolist()
    corners = [(0, 0), (width, 0), (width, height), (0, height)]
    rays = torch.tensor([[(u - cx) / fx, (v - cy) / fy, 1.0] for u, v in corners]) * FRUSTUM
    apex = camera.centers[0].cpu()
    a, b, c, d = rays @ camera.c2w[0, :3, :3].cpu().T + apex
    return torch.stack([apex, a, b, apex, c, d, apex, nan, a, d, nan, b, c, nan]).numpy()


def _looking_at(box: Tensor, yaw: float, pitch: float, size: tuple[int, int]) -> Cameras:
    """A camera that sees a box (2, 3) as large as possible in a picture (width, height), from some distance."""
    middle, reach = box.mean(0), max((box[1] - box[0]).norm().item() / 2, 0.1)
    c2w = view(middle, yaw, pitch)
    c2w[:3, 3] -= 4 * reach * c2w[:3, 2]
    corners = torch.cartesian_prod(*box.T)  # (8, 3)
    page = torch.tensor(size, dtype=torch.float32)
    trial = Cameras(c2w, torch.cat([page.max().repeat(2), page / 2]), size[::-1])
    slopes = (trial.project(corners)[0][0] - page / 2) / page.max()  # (8, 2) x / z and y / z
    low, high = slopes.amin(0), slopes.amax(0)
    focal = ((page - 20) / (high - low).clamp(min=1e-6)).min()  # 10 pixels of border
    centre = page / 2 - focal * (low + high) / 2
    return Cameras(c2w, torch.stack([focal, focal, *centre]), size[::-1])


def _bounds(points: Tensor, margin: float = 0.3) -> Tensor:
    return torch.stack([points.amin(0) - margin, points.amax(0) + margin])


def _dots(page: Image.Image, at: np.ndarray, colours: np.ndarray, radius: int) -> None:
    """Squares at pixels (N, 2) in the order given, later ones on top."""
    pixels = np.array(page)
    around = np.stack(np.meshgrid(*[np.arange(-radius, radius + 1)] * 2), -1).reshape(1, -1, 2)
    xy = (at.round().astype(int)[:, None] + around).reshape(-1, 2)
    inside = ((xy >= 0) & (xy < page.size)).all(1)
    x, y = xy[inside].T
    pixels[y, x] = colours.repeat(around.shape[1], 0)[inside]
    page.paste(Image.fromarray(pixels))


def _rings(draw: ImageDraw.ImageDraw, at: np.ndarray, radius: int) -> None:
    for x, y in at:
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), outline=COLOURS["picked"], width=2)


def _polyline(draw: ImageDraw.ImageDraw, points: np.ndarray, colour: str, width: int = 1) -> None:
    """A line through points (K, 2); a row of NaN lifts the pen."""
    for a, b in zip(points[:-1], points[1:]):
        if np.isfinite([*a, *b]).all():
            draw.line((*a, *b), colour, width)
