"""Sliders that change a picture."""

from collections.abc import Callable

import ipywidgets
from matplotlib.figure import Figure
from PIL import Image

from mirage_nb.viz.base import png
from mirage_nb.viz.widgets.base import Status, WithPicture


class Live(WithPicture):
    """A picture that changes while sliders move; see `WithPicture`.

    Args:
        draw: called as `draw(name=value, ...)`; returns a PIL image or a matplotlib figure.
        sliders: for each argument of `draw`
            (lowest, highest, value) or (lowest, highest, value, step), a slider, whole numbers if all are;
            a list of choices, a dropdown that begins with the first; True or False, a box to tick.

    Raises:
        ValueError: a slider is none of these.
    """

    css = "mirage-live"

    def __init__(self, draw: Callable[..., Image.Image | Figure], **sliders) -> None:
        self.controls = {name: _control(name, spec) for name, spec in sliders.items()}
        self._draw = draw
        self.image = self.named(ipywidgets.Image(format="png", layout={"max_width": "100%"}), "picture")
        self.status = Status()
        rows = [self.named(control, name.replace("_", "-")) for name, control in self.controls.items()]
        super().__init__([*rows, self.image, self.status])
        self._first = self._refresh()  # a mistake in `draw` shows in the cell, not in the widget
        # The browser sends the next value of a dragged slider once the picture of the last one is drawn.
        for control in rows:
            control.observe(lambda change: self.status.attempt(self._refresh), "value")

    def _refresh(self) -> Image.Image | Figure:
        """Draw with the present values."""
        picture = self._draw(**{name: control.value for name, control in self.controls.items()})
        self.image.value = png(picture, fast=True)
        self.status.say("")
        return picture

    def picture(self) -> Image.Image | Figure:
        """The picture of the values it began with."""
        return self._first


live = Live


def _control(name: str, spec) -> ipywidgets.Widget:
    """The slider, dropdown or checkbox of one argument, see `live`."""
    slider = isinstance(spec, tuple) and len(spec) in (3, 4) and spec[0] <= spec[2] <= spec[1] > spec[0]
    if not slider and not isinstance(spec, bool) and not (isinstance(spec, list) and spec):
        expected = "(lowest, highest, value[, step]), a list of choices, True or False"
        raise ValueError(f"{name}: expected {expected}, got {spec!r}")
    range_and_value = ((*spec[:2], *spec[3:]), spec[2]) if slider else (spec,)
    control = ipywidgets.interactive.widget_from_abbrev(*range_and_value)
    control.description, control.style.description_width = name.replace("_", " "), "110px"
    control.layout.width, control.layout.max_width = "460px", "100%"
    return control
