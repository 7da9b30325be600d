"""What is compared in the readout's benchmark is the same."""

from __future__ import annotations

import torch

from mirage_nb.benchmarks import readout
from mirage_nb.benchmarks.measure import one_thread, spread
from mirage_nb.cameras import Cameras, default_intrinsics
from mirage_nb.paths import camera_path
from mirage_nb.reprojection import reproject


def test_the_plain_way_gives_the_same_readout():
    g = torch.Generator().manual_seed(0)
    points = torch.randn(3000, 3, generator=g) + torch.tensor([0.0, 0.0, 4.0])
    points[::3] = points[torch.randint(700, (1000,), generator=g)]  # ties
    tokens = torch.randn(3000, 5, generator=g)
    path = camera_path("push_in+pan_left", 9, metres_per_frame=0.05)
    cameras = Cameras(path, default_intrinsics(readout.GRID), readout.GRID)
    with one_thread():
        plain = readout.plain_readout(points, tokens, cameras)
    fast = reproject(points, tokens, cameras)
    assert plain.visibility.any()
    for field in ("latents", "visibility", "depth", "offset", "index"):
        assert torch.equal(getattr(plain, field), getattr(fast, field)), field


def test_rows_of_both_scenes():
    rows = readout.measure_readout(frames=(2,))["readout"]
    assert [row["scene"] for row in rows] == ["in view", "room"]
    assert all(6000 < row["tokens"] <= 2 * 44 * 80 and row["points_ms"] > 0 for row in rows)


def test_spread_leaves_out_what_was_not_measured():
    assert spread([3.0, 1.0, 2.0, None, float("nan")]) == {"median": 2.0, "low": 1.0, "high": 3.0, "runs": 3}
    assert spread([None]) is None
