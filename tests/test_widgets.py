"""Widgets without a browser: what happens at a press, an undo, a click; and the still pictures that stand for them."""

from __future__ import annotations

import asyncio
import base64
import io

import ipywidgets
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure
from PIL import Image

from mirage_nb import LatentGrid
from mirage_nb.viz.video import latent_colours
from mirage_nb.viz.widgets import (
    Compare,
    MemoryViewer,
    live,
    show,
)
from mirage_nb.viz.widgets.memory_viewer import pca_colours
from tests.scenes import room_views
from tests.widget_tools import VIEW, is_shown, scene

# ------------------------------------------------------------------------------------------------------------- live


def test_live_draws_what_the_sliders_say_and_shows_the_first_picture_elsewhere():
    def draw(shade, flip, tint):
        return Image.new("RGB", (64, 40), (shade, 255 if flip else 0, {"none": 0, "full": 200}[tint]))

    widget = live(draw, shade=(0, 200, 50), flip=True, tint=["none", "full"])
    assert isinstance(widget.controls["shade"], ipywidgets.IntSlider)
    widget.controls["shade"].value = 120
    widget.controls["tint"].value = "full"
    now = Image.open(io.BytesIO(widget.image.value)).getpixel((3, 3))
    assert now == (120, 255, 200) and widget.draws == 3
    still = Image.open(io.BytesIO(base64.b64decode(widget._repr_mimebundle_()["image/png"])))
    assert still.getpixel((3, 3)) == (50, 255, 0)
    assert {"mirage-live"} <= set(widget._dom_classes) and "mirage-live-shade" in widget.controls["shade"]._dom_classes


def test_live_drops_stale_events_but_never_the_last():
    seen = []

    def draw(x):
        seen.append(x)
        return Figure(figsize=(1, 1))

    widget = live(draw, x=(0.0, 10.0, 1.0, 0.5))

    async def drag():
        for value in range(2, 10):
            widget.controls["x"].value = float(value)
        await asyncio.sleep(0.1)

    asyncio.run(drag())
    assert seen == [1.0, 9.0]


