"""Denoise: from noise to the latents of one segment, the step of stage 5 that runs the generator."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from mirage_nb.context import Context
from mirage_nb.models.vae import precision


def denoise(
    models, clean: Tensor, noise: Tensor, control: Tensor, steps: int, *, prompt_embeds: Tensor | None = None,
    context: Context | None = None, on_step: Callable[[int, Tensor, Tensor], Tensor] | None = None,
) -> Tensor:  # fmt: skip
    """Integrate the flow from noise to latents, the first latent frame clean (paper: segment stitching).

    Args:
        models: anything with `transformer` and `scheduler`.
        clean: (B, C, h, w), the segment's first latent frame. It has timestep 0 and never changes.
        noise: (B, C, t, h, w), what the other frames start from.
        control: (B, K, t + p, h, w), from `control.memory_control`: the segment's frames, then the p preceding ones.
        steps: how many steps the scheduler takes.
        prompt_embeds: (B, L, text_dim) for a model that reads text.
        context: clean past latent frames that the transformer sees in addition to the segment.
        on_step: called after each step with step, timestep and latents; returns the latents to go on with.

    Returns:
        (B, C, t, h, w) float32 latents.
    """
    scheduler = models.scheduler
    context = context or Context.none(noise)
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
