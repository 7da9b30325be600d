"""Figures are drawn, and have a row, a column or a curve for each thing they show."""

from __future__ import annotations

import numpy as np
from matplotlib.colors import to_rgb

from mirage_nb import viz

SIZE = (32, 48)


def has_colour(picture, colour: str) -> bool:
    pixels = np.asarray(picture.convert("RGB")).reshape(-1, 3).astype(int)
    return bool((np.abs(pixels - np.array(to_rgb(colour)) * 255).max(1) < 12).any())


def brightness(picture) -> float:
    return float(np.asarray(picture.convert("L")).mean())


def test_curves_survive_infinite_values():
    picture = viz.lines({"latent": [np.inf, 3.0, 4.0], "other": [1.0, 2.0, 3.0]}, "x", "y", marks={1: "here"})
    assert picture.width > 300 and has_colour(picture, "#009e73") and has_colour(picture, "#0072b2")


def test_a_table_of_pictures_leaves_missing_ones_white():
    black = np.zeros((*SIZE, 3), dtype=np.uint8)
    full, gaps = (
        viz.pictures({"a": [black] * 3, "b": [black] * 3}),
        viz.pictures({"a": [black] * 3, "b": [black]}),
    )
    assert full.size == gaps.size and brightness(gaps) > brightness(full) + 20
