"""What all widgets share: a still picture for pages that run no kernel, and a line of words."""

import base64
from collections.abc import Callable
from html import escape

import ipywidgets

from mirage_nb.viz.base import COLOURS, QUIET, png


class WithPicture(ipywidgets.VBox):
    """A column of widgets with a still `picture()`. Put it last in a cell, or `display` it.

    A notebook shows the widget where a kernel runs and the picture everywhere else. The root has the CSS class `css`.
    """

    css = ""

    def __init__(self, children) -> None:
        super().__init__(children)
        self.add_class(self.css)

    def named(self, widget: ipywidgets.DOMWidget, name: str) -> ipywidgets.DOMWidget:
        """The widget, with the CSS class `CSS-NAME`."""
        return widget.add_class(f"{self.css}-{name}")

    def _repr_mimebundle_(self, **kwargs) -> dict:
        view = {"version_major": 2, "version_minor": 0, "model_id": self.model_id}
        words = f"{type(self).__name__} (a picture here; live in a running notebook)"
        picture = base64.b64encode(png(self.picture())).decode()
        return {"application/vnd.jupyter.widget-view+json": view, "image/png": picture, "text/plain": words}


class Status(ipywidgets.HTML):
    """One line of words: what happened (grey), a warning (orange)."""

    words = ""

    def say(self, words: str, warning: bool = False) -> None:
        """Show these words."""
        self.words = words
        self.value = f'<span style="color:{COLOURS["hole"] if warning else QUIET}">{escape(words)}</span>'

    def attempt(self, action: Callable[[], object]) -> None:
        """Run an action; an event has no cell that could show an error, so this line shows it."""
        try:
            action()
        except Exception as problem:
            self.say(f"{type(problem).__name__}: {problem}", warning=True)
