"""Stage 3: the readout is the z-buffer that it claims to be, and it is in the right place."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scenes import camera, pose, random_cameras

from mirage_nb import reprojection
from mirage_nb.cameras import Cameras
from mirage_nb.lifting import lift
from mirage_nb.reprojection import (
    MAX_PENALTY,
    PENALTY_REACH,
    depth_penalty,
    project,
    reproject,
    reproject_reference,
)

FIELDS = ("latents", "visibility", "depth", "offset", "index")


def assert_same(a, b):
    for field in FIELDS:
        assert torch.equal(getattr(a, field), getattr(b, field)), field


def cloud(seed: int, count: int) -> torch.Tensor:
    """Points around the origin; every third one stands exactly where an earlier one does."""
    g = torch.Generator().manual_seed(seed)
    points = torch.randn(count, 3, generator=g) * 3
    points[::3] = points[torch.randint(max(1, count // 4), (len(points[::3]),), generator=g)]
    return points


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    stride=st.sampled_from([1, 2, 4, 8, 16]),
    grid=st.tuples(st.integers(1, 9), st.integers(1, 12)),
    splats=st.booleans(),
    per_cell=st.booleans(),
)
def test_a_lifted_view_comes_back_exactly(seed, stride, grid, splats, per_cell):
    size = (grid[0] * stride, grid[1] * stride)
    cameras = random_cameras(seed, 2, size)
    g = torch.Generator().manual_seed(seed)
    latents = torch.randn(2, 3, *grid, generator=g)
    depth = 0.3 + 8 * torch.rand(2, *(grid if per_cell else size), generator=g) ** 2
    points = lift(latents, depth, cameras)
    for n in range(2):
        mine = points[points.frame == n]
        readout = reproject(
            mine.positions, mine.tokens, cameras[n].downscale(stride), mine.footprints if splats else None
        )
        assert torch.equal(readout.latents[0], latents[n])
        assert readout.visibility.all()
        assert readout.index.flatten().tolist() == list(range(len(mine)))
        assert readout.offset.abs().max() < 0.01
        torch.testing.assert_close(readout.depth[0].flatten(), mine.footprints * cameras.intrinsics[n, 0] / stride)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6), count=st.integers(0, 120), splats=st.booleans())
def test_the_fast_readout_equals_the_reference(seed, count, splats):
    cameras = random_cameras(seed, 2, (5, 7))
    points, g = cloud(seed, count), torch.Generator().manual_seed(seed)
    points[count // 2 : count // 2 + 1, 1] = torch.nan
    footprints = torch.rand(count, generator=g) * 3 if splats else None
    tokens = torch.randn(count, 4, generator=g)
    readout = reproject(points, tokens, cameras, footprints)
    assert_same(readout, reproject_reference(points, tokens, cameras, footprints))
    seen = readout.visibility
    assert torch.equal(readout.latents.permute(0, 2, 3, 1)[seen], tokens[readout.index[seen]])
    assert not readout.latents.permute(0, 2, 3, 1)[~seen].any() and not readout.depth[~seen].any()
    for n, row, column in seen.nonzero().tolist():
        uv, z = cameras[n].project(points[readout.index[n, row, column]][None])
        centre = torch.tensor([column + 0.5, row + 0.5])
        torch.testing.assert_close(readout.depth[n, row, column], z[0, 0], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(
            readout.offset[n, :, row, column], (uv[0, 0] - centre).clamp(-1, 1), rtol=1e-3, atol=1e-2
        )
    if not splats:
        assert readout.offset.abs().max() <= 0.5


def test_the_reference_is_a_z_buffer():
    """By hand, without the package's own arithmetic: one camera at the origin, cells one unit wide at depth 1."""
    grid = Cameras(torch.eye(4), torch.tensor([1.0, 1.0, 1.5, 1.0]), (2, 3))
    points = torch.tensor([[0.0, -0.5, 1.0], [0.1, -0.4, 0.9], [2.4, 1.0, 2.0], [0.0, 0.0, -1.0], [0.1, -0.4, 0.9]])
    readout = reproject_reference(points, torch.arange(5.0)[:, None], grid)
    assert readout.index[0].tolist() == [[-1, 1, -1], [-1, -1, 2]]  # the nearer one, and of two equal ones the first
    assert readout.depth[0, 1, 2] == 2 and readout.latents[0, 0, 1, 2] == 2
    torch.testing.assert_close(readout.offset[0, :, 1, 2], torch.tensor([0.2, 0.0]))


