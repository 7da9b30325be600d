"""Sliders that change a picture."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import ipywidgets
from matplotlib.figure import Figure
from PIL import Image

from mirage_nb.viz.widgets.base import Latest, Shown, Status, png


class Live(Shown):
    """What `live` makes.

    Attributes:
        controls: name -> the slider, dropdown or checkbox.
        image: the `ipywidgets.Image`.
        draws: how many pictures were drawn so far.
    """

    css = "mirage-live"

    def __init__(self, draw: Callable[..., Image.Image | Figure], controls: Mapping[str, ipywidgets.Widget]) -> None:
        self.controls, self._draw, self.draws = dict(controls), draw, 0
        self.image = ipywidgets.Image(format="png", layout={"max_width": "100%"})
        self.image.add_class("mirage-live-picture")
        self.status = Status()
        super().__init__([*self.controls.values(), self.image, self.status])
        self._still = self.refresh()  # a mistake in `draw` shows in the cell, not in the widget
        latest = Latest(self._follow)
        for control in self.controls.values():
            control.observe(latest.call, "value")

    @property
    def values(self) -> dict:
        """The present value of each control."""
        return {name: control.value for name, control in self.controls.items()}

    def refresh(self) -> Image.Image | Figure:
        """Draw now, with the present values."""
        picture = self._draw(**self.values)
        self.image.value = png(picture, fast=True)
        self.draws += 1
        return picture

    def _follow(self) -> None:
        try:
            self.refresh()
            self.status.say("")
        except Exception as problem:  # an event has no cell to show it in
            self.status.say(f"{type(problem).__name__}: {problem}", warning=True)

    def picture(self) -> Image.Image | Figure:
        """The picture of the values it began with."""
        return self._still


def live(draw: Callable[..., Image.Image | Figure], **sliders) -> Live:
    """A picture that changes while sliders move. Put it last in a cell, or `display` it.

    Where no kernel runs, the picture of the sliders' first values stands in its place. Events that come while a picture
    is drawn are dropped, except for the last.

    Args:
        draw: called as `draw(name=value, ...)`; returns a PIL image or a matplotlib figure.
        sliders: for each argument of `draw`
            (lowest, highest, value) or (lowest, highest, value, step), a slider, whole numbers if all are;
            a list of choices, a dropdown that begins with the first; True or False, a box to tick.

    Raises:
        ValueError: a slider is none of these.
    """
    return Live(draw, {name: control(name, spec) for name, spec in sliders.items()})


def control(name: str, spec) -> ipywidgets.Widget:
    """The slider, dropdown or checkbox of one argument; its CSS class is `mirage-live-NAME`."""
    look = {
        "description": name.replace("_", " "),
        "style": {"description_width": "110px"},
        "layout": {"width": "460px", "max_width": "100%"},
    }
    if isinstance(spec, bool):
        made = ipywidgets.Checkbox(value=spec, **look)
    elif isinstance(spec, list) and spec:
        made = ipywidgets.Dropdown(options=spec, value=spec[0], **look)
    elif isinstance(spec, tuple) and len(spec) in (3, 4) and spec[0] <= spec[2] <= spec[1] and spec[0] < spec[1]:
        whole = all(isinstance(number, int) for number in spec)
        lowest, highest, value = spec[:3]
        step = spec[3] if len(spec) == 4 else 1 if whole else (highest - lowest) / 100
        kind = ipywidgets.IntSlider if whole else ipywidgets.FloatSlider
        digits = {} if whole else {"readout_format": ".2f" if step < 0.1 else ".1f"}
        made = kind(min=lowest, max=highest, value=value, step=step, continuous_update=True, **digits, **look)
    else:
        raise ValueError(
            f"{name}: expected (lowest, highest, value[, step]), a list of choices, True or False, got {spec!r}"
        )
    made.add_class(f"mirage-live-{name.replace('_', '-')}")
    return made
