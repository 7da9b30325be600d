"""Whether depth and poses agree, on rooms whose both are known. Other conventions are tried in `test_rgbd`."""

from functools import cache

import pytest
import torch

from mirage_nb.data import Clip, Room
from mirage_nb.formats.agreement import Reading, agreement, check_reading, moved, read_as


@cache
def clip(seed: int, path: str | None = None) -> Clip:
    room = Room(seed, moving=0)
    return room.render(room.walk(12, size=(48, 64)) if path is None else room.walk(12, path=path, size=(48, 64)))


def test_the_share_of_points_that_agree():
    right = clip(5)
    shares = agreement(right.depth, right.cameras)
    assert shares[0] > 0.95 and (shares.diff() >= 0).all() and shares[-1] <= 1
    assert agreement(right.depth, moved(right.cameras, 5.0))[0] < 0.9 * shares[0]
    for depth, cameras in ((right.depth[:1], right.cameras[:1]), (torch.zeros(12, 48, 64), right.cameras)):
        assert not agreement(depth, cameras).any(), "nothing to compare with"


@pytest.mark.parametrize("seed", [5, 6])
@pytest.mark.parametrize("noise, unknown", [(0.0, 0.0), (0.02, 0.2)])
def test_the_right_reading_is_left_alone(seed, noise, unknown):
    """As a sensor has it: 2% of noise, and a fifth without a value."""
    right, generator = clip(seed), torch.Generator().manual_seed(seed)
    depth = right.depth * torch.exp(noise * torch.randn(right.depth.shape, generator=generator))
    depth[torch.rand(depth.shape, generator=generator) < unknown] = 0
    check_reading(1000 * depth, right.cameras, Reading())
    wrong = read_as(Reading("opengl"), Reading(), depth, right.cameras)[1]
    with pytest.raises(ValueError, match="do with --axes opengl$"):
        check_reading(1000 * depth, wrong, Reading())


def test_a_camera_that_only_turns_tells_axes_and_no_unit():
    right = clip(5, "pan_left")
    check_reading(5000 * right.depth, right.cameras, Reading())
    turned = read_as(Reading("opengl"), Reading(), right.depth, right.cameras)[1]
    with pytest.raises(ValueError, match="do with --axes opengl$"):
        check_reading(1000 * right.depth, turned, Reading())
    assert Reading("opengl", depth_unit=5000).options(Reading()) == "--axes opengl --depth-unit 5000"
    assert Reading().options(Reading(w2c=True)) == "--no-w2c"
