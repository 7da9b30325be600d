"""What a chunk of the 5B model costs in operations, counted by torch on the real modules: no weights, no memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from mirage_nb.models.presets import WAN22_FRAMES, WAN22_SIZE

TEXT_TOKENS = 512  # Wan pads its prompts to so many


@torch.no_grad()
def chunk_operations(
    parts: Mapping[str, nn.Module], frames: int = WAN22_FRAMES, size: tuple[int, int] = WAN22_SIZE
) -> dict[str, int]:
    """Floating-point operations of one chunk; a multiplication with its addition counts as two.

    Args:
        parts: `vae` and `transformer` on the meta device, from `full_size.full_size_parts`.
        frames: pixel frames of the chunk.
        size: (height, width) in pixels.

    Returns:
        `encode`, the VAE encode of all frames, which only an RGB memory needs; `step`, one denoising step, without
        past frames beside the chunk; and `decode`.
    """
    vae, transformer = parts["vae"], parts["transformer"]
    stride, channels = vae.config.scale_factor_spatial, vae.config.z_dim
    grid = ((frames - 1) // vae.config.scale_factor_temporal + 1, size[0] // stride, size[1] // stride)

    def counted(task: Callable[[], object]) -> int:
        with FlopCounterMode(display=False) as counter:
            task()
        return counter.get_total_flops()

    with torch.device("meta"):
        video, latents = torch.zeros(1, 3, frames, *size), torch.zeros(1, channels, *grid)
        control = torch.zeros(1, transformer.config.vace_in_channels, *grid)
        text = torch.zeros(1, TEXT_TOKENS, transformer.config.text_dim)
        return {
            "encode": counted(lambda: vae.encode(video)),
            "step": counted(lambda: transformer(latents, torch.zeros(1, grid[0]), control, text)),
            "decode": counted(lambda: vae.decode(latents)),
        }
