"""Denoise: from noise to the latents of one segment, the step of stage 5 that runs the generator."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from types import SimpleNamespace

import torch
from torch import Tensor

from mirage_nb.cameras import Cameras
from mirage_nb.checks import one_of
from mirage_nb.context import Context, find_context
from mirage_nb.guidance import GuidanceOptions, Shown, noise_level
from mirage_nb.models.control import memory_control
from mirage_nb.models.text import GuidedTransformer
from mirage_nb.models.vae import decode, frame_encoder, precision, spatial_stride, visible_latents
from mirage_nb.reprojection import Readout
from mirage_nb.runs import digest, model_digest
from mirage_nb.segments import Clock, segment_noise
from mirage_nb.video_model import Sample, SegmentInputs

CONDITIONINGS = ("branch", "guidance", "both")


def denoise(
    models, clean: Tensor, noise: Tensor, control: Tensor | None, steps: int, *, prompt_embeds: Tensor | None = None,
    context: Context | None = None, on_step: Callable[[int, Tensor, Tensor], Tensor] | None = None,
) -> Tensor:  # fmt: skip
    """Integrate the flow from noise to latents, the first latent frame clean (paper: segment stitching).

    Args:
        models: anything with `transformer` and `scheduler`.
        clean: (B, C, h, w), the segment's first latent frame. It has timestep 0 and never changes.
        noise: (B, C, t, h, w), what the other frames start from.
        control: (B, K, t + p, h, w), from `control.memory_control`: the segment's frames, then the p preceding ones;
            None leaves the memory branch out.
        prompt_embeds: (B, L, text_dim) for a model that reads text.
        context: clean past latent frames that the transformer sees in addition to the segment.
        on_step: called after each step with step, timestep and latents; returns the latents to go on with.

    Returns:
        (B, C, t, h, w) float32 latents.
    """
    scheduler = models.scheduler
    context = Context.none(noise) if context is None else context
    scheduler.set_timesteps(steps, device=noise.device)
    latents = noise.clone()
    latents[:, :, 0] = clean
    with precision(models.transformer, noise.device):  # around all steps: autocast casts the weights once
        for step, timestep in enumerate(scheduler.timesteps):
            timesteps = timestep.float().repeat(len(latents), latents.shape[2])  # (B, t)
            timesteps[:, 0] = 0
            inputs, timesteps, layout = context.add_to(latents, timesteps)
            velocity = models.transformer(inputs, timesteps, control, prompt_embeds, **layout).sample
            with torch.autocast(noise.device.type, enabled=False):  # the scheduler computes in float32
                velocity = context.of_target(velocity.float())
                latents = scheduler.step(velocity, timestep, latents, return_dict=False)[0]
                if on_step is not None:
                    latents = on_step(step, timestep, latents)
                latents[:, :, 0] = clean
    return latents


@dataclass
class MirageModel:
    """Our transformer as a `VideoModel`: it hears the memory through its branch, or is shown it by guidance, or both.

    Args:
        parts: anything with `vae`, `transformer`, `scheduler`, `depth_estimator` and `mask_estimator` (the last two may
            be None), such as a `MiragePipeline`.
        num_inference_steps, conditioning, guidance_scale: see `MiragePipeline.__call__`.
        references, preceding: how many clean past latent frames of each kind the transformer sees, at most (paper: 4
            and 2; see `context`). The bundled pipeline uses 4 and 0.
        guidance: how the memory is shown, see `GuidanceOptions`.
        encode_prompts: for a model that reads text, returns its embeddings (1, L, text_dim), and with classifier-free
            guidance those of the negative prompt; called once, when they are needed first.
        on_step: called after each denoising step with segment, step, timestep and latents (B, C, t, h, w); returns the
            latents to go on with.
        device: where to compute; by default where the transformer is.
    """

    parts: object
    num_inference_steps: int = 2
    references: int = 0
    preceding: int = 0
    conditioning: str | None = None
    guidance: GuidanceOptions = field(default_factory=GuidanceOptions)
    encode_prompts: Callable[[], list[Tensor | None]] = lambda: [None]
    guidance_scale: float = 1.0
    on_step: Callable[[int, int, Tensor, Tensor], Tensor] | None = None
    device: torch.device | str | None = None

    def __post_init__(self) -> None:
        vae, transformer = self.parts.vae, self.parts.transformer
        self.stride, self.channels = spatial_stride(vae), vae.config.z_dim
        self.latent_step = vae.config.scale_factor_temporal
        self.size_multiple = self.stride * transformer.config.patch_size[-1]
        self.new_frames = (transformer.config.segment_latent_frames - 1) * self.latent_step
        self.depth_estimator, self.mask_estimator = self.parts.depth_estimator, self.parts.mask_estimator
        self.device = torch.device(self.device or next(transformer.parameters()).device)
        self.conditioning = self.conditioning or ("branch" if transformer.has_branch else "guidance")
        one_of("conditioning", self.conditioning, CONDITIONINGS)
        self.encode, self.encode_prompts = frame_encoder(vae), cache(self.encode_prompts)
        self._all_visible: Tensor | None = None  # the constant half of the layout `wan`

    def sample(self, inputs: SegmentInputs) -> Sample:
        """Denoise a segment (paper: conditioning), and decode it."""
        parts, clock, first = self.parts, Clock(self.device), inputs.first_latent
        transformer, (embeds, *negative) = parts.transformer, self.encode_prompts()
        if negative:
            transformer = GuidedTransformer(transformer, *negative, self.guidance_scale)
        with clock("denoise"):
            views = [cameras[:: self.latent_step].downscale(self.stride) for cameras in inputs.cameras]
            counts = self.references, self.preceding
            context, chosen, precede = find_context(inputs.past, inputs.readouts, views, *counts)
            shape = (first.shape[1], len(views[0]), *first.shape[2:])  # (C, t, h, w)
            noise = torch.stack([segment_noise(seed, inputs.index, shape) for seed in inputs.seeds]).to(self.device)
            latents = denoise(
                SimpleNamespace(transformer=transformer, scheduler=parts.scheduler), first, noise,
                self._control(inputs, views, precede), self.num_inference_steps, context=context,
                prompt_embeds=None if embeds is None else embeds.expand(len(first), -1, -1),
                on_step=self._after_step(inputs, noise),
            )  # fmt: skip
        with clock("decode"), precision(parts.vae, self.device):
            # Without temporal compression frames are decoded one by one: the first one need not come along.
            alone = self.latent_step == 1
            video = decode(parts.vae, latents[:, :, 1:]) if alone else decode(parts.vae, latents)[:, :, 1:]
        seconds = {stage: clock.seconds[stage] for stage in ("denoise", "decode")}
        return Sample(latents, video.transpose(1, 2), seconds, chosen)

    def _control(self, inputs: SegmentInputs, views: list[Cameras], precede: list[int]) -> Tensor | None:
        """The branch's input. With guidance alone a trained branch gets an empty readout, a fresh one is left out."""
        if self.conditioning == "guidance" and not self.parts.transformer.has_branch:
            return None
        readouts, layout = inputs.readouts, self.parts.transformer.config.memory_layout
        if precede:  # the branch sees the preceding frames as well
            start = len(inputs.past[0]) - 1
            readouts = inputs.read([*range(start, start + len(views[0])), *precede])
            before = [Cameras.cat([past.cameras[number] for number in precede]) for past in inputs.past]
            views = [Cameras.cat(pair) for pair in zip(views, before)]
        if self.conditioning == "guidance":
            readouts = [Readout.empty(cameras, self.channels) for cameras in views]
        if layout == "wan" and self._all_visible is None:  # made once: no segment is longer than the first
            frames = len(views[0]) + self.preceding - len(precede)
            self._all_visible = visible_latents(self.parts.vae, frames, inputs.image.shape[1:3], self.device)
        return memory_control(readouts, views, layout, self._all_visible)

    def _after_step(self, inputs: SegmentInputs, noise: Tensor) -> Callable[[int, Tensor, Tensor], Tensor]:
        shown = None if self.conditioning == "branch" else Shown.of(inputs.readouts, self.guidance)

        def on_step(step: int, timestep: Tensor, latents: Tensor) -> Tensor:
            if shown is not None:
                latents = shown.guide(latents, noise, *noise_level(self.parts.scheduler, step))
            return latents if self.on_step is None else self.on_step(inputs.index, step, timestep, latents)

        return on_step

    def fingerprint(self) -> dict[str, str]:
        return {
            "prompt": digest(*self.encode_prompts(), self.guidance_scale),
            "conditioning": digest(self.conditioning, self.guidance),
            "num_inference_steps": digest(self.num_inference_steps), "model": model_digest(self.parts.components),
        }  # fmt: skip