def test_all_cameras_at_once_equal_one_by_one_and_chunks_change_nothing(monkeypatch):
    cameras, points = random_cameras(5, 6, (12, 20)), cloud(5, 3000)
    tokens, footprints = torch.randn(3000, 4), torch.rand(3000) * 2
    for size in (footprints, None):
        together = reproject(points, tokens, cameras, size)
        assert together.visibility.any(2).any(1).sum() >= 3
        for n in range(6):
            assert_same(together[n : n + 1], reproject(points, tokens, cameras[n], size))
        for chunk in (7000, 999):  # two cameras at a time; a third of the points at a time
            with monkeypatch.context() as patch:
                patch.setattr(reprojection, "CHUNK", chunk)
                assert_same(together, reproject(points, tokens, cameras, size))


def test_projection_is_that_of_the_cameras():
    cameras, points = random_cameras(2, 4, (30, 50)), cloud(2, 200)
    u, v, z = project(points, cameras.c2w[:, None], cameras.intrinsics[:, None])
    uv, depth = cameras.project(points)
    torch.testing.assert_close(z, depth, rtol=1e-4, atol=1e-5)
    ahead = depth > 0.5
    torch.testing.assert_close(torch.stack([u, v], -1)[ahead], uv[ahead], rtol=1e-3, atol=1e-2)


