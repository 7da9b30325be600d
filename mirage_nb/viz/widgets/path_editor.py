"""A camera path put together by hand: moves one after the other, and key cameras that can be moved on a plan."""

from __future__ import annotations

import math

import ipywidgets
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from mirage_nb import checks
from mirage_nb.cameras import Cameras, default_intrinsics
from mirage_nb.data.rooms.room import CLEARANCE, Room
from mirage_nb.paths import MOVES, camera_path
from mirage_nb.viz.base import COLOURS, INK, font
from mirage_nb.viz.colours import pca_colours
from mirage_nb.viz.space import Plan
from mirage_nb.viz.widgets.base import Latest, Status, WithPicture, png

METRES, DEGREES = 0.02, 1.0  # a frame, at speed 1
TOUCH = 0.15  # metres from a camera to a token that are too near: without a room, only the tokens tell of walls
GREY = (217, 221, 228)  # where no camera may stand
FIELDS = {"x": (-10.0, 10.0, 0.05), "z": (-10.0, 10.0, 0.05), "yaw": (-180.0, 180.0, 1.0)}  # lowest, highest, step


class PathEditor(WithPicture):
    """Compose a camera path, see it from above in the memory, and be warned of walls; `cameras()` is the result.

    Each move adds a key camera at its end. A key camera can be put elsewhere; the path then goes smoothly through it.

    Args:
        start: a `Room`, whose walls then count, or a camera (`Cameras` of one) to start from.
        memory: a `LatentGrid` to see the path in.
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
        self._refresh(chosen=len(self.at) - 1)

    def remove(self) -> None:
        """Take the last key camera out, and the way to it; nothing happens where there is none."""
        self.at = self.at[:-1] or [0]
        self.path = self.path[: self.at[-1] + 1]
        self._refresh(chosen=len(self.at) - 1)

    def move_key(self, index: int, x: float | None = None, z: float | None = None, yaw: float | None = None) -> None:
        """Put a key camera elsewhere (metres) or turn it (degrees to the right of +z); its height and tilt stay.

        Raises:
            ValueError: there is no such key; key 0 is where the path starts and stays.
        """
        if not 0 < index < len(self.at):
            raise ValueError(f"index: expected a key from 1 to {len(self.at) - 1} (0 is the start), got {index}")
        key = self.path[self.at[index]].clone()
        key[0, 3] = key[0, 3] if x is None else x
        key[2, 3] = key[2, 3] if z is None else z
        near = self.at[index - 1 : index + 2]  # the key and its neighbours; the rest of the path stays
        keys = self.path[near].clone()
        keys[1] = key if yaw is None else turned(key, yaw)
        self.path = torch.cat([self.path[: near[0]], through(keys, near), self.path[near[-1] + 1 :]])
        self._refresh(chosen=index)

    def blocked(self) -> int | None:
        """The first frame that comes too near to something: the room's walls, or else tokens of the memory."""
        if self.room is not None:
            return self.room.blocked(self.path)
        if self.memory is None or not len(self.memory):
            return None
        near = (torch.cdist(self.path[:, :3, 3], self.memory.positions.cpu()).amin(1) < TOUCH).nonzero()
        return int(near[0]) if len(near) else None

    def plan(self) -> Image.Image:
        """The path from above: the memory's tokens, where no camera may stand, key cameras, and where it hits."""
        path, hit = self.cameras(), self.blocked()
        tokens = torch.zeros(0, 3) if self.memory is None else self.memory.positions.cpu()
        reach = torch.cat([path.centers, tokens, *([] if self.room is None else [self._ground])])
        plan = Plan(torch.stack([reach.amin(0) - 0.3, reach.amax(0) + 0.3]), 420)
        if self.room is not None:
            plan.tokens(self._ground, torch.tensor(GREY, dtype=torch.uint8).repeat(len(self._ground), 1), 3)
        if len(tokens):
            plan.tokens(tokens, self._shades)
        plan.path(path, self.at)
        for number, (x, y) in enumerate(plan.at(path.centers[self.at])):
            plan.draw.text((x + 6, y - 6), str(number), INK, font(15))
        if hit is not None:
            x, y = plan.at(path.centers[[hit]])[0]
            for side in (-7, 7):
                plan.draw.line((x - 7, y - side, x + 7, y + side), COLOURS["hole"], 4)
        plan.ruler()
        return plan.image

    def picture(self) -> Image.Image:
        """The plan."""
        return self.plan()

    def _build(self) -> None:
        if self.room is not None:  # points of the ground, at the start's height, where no camera may stand
            x, z = torch.arange(-0.1, self.room.width + 0.2, 0.06), torch.arange(-0.1, self.room.depth + 0.2, 0.06)
            grid = torch.cartesian_prod(x, self.start.centers[0, 1:2], z)
            self._ground = grid[self.room.clearance(grid) < CLEARANCE]
        if self.memory is not None and len(self.memory):
            self._shades = pca_colours(self.memory.tokens)
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
        actions = {
            "append": lambda: self.append(w["move"].value, w["frames"].value, w["speed"].value),
            "remove": self.remove,
        }
        for name, action in actions.items():
            w[name].on_click(lambda _, action=action: self.status.attempt(action))
        self._filling = False  # the sliders are set by us, not by the user
        w["key"].observe(lambda change: self._fill(), "value")
        latest = Latest(lambda: self.status.attempt(self._move_key))
        for name in FIELDS:
            w[name].observe(lambda change: None if self._filling else latest.call(), "value")
        row = ipywidgets.HBox([ipywidgets.VBox(list(w.values())), self.image], layout={"flex_flow": "row wrap"})
        super().__init__([row, self.status])
        self._refresh(chosen=0)

    def _refresh(self, chosen: int) -> None:
        self.image.value = png(self.plan(), fast=True)
        self._filling = True
        if len(self.widgets["key"].options) != len(self.at) - 1:
            self.widgets["key"].options = range(1, len(self.at))
        self.widgets["key"].value = chosen or None
        self._filling = False
        self._fill()
        hit, what = self.blocked(), "what the memory holds" if self.room is None else "a wall or a thing"
        words = "nothing in the way" if hit is None else f"from frame {hit} on too near to {what}"
        self.status.say(f"{len(self.path)} frames, {words}", warning=hit is not None)

    def _fill(self) -> None:
        """Set the sliders to where the chosen key camera is."""
        index = self.widgets["key"].value
        if self._filling or index is None:
            return
        key = self.path[self.at[index]]
        self._filling = True
        for name, value in zip(FIELDS, (key[0, 3], key[2, 3], yaw_of(key))):
            self.widgets[name].value = round(float(value), 2)
        self._filling = False

    def _move_key(self) -> None:
        if self.widgets["key"].value is not None:
            self.move_key(self.widgets["key"].value, **{name: self.widgets[name].value for name in FIELDS})


def through(keys: Tensor, at: list[int]) -> Tensor:
    """The path (at[-1] - at[0] + 1, 4, 4) that passes the key cameras (K, 4, 4) at the frames `at`, exactly.

    Positions follow monotone cubics (they never overshoot a key, so never swing into a wall near it), rotations the
    shortest way.
    """
    from scipy.interpolate import PchipInterpolator
    from scipy.spatial.transform import Rotation, Slerp

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
    turn = math.radians(yaw - yaw_of(c2w))
    c, s = math.cos(turn), math.sin(turn)
    new = c2w.clone()
    new[:3, :3] = torch.tensor([[c, 0.0, s], [0.0, 1.0, 0.0], [-s, 0.0, c]]) @ c2w[:3, :3]
    return new
