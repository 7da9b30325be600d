"""Walk through a room while it is generated: every press of a key is a segment of the paper's stage 5."""

import copy
import io
from pathlib import Path

import anywidget
import ipywidgets
import torch
import traitlets
from PIL import Image
from torch import Tensor

from mirage_nb import checks
from mirage_nb.cameras import Cameras, default_intrinsics
from mirage_nb.data.rooms.room import Room
from mirage_nb.generation import check_inputs, prepare_memory
from mirage_nb.paths import camera_path
from mirage_nb.stitching import Resume, rollout
from mirage_nb.viz.base import png
from mirage_nb.viz.colours import latent_colours, token_colours
from mirage_nb.viz.figures import board
from mirage_nb.viz.space import plan_view
from mirage_nb.viz.video import contact_sheet
from mirage_nb.viz.widgets.base import Status, WithPicture

# key: the move it makes, what its button says, and the browser's names of the keys
KEYS: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "forward": ("push_in", "↑ forward", ("ArrowUp", "w")),
    "back": ("pull_out", "↓ back", ("ArrowDown", "s")),
    "left": ("pan_left", "← turn left", ("ArrowLeft", "j")),
    "right": ("pan_right", "→ turn right", ("ArrowRight", "l")),
    "step-left": ("move_left", "step left", ("a",)),
    "step-right": ("move_right", "step right", ("d",)),
}
SPEEDS = {"metres_per_frame": 0.05, "degrees_per_frame": 2.0}


class KeyboardPicture(anywidget.AnyWidget):
    """A picture (PNG or WebP bytes) that takes the keys in `listens` and tells the last one in `pressed`."""

    _esm, _css = (Path(__file__).with_suffix(suffix) for suffix in (".js", ".css"))
    picture = traitlets.Bytes().tag(sync=True)
    frames = traitlets.Int(0).tag(sync=True)
    listens = traitlets.List().tag(sync=True)
    pressed = traitlets.List(default_value=["", 0]).tag(sync=True)


class Walk(WithPicture):
    """Walk through a room or a photo with the arrow keys or buttons. A press makes a segment and writes it to memory.

    All presses together are one rollout: `pipe(image, c2w=walk.cameras.c2w, generator=seed)` makes the same video.

    Args:
        pipe: a `MiragePipeline`.
        scene: a `Room`, whose walls then stop the walk, or an image (a path, a PIL image, or (H, W, 3) uint8), taken as
            64 degrees across.
        seed, num_inference_steps, prompt: of the noise; denoising steps a press; for a model with text.

    Attributes:
        frames: (T, H, W, 3) uint8. cameras: T of them. memory: the present one. presses: the keys so far.
    """

    css = "mirage-walk"

    def __init__(self, pipe, scene, *, seed: int = 0, num_inference_steps: int = 2, prompt: str | None = None) -> None:
        checks.integer("seed", seed, 0)
        self.room, c2w, self.seed = None, torch.eye(4)[None], seed
        self.model = pipe.video_model(prompt, num_inference_steps=num_inference_steps)
        if isinstance(scene, Room):
            self.room, size = scene, (128, 128)
            first = Cameras(scene.start(), default_intrinsics(size), size)
            scene, c2w = scene.render(first, times=torch.zeros(1)).frames[0], first.c2w
        image, cameras, *_ = check_inputs(self.model, scene, c2w)
        self.frames, self.cameras, self.memory = image[None], cameras, prepare_memory(self.model, "latent")
        self.presses: tuple[str, ...] = ()
        self._resume: Resume | None = None
        names = {name: key for key, (_, _, codes) in KEYS.items() for name in codes}
        self.view = KeyboardPicture(listens=list(names))
        self.view.observe(lambda change: self._event(names.get(change["new"][0], "")), "pressed")
        self.map = ipywidgets.Image(format="png", layout={"object_fit": "contain", "align_self": "center"})
        self.status, self.buttons = self.named(Status(), "status"), {}
        for key, (_, words, _) in KEYS.items():
            self.buttons[key] = self.named(ipywidgets.Button(description=words, layout={"width": "110px"}), key)
            self.buttons[key].on_click(lambda _, key=key: self._event(key))
        rows = [self.view, self.map], list(self.buttons.values())
        super().__init__([*(ipywidgets.HBox(row, layout={"flex_flow": "row wrap"}) for row in rows), self.status])
        self._show(image[None])
        self.status.say("Click the picture, then walk with the arrow keys; a and d step to the side.")

    def press(self, key: str) -> Tensor | None:
        """Walk one segment on by a key of `KEYS`: generate and write it; returns its new frames (n, H, W, 3) uint8, or
        None where a wall is in the way. Nothing changes then, nor by an error."""
        checks.one_of("key", key, KEYS)
        count, resume = self.model.new_frames, self._resume
        way = camera_path(KEYS[key][0], count + 1, self.cameras.c2w[-1], **SPEEDS)[1:]
        if self.room is not None and self.room.blocked(way) is not None:
            self.status.say("A wall or a thing is in the way: turn first.", warning=True)
            return None
        cameras = Cameras(torch.cat([self.cameras.c2w, way]), self.cameras.intrinsics[0], self.cameras.size)
        memory, last = copy.deepcopy(self.memory), self.frames[None, -1]
        result = next(rollout(self.model, [memory], last, [cameras], seeds=[self.seed], resume=resume))
        new, latents, depth = result.frames[0, -count:], result.latents.cpu(), result.depth.cpu()
        if resume is not None:
            latents, depth = torch.cat([resume.latents, latents], 2), torch.cat([resume.depth, depth], 1)
        self.frames, self.cameras, self.memory = torch.cat([self.frames, new]), cameras, memory
        self.presses = (*self.presses, key)
        self._resume = Resume(len(self.presses), latents, depth, [result.fits[0][-1]])
        self._show(new)
        return new

    def plan(self) -> Image.Image:
        """The memory and the way so far from above."""
        shades = torch.zeros(0, 3, dtype=torch.uint8)
        if self._resume is not None:
            latents, frames = self._resume.latents[0].transpose(0, 1), self.frames[:: self.model.latent_step]
            shades = token_colours(self.memory.tokens, latent_colours(latents, frames))
        return plan_view(self.memory.positions, shades, None, 250, self.cameras, len(self.cameras) - 1)

    def picture(self) -> Image.Image:
        """Frames of the walk, and the memory from above."""
        words = f"{len(self.presses)} presses: {', '.join(self.presses)}"
        return board({words: contact_sheet({"walk": self.frames}, 6, tile=112), "from above": self.plan()})

    def _event(self, key: str) -> None:
        self.status.attempt(lambda: self.press(key))

    def _show(self, new: Tensor) -> None:
        """Show the present state, and play its new frames (n, H, W, 3), 90 ms each, once."""
        first, *others = (Image.fromarray(frame) for frame in new.numpy())
        movie = {"save_all": True, "append_images": others, "duration": 90, "loop": 1} if others else {}
        first.save(buffer := io.BytesIO(), "webp", quality=90, method=0, **movie)
        with self.view.hold_sync():
            self.view.frames, self.view.picture = len(self.frames), buffer.getvalue()
        self.map.value = png(self.plan(), fast=True)
        self.status.say(f"{len(self.frames)} frames, {len(self.memory):,} tokens")
