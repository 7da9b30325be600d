"""The memory in 3D: coloured by what is stored with its tokens; a click on a token asks where it comes from."""

from __future__ import annotations

import ipywidgets
import torch
from PIL import Image
from torch import Tensor

from mirage_nb.cameras import Cameras
from mirage_nb.memory.grid import LatentGrid
from mirage_nb.viz.base import COLOURS
from mirage_nb.viz.colours import heat, mark_cell, pca_colours
from mirage_nb.viz.space import memory_cloud, memory_picture, plotly_colours, thinned
from mirage_nb.viz.video import as_array
from mirage_nb.viz.widgets.base import Status, WithPicture, png

RGB, PCA = "colour of its cell", "PCA of tokens"
SCALARS = {"time written": "written", "level": "level", "number of views": "views"}  # -> attributes of `LatentGrid`


class MemoryViewer(WithPicture):
    """The tokens of a memory, the camera's path with its views, and what is stored with a token that is clicked.

    Args:
        memory: a `LatentGrid`.
        cameras: T of the path, one a pixel frame, that wrote the memory from its first frame on.
        frames: (T, H, W, 3) uint8 of these cameras: the colours of the tokens, and the picture of one that is clicked.
        every: pixel frames per written frame, the VAE's temporal stride.

    Raises:
        ValueError: the memory is empty or of another kind, or frames and cameras do not fit together.
    """

    css = "mirage-memory-viewer"

    def __init__(self, memory, cameras: Cameras, frames: Tensor, *, every: int = 1) -> None:
        from plotly.graph_objects import FigureWidget, Scatter3d

        if not isinstance(memory, LatentGrid) or not len(memory):
            raise ValueError("memory: expected a LatentGrid that holds tokens")
        if len(frames) != len(cameras) or int(memory.written.max()) * every >= len(frames):
            wanted = f"one for each of the {len(cameras)} cameras, those that wrote the memory"
            raise ValueError(f"frames: expected {wanted}, got {len(frames)}")
        self.memory, self.cameras, self.frames, self.every = memory, cameras, as_array(frames), every
        rows, self.label = thinned(len(memory))
        self.rows = torch.arange(len(memory))[rows]
        self.colour = self.named(ipywidgets.Dropdown(options=[RGB, PCA, *SCALARS], description="colour"), "colour")
        self.status = self.named(Status(), "status")
        self.about = self.named(ipywidgets.HTML("Click a token to ask where it comes from."), "token")
        self.seen = ipywidgets.Image(format="png", layout={"display": "none", "max_width": "100%"})
        self.figure = FigureWidget(memory_cloud(memory.positions[self.rows], self.rgb(RGB), cameras, self.label))
        self.figure.layout.uirevision = "memory"  # one for good: the view stays as it was turned when colours change
        ring = {"size": 9, "color": COLOURS["picked"], "symbol": "circle-open"}
        self.figure.add_trace(
            Scatter3d(x=[], y=[], z=[], mode="markers", marker=ring, hoverinfo="skip", showlegend=False)
        )
        clicked = lambda trace, points, state: self.status.attempt(lambda: self._clicked(points.point_inds))  # noqa: E731
        self.figure.data[0].on_click(clicked)
        self.colour.observe(lambda change: self._recolour(), "value")
        self.status.say(self.label)
        side = ipywidgets.VBox([self.colour, self.status, self.about, self.seen], layout={"width": "290px"})
        # JupyterLab stretches plotly's root; a box with a width of its own holds it.
        plot = ipywidgets.Box([self.figure], layout={"flex": "1 1 420px", "min_width": "320px"})
        super().__init__([ipywidgets.HBox([plot, side], layout={"flex_flow": "row wrap"})])

    def values(self, colour: str) -> Tensor:
        """(R,) one of SCALARS for each drawn token."""
        return getattr(self.memory, SCALARS[colour])[self.rows].cpu().float()

    def rgb(self, colour: str) -> Tensor:
        """(R, 3) uint8, the colours of the drawn tokens."""
        if colour in SCALARS:
            values = self.values(colour)
            return torch.from_numpy(heat(values - values.min() + 1))  # `heat` takes what is not above 0 as unknown
        return pca_colours(self.memory.tokens)[self.rows] if colour == PCA else self._cell_colours()

    def seen_in(self, row: int) -> Image.Image:
        """The frame that wrote a token, its cell framed."""
        frame, cell = int(self.memory.written[row]) * self.every, self.memory.stride
        uv, _ = self.cameras[frame].project(self.memory.positions[[row]].cpu())
        column, line = (int(x) // cell for x in uv[0, 0].tolist())
        return Image.fromarray(mark_cell(self.frames[frame], (line, column), cell, 2))

    def pick(self, row: int) -> dict:
        """Mark token `row` of the memory and show what is stored with it, as a click on it does.

        Returns:
            position (x, y, z), metres; frame: the pixel frame that wrote it; views: how many written frames saw it;
            footprint, metres; level; shown_in: the cameras' frames in which it wins its cell.

        Raises:
            ValueError: there is no such token.
        """
        memory = self.memory
        if not 0 <= row < len(memory):
            raise ValueError(f"row: expected 0 to {len(memory) - 1}, got {row}")
        about = {
            "position": tuple(memory.positions[row].tolist()),
            "frame": int(memory.written[row]) * self.every,
            "views": int(memory.views[row]),
            "footprint": float(memory.footprints[row]),
            "level": int(memory.level[row]),
            "shown_in": (memory.read(self.cameras).index == row).flatten(1).any(1).nonzero()[:, 0].tolist(),
        }
        x, y, z = about["position"]
        self.figure.data[-1].update(x=[x], y=[y], z=[z])
        lines = [
            f"token {row:,}",
            f"at x {x:.2f}, y {y:.2f}, z {z:.2f} m",
            f"written by frame {about['frame']}; seen by {about['views']} written frame" + "s" * (about["views"] != 1),
            f"footprint {about['footprint'] * 100:.1f} cm, level {about['level']}",
            f"wins its cell in {len(about['shown_in'])} frames",
        ]
        self.about.value = "<br>".join(lines)
        self.seen.value, self.seen.layout.display = png(self.seen_in(row), fast=True), ""
        return about

    def picture(self) -> Image.Image:
        """The memory from behind the first camera and from above, and what its colours say."""
        colour, words = self.colour.value, f"colour: {self.colour.value}; {self.label}"
        if colour in SCALARS:
            values = self.values(colour)
            words += f"; from {values.min():.0f} (dark) to {values.max():.0f} (bright)"
        return memory_picture(self.memory.positions[self.rows].cpu(), self.rgb(colour), self.cameras, words)

    def _cell_colours(self) -> Tensor:
        """The mean colour of the cell that wrote each drawn token."""
        cell, rows = self.memory.stride, torch.arange(len(self.rows))
        frame = self.memory.written[self.rows].cpu().long() * self.every
        pixels = torch.from_numpy(self.frames).movedim(-1, 1).float()
        means = torch.nn.functional.avg_pool2d(pixels, cell).movedim(1, -1).round().byte()  # (T, h, w, 3)
        uv, _ = self.cameras.project(self.memory.positions[self.rows].cpu())  # (T, R, 2)
        column, line = (uv[frame, rows] / cell).long().unbind(-1)
        return means[frame, line.clamp(0, means.shape[1] - 1), column.clamp(0, means.shape[2] - 1)]

    def _recolour(self) -> None:
        colour, marker = self.colour.value, {"showscale": False}
        if colour in SCALARS:
            bar = {"len": 0.6, "thickness": 12, "x": 1.0}
            marker = {"colorscale": "Viridis", "showscale": True, "colorbar": bar, "color": self.values(colour).numpy()}
        else:
            marker["color"] = plotly_colours(self.rgb(colour))
        self.figure.data[0].marker.update(marker)

    def _clicked(self, points: list[int]) -> None:
        if points:
            self.pick(int(self.rows[points[0]]))
