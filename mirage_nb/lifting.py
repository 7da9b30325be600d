"""Stage 1, feature lifting: every latent cell becomes a point in the world that carries the cell's token.

Two details decide whether the points are in the right place:

* a cell's point lies on the ray through the cell's *centre* (u + 0.5), see `mirage_nb.cameras`;
* the cell's depth is the median of the depths in it, one that was really measured. A mean would mix the two sides of
  a depth edge into a point that hangs in the air between them.
"""

from dataclasses import dataclass, fields

import torch
from torch import Tensor
from torch.nn.functional import max_pool2d

from mirage_nb.cameras import Cameras

MIN_VALID = 0.25  # share of a cell's pixels whose depth must be known
MAX_MEDIAN_DEPTH = 200.0  # metres; a median beyond it means that the unit is wrong


class Rows:
    """A dataclass of tensors of one length: select some rows by a slice, a mask or an index tensor, or move all."""

    def __len__(self) -> int:
        return len(getattr(self, fields(self)[0].name))

    def __getitem__(self, index):
        return type(self)(*(getattr(self, field.name)[index] for field in fields(self)))

    def to(self, device):
        return type(self)(*(getattr(self, field.name).to(device) for field in fields(self)))


@dataclass(frozen=True)
class Points(Rows):
    """P lifted tokens, ordered by frame, then row, then column.

    Attributes:
        positions: (P, 3) float32 world coordinates in metres.
        tokens: (P, C) latent vectors, in the dtype of the latents.
        footprints: (P,) float32, width in metres of the surface patch that a cell sees: depth * stride / fx.
        frame: (P,) int64, which camera saw the point.
        cell: (P,) int64, the cell it was seen in, row * w + column.
    """

    positions: Tensor
    tokens: Tensor
    footprints: Tensor
    frame: Tensor
    cell: Tensor


def check_depth(depth: Tensor, cameras: Cameras) -> None:
    """Raise ValueError where z-depth (N, H, W) cannot be meant: shape, dtype, sign, unit, nothing known."""
    if not isinstance(depth, Tensor) or depth.ndim != 3 or len(depth) != len(cameras):
        shape = tuple(getattr(depth, "shape", ()))
        raise ValueError(f"depth: expected (N, H, W) metres for {len(cameras)} cameras, got shape {shape}")
    if not depth.is_floating_point():
        raise ValueError(f"depth: expected floating-point metres, got {depth.dtype} (millimetres? divide by 1000)")
    if (depth < 0).any():
        raise ValueError("depth: expected metres > 0, or 0 where unknown; found negative values")
    known = (depth > 0) & (depth < torch.inf)
    count, far = known.count_nonzero(), (known & (depth > MAX_MEDIAN_DEPTH)).count_nonzero()
    if not count:
        raise ValueError("depth: no value is known (all are 0, NaN or infinite)")
    if 2 * far > count:
        median = depth[known].median()
        raise ValueError(f"depth: the median is {median:.0f} m; expected metres, these look like millimetres")


def latent_stride(latents: Tensor, cameras: Cameras) -> int:
    """Pixels per latent cell, checked: latents (N, C, h, w) of N images of `cameras.size` pixels."""
    if not isinstance(latents, Tensor) or latents.ndim != 4 or len(latents) != len(cameras):
        shape = tuple(getattr(latents, "shape", ()))
        raise ValueError(f"latents: expected (N, C, h, w) for {len(cameras)} cameras, got shape {shape}")
    (height, width), (h, w) = cameras.size, latents.shape[2:]
    if not h or not w or height % h or width % w or height // h != width // w:
        raise ValueError(f"latents: {h}x{w} cells do not divide the cameras' image of {height}x{width} pixels evenly")
    return height // h


