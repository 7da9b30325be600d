"""Tokens in space: from the side, from above, and to be turned with the mouse. Pillow draws the first two in a few
milliseconds, while a slider moves; matplotlib needs many more."""

from collections.abc import Mapping, Sequence
from math import atan2, pi, radians

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from mirage_nb.cameras import Cameras
from mirage_nb.data.rooms.room import view
from mirage_nb.viz.base import COLOURS, INK, PAPER
from mirage_nb.viz.figures import board

FRUSTUM = 0.35  # metres from a drawn camera to its image plane
EDGE = 10  # pixels between what is shown and the picture's border


def drawing(
    eye: Cameras, positions: Tensor, colours: Tensor, lines: Sequence[Tensor] = (), marked: Tensor | None = None,
    labels: Mapping[str, Tensor] | None = None,
) -> Image.Image:  # fmt: skip
    """Tokens (P, 3) in metres of colours (P, 3) uint8, as an eye, a camera, sees them; near ones hide far ones.

    Over them lie lines of points (K, 3), rings around tokens, `marked` (rows or a mask), and texts at points (3,).
    """
    image = Image.new("RGB", eye.size[::-1], PAPER)
    pen = ImageDraw.Draw(image)
    uv, distance = (x[0] for x in eye.project(positions.cpu()))  # (P, 2) pixels, (P,) metres
    order = distance.argsort(descending=True, stable=True)
    for (x, y), colour in zip(uv[order].round().tolist(), colours.cpu()[order].tolist()):
        pen.rectangle((x - 2, y - 2, x + 2, y + 2), tuple(colour))
    for line in lines:
        pen.line(eye.project(line.cpu())[0].flatten().tolist(), COLOURS["camera"], 2)
    for x, y in [] if marked is None else uv[marked.cpu()].tolist():
        pen.ellipse((x - 7, y - 7, x + 7, y + 7), outline=COLOURS["picked"], width=2)
    for text, point in (labels or {}).items():
        pen.text(eye.project(point[None].cpu())[0][0, 0].tolist(), text, INK, ImageFont.load_default(15), "ld")
    return image


def box_of(*points: Tensor, margin: float = 0.3) -> Tensor:
    """(2, 3) lowest and highest corner of points (N, 3), and a margin in metres."""
    everything = torch.cat([p.cpu() for p in points])
    return torch.stack([everything.amin(0) - margin, everything.amax(0) + margin])


def eye_on(box: Tensor, yaw: float, pitch: float, size: tuple[int, int], distance: float = 4.0) -> Cameras:
    """A camera in which a box (2, 3) is as large as possible, `distance` times half its diagonal away; yaw and pitch
    are radians, as of `view`, and `size` is the picture's (width, height) in pixels."""
    middle, reach = box.mean(0), max((box[1] - box[0]).norm().item() / 2, 0.1)
    c2w = view(middle, yaw, pitch)
    c2w[:3, 3] -= distance * reach * c2w[:3, 2]
    page = torch.tensor(size, dtype=torch.float32)
    slopes = Cameras(c2w, [1.0, 1.0, 0.5, 0.5], (1, 1)).project(torch.cartesian_prod(*box.T))[0][0] - 0.5  # (8, 2)
    low, high = slopes.amin(0), slopes.amax(0)
    focal = ((page - 2 * EDGE) / (high - low).clamp(min=1e-6)).min()
    return Cameras(c2w, torch.stack([focal, focal, *(page / 2 - focal * (low + high) / 2)]), size[::-1])


def cloud_view(
    positions: Tensor, colours: Tensor, azimuth: float = 30.0, elevation: float = 20.0,
    size: tuple[int, int] = (360, 260), cameras: Cameras | None = None, marked: Tensor | None = None,
    focus: Tensor | None = None,
) -> Image.Image:  # fmt: skip
    """Tokens, (P, 3) in metres of colours (P, 3) uint8, in space from the side; near ones hide far ones.

    Args:
        azimuth: degrees to the right about the vertical from the first camera's own direction, or from z.
        elevation: degrees that the eye is raised.
        size: (width, height) of the picture in pixels.
        cameras: whose views are drawn.
        marked: rows, or a mask, of tokens that are ringed.
        focus: (2, 3) lowest and highest corner of what is to fill the picture; by default of the tokens and cameras.
    """
    outlines = [] if cameras is None else [frustum(cameras[i]) for i in range(len(cameras))]
    focus = box_of(positions, *outlines, margin=0.0) if focus is None else focus
    yaw = 0.0 if cameras is None else atan2(*cameras.c2w[0, [0, 2], 2].tolist())
    eye = eye_on(focus, yaw - radians(azimuth), -radians(elevation), size)
    return drawing(eye, positions, colours, outlines, marked)


