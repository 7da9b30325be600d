"""What each ingredient of the memory is worth: one thing changed at a time, the same rooms, paths and noise.

Nothing is trained for it. So this tells what the shipped model loses, not what a model would lose that was trained so.
"""

from __future__ import annotations

from functools import partial

from torch import Tensor
from torch.nn.functional import interpolate

from mirage_nb.cameras import Cameras
from mirage_nb.evaluation.rooms import Method, methods_by_name
from mirage_nb.extras.densify import densify
from mirage_nb.masking import writable
from mirage_nb.memory import LatentGrid
from mirage_nb.models.vae import frame_encoder, spatial_stride
from mirage_nb.reprojection import Readout

JUMP = 0.05  # relative jump in depth that makes an edge


class BilinearDepth(LatentGrid):
    """Depth is brought to the latent grid by bilinear interpolation, which mixes both sides of an edge."""

    def write(self, latents: Tensor, depth: Tensor, cameras: Cameras, *rest, **options) -> int:
        small = interpolate(depth[:, None].float(), latents.shape[2:], mode="bilinear")[:, 0]  # (N, h, w)
        return super().write(latents, small, cameras, *rest, **options)


class CornerLift(LatentGrid):
    """Cells are lifted from their corner instead of their centre. The readout stays as it is."""

    def write(self, latents: Tensor, depth: Tensor, cameras: Cameras, *rest, **options) -> int:
        half = cameras.size[0] / latents.shape[2] / 2  # pixels
        shifted = cameras.intrinsics + cameras.intrinsics.new_tensor([0, 0, half, half])
        return super().write(latents, depth, Cameras(cameras.c2w, shifted, cameras.size), *rest, **options)


class NoEdges(LatentGrid):
    """Cells on depth edges, whose tokens mix two surfaces, are not written."""

    def write(self, latents: Tensor, depth: Tensor, cameras: Cameras, mask: Tensor | None = None, **options) -> int:
        clean = writable(depth, stride=cameras.size[0] // latents.shape[2], edge_threshold=JUMP)
        return super().write(latents, depth, cameras, clean if mask is None else clean & mask, **options)


class NearestPoint(LatentGrid):
    """The paper's readout: the nearest point takes the cell, and a token is as small as a point."""

    def read(self, cameras: Cameras) -> Readout:
        return super().read(cameras, splats=False)


def variants(pipe) -> dict[str, Method]:
    """The methods to compare, named by what is different about them."""
    options = dict(stride=spatial_stride(pipe.vae), channels=int(pipe.vae.config.z_dim))

    grid = partial(LatentGrid, **options)

    def changed(kind: type = LatentGrid, **changes) -> Method:
        return Method(partial(kind, **options | changes))

    shown = pipe.config.references or pipe.config.preceding
    past = dict(references=0, preceding=0) if shown else dict(references=4, preceding=2)  # the paper's numbers
    named = methods_by_name(pipe, ("none", "rgb"))
    return {
        "ours": Method(grid),
        "no memory": named["none"],
        "RGB point cloud": named["rgb"],
        "appended, nearest point": changed(NearestPoint, policy="append"),
        "appended, our readout": changed(policy="append"),
        "finest": changed(policy="finest"),
        "average": changed(policy="average"),
        "strict depth, 5%": changed(tolerance=0.05),
        "bilinear depth": changed(BilinearDepth),
        "no depth edges": changed(NoEdges),
        "lifted from corners": changed(CornerLift),
        "first frame densified": Method(grid, partial(densify, encode=frame_encoder(pipe.vae))),
        f"{'without' if shown else 'with'} past frames": Method(grid, options=past),
    }
