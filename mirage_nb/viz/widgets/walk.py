"""Walk through a world while it is generated: every press of a key is a segment of the paper's stage 5."""

from __future__ import annotations

import copy
import io
import time
from pathlib import Path

import ipywidgets
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from mirage_nb import checks
from mirage_nb.cameras import Cameras, default_intrinsics
from mirage_nb.data.rooms.room import Room
from mirage_nb.formats.trajectory_files import save_trajectory
from mirage_nb.memory.baselines import make_memory
from mirage_nb.models.text import encode_prompt
from mirage_nb.models.vae import spatial_stride, temporal_stride
from mirage_nb.paths import camera_path
from mirage_nb.stitching import frame_encoder, new_frames_per_segment, rollout
from mirage_nb.viz.stages import plan_view
from mirage_nb.viz.video import INK, PAPER, contact_sheet, latent_colours, token_colours, write_mp4
from mirage_nb.viz.widgets.base import Shown, Status
from mirage_nb.viz.widgets.key_view import View, animation

# key: the move it makes, what its button says, and the browser's names of the keys
KEYS: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "forward": ("push_in", "↑ forward", ("ArrowUp", "w")),
    "back": ("pull_out", "↓ back", ("ArrowDown", "s")),
    "left": ("pan_left", "← turn left", ("ArrowLeft", "j")),
    "right": ("pan_right", "→ turn right", ("ArrowRight", "l")),
    "step-left": ("move_left", "step left", ("a",)),
    "step-right": ("move_right", "step right", ("d",)),
}
STEPS = 2  # denoising steps a press; `steps.measure_steps` shows what more would give
UNDOS = 100  # presses that can be undone


