"""The project's conventions, and the cameras that keep them."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mirage_nb.cameras import Cameras
from mirage_nb.paths import camera_path

SIZE = (24, 40)
INTRINSICS = torch.tensor([35.0, 30.0, 17.0, 13.5])  # fx != fy, principal point off the centre


def rotation(axis_angle: torch.Tensor) -> torch.Tensor:
    x, y, z = axis_angle.double()
    return torch.matrix_exp(torch.tensor([[0, -z, y], [z, 0, -x], [-y, x, 0]], dtype=torch.float64)).float()


def random_cameras(seed: int, count: int = 3) -> Cameras:
    generator = torch.Generator().manual_seed(seed)
    c2w = torch.eye(4).repeat(count, 1, 1)
    for matrix in c2w:
        matrix[:3, :3] = rotation(2 * torch.randn(3, generator=generator))
        matrix[:3, 3] = 2 * torch.randn(3, generator=generator)
    u = torch.rand(count, 4, generator=generator)
    low, high = torch.tensor([15.0, 15.0, 4.0, 4.0]), torch.tensor([60.0, 60.0, SIZE[1] - 4.0, SIZE[0] - 4.0])
    return Cameras(c2w, low + u * (high - low), SIZE)


def test_axes_and_pixel_centres_by_hand():
    camera = Cameras(torch.eye(4), torch.tensor([100.0, 50.0, 64.0, 32.0]), (64, 128))
    uv, z = camera.project(torch.tensor([[0.32, 0.16, 2.0], [0.0, 0.0, 1.0], [0.0, 0.0, -1.0]]))
    assert uv[0, 0].tolist() == pytest.approx([80.0, 36.0])  # x right, y down
    assert uv[0, 1].tolist() == [64.0, 32.0]
    assert z[0].tolist() == [2.0, 1.0, -1.0]  # z forward
    origins, directions = camera.rays()
    assert directions[0, 0, 0].tolist() == pytest.approx([(0.5 - 64) / 100, (0.5 - 32) / 50, 1.0])
    assert directions.shape == (1, 64, 128, 3) and origins.shape == (1, 3)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_project_undoes_unproject(seed):
    cameras = random_cameras(seed)
    depth = 0.5 + 5 * torch.rand(3, *SIZE, generator=torch.Generator().manual_seed(seed))
    points = cameras.unproject(depth)
    v, u = torch.meshgrid(torch.arange(SIZE[0]) + 0.5, torch.arange(SIZE[1]) + 0.5, indexing="ij")
    for i in range(3):
        uv, z = cameras[i].project(points[i].reshape(-1, 3))
        torch.testing.assert_close(uv[0].reshape(*SIZE, 2), torch.stack([u, v], -1), atol=2e-3, rtol=0)
        torch.testing.assert_close(z[0].reshape(SIZE), depth[i], atol=1e-4, rtol=1e-4)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), stride=st.sampled_from([1, 2, 4, 8]))
def test_one_point_through_resize_downscale_and_crop(seed, stride):
    cameras = random_cameras(seed)
    points = cameras.unproject(torch.full((3, *SIZE), 2.0))[0].reshape(-1, 3)
    uv, z = cameras[0].project(points)

    def check(other: Cameras, expected: torch.Tensor) -> None:
        got, depth = other[0].project(points)
        torch.testing.assert_close(got, expected, atol=2e-3, rtol=1e-4)
        torch.testing.assert_close(depth, z)

    grid = cameras.downscale(stride)
    assert grid.size == (SIZE[0] // stride, SIZE[1] // stride)
    check(grid, uv / stride)
    check(cameras.resize((36, 50)), uv * torch.tensor([50 / 40, 36 / 24]))
    left, top = (int(x) for x in cameras.intrinsics[:, 2:].amin(0) - 1)  # keeps the principal points inside
    check(cameras.crop(top, left, (SIZE[0] - top, SIZE[1] - left)), uv - torch.tensor([left, top]))
    # A latent cell's centre is the middle of the pixels that it covers.
    torch.testing.assert_close(
        grid.rays()[1],
        torch.nn.functional.avg_pool2d(cameras.rays()[1].permute(0, 3, 1, 2), stride).permute(0, 2, 3, 1),
    )


def test_latent_grid_must_divide_the_image():
    with pytest.raises(ValueError, match="24x40 is not a multiple of the VAE's stride 16"):
        random_cameras(0).downscale(16)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_inverse_and_change_of_frame(seed):
    cameras = random_cameras(seed)
    torch.testing.assert_close(cameras.w2c @ cameras.c2w, torch.eye(4).expand(3, 4, 4), atol=1e-5, rtol=0)
    moved = cameras.relative_to(cameras.c2w[1])
    torch.testing.assert_close(moved.c2w[1], torch.eye(4), atol=1e-5, rtol=0)
    points = torch.randn(20, 3, generator=torch.Generator().manual_seed(seed))
    in_camera_1 = (cameras.w2c[1] @ torch.cat([points, torch.ones(20, 1)], 1).T).T[:, :3]
    torch.testing.assert_close(moved.project(in_camera_1)[1], cameras.project(points)[1], atol=1e-4, rtol=1e-4)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_pluecker_rays_are_lines(seed):
    cameras = random_cameras(seed)
    rays = cameras.pluecker()
    assert rays.shape == (3, 6, *SIZE)
    direction, moment = rays[:, :3], rays[:, 3:]
    torch.testing.assert_close(direction.norm(dim=1), torch.ones(3, *SIZE))
    assert (direction * moment).sum(1).abs().max() < 1e-4
    # The moment is the same from any point of the line, so it tells lines apart and not points.
    anywhere = cameras.unproject(torch.full((3, *SIZE), 3.0)).permute(0, 3, 1, 2)
    torch.testing.assert_close(torch.linalg.cross(anywhere, direction, dim=1), moment, atol=1e-4, rtol=1e-4)


def test_batches():
    cameras = random_cameras(3)
    assert len(cameras[1]) == 1 and torch.equal(cameras[1].c2w[0], cameras.c2w[1])
    assert torch.equal(Cameras.cat([cameras[:2], cameras[2]]).intrinsics, cameras.intrinsics)
    one = Cameras(cameras.c2w, INTRINSICS, SIZE)
    assert one.intrinsics.shape == (3, 4) and one[torch.tensor([2, 0])].intrinsics.shape == (2, 4)
    with pytest.raises(ValueError, match="cameras: expected one image size"):
        Cameras.cat([cameras, cameras.downscale(2)])


@pytest.mark.parametrize(
    "c2w, intrinsics, message",
    [
        (torch.full((4, 4), math.nan), INTRINSICS, "c2w: expected finite"),
        (torch.eye(4) * 2, INTRINSICS, "c2w: expected rigid .* frame 0"),
        (torch.diag(torch.tensor([1.0, -1.0, 1.0, 1.0])), INTRINSICS, "c2w: expected rigid"),  # a mirror
        (torch.stack([torch.eye(4), torch.eye(4) + torch.eye(4)[[3, 0, 1, 2]]]), INTRINSICS, "frame 1"),
        (torch.eye(4).index_fill(0, torch.tensor(3), 1.0), INTRINSICS, "c2w: expected rigid"),  # transposed: row 3
        (torch.eye(3), INTRINSICS, r"c2w: expected \(N, 4, 4\)"),
        (torch.eye(4), torch.eye(3), r"intrinsics: expected \(N, 4\)"),
        (torch.eye(4), INTRINSICS.repeat(2, 1), "intrinsics: expected 1 or 1 rows"),
        (torch.eye(4), INTRINSICS * torch.tensor([-1, 1, 1, 1]), "intrinsics: expected finite, positive"),
        (torch.eye(4), INTRINSICS * torch.tensor([math.inf, 1, 1, 1]), "intrinsics: expected finite, positive"),
        (torch.eye(4), INTRINSICS * 4, "principal point must lie inside the 40x24 image"),
    ],
)
def test_bad_cameras_are_told(c2w, intrinsics, message):
    with pytest.raises(ValueError, match=message):
        Cameras(c2w, intrinsics, SIZE)


def test_geometry_keeps_its_precision_inside_of_autocast():
    cameras = Cameras(camera_path("orbit_left+push_in", 4), torch.tensor([100.0, 110.0, 60.0, 50.0]), (96, 128))
    depth = torch.full((4, 96, 128), 3.7)

    def everything():
        moved = cameras.relative_to(cameras.c2w[2])
        points = moved.unproject(depth)
        return moved.c2w, moved.w2c, points, moved.pluecker(), *moved.project(points[0].flatten(0, 1))

    expected = everything()
    with torch.autocast("cpu", torch.bfloat16):
        for a, b in zip(everything(), expected):
            assert torch.equal(a, b)
