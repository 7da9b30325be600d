"""Sliders that change a picture."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import ipywidgets
from matplotlib.figure import Figure
from PIL import Image

from mirage_nb.viz.widgets.base import Status, WithPicture, png, soon


class Live(WithPicture):
    """What `live` makes.

    Attributes:
        controls: name -> the slider, dropdown or checkbox.
        image: the `ipywidgets.Image`.
    """

    css = "mirage-live"

    def __init__(self, draw: Callable[..., Image.Image | Figure], controls: Mapping[str, ipywidgets.Widget]) -> None:
        self.controls, self._draw = dict(controls), draw
        self.image = self.named(ipywidgets.Image(format="png", layout={"max_width": "100%"}), "picture")
        self.status = Status()
        rows = [self.named(control, name.replace("_", "-")) for name, control in self.controls.items()]
        super().__init__([*rows, self.image, self.status])
        self._first = self._refresh()  # a mistake in `draw` shows in the cell, not in the widget
        refresh = soon(lambda: self.status.attempt(self._refresh))
        for control in rows:
            control.observe(refresh, "value")

    def _refresh(self) -> Image.Image | Figure:
        """Draw with the present values."""
        picture = self._draw(**{name: control.value for name, control in self.controls.items()})
        self.image.value = png(picture, fast=True)
        self.status.say("")
        return picture

    def picture(self) -> Image.Image | Figure:
        """The picture of the values it began with."""
        return self._first


def live(draw: Callable[..., Image.Image | Figure], **sliders) -> Live:
    """A picture that changes while sliders move. Put it last in a cell, or `display` it.

    Where no kernel runs, the picture of the sliders' first values is shown instead.

    Args:
        draw: called as `draw(name=value, ...)`; returns a PIL image or a matplotlib figure.
        sliders: for each argument of `draw`
            (lowest, highest, value) or (lowest, highest, value, step), a slider, whole numbers if all are;
            a list of choices, a dropdown that begins with the first; True or False, a box to tick.

    Raises:
        ValueError: a slider is none of these.
    """
    return Live(draw, {name: _control(name, spec) for name, spec in sliders.items()})


def _control(name: str, spec) -> ipywidgets.Widget:
    """The slider, dropdown or checkbox of one argument, see `live`."""
    look = {
        "description": name.replace("_", " "),
        "style": {"description_width": "110px"},
        "layout": {"width": "460px", "max_width": "100%"},
    }
    if isinstance(spec, bool):
        return ipywidgets.Checkbox(value=spec, **look)
    if isinstance(spec, list) and spec:
        return ipywidgets.Dropdown(options=spec, value=spec[0], **look)
    if not isinstance(spec, tuple) or len(spec) not in (3, 4) or not spec[0] <= spec[2] <= spec[1] > spec[0]:
        expected = "(lowest, highest, value[, step]), a list of choices, True or False"
        raise ValueError(f"{name}: expected {expected}, got {spec!r}")
    low, high, value = spec[:3]
    whole = all(isinstance(number, int) for number in spec)
    step = spec[3] if len(spec) == 4 else 1 if whole else (high - low) / 100
    if whole:
        return ipywidgets.IntSlider(value, min=low, max=high, step=step, **look)
    digits = ".2f" if step < 0.1 else ".1f"
    return ipywidgets.FloatSlider(value, min=low, max=high, step=step, readout_format=digits, **look)
