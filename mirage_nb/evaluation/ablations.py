"""What each ingredient of the memory is worth: one thing changed at a time, the same rooms, paths and noise.

Nothing is trained for it. So this tells what the shipped model loses, not what a model would lose that was trained so.
"""

from __future__ import annotations

from functools import partial

from torch import Tensor
from torch.nn.functional import interpolate

from mirage_nb.cameras import Cameras
from mirage_nb.evaluation.walks import Method, methods_by_name
from mirage_nb.extras.densify import densify
from mirage_nb.masking import writable
from mirage_nb.memory import LatentGrid
from mirage_nb.models.vae import frame_encoder, spatial_stride
from mirage_nb.reprojection import Readout


class BilinearDepth(LatentGrid):
    """Depth is brought to the latent grid by bilinear interpolation, which mixes both sides of an edge."""

    def write(self, latents: Tensor, depth: Tensor, cameras: Cameras, mask: Tensor | None = None, **options) -> int:
        small = interpolate(depth[:, None].float(), latents.shape[2:], mode="bilinear")[:, 0]  # (N, h, w)
        return super().write(latents, small, cameras, mask, **options)


class CornerLift(LatentGrid):
    """Cells are lifted from their corner instead of their centre. The readout stays as it is."""

    def write(self, latents: Tensor, depth: Tensor, cameras: Cameras, mask: Tensor | None = None, **options) -> int:
        half = cameras.size[0] / latents.shape[2] / 2  # pixels
        shifted = cameras.intrinsics + cameras.intrinsics.new_tensor([0, 0, half, half])
        return super().write(latents, depth, Cameras(cameras.c2w, shifted, cameras.size), mask, **options)


class NoEdges(LatentGrid):
    """Cells on depth edges (a relative jump of 5%), whose tokens mix two surfaces, are not written."""

    def write(self, latents: Tensor, depth: Tensor, cameras: Cameras, mask: Tensor | None = None, **options) -> int:
        clean = writable(depth, stride=cameras.size[0] // latents.shape[2], edge_threshold=0.05)
        return super().write(latents, depth, cameras, clean if mask is None else clean & mask, **options)


class NearestPoint(LatentGrid):
    """The paper's readout: the nearest point takes the cell, and a token is as small as a point."""

    def read(self, cameras: Cameras) -> Readout:
        return super().read(cameras, splats=False)


def variants(pipe) -> dict[str, Method]:
    """The methods to compare, named by what is different about them."""
    grid = partial(LatentGrid, stride=spatial_stride(pipe.vae), channels=int(pipe.vae.config.z_dim))
    baselines = methods_by_name(pipe, ("none", "rgb"))
    shown = pipe.config.references or pipe.config.preceding
    past = dict(references=0, preceding=0) if shown else dict(references=4, preceding=2)  # the paper's numbers
    return {
        "ours": Method(grid),
        "no memory": baselines["none"],
        "RGB point cloud": baselines["rgb"],
        "appended, nearest point": Method(partial(NearestPoint, **grid.keywords, policy="append")),
        "appended, our readout": Method(partial(grid, policy="append")),
        "finest": Method(partial(grid, policy="finest")),
        "average": Method(partial(grid, policy="average")),
        "strict depth, 5%": Method(partial(grid, tolerance=0.05)),
        "bilinear depth": Method(partial(BilinearDepth, **grid.keywords)),
        "no depth edges": Method(partial(NoEdges, **grid.keywords)),
        "lifted from corners": Method(partial(CornerLift, **grid.keywords)),
        "first frame densified": Method(grid, partial(densify, encode=frame_encoder(pipe.vae))),
        f"{'without' if shown else 'with'} past frames": Method(grid, options=past),
    }