class Walk(Shown):
    """Walk through a room or a photo with the arrow keys or buttons. A press makes a segment and writes it to memory.

    All presses together are one rollout: `pipe(image, c2w=walk.cameras.c2w, seed=seed, lookahead=0)` makes the same
    video, bit for bit; who walks does not know the path, so nobody looks ahead. The first latent frame of a press is
    the last one of the press before, clean; its noise depends on the seed and on the number of the press alone.

    Args:
        pipe: a `MiragePipeline`.
        world: a `Room`, which knows its walls, or an image: a path, a PIL image, or (H, W, 3) uint8.
        intrinsics: fx, fy, cx, cy in pixels of the image; by default 64 degrees across.
        start: (4, 4) c2w of the first view; by default the room's own, or the identity.
        depth: (H, W) z-depth in metres of the image, where it is known.
        memory: a name that `make_memory` knows, or a memory to walk on in, which grows in place.
        seed: of the noise.
        num_inference_steps: denoising steps a press.
        metres_per_frame, degrees_per_frame: speeds. A press adds as many frames as a segment of the model does.
        size: (height, width) of the pictures of a room.
        prompt: for a model with text.

    Attributes:
        frames: (T, H, W, 3) uint8. cameras: T of them. presses: the keys so far. seconds: of each press.

    Raises:
        ValueError, FileNotFoundError: an argument does not fit.
    """

    css = "mirage-walk"

    def __init__(
        self, pipe, world, *, intrinsics=None, start: Tensor | None = None, depth: Tensor | None = None,
        memory="latent", seed: int = 0, num_inference_steps: int = STEPS, metres_per_frame: float = 0.05,
        degrees_per_frame: float = 2.0, size: tuple[int, int] = (128, 128), prompt: str | None = None,
    ) -> None:  # fmt: skip
        checks.integer("seed", seed, 0)
        checks.integer("num_inference_steps", num_inference_steps, 1)
        self.pipe, self.seed, self.steps = pipe, seed, num_inference_steps
        self.speeds = {"metres_per_frame": metres_per_frame, "degrees_per_frame": degrees_per_frame}
        self.room = world if isinstance(world, Room) else None
        stride, channels = spatial_stride(pipe.vae), int(pipe.vae.config.z_dim)
        if self.room is not None:
            pose = self.room.start() if start is None else torch.as_tensor(start)
            lens = default_intrinsics(size) if intrinsics is None else intrinsics
            first = Cameras(pose, lens, size)
            world = self.room.render(first, times=torch.zeros(1)).frames[0]
        image = checks.as_image(world, stride * pipe.transformer.config.patch_size[-1])
        pose = torch.eye(4) if start is None else torch.as_tensor(start)
        pose = first.c2w if self.room is not None else pose[None]
        self.cameras = checks.as_cameras(pose, intrinsics, tuple(image.shape[:2]), None)
        self.depth = checks.as_depth(depth, self.cameras)
        if isinstance(memory, str):
            options = {"encode": frame_encoder(pipe.vae)} if memory == "rgb" else {}
            memory = make_memory(memory, stride=stride, channels=channels, **options)
        checks.check_memory(memory, stride, channels)
        self.memory, self._text = memory, encode_prompt(pipe, prompt)
        self.frames, self.presses, self.seconds = image[None], [], []
        self._parts: list = []  # latents (C, t, h, w) and depth (t, H, W) of each press
        self._before: list = []  # the memory before each press
        self._build()

    def press(self, key: str) -> Tensor | None:
        """Walk one segment on: generate it and write it to the memory.

        Args:
            key: one of `KEYS`: "forward", "back", "left", "right" (turns), "step-left", "step-right".

        Returns:
            The new frames (n, H, W, 3) uint8; None where a wall is in the way (the room knows; nothing changes then).

        Raises:
            ValueError: an unknown key.
        """
        checks.one_of("key", key, KEYS)
        clock, count = time.perf_counter(), new_frames_per_segment(self.pipe)
        way = camera_path(KEYS[key][0], count + 1, self.cameras.c2w[-1], **self.speeds)[1:]
        if self.room is not None and self.room.blocked(way) is not None:
            self.status.say("A wall or a thing is in the way: turn first.", warning=True)
            return None
        cameras = Cameras(torch.cat([self.cameras.c2w, way]), self.cameras.intrinsics[0], self.cameras.size)
        before = copy.deepcopy(self.memory)
        try:
            result = self._generate(cameras)
        except BaseException:  # also the stop button: the world is as it was
            _restore(self.memory, before)
            raise
        new = result.frames[0, -count:]
        self.cameras, self.frames = cameras, torch.cat([self.frames, new])
        self._parts.append((result.latents[0].cpu(), result.depth[0].cpu()))
        self._before = [*self._before, before][-UNDOS:]
        self.presses.append(key)
        self.seconds.append(time.perf_counter() - clock)
        self._refresh(new, f"{self.seconds[-1]:.1f} s")
        return new

    def undo(self) -> bool:
        """Take the last press back: frames, cameras and memory are exactly as before it. False if there is none."""
        if not self._before:
            self.status.say("There is nothing to undo.", warning=True)
            return False
        count = new_frames_per_segment(self.pipe)
        _restore(self.memory, self._before.pop())
        self._parts.pop()
        self.presses.pop(), self.seconds.pop()
        self.cameras, self.frames = self.cameras[slice(0, -count)], self.frames[:-count]
        self._refresh(self.frames[-1:], "one press taken back")
        return True

    def save(self, folder: str | Path = "build/walk") -> dict[str, Path]:
        """Store the world: memory.safetensors, walk.mp4 (the frames) and trajectory.json (the cameras).

        Returns:
            The three paths by name: memory, frames, trajectory.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        paths = {"memory": "memory.safetensors", "frames": "walk.mp4", "trajectory": "trajectory.json"}
        paths = {name: folder / file for name, file in paths.items()}
        self.memory.save(paths["memory"])
        write_mp4(paths["frames"], self.frames)
        save_trajectory(paths["trajectory"], self.cameras)
        return paths

    def plan(self, size: int = 260) -> Image.Image | None:
        """The memory and the way so far from above; None before anything was written."""
        if not len(self.memory) or not hasattr(self.memory, "tokens") or not self._parts:
            return None
        latents = torch.cat([part[0] for part in self._parts], 1).transpose(0, 1)
        every = max(1, (len(self.frames) - 1) // max(1, len(latents) - 1))
        pick = slice(None, None, 1 + len(latents) // 32)  # a map of colours needs no more
        colours = latent_colours(latents[pick], self.frames[:: temporal_stride(self.pipe.vae) or every][pick])
        positions = self.memory.positions.cpu()
        reach = torch.cat([positions, self.cameras.centers])
        bounds = torch.stack([reach.amin(0) - 0.3, reach.amax(0) + 0.3])
        shades = token_colours(self.memory.tokens, colours)
        return plan_view(positions, shades, bounds, size, self.cameras, view=len(self.cameras) - 1)

    def picture(self) -> Image.Image:
        """Frames of the walk, and the memory from above."""
        words = f"{len(self.presses)} presses: {', '.join(self.presses)}" if self.presses else "before the first press"
        strip = contact_sheet({"walk": self.frames}, 6, tile=112)
        plan = self.plan(240)
        height = 26 + max(strip.height, plan.height if plan else 0)
        whole = Image.new("RGB", (strip.width + (plan.width + 12 if plan else 0), height), PAPER)
        ImageDraw.Draw(whole).text((10, 6), words, INK, ImageFont.load_default(14))
        whole.paste(strip, (0, 26))
        if plan is not None:
            whole.paste(plan, (strip.width + 12, 26))
        return whole

    def _generate(self, cameras: Cameras):
        parts, pipe = self._parts, self.pipe
        past = None
        if parts:
            past = torch.cat([p[0] for p in parts], 1)[None], torch.cat([p[1] for p in parts])[None]
        latents = parts[-1][0][None, :, -1] if parts and temporal_stride(pipe.vae) == 1 else None
        results = rollout(
            pipe, [self.memory], self.frames[None, -1], [cameras], seeds=[self.seed], num_inference_steps=self.steps,
            depth=self.depth, encoder_hidden_states=self._text, done=len(parts), latents=latents, past=past,
            references=pipe.config.references, preceding=pipe.config.preceding, device=pipe._execution_device,
        )  # fmt: skip
        return next(iter(results))

    def _build(self) -> None:
        names = {name: key for key, (_, _, codes) in KEYS.items() for name in codes}
        self.view = View(listens=list(names))
        self.map = ipywidgets.Image(format="png", layout={"object_fit": "contain", "align_self": "center"})
        self.status = Status()
        self.status.add_class("mirage-walk-status")
        self.buttons = {key: ipywidgets.Button(description=words) for key, (_, words, _) in KEYS.items()}
        self.buttons |= {key: ipywidgets.Button(description=key) for key in ("undo", "save")}
        for key, button in self.buttons.items():
            button.add_class(f"mirage-walk-{key}")
            button.layout.width = "110px"
            button.on_click(lambda _, key=key: self._event(key))
        self.view.observe(lambda change: self._event(names.get(change["new"][0], "")), "pressed")
        self._refresh(self.frames, "Click the picture, then walk with the arrow keys; a and d step aside.")
        rows = [list(self.buttons.values())[:4], list(self.buttons.values())[4:]]
        controls = [ipywidgets.HBox(row) for row in rows]
        pair = ipywidgets.HBox([self.view, self.map], layout={"flex_flow": "row wrap"})
        super().__init__([pair, *controls, self.status])

    def _event(self, key: str) -> None:
        """A press in the browser. An error has no cell to show it in, so the status line tells it."""
        actions = {"undo": self.undo, "save": self.save}
        try:
            done = actions[key]() if key in actions else self.press(key)
            if key == "save":
                self.status.say(f"saved in {done['memory'].parent}")
        except Exception as problem:
            self.status.say(f"{type(problem).__name__}: {problem}", warning=True)

    def _refresh(self, new: Tensor, words: str) -> None:
        with self.view.hold_sync():
            self.view.frames = len(self.frames)
            self.view.picture = animation(new)
        plan = self.plan()
        buffer = io.BytesIO()
        (plan or Image.new("RGB", (8, 8), PAPER)).save(buffer, "png", compress_level=1)
        self.map.value = buffer.getvalue()
        tokens = f"{len(self.memory):,} tokens"
        self.status.say(f"{len(self.frames)} frames, {tokens}; {words}" if self.presses else words)


def _restore(memory, snapshot) -> None:
    """Make a memory what it was, in place: others hold it, too."""
    vars(memory).clear()
    vars(memory).update(vars(snapshot))
