"""The control input of the branch."""

from __future__ import annotations

import pytest
import torch

from mirage_nb.cameras import Cameras
from mirage_nb.models.control import EXTRA_CHANNELS, memory_control
from mirage_nb.paths import camera_path
from mirage_nb.reprojection import Readout


def test_control_is_zero_where_memory_is_empty_but_for_rays():
    cameras = Cameras(torch.eye(4).repeat(3, 1, 1), torch.tensor([4.0, 4.0, 3.0, 2.0]), (4, 6))
    control = memory_control([Readout.empty(cameras, 4)], [cameras])
    assert control.shape == (1, 4 + EXTRA_CHANNELS, 3, 4, 6)
    assert not control[:, :8].any() and control[:, 8:11].any()
    with pytest.raises(ValueError, match="memory_layout"):
        memory_control([Readout.empty(cameras, 4)], [cameras], layout="other")


@torch.no_grad()
def test_control_does_not_depend_on_the_origin_of_world_coordinates():
    path = camera_path("pan_left+push_in", 3)
    shifted = torch.eye(4)
    shifted[:3, 3] = torch.tensor([5.0, -2.0, 1.0])
    one = Cameras(path, torch.tensor([4.0, 4.0, 3.0, 2.0]), (4, 6))
    two = Cameras(shifted @ path, one.intrinsics, one.size)
    a, b = (memory_control([Readout.empty(c, 4)], [c]) for c in (one, two))
    torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)
