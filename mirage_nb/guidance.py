"""The memory for generators that were never trained with one.

A flow or diffusion model can be shown the memory while it samples, as one inpaints with it: after each step the cells
that the memory shows are set to the remembered token at the noise level that the model expects next, and the model
completes the rest around them. No weight changes. `MemoryGuidance` does so in any video pipeline of diffusers:

    guidance = MemoryGuidance(memory, cameras)
    pipe(image, ..., callback_on_step_end=guidance, callback_on_step_end_tensor_inputs=["latents"])
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mirage_nb.cameras import Cameras
from mirage_nb.memory import Memory
from mirage_nb.models.latent_format import LatentFormat
from mirage_nb.reprojection import Readout


@dataclass(frozen=True)
class GuidanceOptions:
    """How the memory is shown.

    Attributes:
        max_offset: how far from its cell's centre a token may land, in cells, the larger one of x and y. A direct hit
            is within 0.5, and the default shows all of these; what splats from a neighbouring cell is farther.
        until: the noise level down to which the memory is shown, 1 = noise alone, 0 = to the end (the default). Below
            it the model is free.
        fade: False shows the memory at full strength until then; True lets the strength fall, from 1 at noise level 1
            to 0 at `until`.
        strength: 1 sets the cells to the remembered tokens; less mixes them with what the model made.
    """

    max_offset: float = 0.5
    until: float = 0.0
    fade: bool = False
    strength: float = 1.0

    def __post_init__(self) -> None:
        for name in ("max_offset", "until", "strength"):
            value = getattr(self, name)
            if not isinstance(value, (int, float)) or not 0 <= value <= 1:
                raise ValueError(f"{name}: expected a number from 0 to 1, got {value!r}")

    def weight(self, level: float) -> float:
        """The weight of the remembered token at a noise level."""
        if level < self.until:
            return 0.0
        falling = (level - self.until) / (1 - self.until) if self.until < 1 else 0.0
        return self.strength * (falling if self.fade else 1.0)


def noise_level(scheduler, step: int) -> tuple[float, float]:
    """Signal a and noise s after a step of a scheduler: its latents are a * clean + s * noise.

    In flow matching a = 1 - sigma and s = sigma; with alphas a = sqrt(alpha), s = sqrt(1 - alpha); with the sigmas of
    Karras et al. a = 1, s = sigma. The scheduler's own `add_noise` (`scale_noise`) is asked. After the last step the
    latents are clean.
    """
    if step + 1 >= len(scheduler.timesteps):
        return 1.0, 0.0
    # After a step the scheduler's own position is that of this time, too: some schedulers look at the position alone.
    time = scheduler.timesteps[step + 1 : step + 2]
    one, zero = torch.ones(1, device=time.device), torch.zeros(1, device=time.device)
    if hasattr(scheduler, "add_noise"):
        return scheduler.add_noise(one, zero, time).item(), scheduler.add_noise(zero, one, time).item()
    return scheduler.scale_noise(one, time, zero).item(), scheduler.scale_noise(zero, time, one).item()


@dataclass(frozen=True)
class Shown:
    """What a generator is shown of B memories, in its own latents' shape, and how."""

    tokens: Tensor  # (B, C, t, h, w) float32
    visible: Tensor  # (B, 1, t, h, w) bool, the cells that are guided
    options: GuidanceOptions

    @staticmethod
    def of(readouts: Sequence[Readout], options: GuidanceOptions, first_frame: bool = False) -> "Shown":
        """From B readouts of t latent frames. The first latent frame is the given image's: it is left to the generator,
        unless `first_frame` says otherwise."""
        tokens = torch.stack([readout.latents for readout in readouts]).transpose(1, 2).float()
        near = [readout.offset.abs().amax(1) <= options.max_offset for readout in readouts]
        visible = torch.stack([readout.visibility & close for readout, close in zip(readouts, near)])
        visible[:, 0] &= first_frame
        return Shown(tokens, visible[:, None], options)

    def guide(self, latents: Tensor, noise: Tensor, a: float, s: float) -> Tensor:
        """Set the visible cells of latents (B, C, t, h, w) to the tokens at signal a and noise s; see `noise_level`.

        `noise` has the latents' shape, and is the same after each step. Other cells are as they were, to the bit.
        """
        weight = self.options.weight(s / (a + s))
        if weight == 0:
            return latents
        target = a * self.tokens + s * noise  # (B, C, t, h, w)
        return torch.where(self.visible, torch.lerp(latents.float(), target, weight).to(latents.dtype), latents)


class MemoryGuidance:
    """A `callback_on_step_end` that shows a memory to a video pipeline of diffusers.

    Works with flow matching and with diffusion (whatever the scheduler's `add_noise` knows), and with latents in the
    layouts of `LatentFormat`. An empty memory changes nothing.

    Args:
        memory: of the pipeline's own latents, see `LatentGrid.write_video`; or a readout of one, at the video's latent
            frames.
        cameras: one a pixel frame of the video that the pipeline makes, at its size.
        first_frame: whether the first latent frame is guided, too; for text-to-video pipelines, which get no image.
        seed: of the guidance's noise, one for the whole video.
        options: those of `GuidanceOptions`: max_offset, until, fade, strength.

    Attributes:
        latents: (B, C, t, h, w) after the last step so far, unpacked: what `LatentGrid.write_video` takes. Some
            pipelines put the given image's latent in only later, so write the image by itself, and these from 1 on.

    Raises:
        ValueError: an option is out of range; later, in the pipeline's first step, the memory and the cameras do not
            fit the pipeline's latents.
    """

    def __init__(
        self, memory: Memory | Readout, cameras: Cameras, *, first_frame: bool = False, seed: int = 0, **options
    ) -> None:
        self.memory, self.cameras, self.first_frame, self.seed = memory, cameras, first_frame, seed
        self.options, self.latents = GuidanceOptions(**options), None
        self._shown: Shown | None = None
        self._noise: Tensor | None = None

    @torch.no_grad()
    def __call__(self, pipe, step: int, timestep: Tensor, callback_kwargs: dict) -> dict:
        """diffusers' callback; returns the latents to go on with."""
        if "latents" not in callback_kwargs:
            raise ValueError('callback_on_step_end_tensor_inputs: expected ["latents"], which the guidance replaces')
        form, packed = LatentFormat.of(pipe), callback_kwargs["latents"]
        self.latents = form.unpack(packed, len(self.cameras), self.cameras.size)
        if step == 0 or self._shown is None:
            self._read(form)
        if not self._shown.visible.any():
            return callback_kwargs
        self.latents = self._shown.guide(self.latents, self._noise, *noise_level(pipe.scheduler, step))
        return callback_kwargs | {"latents": form.pack(self.latents, packed)}

    def _read(self, form: LatentFormat) -> None:
        """Read the memory for the video's latent frames, and draw the noise."""
        views, readout = self.cameras[:: form.latent_step], self.memory
        if not len(readout):
            readout = Readout.empty(views.downscale(form.stride), form.channels)
        elif not isinstance(readout, Readout):
            readout = readout.read(views)
        shape, expected = tuple(readout.latents.transpose(0, 1).shape), tuple(self.latents.shape[1:])
        if shape != expected:
            raise ValueError(f"memory: it shows {shape} (C, t, h, w) to these cameras, the pipeline makes {expected}")
        self._shown = Shown.of([readout.to(self.latents.device)], self.options, self.first_frame)
        noise = torch.randn(expected, generator=torch.Generator().manual_seed(self.seed))
        self._noise = noise[None].to(self.latents.device)
