"""Figures are drawn, and have a row, a column or a curve for each thing they show."""

from __future__ import annotations

import numpy as np
import torch
from matplotlib.colors import to_rgb
from scenes import box_depth

from mirage_nb import viz
from mirage_nb.cameras import Cameras
from mirage_nb.memory import LatentGrid
from mirage_nb.models.vae import temporal_stride
from mirage_nb.paths import camera_path
from mirage_nb.segments import plan_segments
from mirage_nb.stitching import rollout

SIZE = (32, 48)


def has_colour(picture, colour: str) -> bool:
    pixels = np.asarray(picture.convert("RGB")).reshape(-1, 3).astype(int)
    return bool((np.abs(pixels - np.array(to_rgb(colour)) * 255).max(1) < 12).any())


def brightness(picture) -> float:
    return float(np.asarray(picture.convert("L")).mean())


def test_curves_survive_infinite_values_and_every_segment_has_a_bar():
    picture = viz.lines({"latent": [np.inf, 3.0, 4.0], "other": [1.0, 2.0, 3.0]}, "x", "y", marks={1: "here"})
    assert picture.width > 300 and has_colour(picture, "#009e73") and has_colour(picture, "#0072b2")
    two, five = (viz.segment_bars(plan_segments(n, 4)) for n in (9, 21))
    assert five.height > two.height


def test_a_segment_opened_up_has_a_column_a_latent_frame(pipe):
    stride = temporal_stride(pipe.vae)
    cameras = Cameras(camera_path("there_and_back", 4 * stride + 1), [40.0, 42, 25, 15], SIZE)
    image = torch.zeros(1, *SIZE, 3, dtype=torch.uint8)
    run = rollout(pipe, [LatentGrid()], image, [cameras], seeds=[0], depth=box_depth(cameras)[None])
    for result in run:
        colours = torch.zeros(2, 4, 6, 3, dtype=torch.uint8)
        spoken = torch.zeros(2, *SIZE, 3, dtype=torch.uint8)
        short, long = (viz.segment_sheet(result, spoken, colours, truth) for truth in (None, spoken))
        assert long.height > short.height > short.width  # six rows of two columns, and the truth makes seven


def test_a_table_of_pictures_leaves_missing_ones_white():
    black = np.zeros((*SIZE, 3), dtype=np.uint8)
    full, gaps = (
        viz.pictures({"a": [black] * 3, "b": [black] * 3}),
        viz.pictures({"a": [black] * 3, "b": [black]}),
    )
    assert full.size == gaps.size and brightness(gaps) > brightness(full) + 20
