"""A camera path put together by hand: moves one after the other, and key cameras that can be moved on a plan."""

from __future__ import annotations

import math

import ipywidgets
import numpy as np
import torch
from PIL import Image
from scipy.interpolate import PchipInterpolator
from scipy.spatial.transform import Rotation, Slerp
from torch import Tensor

from mirage_nb import checks
from mirage_nb.cameras import Cameras, default_intrinsics
from mirage_nb.data.rooms.room import CLEARANCE, Room
from mirage_nb.paths import MOVES, camera_path
from mirage_nb.viz.base import COLOURS, INK, font
from mirage_nb.viz.colours import pca_colours
from mirage_nb.viz.space import Plan
from mirage_nb.viz.widgets.base import Status, WithPicture, png, soon

METRES, DEGREES = 0.02, 1.0  # a frame, at speed 1
GREY = (217, 221, 228)  # where no camera may stand
FIELDS = {"x": (-10.0, 10.0, 0.05), "z": (-10.0, 10.0, 0.05), "yaw": (-180.0, 180.0, 1.0)}  # lowest, highest, step


class PathEditor(WithPicture):
    """Compose a camera path and see it from above; `cameras()` is the result.

    Each move adds a key camera at its end. A key camera can be moved; the path then goes smoothly through it.

    Args:
        start: a `Room`, of whose walls and things it warns, or a camera (`Cameras` of one) to start from.
        memory: a memory to see the path in.
        size: (height, width) of a room's pictures.

    Attributes:
        path: (T, 4, 4) c2w, the start first. at: the frames of the key cameras; `at[0]` is 0, the start.

    Raises:
        ValueError: start is neither.
    """

    css = "mirage-path-editor"

    def __init__(self, start: Room | Cameras, memory=None, *, size: tuple[int, int] = (128, 128)) -> None:
        self.room, self.memory = start if isinstance(start, Room) else None, memory
        if self.room is not None:
            start = Cameras(self.room.start(), default_intrinsics(size), size)
        if not isinstance(start, Cameras) or len(start) != 1:
            raise ValueError("start: expected a Room, or Cameras of one camera")
        self.start = start.to("cpu")
        self.path, self.at = self.start.c2w, [0]
        self._ground = torch.zeros(0, 3)  # points at the start's height where no camera may stand
        if self.room is not None:
            x, z = torch.arange(-0.1, self.room.width + 0.2, 0.06), torch.arange(-0.1, self.room.depth + 0.2, 0.06)
            grid = torch.cartesian_prod(x, self.start.centers[0, 1:2], z)
            self._ground = grid[self.room.clearance(grid) < CLEARANCE]
        self._build()

    def cameras(self) -> Cameras:
        """The path as cameras."""
        return Cameras(self.path, self.start.intrinsics[0], self.start.size)

    def append(self, move: str, frames: int = 16, speed: float = 1.0) -> None:
        """Add a move (see `camera_path`) at the end, and a key camera where it ends.

        Raises:
            ValueError: an unknown move, a count below 1, a speed that is not positive.
        """
        checks.integer("frames", frames, 1)
        speeds = {"metres_per_frame": METRES * speed, "degrees_per_frame": DEGREES * speed}
        self.path = torch.cat([self.path, camera_path(move, frames + 1, self.path[-1], **speeds)[1:]])
        self.at = [*self.at, len(self.path) - 1]
        self._refresh(len(self.at) - 1)

    def remove(self) -> None:
        """Take the last key camera out, and the way to it; nothing happens where there is none."""
        self.at = self.at[:-1] or [0]
        self.path = self.path[: self.at[-1] + 1]
        self._refresh(len(self.at) - 1)

    def move_key(self, index: int, x: float, z: float, yaw: float) -> None:
        """Move a key camera (metres) and turn it (degrees to the right of +z); its height and tilt stay.

        Raises:
            ValueError: there is no such key; key 0 is where the path starts and stays.
        """
        if not 0 < index < len(self.at):
            raise ValueError(f"index: expected a key from 1 to {len(self.at) - 1} (0 is the start), got {index}")
        near = self.at[index - 1 : index + 2]  # the key and its neighbours; the rest of the path stays
        keys = self.path[near].clone()
        keys[1] = turned(keys[1], yaw)
        keys[1, [0, 2], 3] = torch.tensor([x, z], dtype=torch.float32)
        self.path = torch.cat([self.path[: near[0]], through(keys, near), self.path[near[-1] + 1 :]])
        self._refresh(index)

    def blocked(self) -> int | None:
        """The first frame that comes too near to a wall or a thing of the room, or None."""
        return None if self.room is None else self.room.blocked(self.path)

    def picture(self) -> Image.Image:
        """The path from above: the memory's tokens, where no camera may stand, key cameras, and where it hits."""
        path, hit = self.cameras(), self.blocked()
        tokens = torch.zeros(0, 3) if self.memory is None else self.memory.positions.cpu()
        reach = torch.cat([path.centers, tokens, self._ground])
        plan = Plan(torch.stack([reach.amin(0) - 0.3, reach.amax(0) + 0.3]), 420)
        plan.tokens(self._ground, torch.tensor(GREY, dtype=torch.uint8).repeat(len(self._ground), 1), 3)
        if len(tokens):
            plan.tokens(tokens, pca_colours(self.memory.tokens))
        plan.path(path, self.at)
        for number, (x, y) in enumerate(plan.at(path.centers[self.at])):
            plan.draw.text((x + 6, y - 6), str(number), INK, font(15))
        if hit is not None:
            x, y = plan.at(path.centers[[hit]])[0]
            for side in (-7, 7):
                plan.draw.line((x - 7, y - side, x + 7, y + side), COLOURS["hole"], 4)
        plan.ruler()
        return plan.image

    def _build(self) -> None:
        widgets = {
            "move": ipywidgets.Dropdown(options=list(MOVES), value="push_in", description="move"),
            "frames": ipywidgets.BoundedIntText(16, min=1, max=999, description="frames"),
            "speed": ipywidgets.BoundedFloatText(1.0, min=0.1, max=10, step=0.1, description="speed"),
            "append": ipywidgets.Button(description="append"),
            "remove": ipywidgets.Button(description="remove the last"),
            "key": ipywidgets.Dropdown(options=[], description="key camera"),
            **{n: ipywidgets.FloatSlider(0, min=a, max=b, step=c, description=n) for n, (a, b, c) in FIELDS.items()},
        }
        self.widgets = w = {name: self.named(widget, name) for name, widget in widgets.items()}
        self.status = self.named(Status(), "status")
        self.image = self.named(ipywidgets.Image(format="png", layout={"align_self": "flex-start"}), "plan")
        append = lambda: self.append(w["move"].value, w["frames"].value, w["speed"].value)  # noqa: E731
        w["append"].on_click(lambda _: self.status.attempt(append))
        w["remove"].on_click(lambda _: self.remove())
        self._filling = False  # True while the widgets are set by us, not by the user
        w["key"].observe(lambda change: None if self._filling else self._refresh(change["new"] or 0), "value")
        moved = soon(lambda: self.status.attempt(self._move_chosen))
        for name in FIELDS:
            w[name].observe(lambda change: None if self._filling else moved(), "value")
        row = ipywidgets.HBox([ipywidgets.VBox(list(w.values())), self.image], layout={"flex_flow": "row wrap"})
        super().__init__([row, self.status])
        self._refresh(0)

    def _move_chosen(self) -> None:
        if self.widgets["key"].value is not None:
            self.move_key(self.widgets["key"].value, **{name: self.widgets[name].value for name in FIELDS})

    def _refresh(self, chosen: int) -> None:
        """Show the path, and where the key camera `chosen` is (0: none is chosen)."""
        w, self._filling = self.widgets, True
        if len(w["key"].options) != len(self.at) - 1:
            w["key"].options = range(1, len(self.at))
        w["key"].value = chosen or None
        if chosen:
            key = self.path[self.at[chosen]]
            for name, value in zip(FIELDS, (key[0, 3], key[2, 3], yaw_of(key))):
                w[name].value = round(float(value), 2)
        self._filling = False
        self.image.value, hit = png(self.picture(), fast=True), self.blocked()
        words = "nothing in the way" if hit is None else f"from frame {hit} on too near to a wall or a thing"
        self.status.say(f"{len(self.path)} frames, {words}", warning=hit is not None)


