"""What all widgets share: a still picture for pages that run no kernel, and how they follow a slider."""

from __future__ import annotations

import asyncio
import base64
import io
from collections.abc import Callable
from html import escape

import ipywidgets
from matplotlib.figure import Figure
from PIL import Image

from mirage_nb.viz.base import COLOURS, QUIET, drawn

GATHER = 0.015  # seconds in which the events of a dragged slider are gathered into one


def png(picture: Image.Image | Figure, fast: bool = False) -> bytes:
    """A PIL image or a matplotlib figure as PNG; `fast` makes it quickly and somewhat larger."""
    picture = drawn(picture) if isinstance(picture, Figure) else picture
    buffer = io.BytesIO()
    picture.save(buffer, "png", **({"compress_level": 1} if fast else {"optimize": True}))
    return buffer.getvalue()


class WithPicture(ipywidgets.VBox):
    """A column of widgets with a still picture. Put it last in a cell, or `display` it.

    A notebook shows the widget where a kernel runs and the picture everywhere else. The root has the CSS class `css`.
    """

    css = ""

    def __init__(self, children=(), **kwargs) -> None:
        super().__init__(children, **kwargs)
        self.add_class(self.css)

    def picture(self) -> Image.Image | Figure:
        """The still picture of its present state."""
        raise NotImplementedError

    def named(self, widget: ipywidgets.DOMWidget, name: str) -> ipywidgets.DOMWidget:
        """The widget, with the CSS class `CSS-NAME`."""
        return widget.add_class(f"{self.css}-{name}")

    def _repr_mimebundle_(self, **kwargs) -> dict:
        view = {"version_major": 2, "version_minor": 0, "model_id": self.model_id}
        return {
            "application/vnd.jupyter.widget-view+json": view,
            "image/png": base64.b64encode(png(self.picture())).decode(),
            "text/plain": f"{type(self).__name__} (a picture here; live in a running notebook)",
        }


def soon(action: Callable[[], None]) -> Callable:
    """A callback that runs `action()` soon, and only once for all calls that come until then.

    A dragged slider sends events faster than pictures are drawn. The action looks up the values when it runs, so a
    stale value is never drawn. Without an event loop (in a script, in a test) the action runs at once.
    """
    waiting = False

    def run() -> None:
        nonlocal waiting
        waiting = False
        action()

    def call(*_) -> None:
        nonlocal waiting
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            return action()
        if not waiting:
            waiting = True
            loop.call_later(GATHER, run)

    return call


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
