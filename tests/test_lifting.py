"""Stage 1: latent cells become points in the right places, and only those that may."""

from __future__ import annotations

import statistics

import pytest
import torch
from scenes import box_depth, camera, pose, random_cameras, square_in_front

from mirage_nb.lifting import depth_to_latent, latent_stride, lift, slant


def test_depth_of_a_cell_is_the_lower_median_of_its_known_pixels():
    g = torch.Generator().manual_seed(0)
    depth = 1 + torch.rand(3, 24, 40, generator=g)
    unknown = torch.rand(depth.shape, generator=g) < 0.5
    depth[unknown] = torch.tensor([0.0, torch.nan, torch.inf])[torch.randint(3, (int(unknown.sum()),), generator=g)]
    depth[0, :8, :8] = 0
    depth[0, 0, 8:16], depth[0, 1, 8:16], depth[0, 2:8, 8:16] = 2.0, 3.0, torch.nan  # exactly a quarter known
    depth[0, :8, 16:24] = torch.nan
    depth[0, 0, 16:24], depth[0, 1, 16:23] = 2.0, 3.0  # one less than a quarter
    result = depth_to_latent(depth, 8)
    assert result.shape == (3, 3, 5) and result.dtype == torch.float32
    assert result[0, 0, :3].tolist() == [0.0, 2.0, 0.0]
    for n in range(3):
        for row in range(3):
            for column in range(5):
                cell = depth[n, row * 8 : row * 8 + 8, column * 8 : column * 8 + 8].flatten().tolist()
                known = [z for z in cell if 0 < z < float("inf")]
                expected = statistics.median_low(known) if len(known) >= 16 else 0.0
                assert result[n, row, column] == pytest.approx(expected, abs=1e-7)


def test_points_stand_on_the_rays_through_cell_centres():
    cameras = camera(pose((1.0, 2.0, 3.0)), size=(32, 64), focal=40.0)  # not rotated: cx 35, cy 14
    points = lift(torch.arange(8.0).reshape(1, 1, 2, 4), torch.full((1, 32, 64), 2.0), cameras)
    assert points.tokens[:, 0].tolist() == list(range(8))  # rows first
    assert points.cell.tolist() == list(range(8)) and set(points.frame.tolist()) == {0}
    x, y = (8 - 35) / 40 * 2 + 1, (8 - 14) / 40 * 2 + 2  # the first cell's centre is pixel (8, 8)
    torch.testing.assert_close(points.positions[0], torch.tensor([x, y, 5.0]))
    torch.testing.assert_close(points.positions[7], torch.tensor([x + 3 * 16 / 40 * 2, y + 16 / 40 * 2, 5.0]))
    torch.testing.assert_close(points.footprints, torch.full((8,), 2 * 16 / 40))


def test_no_point_hangs_in_the_air_between_two_surfaces():
    cameras = camera(pose())
    depth, _ = square_in_front(cameras, -0.37)
    points = lift(torch.zeros(1, 2, 8, 12), depth, cameras)
    assert set(points.positions[:, 2].tolist()) == {2.0, 4.0}


def test_order_is_by_frame_row_and_column_and_holes_are_left_out():
    cameras = random_cameras(1, 3, (16, 24))
    latents = torch.arange(3 * 24.0).reshape(3, 1, 4, 6)
    depth = torch.full((3, 16, 24), 2.0)
    depth[1, 4:8, 8:12] = torch.nan
    depth[2] = 0
    points = lift(latents, depth, cameras)
    expected = [*range(24), *(24 + i for i in range(24) if i != 8)]
    assert points.tokens[:, 0].tolist() == expected
    assert (points.frame * 24 + points.cell).tolist() == expected
    assert points[points.frame == 1].cell.tolist() == [i for i in range(24) if i != 8]


