"""Voxel keys: equal keys are equal voxels of one level."""

from __future__ import annotations

import pytest
import torch

from mirage_nb.memory.voxels import BIAS, block_keys, first_of_each, voxel_keys, voxel_level


def test_voxel_and_block_keys():
    g = torch.Generator().manual_seed(0)
    positions = torch.randint(-5, 5, (300, 3), generator=g) * 0.05 + 0.01
    footprints = 0.1 * 2.0 ** torch.randint(0, 3, (300,), generator=g)
    keys = voxel_keys(positions, footprints, 0.05)
    level = voxel_level(footprints, 0.05)
    cell = [(int(n), *(p / (0.05 * 2**n)).floor().int().tolist()) for n, p in zip(level, positions)]
    assert len(set(cell)) == len(keys.unique())
    assert all((a == b) == (x == y) for a, x in zip(cell[:40], keys.tolist()) for b, y in zip(cell, keys.tolist()))
    once = keys[first_of_each(keys)]
    assert once.tolist() == list(dict.fromkeys(keys.tolist()))
    block = [(n, *(x // 64 for x in xyz)) for n, *xyz in cell]
    blocks = block_keys(keys).tolist()
    assert len(set(block)) == len(set(blocks)) == len({*zip(block, blocks)}) > 8
    with pytest.raises(ValueError, match="too far from the world's origin"):
        voxel_keys(torch.tensor([[0.0, 0.06 * BIAS, 0.0]]), torch.tensor([0.1]), 0.05)
