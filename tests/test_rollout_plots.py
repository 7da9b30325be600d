"""The pictures of stages 4 and 5 say what the tensors say."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgb
from scenes import box_depth

from mirage_nb import viz as plots
from mirage_nb.cameras import Cameras
from mirage_nb.memory.baselines import make_memory
from mirage_nb.models.presets import build_micro
from mirage_nb.models.vae import temporal_stride
from mirage_nb.paths import camera_path
from mirage_nb.reprojection import Readout
from mirage_nb.stitching import plan_segments, rollout
from mirage_nb.viz.rollouts import MASKED, TINT
from mirage_nb.viz.video import PAPER

SIZE = (32, 48)


def has_colour(picture, colour: str) -> bool:
    pixels = np.asarray(picture.convert("RGB")).reshape(-1, 3).astype(int)
    return bool((np.abs(pixels - np.array(to_rgb(colour)) * 255).max(1) < 12).any())


def brightness(picture) -> float:
    return float(np.asarray(picture.convert("L")).mean())


def test_a_tint_lies_on_the_mask_and_nowhere_else():
    frames = torch.randint(0, 256, (2, *SIZE, 3), dtype=torch.uint8)
    cells = torch.zeros(2, 4, 6, dtype=torch.bool)
    cells[1, 2, 3] = True
    by_cell = plots.tinted(frames, cells)
    pixels = torch.zeros(2, *SIZE, dtype=torch.bool)
    pixels[1, 16:24, 24:32] = True
    assert torch.equal(by_cell, plots.tinted(frames, pixels)) and torch.equal(by_cell[~pixels], frames[~pixels])
    paint = 255 * torch.tensor(to_rgb(MASKED))
    expected = (1 - TINT) * frames[pixels].float() + TINT * paint
    torch.testing.assert_close(by_cell[pixels].float(), expected, atol=0.51, rtol=0)


def test_holes_are_white_and_unknown_depth_is_no_number():
    grid = Cameras(torch.eye(4)[None], [10.0, 10, 3, 2], (4, 6))
    readout = Readout.empty(grid, 4)
    readout.visibility[0, 1, 2] = True
    (picture,) = plots.holes(torch.zeros(1, *SIZE, 3, dtype=torch.uint8), readout)
    assert not picture[8:16, 16:24].any() and (picture == 255).all(-1).sum() == 32 * 48 - 64
    assert np.isnan(plots.shown(torch.tensor([[0.0, 2.0]]))).tolist() == [[True, False]]


def test_a_plan_from_above_rings_ghosts_only_where_there_are_some():
    cameras = Cameras(camera_path("pan_left", 5), [40.0, 42, 25, 15], SIZE)
    positions, grey = torch.rand(50, 3) * 4, torch.full((50, 3), 90, dtype=torch.uint8)
    none = torch.zeros(50, dtype=torch.bool)
    some = none.clone()
    some[:8] = True
    assert not has_colour(plots.ghost_plan({"a": (positions, grey, none)}, cameras), MASKED)
    assert has_colour(plots.ghost_plan({"a": (positions, grey, none), "b": (positions, grey, some)}, cameras), MASKED)
    frame = torch.zeros(*SIZE, 3, dtype=torch.uint8)
    assert has_colour(plots.memory_step(frame, frame, positions, grey, some, cameras, 3), MASKED)


def test_curves_survive_infinite_values_and_the_plan_shows_every_segment():
    picture = plots.lines({"latent": [np.inf, 3.0, 4.0], "other": [1.0, 2.0, 3.0]}, "x", "y", marks={1: "here"})
    assert picture.width > 300 and has_colour(picture, "#009e73") and has_colour(picture, "#0072b2")
    two, five = (plots.plan_picture(plan_segments(n, 4)) for n in (9, 21))
    assert five.height > two.height


@pytest.mark.parametrize("temporal", [False, True])
def test_a_segment_opened_up_has_a_column_a_latent_frame(temporal):
    parts = SimpleNamespace(**build_micro(temporal=temporal))
    stride = temporal_stride(parts.vae)
    cameras = Cameras(camera_path("there_and_back", 4 * stride + 1), [40.0, 42, 25, 15], SIZE)
    image = torch.zeros(1, *SIZE, 3, dtype=torch.uint8)
    run = rollout(parts, [make_memory("latent")], image, [cameras], seeds=[0], depth=box_depth(cameras)[None])
    for result in run:
        colours = torch.zeros(2, 4, 6, 3, dtype=torch.uint8)
        spoken = torch.zeros(2, *SIZE, 3, dtype=torch.uint8)
        short, long = (plots.segment_sheet(result, spoken, colours, truth) for truth in (None, spoken))
        assert long.height > short.height > short.width  # six rows of two columns, and the truth makes seven


def test_a_table_of_pictures_leaves_missing_ones_white():
    black = np.zeros((*SIZE, 3), dtype=np.uint8)
    full, gaps = (
        plots.pictures({"a": [black] * 3, "b": [black] * 3}),
        plots.pictures({"a": [black] * 3, "b": [black, None]}),
    )
    assert full.size == gaps.size and brightness(gaps) > brightness(full) + 20 and PAPER == "#ffffff"