def plan_view(
    positions: Tensor, colours: Tensor, bounds: Tensor | None = None, size: int = 260, cameras: Cameras | None = None,
    views: int | Sequence[int] = (), marked: Tensor | None = None, labels: Mapping[str, Tensor] | None = None,
) -> Image.Image:  # fmt: skip
    """Tokens, (P, 3) in metres of colours (P, 3) uint8, from above: x to the right and z away, the higher ones on top,
    with a ruler of one metre.

    Args:
        bounds: (2, 3) lowest and highest corner of what is drawn; by default of the tokens and cameras.
        size: of the picture's longer side in pixels.
        cameras: of a path, drawn as a line. views: which of them are drawn with their views.
        marked, labels: see `drawing`.
    """
    path = [] if cameras is None else [cameras.centers, *(frustum(cameras[int(i)]) for i in np.atleast_1d(views))]
    bounds = box_of(positions, *path[:1]) if bounds is None else bounds.cpu()
    x, _, z = bounds[1] - bounds[0]
    scale = (size - 2 * EDGE) / max(x, z)  # pixels a metre
    shape = (int(x * scale) + 2 * EDGE, int(z * scale) + 2 * EDGE)
    eye = eye_on(bounds, 0.0, -pi / 2, shape, distance=1000.0)  # so far away that height does not change the scale
    ruler = bounds[[0, 0]] + torch.tensor([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0]])
    return drawing(eye, positions, colours, [*path, ruler], marked, {"1 m": ruler[1]} | (labels or {}))


def show_cloud(positions: Tensor, colours: Tensor, cameras: Cameras, hover: Sequence[str] = ()) -> None:
    """Show tokens, (P, 3) in metres of colours (P, 3) uint8, and the T cameras of a path twice: to be turned with the
    mouse (by plotly's extension of JupyterLab), which shows the words of `hover`, P of them; and as a still picture."""
    import plotly.graph_objects as go
    from IPython.display import display

    if len(colours) != len(positions):
        raise ValueError(f"colours: expected one for each of the {len(positions)} positions, got {len(colours)}")
    label = f"{len(positions):,} tokens"
    views = [cameras[i] for i in sorted({0, len(cameras) // 2})]  # the first, and where a walk there and back turns
    marker = {"size": 3, "color": [f"rgb({r},{g},{b})" for r, g, b in colours.tolist()]}
    tokens = {"mode": "markers", "marker": marker, "text": list(hover), "hoverinfo": "text"}
    line = {"mode": "lines", "hoverinfo": "skip", "line": {"color": COLOURS["camera"], "width": 4}}
    shown = [(label, positions, tokens), ("the camera's path", cameras.centers, line)]
    shown += [("a view", frustum(view), line) for view in views]
    traces = [go.Scatter3d(**dict(zip("xyz", xyz.cpu().numpy().T)), name=name, **look) for name, xyz, look in shown]
    x, _, z = (-1.3 * cameras.c2w[0, :3, 2]).tolist()  # look from behind the first camera, a little from above
    eye = {"up": {"x": 0, "y": -1, "z": 0}, "eye": {"x": x, "y": -0.7, "z": z}}  # y points down
    scene = {f"{axis}axis": {"visible": False} for axis in "xyz"} | {"aspectmode": "data", "camera": eye}
    look = {"scene": scene, "height": 470, "margin": dict.fromkeys("lrtb", 0), "legend": {"orientation": "h"}}
    figure = go.Figure(traces, look).to_plotly_json() | {"config": {}}
    display({"application/vnd.plotly.v1+json": figure}, raw=True)
    above = plan_view(positions, colours, None, 300, cameras, 0)
    side = cloud_view(positions, colours, 20, 25, (420, above.height), Cameras.cat(views))
    display(board({"from behind the first camera": side, "from above": above}, note=label))


def frustum(camera: Cameras) -> Tensor:
    """A camera's pyramid as one line (K, 3) in world coordinates, without lifting the pen."""
    (height, width), (fx, fy, cx, cy) = camera.size, camera.intrinsics[0].tolist()
    corners = [(0, 0), (width, 0), (width, height), (0, height)]
    rays = torch.tensor([[(u - cx) / fx, (v - cy) / fy, 1.0] for u, v in corners]) * FRUSTUM
    apex = camera.centers[0].cpu()
    a, b, c, d = rays @ camera.c2w[0, :3, :3].cpu().T + apex
    return torch.stack([apex, a, b, c, d, a, apex, b, c, apex, d])