def through(keys: Tensor, at: list[int]) -> Tensor:
    """The path (at[-1] - at[0] + 1, 4, 4) that passes the key cameras (K, 4, 4) at the frames `at`, exactly.

    Positions follow monotone cubics (they never overshoot a key, so never swing into a wall near it), rotations the
    shortest way.
    """
    frames, keys = np.arange(at[0], at[-1] + 1), keys.double().numpy()
    path = np.tile(np.eye(4), (len(frames), 1, 1))
    path[:, :3, :3] = Slerp(at, Rotation.from_matrix(keys[:, :3, :3]))(frames).as_matrix()
    path[:, :3, 3] = PchipInterpolator(at, keys[:, :3, 3])(frames)
    path[np.array(at) - at[0]] = keys
    return torch.from_numpy(path).float()


def yaw_of(c2w: Tensor) -> float:
    """Degrees by which a camera (4, 4) looks to the right of the world's +z."""
    return math.degrees(math.atan2(c2w[0, 2], c2w[2, 2]))


def turned(c2w: Tensor, yaw: float) -> Tensor:
    """The camera (4, 4), turned about the world's vertical until it has this yaw in degrees; its tilt stays."""
    turn, new = Rotation.from_euler("y", yaw - yaw_of(c2w), degrees=True).as_matrix(), c2w.clone()
    new[:3, :3] = torch.from_numpy(turn).to(c2w) @ c2w[:3, :3]
    return new
