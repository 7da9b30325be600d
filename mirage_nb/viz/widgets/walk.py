"""Walk through a room while it is generated: every press of a key is a segment of the paper's stage 5."""

from __future__ import annotations

import copy
from typing import NamedTuple

import ipywidgets
import torch
from PIL import Image
from torch import Tensor

from mirage_nb import checks
from mirage_nb.cameras import Cameras, default_intrinsics
from mirage_nb.data.rooms.room import Room
from mirage_nb.memory.grid import LatentGrid
from mirage_nb.models.text import encode_prompt
from mirage_nb.models.vae import temporal_stride
from mirage_nb.paths import camera_path
from mirage_nb.segments import new_frames_per_segment
from mirage_nb.stitching import Resume, rollout
from mirage_nb.viz.base import PAPER
from mirage_nb.viz.colours import latent_colours, token_colours
from mirage_nb.viz.space import board, plan_view
from mirage_nb.viz.video import contact_sheet
from mirage_nb.viz.widgets.base import Status, WithPicture, png
from mirage_nb.viz.widgets.keyboard import KeyboardPicture, animation

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


class State(NamedTuple):
    """Everything that a press changes."""

    frames: Tensor  # (T, H, W, 3) uint8
    cameras: Cameras  # T
    memory: LatentGrid
    latents: Tensor | None = None  # (1, C, n, h, w) of all latent frames, None before the first press
    depth: Tensor | None = None  # (1, n, H, W) of these
    presses: tuple[str, ...] = ()


