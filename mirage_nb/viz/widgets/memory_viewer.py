"""The memory in 3D: coloured by what its tokens know, each of them to be asked where it comes from."""

from __future__ import annotations

from collections.abc import Callable
from html import escape

import ipywidgets
import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from mirage_nb.cameras import Cameras
from mirage_nb.viz.cloud import MOST_POINTS, behind, frustum, memory_picture
from mirage_nb.viz.stages import plan_view
from mirage_nb.viz.video import COLOURS, INK, PAPER, as_frames, spread, token_colours
from mirage_nb.viz.widgets.base import Shown, Status, png

RGB, PCA = "decoded RGB", "PCA of tokens"
SCALARS: dict[str, Callable] = {
    "time written": lambda memory: memory.written,
    "level": lambda memory: memory.level,
    "number of views": lambda memory: memory.views,
}
AROUND = 3  # cells on each side of a token in the crop that shows it


class MemoryViewer(Shown):
    """The tokens of a memory, the camera's path with its views, and what a token knows once it is clicked.

    Args:
        memory: a `LatentGrid`.
        cameras: T of the path, one a pixel frame, that wrote the memory from its first frame on.
        frames: (T, H, W, 3) uint8 of these cameras, decoded: they give the tokens their colours, and the picture of a
            token that is clicked.
        colours: the map of `video.latent_colours`, for colours without frames.
        colour: what the tokens are coloured by at first: "decoded RGB" (needs `frames` or `colours`), "PCA of tokens",
            "time written", "level" or "number of views"; by default the first that is there.
        every: pixel frames per written frame, the VAE's temporal stride.
        most: at most as many tokens are drawn, evenly taken in the order of writing; a line says so.

    Raises:
        ValueError: the memory is empty or of another kind, or frames and cameras do not fit together.
    """

    css = "mirage-memory-viewer"

    def __init__(
        self, memory, cameras: Cameras | None = None, frames: Tensor | None = None, *, colours: Tensor | None = None,
        colour: str | None = None, every: int = 1, most: int = MOST_POINTS,
    ) -> None:  # fmt: skip
        if not all(hasattr(memory, name) for name in ("tokens", "written", "views")) or not len(memory):
            raise ValueError("memory: expected a LatentGrid that holds tokens")
        if frames is not None and (cameras is None or len(frames) != len(cameras)):
            raise ValueError(f"frames: expected one for each camera, got {len(frames)} frames")
        self.memory, self.cameras, self.every, self._map = memory, cameras, every, colours
        self.frames = None if frames is None else as_frames(frames)
        self.rows = torch.arange(0, len(memory), -(-len(memory) // most))
        known = [RGB] * (frames is not None or colours is not None) + [PCA, *SCALARS]
        if colour is not None and colour not in known:
            raise ValueError(f"colour: expected one of {', '.join(known)}, got {colour!r}")
        self.colour = ipywidgets.Dropdown(options=known, value=colour or known[0], description="colour")
        self.colour.add_class("mirage-memory-viewer-colour")
        self.status, self.about = Status(), ipywidgets.HTML("Click a token to ask where it comes from.")
        self.status.add_class("mirage-memory-viewer-status")
        self.about.add_class("mirage-memory-viewer-token")
        self.seen = ipywidgets.Image(format="png", layout={"display": "none", "max_width": "100%"})
        self.figure = self._draw()
        self.figure.data[0].on_click(lambda trace, points, state: self._clicked(points.point_inds))
        self.colour.observe(lambda change: self._recolour(), "value")
        self.status.say(self.label)
        side = ipywidgets.VBox([self.colour, self.status, self.about, self.seen], layout={"width": "290px"})
        # JupyterLab stretches plotly's root; a box with a width of its own holds it.
        plot = ipywidgets.Box([self.figure], layout={"flex": "1 1 420px", "min_width": "320px"})
        super().__init__([ipywidgets.HBox([plot, side], layout={"flex_flow": "row wrap"})])

    @property
    def label(self) -> str:
        """How many tokens are drawn."""
        drawn, total = len(self.rows), len(self.memory)
        return f"{total:,} tokens" if drawn == total else f"{drawn:,} of {total:,} tokens are drawn, evenly taken"

    def values(self, colour: str) -> Tensor | None:
        """(R,) what the drawn tokens are coloured by; None for the two ways that give colours outright."""
        return SCALARS[colour](self.memory)[self.rows].cpu().float() if colour in SCALARS else None

    def rgb(self, colour: str) -> Tensor:
        """(R, 3) uint8, the colours of the drawn tokens."""
        if colour == PCA:
            return pca_colours(self.memory.tokens)[self.rows]
        if colour != RGB:
            return _viridis(self.values(colour))
        if self._map is not None:
            return token_colours(self.memory.tokens[self.rows], self._map)
        return self._seen_colours()

    def describe(self, row: int) -> dict:
        """What is known of token `row` of the memory.

        Returns:
            row; position (x, y, z), metres; written: the written frame, frame: its pixel frame; views: how many written
            frames saw it; footprint, metres; level; shown_in: the cameras' frames in which it wins its cell.

        Raises:
            ValueError: there is no such token.
        """
        memory = self.memory
        if not 0 <= row < len(memory):
            raise ValueError(f"row: expected 0 to {len(memory) - 1}, got {row}")
        about = {
            "row": row,
            "position": tuple(round(x, 3) for x in memory.positions[row].tolist()),
            "written": int(memory.written[row]),
            "frame": int(memory.written[row]) * self.every,
            "views": int(memory.views[row]),
            "footprint": float(memory.footprints[row]),
            "level": int(memory.level[row]),
            "shown_in": [],
        }
        if self.cameras is not None:
            uv, z = self.cameras.project(memory.positions[row : row + 1].cpu())
            height, width = self.cameras.size
            u, v = uv[:, 0].unbind(-1)
            near = ((z[:, 0] > 0) & (u >= 0) & (u < width) & (v >= 0) & (v < height)).nonzero()[:, 0]
            if len(near):
                wins = (memory.read(self.cameras[near]).index == row).any((1, 2)).cpu()
                about["shown_in"] = near[wins].tolist()
        return about

    def crop(self, row: int) -> Image.Image | None:
        """The frame that wrote a token, its cell outlined, and beside it what is around it, enlarged.

        None without frames, or where the token was written by a frame that is not among them.
        """
        frame = int(self.memory.written[row]) * self.every
        if self.frames is None or frame >= len(self.frames):
            return None
        cell = self.memory.stride
        uv, _ = self.cameras[frame].project(self.memory.positions[row : row + 1].cpu())
        column, line = (int(x) // cell for x in uv[0, 0].tolist())
        picture = Image.fromarray(self.frames[frame])
        box = (column * cell, line * cell, (column + 1) * cell, (line + 1) * cell)
        around = (box[0] - AROUND * cell, box[1] - AROUND * cell, box[2] + AROUND * cell, box[3] + AROUND * cell)
        side, gap = 140, 6
        sheet = Image.new("RGB", (round(side * picture.width / picture.height) + gap + side, side), PAPER)
        for part, x, kind in (
            ((0, 0, *picture.size), 0, Image.Resampling.LANCZOS),
            (around, sheet.width - side, Image.Resampling.NEAREST),
        ):
            scale = side / (part[3] - part[1])
            tile = picture.crop(part).resize((round((part[2] - part[0]) * scale), side), kind)
            edge = [round((b - part[i % 2]) * scale) for i, b in enumerate(box)]
            draw = ImageDraw.Draw(tile)
            draw.rectangle([e + d for e, d in zip(edge, (-3, -3, 3, 3))], outline=PAPER, width=2)
            draw.rectangle([e + d for e, d in zip(edge, (-1, -1, 1, 1))], outline=COLOURS["memory"], width=2)
            sheet.paste(tile, (x, 0))
        return sheet

    def pick(self, row: int) -> dict:
        """Mark a token and show what is known of it, as a click on it does."""
        about = self.describe(row)
        x, y, z = about["position"]
        with self.figure.batch_update():
            self.figure.data[1].x, self.figure.data[1].y, self.figure.data[1].z = ([c] for c in (x, y, z))
        shown = about["shown_in"]
        lines = [
            f"token {row:,}", f"at x {x:.2f}, y {y:.2f}, z {z:.2f} m", f"written by frame {about['frame']}",
            f"seen by {about['views']} written frame" + "s" * (about["views"] != 1),
            f"footprint {about['footprint'] * 100:.1f} cm, level {about['level']}",
        ]  # fmt: skip
        if shown:
            lines.append(f"wins its cell in {len(shown)} frames, {shown[0]} to {shown[-1]}")
        self.about.value = "<br>".join(escape(line) for line in lines)
        picture = self.crop(row)
        if picture is not None:
            self.seen.value = png(picture, fast=True)
        self.seen.layout.display = "none" if picture is None else ""
        return about

    def picture(self) -> Image.Image:
        """The memory from behind the first camera and from above, and what its colours say."""
        colour, cameras = self.colour.value, self.cameras
        positions = self.memory.positions[self.rows].cpu()
        rgb = self.rgb(colour)
        cloud = _plan(positions, rgb) if cameras is None else memory_picture(positions, rgb, cameras)
        values, words = self.values(colour), f"colour: {colour}; {self.label}"
        if values is not None:
            words += f"; from {values.min():.0f} (dark) to {values.max():.0f} (bright)"
        whole = Image.new("RGB", (max(cloud.width, 460), cloud.height + 26), PAPER)
        whole.paste(cloud, (0, 26))
        ImageDraw.Draw(whole).text((10, 6), words, INK, ImageFont.load_default(14))
        return whole

    def _seen_colours(self) -> Tensor:
        """The mean colour of the cell that wrote each drawn token; by PCA where its frame is not there."""
        memory, cell = self.memory, self.memory.stride
        positions, written = memory.positions[self.rows].cpu(), memory.written[self.rows].cpu().long() * self.every
        colours = pca_colours(memory.tokens)[self.rows]
        for frame in written.unique().tolist():
            if frame >= len(self.frames):
                continue
            mine = (written == frame).nonzero()[:, 0]
            uv, _ = self.cameras[frame].project(positions[mine])
            height, width = (side // cell for side in self.cameras.size)
            column, line = (uv[0] / cell).floor().long().unbind(-1)
            pixels = torch.from_numpy(self.frames[frame]).float()
            means = pixels.unflatten(0, (height, cell)).unflatten(2, (width, cell)).mean((1, 3))
            colours[mine] = means[line.clamp(0, height - 1), column.clamp(0, width - 1)].round().byte()
        return colours

    def _marker(self) -> dict:
        colour = self.colour.value
        values = self.values(colour)
        if values is None:
            return {"color": [f"rgb({r},{g},{b})" for r, g, b in self.rgb(colour).tolist()], "showscale": False}
        bar = {"title": {"text": colour}, "len": 0.6, "thickness": 12, "x": 1.0}
        return {"color": values.numpy(), "colorscale": "Viridis", "showscale": True, "colorbar": bar}

    def _recolour(self) -> None:
        self.figure.data[0].marker.update(self._marker())

    def _clicked(self, points: list[int]) -> None:
        if points:
            try:
                self.pick(int(self.rows[points[0]]))
            except Exception as problem:  # an event has no cell to show it in
                self.status.say(f"{type(problem).__name__}: {problem}", warning=True)

    def _draw(self):
        import plotly.graph_objects as go

        def scatter(points, **options):
            x, y, z = np.asarray(points, dtype=np.float32).reshape(-1, 3).T
            return go.Scatter3d(x=x, y=y, z=z, **options)

        tokens = self.memory.positions[self.rows].cpu().numpy()
        ring = {"size": 9, "color": COLOURS["hole"], "symbol": "circle-open"}
        traces = [
            scatter(tokens, mode="markers", name=self.label, hoverinfo="none", marker={"size": 3, **self._marker()}),
            scatter([], mode="markers", name="picked", hoverinfo="skip", showlegend=False, marker=ring),
        ]
        eye = {"x": 0, "y": -0.9, "z": -1.4}
        if self.cameras is not None:
            path, blue = self.cameras.centers.cpu().numpy(), {"color": COLOURS["camera"]}
            views = np.concatenate([frustum(self.cameras[i]) for i in spread(len(self.cameras), 7)])
            options = {"mode": "lines", "hoverinfo": "skip"}
            traces.append(scatter(path, name="the camera's path", line=blue | {"width": 5}, **options))
            traces.append(scatter(views, name="views", line=blue | {"width": 2}, **options))
            eye = behind(self.cameras)
        hidden = {"visible": False}
        scene = {"xaxis": hidden, "yaxis": hidden, "zaxis": hidden, "aspectmode": "data"}
        scene["camera"] = {"up": {"x": 0, "y": -1, "z": 0}, "eye": eye}  # y points down
        edge = {"l": 0, "r": 0, "t": 0, "b": 0}
        # One revision for good, so that the view stays as it was turned when the colours change.
        legend = {"orientation": "h"}
        layout = {"scene": scene, "height": 460, "margin": edge, "legend": legend, "uirevision": "memory"}
        return go.FigureWidget(traces, layout)


def pca_colours(tokens: Tensor) -> Tensor:
    """(P, 3) uint8 of tokens (P, C): their three strongest directions as red, green and blue.

    Each runs over its middle 96%. Its sign is that of its largest component, so the same tokens get the same colours.
    """
    rows = tokens.detach().float().cpu()
    rows = rows - rows.mean(0)
    directions = torch.linalg.eigh(rows.T @ rows)[1].flip(1)[:, :3]
    largest = directions.gather(0, directions.abs().argmax(0, keepdim=True))
    parts = rows @ (directions * largest.sign())
    parts = torch.nn.functional.pad(parts, (0, 3 - parts.shape[1]))
    low, high = (parts.kthvalue(1 + round(q * (len(parts) - 1)), dim=0).values for q in (0.02, 0.98))
    return (((parts - low) / (high - low).clamp(min=1e-6)).clamp(0, 1) * 255).round().byte()


def _viridis(values: Tensor) -> Tensor:
    from matplotlib import colormaps

    span = (values.max() - values.min()).clamp(min=1)
    table = torch.from_numpy(np.asarray(colormaps["viridis"].resampled(256)(np.arange(256)))[:, :3])
    return (table[((values - values.min()) / span * 255).long()] * 255).round().byte()


def _plan(positions: Tensor, rgb: Tensor) -> Image.Image:
    """From above, where no camera says where to look from."""
    return plan_view(positions, rgb, torch.stack([positions.amin(0) - 0.2, positions.amax(0) + 0.2]), 420)
