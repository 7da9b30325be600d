"""Densify: a given image, lifted into the memory at sub-cell shifts, before the walk begins.

A token describes its own cell. Seen from another camera it lands between cells, and is no longer what the VAE would
give there. Generated frames have to live with that. A given image does not: it can be encoded again and again, shifted
by a part of a cell each time, so that wherever a cell of a later view ends up, one token was made nearly there.
"""

from collections.abc import Callable
from itertools import product

import torch
from torch import Tensor
from torch.nn.functional import pad

from mirage_nb.cameras import Cameras
from mirage_nb.lifting import latent_stride, lift
from mirage_nb.memory import LatentGrid
from mirage_nb.models.vae import as_pixels


@torch.no_grad()
def densify(
    memory: LatentGrid, image: Tensor, depth: Tensor, camera: Cameras, encode: Callable[[Tensor], Tensor], *,
    shifts: int = 4, mask: Tensor | None = None,
) -> int:  # fmt: skip
    """Add the tokens of an image, encoded at shifts x shifts places within a cell; returns how many. All are kept,
    whatever the policy.

    Args:
        memory: where to; a `rollout` that begins with it then finds the image there.
        image: (H, W, 3) uint8.
        depth: (H, W) z-depth in metres; 0 or non-finite where unknown.
        camera: one camera at the size of the image.
        encode: pixels (N, 3, H, W) in [-1, 1] to latents (N, C, h, w), from `models.vae.frame_encoder`.
        shifts: places along each edge of a cell, a divisor of the VAE's stride: 4 encodes the image 16 times.
        mask: (H, W) bool, the pixels that may be written; by default all.

    Raises:
        ValueError: `shifts` does not divide the stride, or shapes do not fit.
    """
    pixels, size = as_pixels(image)[None], tuple(image.shape[:2])
    depth, mask = depth.float(), torch.ones(size, dtype=torch.bool) if mask is None else mask
    stride, before = latent_stride(encode(pixels), camera), len(memory)
    if shifts < 1 or stride % shifts:
        raise ValueError(f"shifts: expected a divisor of the stride {stride}, got {shifts}")
    if memory.stride not in (None, stride):
        raise ValueError(f"memory: holds latents of stride {memory.stride}, these have {stride}")
    memory.stride = stride  # as a first write would set it
    for y, x in product(range(0, stride, stride // shifts), repeat=2):
        # What comes in at the right and at the bottom is unknown: it has no depth and is not lifted.
        shifted = pad(pixels[..., y:, x:], (0, x, 0, y), "replicate")
        shifted_depth, shifted_mask = (pad(part[None, y:, x:], (0, x, 0, y)) for part in (depth, mask))
        if (shifted_depth > 0).any():
            memory.add(lift(encode(shifted).half(), shifted_depth, camera.crop(y, x, size), shifted_mask), time=0)
    return len(memory) - before