class Walk(WithPicture):
    """Walk through a room or a photo with the arrow keys or buttons. A press makes a segment and writes it to memory.

    All presses together are one rollout: `pipe(image, c2w=walk.cameras.c2w, generator=seed)` makes the same video. The
    noise of a press depends on the seed and on the number of the press alone.

    Args:
        pipe: a `MiragePipeline`.
        scene: a `Room`, whose walls then stop the walk, or an image: a path, a PIL image, or (H, W, 3) uint8.
        intrinsics: fx, fy, cx, cy in pixels of the image; by default 64 degrees across.
        depth: (H, W) z-depth in metres of the image; by default it is estimated.
        seed: of the noise.
        num_inference_steps: denoising steps a press.
        prompt: for a model with text.

    Attributes:
        frames: (T, H, W, 3) uint8. cameras: T of them. memory: the present one. presses: the keys so far.

    Raises:
        ValueError, FileNotFoundError: an argument does not fit.
    """

    css = "mirage-walk"

    def __init__(
        self, pipe, scene, *, intrinsics=None, depth: Tensor | None = None, seed: int = 0,
        num_inference_steps: int = 2, prompt: str | None = None,
    ) -> None:  # fmt: skip
        checks.integer("seed", seed, 0)
        checks.integer("num_inference_steps", num_inference_steps, 1)
        self.pipe, self.room, start = pipe, None, torch.eye(4)[None]
        if isinstance(scene, Room):
            self.room, size = scene, (128, 128)
            first = Cameras(scene.start(), default_intrinsics(size) if intrinsics is None else intrinsics, size)
            intrinsics, start = first.intrinsics, first.c2w
            scene = self.room.render(first, times=torch.zeros(1)).frames[0]
        given = pipe.check_inputs(scene, start, intrinsics, depth)
        self.options = {
            "seeds": [seed], "num_inference_steps": num_inference_steps, "prompt_embeds": encode_prompt(pipe, prompt),
            "depth": None if given.depth is None else given.depth[None], "device": pipe._execution_device,
            "references": pipe.config.references, "preceding": pipe.config.preceding,
        }  # fmt: skip
        self._past: list[State] = []
        self._build()
        self._show(State(given.image[None], given.cameras, pipe.prepare_memory("latent")), given.image[None])
        self.status.say("Click the picture, then walk with the arrow keys; a and d step to the side.")

    def press(self, key: str) -> Tensor | None:
        """Walk one segment on: generate it and write it to the memory. An error leaves everything as it was.

        Args:
            key: one of `KEYS`: "forward", "back", "left", "right" (turns), "step-left", "step-right".

        Returns:
            The new frames (n, H, W, 3) uint8; None where a wall is in the way (nothing changes then).

        Raises:
            ValueError: an unknown key.
        """
        checks.one_of("key", key, KEYS)
        state, count = self.state, new_frames_per_segment(self.pipe)
        way = camera_path(KEYS[key][0], count + 1, state.cameras.c2w[-1], **SPEEDS)[1:]
        if self.room is not None and self.room.blocked(way) is not None:
            self.status.say("A wall or a thing is in the way: turn first.", warning=True)
            return None
        cameras = Cameras(torch.cat([state.cameras.c2w, way]), state.cameras.intrinsics[0], state.cameras.size)
        memory = copy.deepcopy(state.memory)
        resume = Resume(len(state.presses), state.latents, state.depth) if state.presses else None
        result = next(rollout(self.pipe, [memory], state.frames[None, -1], [cameras], resume=resume, **self.options))
        new, latents, depth = result.frames[0, -count:], result.latents.cpu(), result.depth.cpu()
        if state.presses:
            latents, depth = torch.cat([state.latents, latents], 2), torch.cat([state.depth, depth], 1)
        self._past.append(state)
        frames = torch.cat([state.frames, new])
        self._show(State(frames, cameras, memory, latents, depth, (*state.presses, key)), new)
        return new

    def undo(self) -> bool:
        """Take the last press back: frames, cameras and memory are as they were before it. False if there is none."""
        if not self._past:
            self.status.say("There is nothing to undo.", warning=True)
            return False
        state = self._past.pop()
        self._show(state, state.frames[-1:])
        return True

    def plan(self) -> Image.Image:
        """The memory and the way so far from above; an empty picture before anything was written."""
        if not len(self.memory):
            return Image.new("RGB", (8, 8), PAPER)
        frames, positions = self.frames[:: temporal_stride(self.pipe.vae)], self.memory.positions.cpu()
        colours = latent_colours(self.state.latents[0].transpose(0, 1), frames)
        reach = torch.cat([positions, self.cameras.centers])
        bounds = torch.stack([reach.amin(0) - 0.3, reach.amax(0) + 0.3])
        shades = token_colours(self.memory.tokens, colours)
        return plan_view(positions, shades, bounds, 250, self.cameras, view=len(self.cameras) - 1)

    def picture(self) -> Image.Image:
        """Frames of the walk, and the memory from above."""
        words = f"{len(self.presses)} presses: {', '.join(self.presses)}" if self.presses else "before the first press"
        return board({words: contact_sheet({"walk": self.frames}, 6, tile=112), "from above": self.plan()})

    def _build(self) -> None:
        names = {name: key for key, (_, _, codes) in KEYS.items() for name in codes}
        self.view = KeyboardPicture(listens=list(names))
        self.map = ipywidgets.Image(format="png", layout={"object_fit": "contain", "align_self": "center"})
        self.status = self.named(Status(), "status")
        words = {key: words for key, (_, words, _) in KEYS.items()} | {"undo": "undo"}
        self.buttons = {k: self.named(ipywidgets.Button(description=w), k) for k, w in words.items()}
        for key, button in self.buttons.items():
            button.layout.width = "110px"
            button.on_click(lambda _, key=key: self._event(key))
        self.view.observe(lambda change: self._event(names.get(change["new"][0], "")), "pressed")
        buttons = list(self.buttons.values())
        pair = ipywidgets.HBox([self.view, self.map], layout={"flex_flow": "row wrap"})
        super().__init__([pair, ipywidgets.HBox(buttons[:4]), ipywidgets.HBox(buttons[4:]), self.status])

    def _event(self, key: str) -> None:
        self.status.attempt(lambda: self.undo() if key == "undo" else self.press(key))

    def _show(self, state: State, new: Tensor) -> None:
        """Make this the present state, and play its new frames."""
        self.state, self.frames, self.cameras, self.memory = state, state.frames, state.cameras, state.memory
        self.presses = state.presses
        with self.view.hold_sync():
            self.view.frames = len(self.frames)
            self.view.picture = animation(new)
        self.map.value = png(self.plan(), fast=True)
        self.status.say(f"{len(self.frames)} frames, {len(self.memory):,} tokens")
