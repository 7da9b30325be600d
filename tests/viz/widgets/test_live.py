"""Sliders that change a picture, without a browser."""

from __future__ import annotations

import base64
import io

import ipywidgets
import pytest
from PIL import Image

from mirage_nb.viz.widgets.live import live


def test_live_draws_what_the_sliders_say_and_shows_the_first_picture_elsewhere():
    def draw(shade, flip, tint):
        return Image.new("RGB", (64, 40), (shade, 255 if flip else 0, {"none": 0, "full": 200}[tint]))

    widget = live(draw, shade=(0, 200, 50), flip=True, tint=["none", "full"])
    assert isinstance(widget.controls["shade"], ipywidgets.IntSlider)
    widget.controls["shade"].value = 120
    widget.controls["tint"].value = "full"
    now = Image.open(io.BytesIO(widget.image.value)).getpixel((3, 3))
    assert now == (120, 255, 200)
    still = Image.open(io.BytesIO(base64.b64decode(widget._repr_mimebundle_()["image/png"])))
    assert still.getpixel((3, 3)) == (50, 255, 0)
    assert {"mirage-live"} <= set(widget._dom_classes) and "mirage-live-shade" in widget.controls["shade"]._dom_classes


def test_live_tells_of_an_error_and_goes_on():
    widget = live(lambda x: Image.new("RGB", (8 // x, 8)), x=(0, 4, 2))
    widget.controls["x"].value = 0
    assert "ZeroDivisionError" in widget.status.words
    widget.controls["x"].value = 4
    assert not widget.status.words
    with pytest.raises(ZeroDivisionError):
        live(lambda x: 1 / x, x=(0, 4, 0))


@pytest.mark.parametrize("spec", [(0, 1), (0, 1, 2), [], "a", (1, 1, 1)])
def test_live_names_a_slider_that_is_none(spec):
    with pytest.raises(ValueError, match="^yaw: expected"):
        live(lambda yaw: Image.new("RGB", (8, 8)), yaw=spec)
