"""Stage 2, the memory: what it keeps, and what it refuses to grow by."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scenes import camera, pose, random_cameras, room_views

from mirage_nb.cameras import Cameras
from mirage_nb.lifting import Points, lift
from mirage_nb.memory.grid import COLUMNS, POLICIES, LatentGrid
from mirage_nb.memory.voxels import voxel_keys, voxel_level

KEEPING = [policy for policy in POLICIES if policy != "append"]
HERE, TURN = pose(), pose((0.1, 0.0, 0.1), (0.0, 0.25, 0.0))


def written(*poses, policy="keep_first", **options) -> LatentGrid:
    grid = LatentGrid(policy=policy, **options)
    views = camera(*poses)
    grid.write(*room_views(views), views)
    return grid


def keys_of(grid: LatentGrid) -> torch.Tensor:
    return voxel_keys(grid.positions, grid.footprints, grid.voxel_size)


# --- what a write keeps -----------------------------------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), voxel_size=st.sampled_from([0.01, 0.05, 0.3]), policy=st.sampled_from(POLICIES))
def test_a_view_reads_back_as_it_was_written(seed, voxel_size, policy):
    view = random_cameras(seed, 1, (48, 64))
    g = torch.Generator().manual_seed(seed)
    # A footprint is that along x: where rows lie much closer than columns, two may share a voxel.
    fx, _, cx, cy = view.intrinsics[0].tolist()
    fy = fx / (0.8 + 0.35 * torch.rand((), generator=g).item())
    view = Cameras(view.c2w, torch.tensor([fx, fy, cx, cy]), view.size)
    latents = torch.randn(1, 3, 6, 8, generator=g)
    u = torch.arange(8.0) * torch.rand(1, generator=g) * 0.3
    depth = (0.5 + 3 * torch.rand(1, generator=g) + u + 0.1 * torch.rand(1, 6, 8, generator=g)).clamp(0.2)
    grid = LatentGrid(voxel_size, policy)
    assert grid.write(latents, depth, view) == 48 == len(grid)
    assert torch.equal(grid.read(view).latents, latents)
    assert policy == "append" or len(keys_of(grid).unique()) == 48


@pytest.mark.parametrize("policy", KEEPING)
def test_the_same_view_twice_changes_nothing(policy):
    view = camera(TURN)
    grid = written(TURN, policy=policy)
    before, size = grid.read(view), (len(grid), grid.nbytes)
    assert grid.write(*room_views(view), view) == 0
    assert (len(grid), grid.nbytes) == size
    after = grid.read(view)
    assert torch.equal(after.index, before.index)
    torch.testing.assert_close(after.latents, before.latents)
    assert grid.views.min() == grid.views.max() == 2 and grid.frames == 2 and grid.written.max() == 0


def test_a_walk_seen_again_adds_nothing():
    walk = [pose((0.1 * i, 0.02 * i, 0.15 * i), (0.02 * i, 0.08 * i, 0.0)) for i in range(8)]
    grid, views = written(*walk), camera(*walk)
    size = len(grid)
    assert size < 0.5 * len(written(*walk, policy="append"))
    for order in (list(range(8)), list(range(7, -1, -1))):
        assert grid.write(*(x[order] for x in room_views(views)), views[order]) == 0
    assert len(grid) == size


def test_an_overlapping_view_adds_only_what_is_new():
    grid, view = written(HERE), camera(TURN)
    old = len(grid)
    grid_view = view.downscale(8)
    uv, z = camera(HERE).downscale(8).project(grid_view.unproject(room_views(grid_view, 1)[1]).reshape(-1, 3))
    new = ((uv[0] < 0) | (uv[0] >= torch.tensor([12, 8]))).any(1) | (z[0] <= 0)  # cells outside of the first view
    assert 20 < new.sum() < 50
    added = grid.write(*room_views(view), view)
    assert new.sum() - 2 <= added <= new.sum() + 15
    points = lift(*room_views(view), view)
    is_new = {tuple(p) for p in points.positions[new].tolist()}
    assert sum(tuple(p) in is_new for p in grid.positions[old:].tolist()) >= new.sum() - 2
    assert (grid.written[old:] == 1).all() and grid.views[:old].max() == 2


def test_depth_that_jitters_adds_little():
    walk = camera(*[pose((0.1 * i, 0.0, 0.1 * i), (0.0, 0.05 * i, 0.0)) for i in range(5)])
    latents, depth = room_views(walk)
    for seed in range(3):
        g = torch.Generator().manual_seed(seed)
        grid, sizes = LatentGrid(), []
        for _ in range(10):
            grid.write(latents, depth * (1 + 0.03 * torch.randn(5, 1, 1, generator=g)), walk)
            sizes.append(len(grid))
        assert sizes[-1] <= 1.15 * sizes[0]  # appending gives 10


def test_frames_together_equal_one_by_one():
    views = camera(HERE, TURN, pose((0.2, 0.1, 0.4)))
    latents, depth = room_views(views)
    together, single = written(HERE, TURN, pose((0.2, 0.1, 0.4))), LatentGrid()
    for n in range(3):
        single.write(latents[n : n + 1], depth[n : n + 1], views[n])
    for name in ("positions", "tokens", "footprints", "written", "views"):
        assert torch.equal(getattr(together, name), getattr(single, name)), name


def test_a_far_look_adds_nothing_where_a_near_one_was():
    wall = torch.full((1, 64, 96), 1.0)
    near, far = camera(pose()), camera(pose((0.0, 0.0, -1.0)))
    for policy in KEEPING:
        grid = LatentGrid(policy=policy)
        grid.write(torch.randn(1, 4, 8, 12), wall, near)
        mask = torch.zeros(1, 8, 12, dtype=torch.bool)
        mask[:, 3:5, 4:8] = True  # all of it was in the near view
        assert grid.write(torch.randn(1, 4, 8, 12), 2 * wall, far, mask) == 0


@pytest.mark.parametrize(("ratio", "closer"), [(1.2, False), (1.4, False), (1.7, True), (3.0, True)])
def test_a_near_look_joins_or_replaces_a_far_one(ratio, closer):
    """From nearer by more than half, all cells are finer than the old ones; else only gaps between these are filled."""
    wall = torch.full((1, 64, 96), 3.0)
    far, near = camera(pose()), camera(pose((0.0, 0.0, 3 - 3 / ratio)))
    left = {}
    for policy in ("keep_first", "finest"):
        grid = LatentGrid(policy=policy)
        grid.write(torch.zeros(1, 4, 8, 12), wall, far)
        added = grid.write(torch.ones(1, 4, 8, 12), wall / ratio, near)
        left[policy] = int((grid.tokens[:, 0] == 0).sum())
        assert (added == 96) == closer and (closer or added < 70)
        if closer and policy == "finest":
            assert (grid.read(near).latents == 1).all()
    assert left["keep_first"] == 96
    assert 0 < left["finest"] < 96 if closer else left["finest"] == 96  # far tokens beyond the near view stay


@pytest.mark.parametrize(("error", "doubles"), [(0.12, False), (0.18, False), (0.3, True)])
def test_how_far_two_depths_of_one_surface_may_differ(error, doubles):
    view, latents = camera(HERE), torch.zeros(1, 4, 8, 12)
    grid = LatentGrid()
    grid.write(latents, torch.full((1, 64, 96), 3.0), view)
    assert (grid.write(latents, torch.full((1, 64, 96), 3.0 * (1 + error)), view) > 90) == doubles


def test_average_is_the_mean_and_keep_first_the_first():
    view, depth = camera(HERE), torch.full((1, 64, 96), 2.0)
    for policy, expected in (("average", 2.0), ("keep_first", 1.0), ("finest", 1.0)):
        grid = LatentGrid(policy=policy)
        for value in (1.0, 2.0, 3.0):
            grid.write(torch.full((1, 2, 8, 12), value), depth, view)
        torch.testing.assert_close(grid.tokens, torch.full((96, 2), expected))
        assert (grid.views == 3).all()
    grid = LatentGrid(policy="append")
    for value in (1.0, 2.0):
        grid.write(torch.full((1, 2, 8, 12), value), depth, view)
    assert len(grid) == 192 and grid.read(view).latents.max() == 1  # ties go to the token written first


@pytest.mark.parametrize("first, second", [(4.0, 2.0), (2.0, 4.0), (2.0, 2.6)])
def test_another_surface_at_another_depth_is_new(first, second):
    view = camera(HERE)
    shape = torch.linspace(1, 2, 96).expand(1, 64, 96)  # slanted by 3 to 8% a cell
    grid = LatentGrid(tolerance=0.05)
    grid.write(torch.zeros(1, 2, 8, 12), first * shape, view)
    assert grid.write(torch.ones(1, 2, 8, 12), second * shape, view) == 96
    assert (grid.read(view).latents == (1 if second < first else 0)).all()


def test_a_voxel_holds_one_token_however_dense_the_views():
    walk = camera(*[pose((0.03 * i, 0.02 * i, 0.0)) for i in range(12)])
    g = torch.Generator().manual_seed(0)
    latents, depth = room_views(walk)
    depth = depth * (1 + 0.3 * torch.rand(12, 1, 1, generator=g))  # so far apart that no token covers a cell
    sizes = []
    for voxel_size, policy in ((0.05, "keep_first"), (0.05, "average"), (200.0, "keep_first"), (200.0, "finest")):
        grid = LatentGrid(voxel_size, policy, tolerance=1e-3)  # 200 m * 2**-8: wider than any footprint
        grid.write(latents, depth, walk)
        sizes.append(len(grid))
        assert len(keys_of(grid).unique()) == len(grid)
    assert max(sizes[2:]) < 0.5 * min(sizes[:2])


def test_gradients_stay_outside():
    view, (latents, depth) = camera(HERE), room_views(camera(HERE))
    grid = LatentGrid()
    grid.write(latents.requires_grad_(), depth, view)
    assert not grid.read(view).latents.requires_grad


def test_masked_cells_are_left_out_and_change_nothing():
    view = camera(HERE)
    mask = torch.zeros(1, 8, 12, dtype=torch.bool)
    mask[0, 2, 3] = True
    grid = LatentGrid(policy="average")
    assert grid.write(*room_views(view), view, mask) == 1
    assert grid.write(torch.ones(1, 6, 8, 12), room_views(view)[1], view, ~mask) == 95
    assert grid.views.tolist() == [1] * 96
    assert grid.write(*room_views(view), view, torch.zeros_like(mask)) == 0
    wall = torch.full((1, 64, 96), 4.0)
    grid = LatentGrid(policy="finest")
    grid.write(torch.zeros(1, 6, 8, 12), wall, view)
    assert grid.write(torch.ones(1, 6, 8, 12), wall / 4, camera(pose((0.0, 0.0, 3.0))), mask) == 1
    assert len(grid) >= 96  # the coarse tokens that the masked part of the close look saw are still there


def test_a_slanted_surface_covers_itself():
    """Tokens on a steep plane, each 0.4 cells off the centre of its cell, where depth differs by up to a quarter."""
    view = camera(pose(), size=(64, 96))
    grid_view = view.downscale(8)
    u, v = torch.arange(11) + 0.9, torch.arange(8) + 0.5  # columns 0 to 10 of 12

    def plane(u):
        return 1 / (0.5 - 0.04 * u)

    fx, fy, cx, cy = grid_view.intrinsics[0]
    z = plane(u).expand(8, 11)
    positions = torch.stack([(u - cx) / fx * z, (v[:, None] - cy) / fy * z, z], -1).reshape(-1, 3)
    grid, cells = LatentGrid(stride=8, tolerance=0.01), torch.zeros(88, dtype=torch.int64)
    grid.add(Points(positions, torch.zeros(88, 2), z.flatten() / fx, cells, cells))
    depth = plane(torch.arange(12) + 0.5).expand(1, 8, 12).contiguous()
    assert grid.write(torch.zeros(1, 2, 8, 12), depth, view) == 8  # the last column, which has no token


def test_points_are_added_as_they_are():
    view = camera(HERE)
    points = lift(*room_views(view), view)
    grid = LatentGrid(stride=8)
    grid.add(points, time=3)
    grid.add(points)
    assert len(grid) == 192 and grid.channels == 6 and grid.written.unique().tolist() == [0, 3]
    assert torch.equal(grid.read(view).latents, room_views(view)[0])


def test_the_time_of_a_write_can_be_given():
    grid, views = LatentGrid(), camera(HERE, TURN)
    grid.write(*room_views(views), views, time=7)
    assert grid.written.unique().tolist() == [7, 8] and grid.frames == 9
    grid.write(*room_views(views), views)
    assert grid.frames == 11


# --- bookkeeping ------------------------------------------------------------------------------------------------------


def test_the_empty_memory():
    grid = LatentGrid()
    assert len(grid) == grid.nbytes == 0 and grid.level.shape == (0,)
    with pytest.raises(ValueError, match="stride: unknown"):
        grid.read(camera(HERE))
    readout = LatentGrid(stride=8, channels=6).read(camera(HERE))
    assert readout.latents.shape == (1, 6, 8, 12) and not readout.visibility.any()


def test_delete():
    grid, view = written(HERE, TURN), camera(HERE)
    gone = grid.positions[:, 0] > 0.5
    box = torch.tensor([[0.5, -9.0, -9.0], [9.0, 9.0, 9.0]])
    count, per_token = len(grid), grid.nbytes // len(grid)
    assert grid.delete(box) == gone.sum() > 0
    assert len(grid) == count - gone.sum() and grid.nbytes == per_token * len(grid)
    assert grid.positions[:, 0].max() <= 0.5
    assert 0 < grid.read(view).visibility.sum() < 96
    grid.write(*room_views(view), view)  # what was deleted can be written again
    assert grid.read(view).visibility.all()
    assert grid.delete(torch.zeros(len(grid), dtype=torch.bool)) == 0
    for wrong in (torch.zeros(3, dtype=torch.bool), torch.zeros(3, 2), torch.ones(len(grid))):
        with pytest.raises(ValueError, match="where: expected"):
            grid.delete(wrong)
    assert grid.delete(torch.ones(len(grid), dtype=torch.bool)) > 0 == len(grid)
    assert not grid.read(view).visibility.any() and grid.write(*room_views(view), view) == 96


def test_level_follows_the_footprint():
    footprints = torch.tensor([1e-9, 0.1, 0.199, 0.2, 0.4, 1e9])
    level = voxel_level(footprints, 0.05)
    assert level.tolist() == [-8, 0, 0, 1, 2, 7]
    edges = 0.05 * 2.0 ** level[1:5]
    assert (edges <= footprints[1:5] / 2).all() and (edges > footprints[1:5] / 4).all()
    grid = LatentGrid()
    grid.write(torch.zeros(1, 1, 8, 12), torch.full((1, 64, 96), 2.0), camera(HERE))
    assert set(grid.level.tolist()) == {1}  # 2 m * 8 / 80 = 0.2 m


@pytest.mark.parametrize(
    "options, message",
    [
        ({"policy": "newest"}, "policy: expected one of"),
        ({"voxel_size": 0}, "voxel_size: expected"),
        ({"tolerance": float("nan")}, "tolerance: expected"),
    ],
)
def test_bad_settings(options, message):
    with pytest.raises(ValueError, match=message):
        LatentGrid(**options)


def test_a_refused_write_loses_nothing():
    grid, view = written(HERE), camera(TURN)
    before = {name: getattr(grid, name) for name in COLUMNS}
    latents, depth = room_views(view)
    bad = latents.clone()
    bad[0, 0, 0, 0] = torch.nan
    far = camera(pose((1e7, 0.0, 0.0)))
    for arguments, message in [
        ((latents[:, :3], depth, view), "channels 6, these have 3"),
        ((latents[..., :4, :6], depth, view), "stride 8, these have 16"),
        ((bad, depth, view), "latents: expected finite"),
        ((latents, -depth, view), "depth: .*negative"),
        ((latents, depth, far), "too far from the world's origin"),
    ]:
        with pytest.raises(ValueError, match=message):
            grid.write(*arguments)
    assert grid.frames == 1 and all(torch.equal(getattr(grid, name), value) for name, value in before.items())
