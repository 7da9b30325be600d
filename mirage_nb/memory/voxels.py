"""Voxel keys: the level and the position of a voxel, packed into one int64; and blocks of 64 x 64 x 64 voxels."""

import torch
from torch import Tensor

LEVELS = (-8, 7)  # what 4 bits hold
BITS, BIAS = 20, 1 << 19  # per coordinate; the bias keeps coordinates positive
BLOCK_BITS = 6  # a block is 2**6 voxels wide


def voxel_level(footprints: Tensor, voxel_size: float) -> Tensor:
    """(P,) int64 level of footprints (P,) in metres: the voxel's edge is a quarter to a half of the footprint.

    A voxel of level L is voxel_size * 2**L wide. Neighbouring cells of one view are about a footprint apart, so with
    such an edge they never share a voxel, at any slant of the surface (if pixels are about square).
    """
    return (footprints / (2 * voxel_size)).log2().floor().clamp(*LEVELS).long()


def voxel_keys(positions: Tensor, footprints: Tensor, voxel_size: float) -> Tensor:
    """(P,) int64 keys of positions (P, 3): the level in the top 4 bits, then 20 bits for each of x, y and z. ValueError
    where a position is more than 2**19 voxels away from the origin."""
    level = voxel_level(footprints, voxel_size)
    voxel = (positions / (voxel_size * torch.exp2(level.float()))[:, None]).floor()  # (P, 3)
    if len(voxel) and voxel.abs().max() >= BIAS:
        raise ValueError(f"cameras: points lie too far from the world's origin for a voxel_size of {voxel_size} m")
    x, y, z = (voxel.long() + BIAS).unbind(1)
    return (level << 3 * BITS) | (x << 2 * BITS) | (y << BITS) | z


def block_keys(keys: Tensor) -> Tensor:
    """(P,) int64 keys of the blocks that hold voxels (P,): the keys without the low bits of x, y and z."""
    low = (1 << BLOCK_BITS) - 1
    return keys & ~(low << 2 * BITS | low << BITS | low)


def first_of_each(keys: Tensor) -> Tensor:
    """(P,) bool: True where a key stands for the first time."""
    order = keys.argsort(stable=True)
    first = torch.ones_like(keys, dtype=torch.bool)
    first[order[1:]] = keys[order[1:]] != keys[order[:-1]]
    return first
