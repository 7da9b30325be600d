"""A camera path put together by hand: moves one after the other, and key cameras that can be moved on a plan."""

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
from mirage_nb.data.rooms.room import CLEARANCE, Room, view
from mirage_nb.memory.grid import LatentGrid
from mirage_nb.paths import MOVES, camera_path
from mirage_nb.viz.base import png
from mirage_nb.viz.colours import pca_colours
from mirage_nb.viz.space import plan_view
from mirage_nb.viz.widgets.base import Status, WithPicture

METRES, DEGREES = 0.02, 1.0  # a frame, at speed 1
GREY = (217, 221, 228)  # where no camera may stand
FIELDS = {"x": (-10.0, 10.0, 0.05), "z": (-10.0, 10.0, 0.05), "yaw": (-180.0, 180.0, 1.0)}  # lowest, highest, step


class PathEditor(WithPicture):
    """Compose a camera path and see it from above; `cameras()` is the result.

    Each move adds a key camera at its end. A key camera can be moved; the path then goes smoothly through it. The path
    starts in a room, whose walls and things the editor warns of; a memory can be shown around it.

    Attributes:
        path: (T, 4, 4) c2w, the start first. at: the frames of the key cameras; `at[0]` is 0, the start.
    """

    css = "mirage-path-editor"

    def __init__(self, room: Room, memory: LatentGrid | None = None) -> None:
        self.room, self.memory = room, memory
        self.path, self.at = room.start()[None], [0]
        widgets = {
            "move": ipywidgets.Dropdown(options=list(MOVES), value="push_in"),
            "frames": ipywidgets.BoundedIntText(16, min=1, max=999),
            "speed": ipywidgets.BoundedFloatText(1.0, min=0.1, max=10, step=0.1),
            "append": ipywidgets.Button(), "remove": ipywidgets.Button(), "key": ipywidgets.Dropdown(options=[]),
        }  # fmt: skip
        for name, (low, high, step) in FIELDS.items():  # sent when a slider is let go
            widgets[name] = ipywidgets.FloatSlider(0, min=low, max=high, step=step, continuous_update=False)
        for name, widget in widgets.items():
            widget.description = {"remove": "remove the last", "key": "key camera"}.get(name, name)
        self.widgets = w = {name: self.named(widget, name) for name, widget in widgets.items()}
        self.status = self.named(Status(), "status")
        self.image = self.named(ipywidgets.Image(format="png", layout={"align_self": "flex-start"}), "plan")
        self._filling = False  # True while the widgets are set by us, not by the user
        w["append"].on_click(lambda _: self.append(w["move"].value, w["frames"].value, w["speed"].value))
        w["remove"].on_click(lambda _: self.remove())
        for name in ("key", *FIELDS):
            w[name].observe(self._on_change, "value")
        row = ipywidgets.HBox([ipywidgets.VBox(list(w.values())), self.image], layout={"flex_flow": "row wrap"})
        super().__init__([row, self.status])
        self._refresh(0)

    def cameras(self) -> Cameras:
        """The path as cameras of 128 x 128 pixels."""
        return Cameras(self.path, default_intrinsics((128, 128)), (128, 128))

    def append(self, move: str, frames: int = 16, speed: float = 1.0) -> None:
        """Add `frames` frames of a move (see `camera_path`) at the end, and a key camera where it ends."""
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
        """Move a key camera (metres) and turn it (degrees to the right of +z); its height and tilt stay."""
        if not 0 < index < len(self.at):
            raise ValueError(f"index: expected a key from 1 to {len(self.at) - 1} (0 is the start), got {index}")
        near = self.at[index - 1 : index + 2]  # the key and its neighbours; the rest of the path stays
        keys = self.path[near].clone()
        keys[1] = view(torch.tensor([x, keys[1, 1, 3], z]), math.radians(yaw), math.asin(-keys[1, 1, 2]))
        self.path = torch.cat([self.path[: near[0]], through(keys, near), self.path[near[-1] + 1 :]])
        self._refresh(index)

    def picture(self) -> Image.Image:
        """The path from above: the memory's tokens, where no camera may stand, key cameras, and where it hits."""
        path, hit = self.cameras(), self.room.blocked(self.path)
        x, z = (torch.arange(-0.1, edge + 0.2, 0.06) for edge in (self.room.width, self.room.depth))
        grid = torch.cartesian_prod(x, path.centers[0, 1:2], z)  # at the height of the start
        points = grid[self.room.clearance(grid) < CLEARANCE]
        colours = torch.tensor([GREY], dtype=torch.uint8).expand(len(points), 3)
        if self.memory:
            points[:, 1] = self.memory.positions[:, 1].amax()  # below the tokens
            points = torch.cat([points, self.memory.positions.cpu()])
            colours = torch.cat([colours, pca_colours(self.memory.tokens)])
        labels = {str(number): path.centers[frame] for number, frame in enumerate(self.at)}
        labels |= {} if hit is None else {"hit": path.centers[hit]}
        return plan_view(points, colours, None, 420, path, self.at, labels=labels)

    def _on_change(self, change) -> None:
        """A key camera was chosen, or a slider moves the chosen one."""
        chosen = self.widgets["key"].value
        if chosen is not None and not self._filling:
            if change["owner"] is not self.widgets["key"]:
                self.move_key(chosen, **{name: self.widgets[name].value for name in FIELDS})
            self._refresh(chosen)

    def _refresh(self, chosen: int) -> None:
        """Show the path, and where the key camera `chosen` is (0: none is chosen)."""
        w, self._filling = self.widgets, True
        w["key"].options = range(1, len(self.at))
        w["key"].value = chosen or None
        if chosen:
            key = self.path[self.at[chosen]]
            for name, value in zip(FIELDS, (key[0, 3], key[2, 3], yaw_of(key))):
                w[name].value = round(float(value), 2)
        self._filling = False
        self.image.value, hit = png(self.picture(), fast=True), self.room.blocked(self.path)
        words = "nothing in the way" if hit is None else f"from frame {hit} on too near to a wall or a thing"
        self.status.say(f"{len(self.path)} frames, {words}", warning=hit is not None)


def through(keys: Tensor, at: list[int]) -> Tensor:
    """The path (at[-1] - at[0] + 1, 4, 4) that passes the key cameras (K, 4, 4) at the frames `at`, exactly.

    Positions follow monotone cubics, which never overshoot a key (into a wall); rotations go the shortest way.
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
