"""What is compared in the readout's benchmark is the same."""

from __future__ import annotations

import pytest
import torch

from mirage_nb.benchmarks import readout
from mirage_nb.benchmarks.measure import one_thread, spread
from mirage_nb.memory import LatentGrid
from mirage_nb.reprojection import reproject


def test_the_plain_way_gives_the_same_readout():
    g = torch.Generator().manual_seed(0)
    points = torch.randn(3000, 3, generator=g) + torch.tensor([0.0, 0.0, 4.0])
    points[::3] = points[torch.randint(700, (1000,), generator=g)]  # ties
    tokens = torch.randn(3000, 5, generator=g)
    cameras = readout.read_views().downscale(readout.STRIDE)
    with one_thread():
        plain = readout.plain_readout(points, tokens, cameras)
    fast = reproject(points, tokens, cameras)
    assert plain.visibility.any()
    for field in ("latents", "visibility", "depth", "offset", "index"):
        assert torch.equal(getattr(plain, field), getattr(fast, field)), field


def test_rows_of_both_scenes():
    said = []
    rows = readout.readouts(0, said.append, frames=(2,))
    assert [row["scene"] for row in rows] == ["in view", "room"] and len(said) == 2
    assert all(row["tokens"] == 2 * 44 * 80 and row["points_ms"] > 0 for row in rows)


def test_the_scene_grows_out_of_view():
    grids = [LatentGrid(stride=16, channels=48, policy="append") for _ in range(2)]
    readout.write_views(grids[0], 1, 0.1, seed=0)
    readout.write_views(grids[1], 1, 0.1, seed=0, away=torch.tensor([0.0, 0.0, -15.0]))
    seen = [grid.read(readout.read_views()).visibility for grid in grids]
    assert seen[0].float().mean() > 0.5 and not seen[1].any()
    rows = readout.growing(0, lambda line: None, plots=(1, 2))
    assert rows[1]["tokens"] == 2 * rows[0]["tokens"]


def test_two_different_readouts_are_an_error(monkeypatch):
    monkeypatch.setattr(
        readout, "reproject", lambda *columns: LatentGrid(stride=16, channels=48).read(readout.read_views())
    )
    monkeypatch.setattr(readout, "PLOT_FRAMES", 1)
    with pytest.raises(RuntimeError, match="differ"):
        readout.growing(0, lambda line: None, plots=(1,))


def test_spread_leaves_out_what_was_not_measured():
    assert spread([3.0, 1.0, 2.0, None, float("nan")]) == {"median": 2.0, "low": 1.0, "high": 3.0, "runs": 3}
    assert spread([None]) is None
