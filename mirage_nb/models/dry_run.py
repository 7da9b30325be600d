"""One segment of the full-size system on the `meta` device: every shape is computed, no number is."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from mirage_nb.models.full_size import FRAMES, SIZE


class Step(NamedTuple):
    """A network's call: what goes in and comes out, in shapes, and its multiplications and additions (FLOP)."""

    name: str
    takes: tuple[int, ...]
    gives: tuple[int, ...]
    flop: int


@torch.no_grad()
def dry_run(
    parts: dict[str, nn.Module], size: tuple[int, int] = SIZE, references: int = 4, preceding: int = 2
) -> list[Step]:
    """Feed one segment through the networks as `stitching.rollout` does (paper: the full-size layout).

    Args:
        parts: of `full_size.full_size_parts`, on the `meta` device.
        size: (height, width) in pixels.
        references, preceding: clean latent frames beside the segment's (paper: 4 and 2).

    Returns:
        Text, first frame, one denoising step, and decoding, in this order.
    """
    transformer, vae, steps = parts["transformer"], parts["vae"], []
    latent = FRAMES // vae.config.scale_factor_temporal + 1
    stride, channels = vae.config.scale_factor_spatial, vae.config.z_dim
    height, width = size[0] // stride, size[1] // stride
    whole = references + latent + preceding

    def call(name: str, shown, function):
        with FlopCounterMode(display=False) as counter:
            result = function()
        steps.append(Step(name, tuple(shown.shape), tuple(result.shape), counter.get_total_flops()))
        return result

    with torch.device("meta"):
        tokens = torch.ones(1, 512, dtype=torch.long)
        text = call("read the prompt", tokens, lambda: parts["text_encoder"](tokens).last_hidden_state)
        image = torch.zeros(1, 3, 1, *size)
        call("encode the image", image, lambda: vae.encode(image).latent_dist.mode())
        noisy = torch.zeros(1, channels, whole, height, width)
        control = torch.zeros(1, 2 * channels, whole - references, height, width)
        positions = torch.arange(whole)
        call(
            "one denoising step", noisy,
            lambda: transformer(
                noisy, torch.zeros(1, whole), control, text, positions, num_references=references
            ).sample,
        )  # fmt: skip
        latents = torch.zeros(1, channels, latent, height, width)
        call("decode the segment", latents, lambda: vae.decode(latents).sample)
    return steps