def test_live_tells_of_an_error_and_goes_on():
    widget = live(lambda x: Image.new("RGB", (8 // x, 8)), x=(0, 4, 2))
    widget.controls["x"].value = 0
    assert "ZeroDivisionError" in widget.status.words
    widget.controls["x"].value = 4
    assert not widget.status.words and widget.draws == 2
    with pytest.raises(ZeroDivisionError):
        live(lambda x: 1 / x, x=(0, 4, 0))


@pytest.mark.parametrize("spec", [(0, 1), (0, 1, 2), [], "a", (1, 1, 1)])
def test_live_names_a_slider_that_is_none(spec):
    with pytest.raises(ValueError, match="^yaw: expected"):
        live(lambda yaw: Image.new("RGB", (8, 8)), yaw=spec)


def test_show_gives_any_widget_a_picture(monkeypatch):
    shown = []
    monkeypatch.setattr("mirage_nb.viz.widgets.base.display", lambda data, raw: shown.append(data))
    show(ipywidgets.IntSlider(), Image.new("RGB", (9, 9)))
    assert {VIEW, "image/png", "text/plain"} == set(shown[0])
    with pytest.raises(TypeError, match="^picture: expected"):
        show(ipywidgets.IntSlider(), "no picture")


# ---------------------------------------------------------------------------------------------------- memory viewer


def test_a_clicked_token_says_where_and_when_it_was_seen():
    memory, cameras, frames = scene()
    viewer = MemoryViewer(memory, cameras, frames)
    row = int((memory.written == memory.written.max()).nonzero()[0])
    viewer._clicked([row])
    about = viewer.describe(row)
    assert about["written"] == about["frame"] == int(memory.written.max()) > 0
    assert np.allclose(about["position"], memory.positions[row], atol=1e-3)
    assert viewer.figure.data[1].x[0] == about["position"][0]
    index = memory.read(cameras).index
    assert about["shown_in"] == [i for i in range(len(cameras)) if (index[i] == row).any()] and about["shown_in"]
    assert f"token {row}" in viewer.about.value and viewer.seen.value
    assert viewer.crop(row) is not None and MemoryViewer(memory, cameras).crop(row) is None
    with pytest.raises(ValueError, match="^row:"):
        viewer.describe(len(memory))


def test_decoded_colours_are_those_of_the_cell_that_wrote_the_token():
    memory, cameras, frames = scene()
    colours = MemoryViewer(memory, cameras, frames).rgb("decoded RGB")
    expected = ((memory.tokens[:, :3] + 1) * 127).byte()
    assert torch.equal(colours, expected)
    mapped = MemoryViewer(memory, colours=latent_colours(room_views(cameras)[0], frames)).rgb("decoded RGB")
    assert (mapped.int() - expected.int()).abs().max() <= 2


def test_every_colour_can_be_chosen_and_drawn():
    memory, cameras, frames = scene()
    viewer = MemoryViewer(memory, cameras, frames)
    for colour in viewer.colour.options:
        viewer.colour.value = colour
        assert len(viewer.figure.data[0].marker.color) == len(memory)
        assert viewer.rgb(colour).shape == (len(memory), 3)
    assert viewer.colour.value == "number of views"
    assert torch.equal(torch.tensor(viewer.figure.data[0].marker.color), memory.views.float())
    is_shown(viewer)
    is_shown(MemoryViewer(memory, colour="time written"))


def test_many_tokens_are_thinned_evenly_and_it_says_so():
    memory, cameras, _ = scene()
    viewer = MemoryViewer(memory, cameras, most=50)
    assert len(viewer.figure.data[0].x) == len(viewer.rows) <= 50
    assert viewer.rows.diff().unique().numel() == 1
    assert f"of {len(memory):,} tokens" in viewer.label and viewer.label == viewer.status.words
    viewer._clicked([3])
    assert f"token {int(viewer.rows[3])}<" in viewer.about.value, "a click means the token, not its place in the sample"


def test_the_viewer_refuses_what_it_cannot_show():
    memory, cameras, frames = scene()
    for match, arguments in {
        "^memory:": (LatentGrid(),),
        "^frames:": (memory, cameras, frames[1:]),
    }.items():
        with pytest.raises(ValueError, match=match):
            MemoryViewer(*arguments)
    with pytest.raises(ValueError, match="^colour:"):
        MemoryViewer(memory, colour="decoded RGB")


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 40), st.integers(1, 8), st.integers(0, 99))
def test_pca_colours_do_not_depend_on_a_shift_or_scale_of_all_tokens(count, channels, seed):
    tokens = torch.randn(count, channels, generator=torch.Generator().manual_seed(seed))
    colours = pca_colours(tokens)
    assert colours.shape == (count, 3) and colours.dtype == torch.uint8
    assert torch.equal(colours, pca_colours(tokens.clone()))
    if count > channels + 2:
        assert (pca_colours(4 * tokens + 8).int() - colours.int()).abs().max() <= 2


# ---------------------------------------------------------------------------------------------------------- compare


def test_compare_shows_one_frame_of_all_and_its_psnr():
    truth = torch.full((5, 16, 24, 3), 100, dtype=torch.uint8)
    other = truth.clone()
    other[2] += 10
    compare = Compare({"truth": truth, "latent": other, "none": truth})
    assert set(compare.psnr) == {"latent", "none"}
    assert compare.psnr["latent"][2].item() == pytest.approx(-20 * np.log10(10 / 255), abs=1e-3)
    first = compare.image.value
    compare.slider.value = 2
    assert compare.image.value != first
    page = np.asarray(compare.frame(2))
    assert (page == 110).all(-1).any() and (page == 100).all(-1).any()
    assert compare.play.max == compare.slider.max == 4
    is_shown(compare)
    assert not Compare({"a": truth, "b": other}).psnr
    with pytest.raises(ValueError, match="^truth:"):
        Compare({"a": truth}, truth[1:])
