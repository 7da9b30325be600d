"""The memory at scale: leaving out what is out of view changes nothing, and rows survive growing and deleting."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scenes import camera, pose, random_cameras

from mirage_nb import Cameras, Points, reprojection
from mirage_nb.memory import LatentGrid
from mirage_nb.memory import grid as grid_module
from mirage_nb.memory.storage import Blocks, Column
from mirage_nb.memory.voxels import voxel_keys
from mirage_nb.reprojection import reproject

FIELDS = ("latents", "visibility", "depth", "offset", "index")


def assert_same(a, b):
    for field in FIELDS:
        assert torch.equal(getattr(a, field), getattr(b, field)), field


def add(grid: LatentGrid, positions, footprints, tokens) -> None:
    cells = torch.zeros(len(positions), dtype=torch.int64)
    grid.add(Points(positions, tokens, footprints, cells, cells))


def filled(positions: torch.Tensor, footprints: torch.Tensor) -> LatentGrid:
    """A memory of stride 1, so that cameras at latent size read it."""
    grid = LatentGrid(stride=1, channels=3)
    tokens = torch.arange(3.0 * len(positions)).reshape(-1, 3)
    half = len(positions) // 2
    for part in (slice(0, half), slice(half, None)):
        add(grid, positions[part], footprints[part], tokens[part])
    return grid


def assert_reads_all(grid: LatentGrid, cameras: Cameras) -> None:
    """A memory reads what `reproject` reads from all of its tokens."""
    for splats in (True, False):
        whole = reproject(grid.positions, grid.tokens, cameras, grid.footprints if splats else None)
        assert_same(grid.read(cameras, splats=splats), whole)


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10**6), count=st.integers(0, 400), spread=st.sampled_from([0.3, 5.0, 300.0]),
    removed=st.sampled_from([0.0, 0.3, 1.0]),
)  # fmt: skip
def test_a_memory_reads_as_all_of_its_points_do(seed, count, spread, removed):
    g = torch.Generator().manual_seed(seed)
    positions = torch.randn(count, 3, generator=g) * spread
    positions[::3] = positions[torch.randint(max(1, count // 4), (len(positions[::3]),), generator=g)]  # ties
    grid = filled(positions, spread * (torch.rand(count, generator=g) ** 4 + 0.01))
    gone = torch.rand(count, generator=g) < removed
    assert grid.delete(gone) == gone.sum()
    assert torch.equal(grid.positions, positions[~gone])
    assert torch.equal(grid.tokens[:, 0] / 3, torch.arange(count)[~gone].float())
    add(grid, positions[:50], torch.ones(min(50, count)), torch.zeros(min(50, count), 3))
    assert_reads_all(grid, random_cameras(seed, 3, (6, 9)))


@pytest.mark.parametrize("name", ["ray", "behind", "none", "crowd", "border", "far"])
def test_adversarial_scenes(name):
    view, g = camera(pose(), pose((0.2, 0.0, 0.0)), size=(8, 12), focal=10.0), torch.Generator().manual_seed(0)
    ray = view.unproject(torch.ones(2, 8, 12))[0, 3, 4]
    positions = {
        "ray": torch.arange(5000.0, 0, -1)[:, None] * ray * 0.01,
        "behind": torch.randn(3000, 3, generator=g) * torch.tensor([2.0, 2.0, 0.0]) - torch.tensor([0, 0, 1.0]),
        "none": torch.zeros(0, 3),
        "crowd": ray * 2 + 1e-3 * torch.rand(100_000, 3, generator=g),
        "border": view.unproject(torch.rand(2, 8, 12, generator=g) * 9)[0].flatten(0, 1) * 1.0001,
        "far": torch.randn(3000, 3, generator=g) * 20000,
    }[name]
    if name == "border":  # on the rays through the cells' corners, where rounding decides
        shift = torch.tensor([0.5 / 10, 0.5 / 10, 0.0])
        positions = torch.cat([positions + positions[:, 2:] * shift, positions - positions[:, 2:] * shift])
    grid = filled(positions, positions.norm(dim=1) / 10 + 1e-3)
    assert len(grid) == len(positions)
    assert_reads_all(grid, view)
    if name in ("behind", "none"):
        assert not grid.read(view).visibility.any()


def test_points_that_are_not_finite_are_refused():
    with pytest.raises(ValueError, match="points: expected finite"):
        add(LatentGrid(), torch.full((1, 3), torch.nan), torch.ones(1), torch.zeros(1, 3))


def test_boxes_in_view_are_those_with_a_point_in_view():
    cameras, g = random_cameras(3, 20, (10, 14)), torch.Generator().manual_seed(3)
    points, blocks = torch.randn(20000, 3, generator=g) * 6, Blocks()
    blocks.low = blocks.high = points  # boxes of no size
    seen = blocks.in_view(cameras)
    uv, z = cameras.project(points)
    u, v, z = uv[..., 0].T, uv[..., 1].T, z.T
    inside = (z > 0.01) & (u > 0) & (u < 14) & (v > 0) & (v < 10)
    wide = (z > -0.1) & (u > -1.5) & (u < 15.5) & (v > -1.5) & (v < 11.5)
    assert seen[inside].all() and not seen[~wide & (z.abs() > 0.1)].any()


def test_tokens_out_of_view_are_not_projected(monkeypatch):
    g, view = torch.Generator().manual_seed(0), camera(pose(), size=(8, 12), focal=10.0)
    positions = view.unproject(2 + torch.rand(1, 8, 12, generator=g))[0].flatten(0, 1)
    projected, land = [], reprojection.land

    def noting(points, *args):
        projected.append(len(points))
        return land(points, *args)

    monkeypatch.setattr(reprojection, "land", noting)
    monkeypatch.setattr(grid_module, "land", noting)
    grid = filled(positions, torch.full((96,), 0.2))
    grid.read(view)
    alone = sum(projected)
    assert alone >= 96
    for n in range(1, 6):
        add(grid, positions + torch.tensor([900.0 * n, 0, -600.0]), torch.full((96,), 0.2), torch.zeros(96, 3))
    projected.clear()
    grid.read(view)
    assert sum(projected) == alone
    projected.clear()
    grid.write(torch.zeros(1, 3, 8, 12), torch.full((1, 8, 12), 2.5), view)
    assert 0 < sum(projected) <= alone


def test_occupied_voxels():
    g = torch.Generator().manual_seed(0)
    positions, footprints = torch.randn(3000, 3, generator=g) * 3, torch.full((3000,), 0.2)
    grid = LatentGrid(voxel_size=0.2)
    add(grid, positions, footprints, torch.zeros(3000, 3))
    keys = voxel_keys(positions, footprints, 0.2)
    elsewhere = voxel_keys(positions + 0.1, footprints, 0.2)
    assert grid._occupied(keys).all()
    expected = torch.isin(elsewhere, keys)
    assert 0 < expected.sum() < 3000 and torch.equal(grid._occupied(elsewhere), expected)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_a_column_is_a_list_of_rows(seed):
    g = torch.Generator().manual_seed(seed)
    rows = torch.randn(20, 2, generator=g)
    column, expected = Column(rows.clone()), rows
    for _ in range(6):
        more = torch.randn(int(torch.randint(30, (), generator=g)), 2, generator=g)
        column.append(more)
        expected = torch.cat([expected, more])
        keep = torch.rand(len(expected), generator=g) < 0.8
        column.keep(keep)
        expected = expected[keep].clone()
        changed = torch.randperm(len(expected), generator=g)[:3]
        column.rows[changed] += 1
        expected[changed] += 1
        assert len(column) == len(expected) and torch.equal(column.rows, expected)
