"""What each ingredient of the memory is worth: one thing changed at a time, the same rooms, paths and noise.

Nothing is trained anew here. So this tells what the shipped model loses, not what one would lose that was trained so.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from mirage_nb.cameras import Cameras
from mirage_nb.masking import writable
from mirage_nb.memory.baselines import make_memory
from mirage_nb.memory.grid import LatentGrid


class BilinearDepth(LatentGrid):
    """Depth comes down to the latent grid by bilinear interpolation, which mixes what lies on both sides of an edge."""

    def write(self, latents: Tensor, depth: Tensor, cameras: Cameras, mask=None, frames=None) -> int:
        small = torch.nn.functional.interpolate(depth[:, None].float(), latents.shape[2:], mode="bilinear")[:, 0]
        return super().write(latents, small, cameras, mask, frames)


class CornerLift(LatentGrid):
    """Cells are lifted from their corner instead of their centre: half a cell off, while the readout is right."""

    def write(self, latents: Tensor, depth: Tensor, cameras: Cameras, mask=None, frames=None) -> int:
        half = cameras.size[0] / latents.shape[2] / 2
        shifted = cameras.intrinsics + cameras.intrinsics.new_tensor([0, 0, half, half])
        return super().write(latents, depth, Cameras(cameras.c2w, shifted, cameras.size), mask, frames)


class NoEdges(LatentGrid):
    """Cells on depth edges, whose tokens mix two surfaces, are left out."""

    def write(self, latents: Tensor, depth: Tensor, cameras: Cameras, mask=None, frames=None) -> int:
        clean = writable(depth, stride=cameras.size[0] // latents.shape[2])
        return super().write(latents, depth, cameras, clean if mask is None else clean & mask, frames)


class PaperPoints(LatentGrid):
    """The paper's memory and readout: append everything, the nearest point takes the cell."""

    def __init__(self, **options) -> None:
        super().__init__(policy="append", **options)

    def read(self, cameras: Cameras, size: tuple[int, int] | None = None, **_):
        return super().read(cameras, size, splats=False)


def variants(encode: Callable[[Tensor], Tensor], stride: int, channels: int) -> dict[str, Callable[[], object]]:
    """Memories to compare, by what is different about them."""
    grid = partial(LatentGrid, stride=stride, channels=channels)
    options = dict(stride=stride, channels=channels)
    return {
        "ours": grid,
        "no memory": partial(make_memory, "none", encode, **options),
        "RGB point cloud": partial(make_memory, "rgb", encode, **options),
        "appended, nearest point": partial(PaperPoints, **options),
        "appended, our readout": partial(grid, policy="append"),
        "finest": partial(grid, policy="finest"),
        "average": partial(grid, policy="average"),
        "strict depth, 5%": partial(grid, tolerance=0.05),
        "bilinear depth": partial(BilinearDepth, **options),
        "no depth edges": partial(NoEdges, **options),
        "lifted from corners": partial(CornerLift, **options),
    }
