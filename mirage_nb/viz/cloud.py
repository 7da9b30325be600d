"""The memory in 3D: to be turned with the mouse, and as a still picture."""

from __future__ import annotations

import numpy as np
import torch
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from mirage_nb.cameras import Cameras
from mirage_nb.viz.base import drawn
from mirage_nb.viz.video import COLOURS, INK

FRUSTUM = 0.35  # metres from a drawn camera to its image plane
MOST_POINTS = 20_000  # more than these make a page slow and large


def memory_cloud(positions: Tensor, colours: Tensor, cameras: Cameras):
    """The memory as a plotly figure to be turned with the mouse: its tokens, the path, and the views it begins at,
    turns at and ends with.

    Args:
        positions: (P, 3) metres. colours: (P, 3) uint8, see `video.token_colours`. cameras: T of the path.
    """
    import plotly.graph_objects as go

    positions, colours, label = fewer(positions, colours)
    x, y, z = positions.cpu().numpy().round(3).T
    rgb = [f"rgb({r},{g},{b})" for r, g, b in colours.tolist()]
    tokens = go.Scatter3d(x=x, y=y, z=z, mode="markers", name=label, hoverinfo="skip", marker={"size": 3, "color": rgb})
    path = cameras.centers.cpu().numpy().round(3)
    blue = {"color": COLOURS["camera"], "width": 5}
    walk = go.Scatter3d(x=path[:, 0], y=path[:, 1], z=path[:, 2], mode="lines", name="the camera's path", line=blue)
    lines = np.concatenate([frustum(cameras[i]) for i in stations(cameras)])
    x, y, z = lines.T
    thin = blue | {"width": 2}
    views = go.Scatter3d(x=x, y=y, z=z, mode="lines", name="views", hoverinfo="skip", line=thin)
    figure = go.Figure([tokens, walk, views])
    hidden = {"visible": False}
    figure.update_layout(
        scene={
            "xaxis": hidden, "yaxis": hidden, "zaxis": hidden, "aspectmode": "data",
            # y points down; look from behind the first camera, a little from above
            "camera": {"up": {"x": 0, "y": -1, "z": 0}, "eye": behind(cameras)},
        },
        height=480, margin={"l": 0, "r": 0, "t": 0, "b": 0}, legend={"orientation": "h"},
    )  # fmt: skip
    return figure


def show_cloud(positions: Tensor, colours: Tensor, cameras: Cameras) -> None:
    """Show the memory twice: to be turned with the mouse, and as a still picture.

    JupyterLab draws the first with plotly's own extension, offline; a page made of the notebook fetches plotly.js.
    """
    from IPython.display import display

    figure = memory_cloud(positions, colours, cameras)
    page = figure.to_html(full_html=False, include_plotlyjs="cdn")
    display({"application/vnd.plotly.v1+json": figure.to_plotly_json() | {"config": {}}, "text/html": page}, raw=True)
    display(memory_picture(positions, colours, cameras))


def memory_picture(positions: Tensor, colours: Tensor, cameras: Cameras) -> Image.Image:
    """The same as a still figure: from behind the first camera, and the plan from above."""
    figure = Figure(figsize=(9, 4.2), layout="constrained")
    positions, colours, label = fewer(positions, colours)
    rgb, points = colours.cpu().numpy() / 255, positions.cpu().numpy()
    path = cameras.centers.cpu().numpy()
    forward = cameras.c2w[0, :3, 2]
    azimuth = float(torch.rad2deg(torch.atan2(-forward[2], -forward[0])))
    space = figure.add_subplot(1, 2, 1, projection="3d")
    space.scatter(points[:, 0], points[:, 2], -points[:, 1], c=rgb, s=16, depthshade=False, linewidths=0)
    space.plot(path[:, 0], path[:, 2], -path[:, 1], color=COLOURS["camera"], linewidth=2)
    for i in stations(cameras):
        line = frustum(cameras[i])
        space.plot(line[:, 0], line[:, 2], -line[:, 1], color=COLOURS["camera"], linewidth=1)
    space.view_init(elev=28, azim=azimuth + 15)
    space.set_box_aspect(np.maximum(np.ptp(points[:, [0, 2, 1]], 0), 0.1), zoom=1.25)
    space.set_axis_off()
    space.set_title("from behind the first camera", color=INK, fontsize=10)
    plan = figure.add_subplot(1, 2, 2)
    order = np.argsort(-points[:, 1])  # what is higher lies on top
    plan.scatter(points[order, 0], points[order, 2], c=rgb[order], s=14, linewidths=0)
    plan.plot(path[:, 0], path[:, 2], color=COLOURS["camera"], linewidth=2.5)
    for i in stations(cameras):
        line = frustum(cameras[i])
        plan.plot(line[:, 0], line[:, 2], color=COLOURS["camera"], linewidth=1)
    plan.set_aspect("equal")
    plan.set(xlabel="metres", ylabel="metres")
    plan.spines[["top", "right"]].set_visible(False)
    plan.set_title(f"from above: {label}, and the camera's path", color=INK, fontsize=10)
    return drawn(figure)


def fewer(positions: Tensor, colours: Tensor) -> tuple[Tensor, Tensor, str]:
    """At most MOST_POINTS points, evenly taken in the order of writing, and the words for it."""
    total = len(positions)
    if len(colours) != total:
        raise ValueError(f"colours: expected one for each of the {total} positions, got {len(colours)}")
    every = -(-total // MOST_POINTS)
    if every <= 1:
        return positions, colours, f"{total:,} tokens"
    return positions[::every], colours[::every], f"{len(positions[::every]):,} of {total:,} tokens"


def stations(cameras: Cameras) -> list[int]:
    """The first view, and the one in the middle of the path."""
    return sorted({0, len(cameras) // 2})


def frustum(camera: Cameras) -> np.ndarray:
    """A camera's pyramid as one line (K, 3) in the world; NaN at its end lifts the pen."""
    (height, width), nan = camera.size, torch.full((3,), torch.nan)
    fx, fy, cx, cy = camera.intrinsics[0].tolist()
    corners = [(0, 0), (width, 0), (width, height), (0, height)]
    rays = torch.tensor([[(u - cx) / fx, (v - cy) / fy, 1.0] for u, v in corners]) * FRUSTUM
    a, b, c, d = rays @ camera.c2w[0, :3, :3].cpu().T + camera.centers[0].cpu()
    apex = camera.centers[0].cpu()
    return torch.stack([apex, a, b, apex, c, d, apex, nan, a, d, nan, b, c, nan]).numpy()


def behind(cameras: Cameras) -> dict[str, float]:
    """plotly's eye: behind the first camera and above it, in units of the scene's size."""
    x, _, z = (-1.3 * cameras.c2w[0, :3, 2]).tolist()
    return {"x": x, "y": -0.7, "z": z}