def test_a_plane_seen_from_a_lands_in_b_where_geometry_says():
    """The wall z = 5, written from A, read from B. Its points are found by intersecting A's rays with the wall here."""
    size, stride = (96, 128), 8
    a = Cameras(pose((0.0, 0.0, 0.0), (0.1, -0.2, 0.3)), torch.tensor([120.0, 110.0, 70.0, 40.0]), size)
    b = Cameras(pose((0.7, -0.4, 1.0), (-0.1, 0.15, -0.2)), torch.tensor([130.0, 140.0, 60.0, 50.0]), size)
    normal = a.c2w[0, 2, :3]  # z in the world of each of A's axes
    x = (torch.arange(128) + 0.5 - 70) / 120
    y = (torch.arange(96) + 0.5 - 40) / 110
    depth = 5 / (normal[0] * x + normal[1] * y[:, None] + normal[2])
    points = lift(torch.zeros(1, 1, 12, 16), depth[None], a)
    assert (points.positions[:, 2] - 5).abs().max() < 0.1  # a median pixel is up to half a pixel off the centre
    readout = reproject(points.positions, points.tokens, b.downscale(stride), points.footprints)
    direct = readout.visibility[0] & (readout.offset[0].abs().amax(0) <= 0.5)
    assert direct.sum() > 40
    for row, column in direct.nonzero().tolist():
        cell = int(readout.index[0, row, column])
        ray = a.c2w[0, :3, :3] @ torch.tensor([(cell % 16 * 8 + 4 - 70) / 120, (cell // 16 * 8 + 4 - 40) / 110, 1.0])
        uv, _ = b.project((ray * 5 / ray[2])[None])
        landed = uv[0, 0] / stride - torch.tensor([column + 0.5, row + 0.5])
        assert landed.abs().max() <= 0.5 + 0.1
        assert (landed - readout.offset[0, :, row, column]).abs().max() < 0.1


def checkerboard(cameras: Cameras, square: float) -> torch.Tensor:
    """(N, 1, H, W) picture of the wall z = 8 with squares of +1 and -1, for cameras that look along z."""
    origins, directions = cameras.rays()
    hit = origins[:, None, None] + (8 - origins[:, None, None, 2:]) * directions
    return (1 - 2 * (hit[..., :2] / square).floor().sum(-1).remainder(2))[:, None]


@pytest.mark.parametrize("wrong_by", [0.0, 0.5])
def test_half_a_cell_on_a_rendered_checkerboard(wrong_by):
    """Seen from half the distance, every cell shows the rendered square; half a cell off, it shows its neighbour's."""
    stride, size, focal = 4, (64, 64), 64.0
    intrinsics = torch.tensor([focal, focal, 32.0, 32.0])
    far, near = Cameras(pose(), intrinsics, size), Cameras(pose((0.0, 0.0, 4.0)), intrinsics, size)
    square = 2 * stride * 8 / focal  # two cells wide in the far view, four in the near one
    pool = torch.nn.AvgPool2d(stride)
    latents = pool(checkerboard(far, square))
    assert set(latents.unique().tolist()) == {-1.0, 1.0}
    points = lift(latents, torch.full((1, 64, 64), 8.0), far)
    positions = points.positions - wrong_by * torch.tensor([1.0, 1.0, 0.0]) * points.footprints[:, None]
    readout = reproject(positions, points.tokens, near.downscale(stride), points.footprints)
    truth = pool(checkerboard(near, square))
    agree = (readout.latents == truth)[readout.visibility[:, None]].float().mean()
    if wrong_by:
        assert agree < 0.7
    else:
        assert readout.visibility.all() and agree == 1.0


def test_the_nearest_surface_wins_and_ties_go_to_the_first():
    grid = camera(pose(), size=(8, 8), focal=8.0)
    ray = grid.unproject(torch.ones(1, 8, 8))[0, 3, 4]
    points = torch.stack([ray * 4, ray * 2, ray * 2, ray * 3])
    readout = reproject(points, torch.eye(4), grid)
    assert readout.index[0, 3, 4] == 1 and readout.visibility.sum() == 1
    assert readout.latents[0, :, 3, 4].tolist() == [0.0, 1.0, 0.0, 0.0]
    assert readout.depth[0, 3, 4] == pytest.approx(2.0)
    assert reproject(points.flip(0), torch.eye(4), grid).index[0, 3, 4] == 1


def test_splats_fill_holes_and_hide_what_is_behind_but_yield_to_their_own_surface():
    grid = camera(pose(), size=(9, 9), focal=9.0)
    at = grid.unproject(torch.ones(1, 9, 9))[0]  # points through the cells' centres at z = 1
    one = reproject(2 * at[4, 4][None], torch.ones(1, 1), grid, torch.tensor([2 * 3 / 9]))  # three cells wide
    assert one.visibility[0].nonzero().tolist() == [[r, c] for r in (3, 4, 5) for c in (3, 4, 5)]
    assert one.offset[0, :, 3, 5].tolist() == pytest.approx([-1.0, 1.0], abs=1e-4)
    points = torch.stack([2 * at[4, 4], 2.02 * at[4, 5], 4 * at[4, 3]])
    footprints = torch.tensor([2 * 3 / 9, 2.02 / 9, 4 / 9])
    three = reproject(points, torch.ones(3, 1), grid, footprints).index[0]
    assert three[4, 5] == 1  # on the same surface, a token in the cell beats the splat
    assert three[4, 3] == 0  # the wall far behind does not shine through
    huge = reproject(2 * at[4, 4][None], torch.ones(1, 1), grid, torch.tensor([1e6]))
    assert huge.visibility.sum() == 7 * 7, "no splat reaches farther than 3 cells"


def test_of_one_surface_the_token_that_fits_the_cell_wins():
    grid = camera(pose(), size=(8, 8), focal=8.0)
    ray = grid.unproject(torch.ones(1, 8, 8))[0, 3, 4]
    aside = ray + torch.tensor([0.4 / 8, 0.0, 0.0])
    same = torch.tensor([2.0, 2.0]) / 8

    def winner(first, second, footprints):
        return reproject(torch.stack([first, second]), torch.ones(2, 1), grid, footprints).index[0, 3, 4]

    assert winner(1.98 * aside, 2 * ray, same) == 1  # sits in the middle
    assert winner(1.98 * ray, 2 * ray, same / torch.tensor([4, 1])) == 1  # was seen at this scale
    assert winner(1.2 * aside, 2 * ray, same) == 0  # another surface, far in front
    assert winner(1.98 * aside, 2 * ray, None) == 0  # the plain z-buffer


def test_the_penalty_tells_one_surface_from_two():
    """A surface far in front is another surface; a tenth is noise of depth. Off-centre by 0.3 cells counts."""
    grid = camera(pose(), size=(8, 8), focal=8.0)
    ray = grid.unproject(torch.ones(1, 8, 8))[0, 3, 4]
    same = torch.tensor([2.0, 2.0]) / 8

    def winner(off: float, nearer: float) -> int:
        points = torch.stack([nearer * 2 * (ray + torch.tensor([off / 8, 0.0, 0.0])), 2 * ray])
        return int(reproject(points, torch.ones(2, 1), grid, same).index[0, 3, 4])

    assert winner(0.3, 0.9) == 1 and winner(0.1, 0.95) == 1  # the better placed token of one surface
    assert winner(0.3, 0.6) == 0 and winner(0.45, 0.5) == 0  # what stands in front hides what is behind
    assert winner(0.02, 0.9) == 0  # both are placed as well: the nearer one
    one = torch.ones(1)
    assert depth_penalty(0 * one, one) == 0 and depth_penalty(9 * one, one) == MAX_PENALTY
    assert depth_penalty(PENALTY_REACH / 2 * one, one).item() == pytest.approx(MAX_PENALTY / 2)
    for width in (4 * one, one / 4):
        assert depth_penalty(0 * one, width).item() == pytest.approx(0.75 * MAX_PENALTY)


@pytest.mark.parametrize("footprint", [None, 0.0, 0.5, torch.nan, torch.inf, -1.0])
def test_adversarial_clouds(footprint):
    grid = camera(pose(), size=(8, 8), focal=8.0)

    def read(points):
        points = torch.tensor(points, dtype=torch.float32).reshape(-1, 3)
        sizes = None if footprint is None else torch.full((len(points),), footprint)
        return reproject(points, torch.arange(1.0, len(points) + 1)[:, None], grid, sizes)

    empty = read([])
    assert empty.latents.shape == (1, 1, 8, 8) and not empty.visibility.any() and (empty.index == -1).all()
    nan, inf = torch.nan, torch.inf
    nothing = [[0, 0, -2], [0, 0, 0], [nan, 0, 1], [0, nan, 1], [0, 0, nan], [inf, 0, 1], [0, 0, inf], [0, 0, -inf]]
    assert not read(nothing).visibility.any()
    assert not read([[0, 0, 1e-4]]).visibility.any() and read([[0, 0, 1e-2]]).visibility.any()
    mixed = read([*nothing, [0.0, 0.0, 3.0]])
    assert mixed.index.max() == len(nothing) and mixed.latents.isfinite().all() and mixed.offset.isfinite().all()
    ray = read([[0.0, 0.0, z] for z in range(5000, 0, -1)])  # all on one ray, the last is the nearest
    if footprint in (None, 0.0) or not np.isfinite(footprint):
        assert ray.index[0].max() == 4999 and ray.visibility.sum() >= 1
    crowd = read(np.stack([*np.random.default_rng(0).uniform(0.01, 0.02, (2, 20000)), np.full(20000, 1.0)], 1))
    assert crowd.visibility.any() and crowd.depth.max() == pytest.approx(1.0)


def test_shapes_are_checked():
    grid = camera(pose(), size=(8, 8), focal=8.0)
    with pytest.raises(ValueError, match="points: expected"):
        reproject(torch.zeros(4, 2), torch.zeros(4, 1), grid)
    with pytest.raises(ValueError, match="tokens: expected"):
        reproject(torch.zeros(4, 3), torch.zeros(3, 1), grid)
    with pytest.raises(ValueError, match="footprints: expected"):
        reproject(torch.zeros(4, 3), torch.zeros(4, 1), grid, torch.ones(3))
    half = reproject(torch.ones(1, 3), torch.ones(1, 2, dtype=torch.bfloat16), grid)
    assert half.latents.dtype == torch.bfloat16  # the tokens' dtype is kept
