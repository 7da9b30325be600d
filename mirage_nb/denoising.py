"""Noise to latents: one segment, or one view ahead of it, as stage 5 asks for them."""

from __future__ import annotations

import torch
from torch import Tensor

from mirage_nb.drawing import drawn_to
from mirage_nb.models.control import memory_control
from mirage_nb.models.prior import remembered
from mirage_nb.models.vae import decode, precision, spatial_stride
from mirage_nb.references import Context
from mirage_nb.scenes import Clock, Scenes
from mirage_nb.segments import Segment, segment_noise

NEW = 0.05  # share of a view's cells that the memory must not show to make it worth a leap
LEAP_STEPS = 8  # denoising steps of a leap, at least: most of what it makes is new
DRAWN = 0.8  # noise level below which new cells are drawn to what the first frame shows: by then shapes are there
FAINT = 0.01  # a cell with less contrast than that, of 2, is as flat as one with none


def denoise(
    models, clean: Tensor | None, noise: Tensor, control: Tensor, steps: int, text=None, on_step=None,
    context: Context | None = None, world: Tensor | None = None, given: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """Latents (B, C, t, h, w) from noise of that shape, the first frame being `clean` (B, C, h, w), at timestep 0.

    Without a clean frame all are made. With a `context` of past frames the control (B, K, t + p, h, w) has those that
    precede the target after it.

    More than two steps sharpen what is invented, and lead away from what is remembered. So a model that knows which
    cells the memory tells (`models.prior`) makes these in two steps, and the others around them in `steps`.
    These others are made of what a picture of the same `world` shows (`drawn_to`), if its latents (B, C, h', w') are
    given. `given` (B, t, h, w) says which cells the memory knows from what was given, see `remembered`.
    """
    scheduler, device = models.scheduler, noise.device.type
    context = context or Context(noise[:, :, :0], noise[:, :, :0])
    prior, held, first = getattr(models.transformer, "prior", None), None, int(clean is not None)
    if prior is not None and (steps > 2 or world is not None):
        with precision(models.transformer, noise.device):
            target = control[:, :, : noise.shape[2]]
            known = remembered(prior(target)[1], target, given)
        if steps > 2:  # what is told has the velocity of two steps: a straight way
            held = noise - denoise(models, clean, noise, control, 2, text, None, context)
    scheduler.set_timesteps(steps, device=noise.device)
    latents = noise.clone()
    if clean is not None:
        latents[:, :, 0] = clean
    with precision(models.transformer, noise.device):  # around all steps: the weights are cast once
        for step, timestep in enumerate(scheduler.timesteps):
            timesteps = timestep.float().repeat(len(latents), latents.shape[2])
            timesteps[:, 0] *= clean is None
            inputs, timesteps, more = context.arguments(latents, timesteps)
            velocity = models.transformer(inputs, timesteps, control, encoder_hidden_states=text, **more).sample
            with torch.autocast(device, enabled=False):  # the scheduler stays in float32
                velocity = context.of_target(velocity.float())
                sigma = timestep.item() / 1000
                if prior is not None and world is not None and sigma < DRAWN:
                    estimate = (latents - sigma * velocity)[:, :, first:]
                    drawn = drawn_to(estimate, ~known[:, :, first:], world)
                    velocity[:, :, first:] = (latents[:, :, first:] - drawn) / sigma
                velocity = velocity if held is None else torch.where(known, held, velocity)
                latents = scheduler.step(velocity, timestep, latents, return_dict=False)[0]
                if clean is not None:
                    latents[:, :, 0] = clean
                if on_step is not None:
                    latents = on_step(step, timestep, latents)
    return latents


def look_ahead(
    scenes: Scenes, segment: Segment, distance: int, takes: int, clean: Tensor, seeds: list[int], steps: int, text,
    clock: Clock,
) -> None:  # fmt: skip
    """Write the view `distance` frames after the segment's first to the memories, wherever it shows much that is new.

    The generator makes it as the second frame of a segment of two, its new cells of what the first frame shows,
    `takes` times, each from other noise, and the take is kept that `best_take` says.
    """
    at = [segment.start, min(segment.start + distance, len(scenes.cameras[0]) - 1)]
    with clock("read"):
        readouts = [scenes.read(scene, at) for scene in range(len(seeds))]
    unseen = ~torch.stack([readout.visibility[1] for readout in readouts])
    new = [
        scene for scene, (memory, cells) in enumerate(zip(scenes.memories, unseen))
        if len(memory) and cells.float().mean() > NEW
    ]  # fmt: skip
    if not new:
        return
    vae, first = scenes.models.vae, scenes.first()
    with clock("denoise"):
        views = [c[at].downscale(spatial_stride(vae)) for c in scenes.cameras]
        control = memory_control(readouts, views, scenes.models.transformer.config.memory_layout)
        shape = (takes, clean.shape[1], 2, *clean.shape[2:])
        noise = torch.cat([segment_noise(seed, segment.index, shape, ahead=True) for seed in seeds]).to(clean.device)
        clean, control, text, world, given = (
            None if x is None else x.repeat_interleave(takes, 0)
            for x in (clean, control, text, first, scenes.given(readouts))
        )
        steps = max(steps, LEAP_STEPS)
        made = denoise(scenes.models, clean, noise, control, steps, text, world=world, given=given)[:, :, 1]
    with clock("decode"), precision(vae, clean.device):
        video = decode(vae, made[:, :, None])[:, :, 0]
        if takes > 1:
            kept = best_take(decode(vae, first[:, :, None])[:, :, 0], video.unflatten(0, (-1, takes)), unseen)
            kept += takes * torch.arange(len(kept), device=kept.device)
            video, made = video[kept], made[kept]
    scenes.foresee(video, made, at[1], [readout[1:] for readout in readouts], new, clock)


def best_take(first: Tensor, takes: Tensor, unseen: Tensor) -> Tensor:
    """Which of K takes is in its new cells most nearly as sharp as the first frame: (B,) indices.

    A generator that can't tell what is there makes fog of it, now and then. The first frame says how sharp its world
    is; the sharpest take would rather be a cluttered one.

    Args:
        first: (B, 3, H, W), the frames that the videos began with. takes: (B, K, 3, H, W).
        unseen: (B, h, w) bool, the cells that no memory showed.
    """
    aim = sharpness(first, torch.ones_like(unseen))
    found = sharpness(takes, unseen[:, None].expand(-1, takes.shape[1], -1, -1))
    return (found / aim[:, None]).log().abs().argmin(1)


def sharpness(pictures: Tensor, cells: Tensor) -> Tensor:
    """Mean absolute difference of neighbouring pixels of pictures (..., 3, H, W) in some of their cells (..., h, w).

    The mean over cells is geometric: half mist and half clutter is not as sharp as a picture that is so all over.
    """
    h, w = cells.shape[-2:]
    inside = pictures.unflatten(-1, (w, -1)).unflatten(-3, (h, -1))  # (..., 3, h, pixels, w, pixels)
    change = inside.diff(dim=-1).abs().mean((-5, -3, -1)) + inside.diff(dim=-3).abs().mean((-5, -3, -1))
    return ((change.clamp(min=FAINT).log() * cells).sum((-2, -1)) / cells.sum((-2, -1)).clamp(min=1)).exp()
