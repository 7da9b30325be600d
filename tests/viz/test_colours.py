"""Colours say what the values say."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.colors import to_rgb

from mirage_nb import viz
from mirage_nb.viz.base import COLOURS

SIZE = (32, 48)


def where(picture, colour) -> np.ndarray:
    """(K, 2) rows and columns of the pixels of a colour."""
    rgb = np.array(to_rgb(colour)) * 255 if isinstance(colour, str) else np.asarray(colour).reshape(3)
    return np.argwhere((np.abs(np.asarray(picture).astype(int) - rgb) < 3).all(-1))


def test_heat_is_white_where_nothing_is_known_and_keeps_its_scale():
    values = torch.tensor([[0.0, 1.0, torch.nan], [2.0, 3.0, torch.inf]])
    picture = viz.heat(values)
    assert picture.shape == (2, 3, 3) and picture.dtype == np.uint8
    assert (picture == 255).all(-1).tolist() == [[True, False, True], [False, False, True]]
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) == 4  # white and three depths
    assert (viz.heat(values, 0.0, 2.0)[1, 0] == viz.heat(values, 0.0, 2.0)[1, 1]).all()  # clipped
    assert (viz.heat(torch.zeros(2, 2)) == 255).all()


def test_a_readout_shows_tokens_by_colour_and_holes_as_holes():
    colours = torch.tensor([[0.5, 0.0, 0.0], [0.0, 0.5, 0.0], [0.0, 0.0, 0.2]])  # two channels and a constant
    latents = torch.tensor([[[1.0, 0.0], [2.0, 9.0]], [[0.0, 1.0], [0.0, 9.0]]])
    visible = torch.tensor([[True, True], [True, False]])
    picture = viz.readout_cells(latents, visible, colours)
    assert picture[0, 0].tolist() == [128, 0, 51] and picture[0, 1].tolist() == [0, 128, 51]
    assert picture[1, 0].tolist() == [255, 0, 51]
    assert where(picture, COLOURS["hole"]).tolist() == [[1, 1]]


def test_a_tint_lies_on_the_mask_and_nowhere_else():
    frames = torch.randint(0, 256, (2, *SIZE, 3), dtype=torch.uint8)
    cells = torch.zeros(2, 4, 6, dtype=torch.bool)
    cells[1, 2, 3] = True
    by_cell = viz.tinted(frames, cells)
    pixels = torch.zeros(2, *SIZE, dtype=torch.bool)
    pixels[1, 16:24, 24:32] = True
    assert torch.equal(by_cell, viz.tinted(frames, pixels)) and torch.equal(by_cell[~pixels], frames[~pixels])
    paint = 255 * torch.tensor(to_rgb(COLOURS["hole"]))
    expected = 0.4 * frames[pixels].float() + 0.6 * paint
    torch.testing.assert_close(by_cell[pixels].float(), expected, atol=0.51, rtol=0)


def test_colours_of_tokens_are_those_of_their_cells() -> None:
    """Where latents are a linear image of the cells' mean colours, the fit finds the colours again."""
    generator = torch.Generator().manual_seed(0)
    means = torch.randint(30, 220, (6, 4, 4, 3), generator=generator).byte()
    frames = means.repeat_interleave(8, 1).repeat_interleave(8, 2)
    mix = torch.randn(3, 5, generator=generator)
    latents = (means.float() / 255 - 0.5) @ mix
    fit = viz.latent_colours(latents.movedim(-1, 1), frames)
    found = viz.token_colours(latents.flatten(0, 2), fit)
    assert fit.shape == (6, 3)
    assert (found.int() - means.flatten(0, 2).int()).abs().max() <= 3


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 40), st.integers(1, 8), st.integers(0, 99))
def test_pca_colours_do_not_depend_on_a_shift_or_scale_of_all_tokens(count, channels, seed):
    tokens = torch.randn(count, channels, generator=torch.Generator().manual_seed(seed))
    colours = viz.pca_colours(tokens)
    assert colours.shape == (count, 3) and colours.dtype == torch.uint8
    assert torch.equal(colours, viz.pca_colours(tokens.clone()))
    if count > channels + 2:
        assert (viz.pca_colours(4 * tokens + 8).int() - colours.int()).abs().max() <= 2