def cells(image: Tensor, stride: int) -> Tensor:
    """View pixels (N, H, W) by latent cell: (N, H/stride, W/stride, stride * stride)."""
    n, height, width = image.shape
    if height % stride or width % stride:
        raise ValueError(f"image: {height}x{width} pixels are not a multiple of the stride {stride}")
    parts = image.reshape(n, height // stride, stride, width // stride, stride)
    return parts.transpose(2, 3).reshape(n, height // stride, width // stride, stride * stride)


def depth_to_latent(depth: Tensor, stride: int) -> Tensor:
    """Bring z-depth (N, H, W) in metres down to the latent grid: (N, H/stride, W/stride) float32.

    The value of a cell is the (lower) median of its known depths, always one of the samples. It is 0, unknown, where
    fewer than a quarter of the cell's pixels are known.
    """
    latent = depth.new_empty(len(depth), depth.shape[1] // stride, depth.shape[2] // stride, dtype=torch.float32)
    for frame, medians in zip(depth, latent):  # one at a time, which stays in the cache
        medians.copy_(_medians(cells(frame[None].float(), stride)[0], stride))
    return latent


def _medians(samples: Tensor, stride: int) -> Tensor:
    known = (samples > 0) & (samples < torch.inf)
    count = known.float().sum(-1).long()  # many times faster than the sum of bools
    ordered = torch.where(known, samples, torch.inf)
    if ordered.is_cpu:  # numpy sorts short rows with vector instructions, faster than torch finds their median
        ordered.numpy().sort(axis=-1)
    else:
        ordered = ordered.sort(-1).values
    median = ordered.gather(-1, (count[..., None] - 1).clamp(min=0) // 2)[..., 0]
    return torch.where(count >= max(1, MIN_VALID * stride * stride), median, 0)


def nearest_around(depth: Tensor, stride: int) -> Tensor:
    """Smallest z-depth in each cell and its eight neighbours, (N, h, w); 0 where anything there is unknown."""
    depth = torch.where(torch.isfinite(depth) & (depth > 0), depth, 0.0)
    return -max_pool2d(-cells(depth, stride).amin(-1)[:, None], 3, 1, 1)[:, 0]


def slant(depth: Tensor) -> Tensor:
    """How much the depth (h, w) of a smooth surface changes across a cell, metres: small at a depth edge."""
    depth = depth.masked_fill(depth <= 0, torch.inf)
    change = torch.zeros_like(depth)
    for dim in (0, 1):
        step = depth.diff(dim=dim).abs().nan_to_num(torch.inf, posinf=torch.inf)
        edge = torch.full_like(depth.narrow(dim, 0, 1), torch.inf)
        both = torch.minimum(torch.cat([edge, step], dim), torch.cat([step, edge], dim))
        change += both.masked_fill(both == torch.inf, 0)
    return change


def at_latent_size(depth: Tensor, mask: Tensor | None, cameras: Cameras, stride: int) -> tuple[Tensor, Tensor]:
    """Depth (N, h, w) and what may be written (N, h, w) bool, each given per pixel or per cell already.

    A cell may be written only if its depth is known and *every* pixel of it is True in the mask: a token sees its
    whole cell, so one pixel of a moving thing already taints it.
    """
    pixels = cameras.size
    latent = (pixels[0] // stride, pixels[1] // stride)
    if mask is not None and (mask.dtype != torch.bool or mask.ndim != 3 or len(mask) != len(depth)):
        raise ValueError(f"mask: expected bool (N, H, W), got {mask.dtype} of shape {tuple(mask.shape)}")
    for name, value in {"depth": depth, "mask": depth if mask is None else mask}.items():
        if tuple(value.shape[1:]) not in (pixels, latent):
            raise ValueError(f"{name}: expected {pixels} pixels or {latent} cells, got {tuple(value.shape[1:])}")
    by_cell = tuple(depth.shape[1:]) == latent
    depth = torch.where(depth.isfinite(), depth, 0.0).float() if by_cell else depth_to_latent(depth, stride)
    allowed = depth > 0
    if mask is not None:
        mask = mask if tuple(mask.shape[1:]) == latent else cells(mask, stride).all(-1)
        allowed &= mask.to(allowed.device)
    return depth, allowed


def lift(latents: Tensor, depth: Tensor, cameras: Cameras, mask: Tensor | None = None) -> Points:
    """Stage 1 of the paper: back-project every latent cell to a world point that carries its token.

    Args:
        latents: (N, C, h, w), one latent frame per camera.
        depth: z-depth in metres, (N, H, W) per pixel or (N, h, w) per cell; 0 or non-finite means unknown.
        cameras: N cameras at the size of the image, (H, W) pixels; the stride is H / h.
        mask: bool, (N, H, W) or (N, h, w); True = may be written. Of a pixel mask every pixel of a cell must be True.

    Returns:
        The cells whose depth is known and which may be written, by frame, row and column.

    Raises:
        ValueError: shapes do not fit, or the depth is negative, entirely unknown, or in millimetres.
    """
    stride = latent_stride(latents, cameras)
    check_depth(depth, cameras)
    return lift_cells(latents, *at_latent_size(depth, mask, cameras, stride), cameras.downscale(stride))


def lift_cells(latents: Tensor, depth: Tensor, allowed: Tensor, grid: Cameras) -> Points:
    """`lift` once everything is on the latent grid: depth (N, h, w), allowed (N, h, w) bool, cameras of that size."""
    frame, row, column = at = allowed.nonzero(as_tuple=True)
    footprints = (depth / grid.intrinsics[:, 0, None, None])[at]
    tokens, cell = latents[frame, :, row, column], row * depth.shape[2] + column
    return Points(grid.unproject(depth)[at], tokens, footprints, frame, cell)


def latent_cameras(cameras: Cameras, stride: int | None) -> Cameras:
    """The cameras of the latent grid that a memory is read on."""
    if stride is None:
        raise ValueError("stride: unknown before the first write; give the memory its stride")
    return cameras.downscale(stride)
