"""Compose a camera path: from named moves, or by key cameras; with its walls, and what the memory shows along it."""

from __future__ import annotations

from pathlib import Path

import ipywidgets
import numpy as np
import torch
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from mirage_nb import checks
from mirage_nb.cameras import Cameras, default_intrinsics
from mirage_nb.data.rooms.room import CLEARANCE, Room
from mirage_nb.formats.trajectory_writers import WRITERS, save_trajectory
from mirage_nb.models.vae import decode
from mirage_nb.paths import MOVES
from mirage_nb.stitching import as_frames
from mirage_nb.viz.base import drawn
from mirage_nb.viz.cloud import frustum, memory_cloud
from mirage_nb.viz.rollouts import holes
from mirage_nb.viz.video import COLOURS, INK, QUIET, contact_sheet, spread
from mirage_nb.viz.widgets.base import Latest, Shown, Status, png
from mirage_nb.viz.widgets.memory_viewer import pca_colours
from mirage_nb.viz.widgets.paths import Move, compose, through, turned, yaw_of

TOUCH = 0.15  # metres from a camera to a token that are too near; without a room nothing else tells of walls


class PathEditor(Shown):
    """Compose a camera path, see it in the memory, be warned of walls, preview it, and save it.

    Args:
        start: a `Room`, which knows its walls, or a camera (`Cameras` of one) to start from.
        memory: a memory to see the path in, and to preview it with.
        pipe: a `MiragePipeline`, whose VAE decodes the preview.
        room: the walls, where `start` is a camera.
        size: (height, width) of a room's pictures.

    Attributes:
        moves: the list of `Move`. key_cameras: (K, 4, 4) at the frames `at`, or None while the moves lead.

    Raises:
        ValueError: start is neither.
    """

    css = "mirage-path-editor"

    def __init__(self, start, memory=None, pipe=None, *, room: Room | None = None, size=(128, 128)) -> None:
        if isinstance(start, Room):
            room, start = start, Cameras(start.start(), default_intrinsics(size), size)
        if not isinstance(start, Cameras) or len(start) != 1:
            raise ValueError("start: expected a Room, or Cameras of one camera")
        self.start, self.room, self.memory, self.pipe = start.to("cpu"), room, memory, pipe
        self.moves: list[Move] = []
        self.key_cameras: Tensor | None = None
        self.at: list[int] = []
        self._ground = self._walls() if room is not None else None
        self._build()

    def cameras(self) -> Cameras:
        """The path: T cameras, the start first."""
        c2w = compose(self.start.c2w[0], self.moves) if self.key_cameras is None else through(self.key_cameras, self.at)
        return Cameras(c2w, self.start.intrinsics[0], self.start.size)

    def append(self, name: str, frames: int = 16, speed: float = 1.0) -> None:
        """Add a move at the end; what the key cameras were is given up."""
        compose(self.start.c2w[0], [Move(name, frames, speed)])  # checked before it is kept
        self.moves, self.key_cameras = [*self.moves, Move(name, frames, speed)], None
        self._refresh()

    def remove(self, index: int = -1) -> None:
        """Take a move out, by default the last one; nothing happens where there is none."""
        moves = list(self.moves)
        if moves:
            moves.pop(index)
        self.moves, self.key_cameras = moves, None
        self._refresh()

    def to_keys(self, count: int = 4) -> None:
        """Take `count` cameras spread over the path as keys, to be moved one by one."""
        path = self.cameras()
        if len(path) < 2:
            raise ValueError("keys: the path has one camera; append a move first")
        checks.integer("count", count, 2)
        self.at = spread(len(path), count)
        self.key_cameras = path.c2w[self.at].clone()
        self._refresh()

    def move_key(self, index: int, x: float | None = None, z: float | None = None, yaw: float | None = None) -> None:
        """Put a key camera elsewhere on the plan (metres) or turn it (degrees to the right of +z).

        Its height and its tilt stay.

        Raises:
            ValueError: there are no keys, or not that one; the first one is where the path starts and stays.
        """
        if self.key_cameras is None or not 0 < index < len(self.key_cameras):
            raise ValueError(f"index: expected a key from 1 on (the start stays), got {index}; `to_keys` makes keys")
        key = self.key_cameras[index]
        key[0, 3] = key[0, 3] if x is None else x
        key[2, 3] = key[2, 3] if z is None else z
        if yaw is not None:
            key[:] = turned(key, yaw)
        self._refresh()

    def blocked(self) -> int | None:
        """The first frame that comes too near to something: the room's walls, or else tokens of the memory."""
        path = self.cameras()
        if self.room is not None:
            return self.room.blocked(path.c2w)
        if self.memory is None or not len(self.memory):
            return None
        tokens = self.memory.positions.cpu()
        near = torch.stack([(tokens - center).norm(dim=1).min() for center in path.centers]) < TOUCH
        return int(near.nonzero()[0]) if near.any() else None

    def preview(self, count: int = 6) -> Tensor:
        """(n, H, W, 3) uint8: what the memory shows along the path, decoded without any denoising; white where nothing.

        Raises:
            ValueError: the editor was given no memory or no pipe.
        """
        if self.memory is None or self.pipe is None or not len(self.memory):
            raise ValueError("preview: it needs a memory with tokens and a pipe; give the editor both")
        path = self.cameras()
        path = path[spread(len(path), count)]
        readout = self.memory.read(path)
        latents = readout.latents.float().to(next(self.pipe.vae.parameters()).device)
        video = decode(self.pipe.vae, latents[:, :, None])[:, :, 0]
        return torch.stack(holes(as_frames(video.cpu()), readout.to("cpu")))

    def save(self, path: str | Path, format: str = "nerfstudio") -> Path:
        """Write the path in any of the trajectory formats (`trajectory_writers.WRITERS`)."""
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        return save_trajectory(path, self.cameras(), format)

    def plan(self) -> Image.Image:
        """The path from above: the memory's tokens, where no camera may stand, key cameras, and where it hits."""
        figure = Figure(figsize=(5.2, 4.4), layout="constrained")
        axis, path, hit = figure.subplots(), self.cameras(), self.blocked()
        if self._ground is not None:
            near, extent = self._ground
            axis.contourf(*extent, near, levels=[-99, CLEARANCE], colors=["#d9dde4"])
        if self.memory is not None and len(self.memory):
            every = slice(None, None, 1 + len(self.memory) // 5000)
            points = self.memory.positions.cpu()[every]
            colours = pca_colours(self.memory.tokens)[every] / 255
            axis.scatter(points[:, 0], points[:, 2], s=5, c=colours.numpy(), linewidths=0)
        x, z = path.centers[:, 0], path.centers[:, 2]
        axis.plot(x, z, color=COLOURS["camera"], linewidth=2.5)
        marked = self.at if self.key_cameras is not None else spread(len(path), 5)
        for number, frame in enumerate(marked):
            line = frustum(path[frame])
            axis.plot(line[:, 0], line[:, 2], color=COLOURS["camera"], linewidth=1)
            if self.key_cameras is not None:
                axis.plot(x[frame], z[frame], "o", color=COLOURS["camera"], markersize=7)
                axis.annotate(f"{number}", (x[frame], z[frame]), (6, 6), textcoords="offset points", color=INK)
        if hit is not None:
            axis.plot(x[hit], z[hit], "X", color=COLOURS["hole"], markersize=13, markeredgecolor="white")
        axis.set_aspect("equal")
        axis.set(xlabel="x, metres", ylabel="z, metres")
        axis.spines[["top", "right"]].set_visible(False)
        words = "grey: too near to a wall or a thing" if self._ground is not None else "from above"
        axis.set_title(f"{len(path)} frames; {words}", fontsize=10, color=QUIET)
        return drawn(figure, dpi=80)

    def warning(self) -> str:
        """What is wrong with the path; empty if nothing is."""
        hit = self.blocked()
        what = "a wall or a thing" if self.room is not None else "what the memory holds"
        return "" if hit is None else f"From frame {hit} on the path is too near to {what}."

    def picture(self) -> Image.Image:
        """The plan, and the preview if there is a memory to read and a pipe to decode it."""
        plan = self.plan()
        if self.memory is None or self.pipe is None or not len(self.memory):
            return plan
        words = "six views along the path, decoded from the memory alone"
        strip = contact_sheet({"memory": self.preview()}, 6, words, tile=112)
        whole = Image.new("RGB", (max(plan.width, strip.width), plan.height + strip.height), "white")
        whole.paste(plan)
        whole.paste(strip, (0, plan.height))
        return whole

    def _walls(self) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray]]:
        """Clearance at the start's height on a grid over the room and what lies behind it."""
        x = torch.arange(-0.1, self.room.width + 0.2, 0.06)
        z = torch.arange(-0.1, self.room.depth + 2.6, 0.06)
        grid = torch.stack(torch.meshgrid(x, self.start.centers[0, 1:2], z, indexing="ij"), -1)[:, 0]
        near = self.room.clearance(grid.reshape(-1, 3)).reshape(len(x), len(z))
        return near.T.numpy(), (x.numpy(), z.numpy())

    def _build(self) -> None:
        import plotly.graph_objects as go

        def named(widget, name: str):
            widget.add_class(f"mirage-path-editor-{name}")
            return widget

        self.move = named(ipywidgets.Dropdown(options=list(MOVES), value="push_in", description="move"), "move")
        self.count = named(ipywidgets.BoundedIntText(16, min=1, max=999, description="frames"), "frames")
        self.speed = named(ipywidgets.BoundedFloatText(1.0, min=0.1, max=10, step=0.1, description="speed"), "speed")
        self.list = named(ipywidgets.Select(description="moves", rows=5), "moves")
        self.key = named(ipywidgets.Dropdown(options=[], description="key camera"), "key")
        reach = [(-10.0, 10.0, 0.05), (-10.0, 10.0, 0.05), (-180.0, 180.0, 1.0)]
        labels = ("x", "z", "yaw")
        self.fields = {
            name: named(ipywidgets.FloatSlider(0, min=low, max=high, step=step, description=name), name)
            for name, (low, high, step) in zip(labels, reach)
        }  # fmt: skip
        self.format = named(ipywidgets.Dropdown(options=list(WRITERS), description="format"), "format")
        self.file = named(ipywidgets.Text("build/path.json", description="file"), "file")
        actions = {
            "append": lambda: self.append(self.move.value, self.count.value, self.speed.value),
            "remove": lambda: self.remove(self.list.index if self.list.index is not None else -1),
            "keys": lambda: self.to_keys(),
            "preview": self._preview,
            "save": lambda: self.status.say(f"saved as {self.save(self.file.value, self.format.value)}"),
        }
        words = {"keys": "key cameras", "preview": "preview", "save": "save"}
        self.buttons = {n: named(ipywidgets.Button(description=words.get(n, n)), n) for n in actions}
        for name, action in actions.items():
            self.buttons[name].on_click(lambda _, action=action: self._event(action))
        self.status = named(Status(), "status")
        self.top = named(
            ipywidgets.Image(format="png", layout={"max_width": "100%", "align_self": "flex-start"}), "plan"
        )
        self.film = named(ipywidgets.Image(format="png", layout={"display": "none", "max_width": "100%"}), "film")
        tokens, colours = torch.zeros(0, 3), torch.zeros(0, 3, dtype=torch.uint8)
        if self.memory is not None and len(self.memory):
            tokens, colours = self.memory.positions.cpu(), pca_colours(self.memory.tokens)
        cloud = memory_cloud(tokens, colours, self.start) if len(tokens) else None
        self.space = None if cloud is None else go.FigureWidget(cloud)
        self._quiet = False
        self.key.observe(lambda change: self._show_key(), "value")
        latest = Latest(lambda: self._event(self._move_key))
        for field in self.fields.values():
            field.observe(lambda change: None if self._quiet else latest.call(), "value")
        b, f = self.buttons, self.fields
        side = ipywidgets.VBox(
            [
                self.move, self.count, self.speed, ipywidgets.HBox([b["append"], b["remove"]]), self.list, b["keys"],
                self.key, *f.values(), b["preview"], self.format, self.file, b["save"],
            ]
        )  # fmt: skip
        space = [] if self.space is None else [ipywidgets.Box([self.space], layout={"flex": "1 1 380px"})]
        row = ipywidgets.HBox([side, self.top, *space], layout={"flex_flow": "row wrap"})
        super().__init__([row, self.film, self.status])
        self._refresh()

    def _refresh(self) -> None:
        self.top.value = png(self.plan(), fast=True)
        self.film.layout.display = "none"  # it shows another path by now
        self.list.options = [f"{m.name}, {m.frames} frames, speed {m.speed:g}" for m in self.moves]
        names = [] if self.key_cameras is None else [str(i) for i in range(1, len(self.key_cameras))]
        if tuple(names) != self.key.options:
            self.key.options = names
        self._show_key()
        path, warning = self.cameras(), self.warning()
        self.status.say(warning or f"{len(path)} frames, nothing in the way", warning=bool(warning))
        if self.space is not None:
            line = path.centers.numpy()
            views = np.concatenate([frustum(path[i]) for i in spread(len(path), 5)])
            with self.space.batch_update():
                for trace, points in zip(self.space.data[1:], (line, views)):
                    trace.x, trace.y, trace.z = points.T

    def _show_key(self) -> None:
        """Let the sliders stand where the chosen key camera is."""
        if self.key_cameras is None or not self.key.value:
            return
        key = self.key_cameras[int(self.key.value)]
        self._quiet = True
        for name, value in (("x", key[0, 3]), ("z", key[2, 3]), ("yaw", yaw_of(key))):
            self.fields[name].value = round(float(value), 2)
        self._quiet = False

    def _move_key(self) -> None:
        if self.key_cameras is not None and self.key.value:
            self.move_key(int(self.key.value), **{name: field.value for name, field in self.fields.items()})

    def _preview(self) -> None:
        self.film.value = png(contact_sheet({"memory": self.preview()}, 6, tile=112), fast=True)
        self.film.layout.display = ""

    def _event(self, action) -> None:
        try:
            action()
        except Exception as problem:  # an event has no cell to show it in
            self.status.say(f"{type(problem).__name__}: {problem}", warning=True)
