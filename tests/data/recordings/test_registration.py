"""Depth brought from the depth camera to the colour camera."""

from __future__ import annotations

import torch

from mirage_nb.cameras import Cameras
from mirage_nb.data.recordings.registration import (
    COLOUR_INTRINSICS,
    DEPTH_INTRINSICS,
    DEPTH_TO_COLOUR,
    colour_cameras,
    register,
)


def test_registered_depth_is_what_the_colour_camera_sees():
    """A slanted plane, of which both cameras' depth is known in closed form."""
    size, normal, offset = (60, 80), torch.tensor([0.2, -0.1, 1.0]), 2.0  # n . x = offset, in the depth camera's axes

    def plane(cameras: Cameras, normal: torch.Tensor, offset: float) -> torch.Tensor:
        rays = cameras.unproject(torch.ones(1, *size))[0] - cameras.centers[0]  # of z-depth 1, in world axes
        return (offset - cameras.centers[0] @ normal) / (rays @ normal)

    depth_camera = Cameras(torch.eye(4)[None], torch.tensor([70.0, 70.0, 40.0, 30.0]), size)
    measured = plane(depth_camera, normal, offset)
    measured[10, 10] = 0
    colour = Cameras(torch.linalg.inv(DEPTH_TO_COLOUR), torch.tensor([60.0, 60.0, 41.0, 29.0]), size)
    moved = register(measured, depth_camera, colour)
    known = moved > 0
    assert 0.6 < known.float().mean() < 0.9, "the colour camera sees more than the depth camera does"
    truth = plane(colour, normal, offset)
    assert (moved / truth - 1)[known].abs().max() < 0.02  # a neighbouring pixel's depth at most


def test_only_the_calibration_of_7_scenes_is_taken_for_two_cameras():
    camera = Cameras(torch.eye(4)[None], torch.tensor(DEPTH_INTRINSICS), (480, 640))
    torch.testing.assert_close(colour_cameras(camera).w2c[0], DEPTH_TO_COLOUR)
    assert colour_cameras(camera.resize((240, 320))) is None
    assert colour_cameras(Cameras(torch.eye(4)[None], COLOUR_INTRINSICS, (480, 640))) is None