def test_one_forbidden_pixel_keeps_a_cell_out():
    cameras = camera(pose(), size=(16, 16))
    mask = torch.ones(1, 16, 16, dtype=torch.bool)
    mask[0, 7, 9] = False  # in cell (0, 1)
    latents, depth = torch.zeros(1, 1, 2, 2), torch.ones(1, 16, 16)
    assert lift(latents, depth, cameras, mask).cell.tolist() == [0, 2, 3]
    cells = torch.tensor([[[True, False], [False, True]]])
    assert lift(latents, depth, cameras, cells).cell.tolist() == [0, 3]
    assert len(lift(latents, depth, cameras, ~mask)) == 0


def test_depth_per_cell_is_taken_as_it_is():
    cameras = random_cameras(3, 2, (32, 48))
    depth = 1 + torch.rand(2, 4, 6)
    per_pixel = depth.repeat_interleave(8, 1).repeat_interleave(8, 2)
    latents = torch.rand(2, 5, 4, 6)
    a, b = lift(latents, depth, cameras), lift(latents, per_pixel, cameras)
    assert torch.equal(a.positions, b.positions) and torch.equal(a.footprints, b.footprints)


def test_slant_is_that_of_the_surface_and_not_of_an_edge():
    cameras = camera(pose(axis_angle=(0.0, 0.4, 0.0))).downscale(8)
    depth = box_depth(cameras)[0]
    columns = torch.arange(12.0)
    floor = (3 + 0.2 * columns).expand(8, 12)
    torch.testing.assert_close(slant(floor)[:, 1:-1], torch.full((8, 10), 0.2))
    step = torch.where(columns < 6, 2.0, 4.0).expand(8, 12)
    assert slant(step).max() == 0
    holes = floor.clone()
    holes[3, 4] = 0
    assert slant(holes).isfinite().all() and slant(holes)[3, 5] == pytest.approx(0.2, abs=1e-5)
    assert slant(depth).isfinite().all() and slant(torch.ones(1, 1)).item() == 0


GOOD = {"latents": torch.zeros(1, 4, 4, 6), "depth": torch.ones(1, 32, 48), "mask": None}


@pytest.mark.parametrize(
    "change, message",
    [
        ({"latents": torch.zeros(1, 4, 4)}, "latents: expected"),
        ({"latents": torch.zeros(2, 4, 4, 6)}, "latents: expected .* 1 cameras"),
        ({"latents": torch.zeros(1, 4, 5, 6)}, "latents: 5x6 cells do not divide"),
        ({"latents": torch.zeros(1, 4, 4, 12)}, "latents: 4x12 cells do not divide"),
        ({"depth": torch.ones(32, 48)}, "depth: expected"),
        ({"depth": torch.ones(1, 16, 48)}, "depth: expected .* got \\(16, 48\\)"),
        ({"depth": torch.ones(1, 32, 48, dtype=torch.int32)}, "depth: expected floating-point metres.*millimetres"),
        ({"depth": -torch.ones(1, 32, 48)}, "depth: .*negative"),
        ({"depth": torch.full((1, 32, 48), torch.nan)}, "depth: no value is known"),
        ({"depth": torch.zeros(1, 32, 48)}, "depth: no value is known"),
        ({"depth": torch.full((1, 32, 48), 2300.0)}, "depth: the median is 2300 m.*millimetres"),
        ({"depth": torch.full((1, 32, 48), 400.0)}, "depth: the median is 400 m.*millimetres"),
        ({"mask": torch.ones(1, 32, 48)}, "mask: expected bool"),
        ({"mask": torch.ones(1, 8, 8, dtype=torch.bool)}, "mask: expected"),
    ],
)
def test_bad_input_is_named(change, message):
    with pytest.raises(ValueError, match=message):
        lift(**{**GOOD, **change}, cameras=camera(pose(), size=(32, 48)))


def test_stride_comes_from_the_shapes():
    assert latent_stride(torch.zeros(1, 1, 8, 12), camera(pose())) == 8
    assert latent_stride(torch.zeros(1, 1, 64, 96), camera(pose())) == 1
