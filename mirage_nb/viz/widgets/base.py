"""What all widgets share: a still picture for pages that run no kernel, and how they follow a slider."""

from __future__ import annotations

import asyncio
import base64
import io
from collections.abc import Callable
from html import escape, unescape

import ipywidgets
from matplotlib.figure import Figure
from PIL import Image

from mirage_nb.viz.base import COLOURS, QUIET, drawn

GATHER = 0.015  # seconds in which the events of a dragged slider are gathered into one


def png(picture: Image.Image | Figure, fast: bool = False) -> bytes:
    """A picture as PNG; `fast` makes it quickly and somewhat larger.

    Raises:
        TypeError: it is neither a PIL image nor a matplotlib figure.
    """
    picture = drawn(picture) if isinstance(picture, Figure) else picture
    if not isinstance(picture, Image.Image):
        raise TypeError(f"picture: expected a PIL image or a matplotlib figure, got {type(picture).__name__}")
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


class Latest:
    """Calls `action()` soon after each `call()`, once for all calls that have come in the meantime.

    A slider that is dragged sends events faster than a slow picture is drawn. They only say *when* something changed;
    the action looks up what the values are by then, so stale ones are never drawn. Outside of an event loop (in a
    script, in a test) the action is called at once.
    """

    def __init__(self, action: Callable[[], None]) -> None:
        self.action, self._waiting = action, False

    def call(self, *_) -> None:
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            self.action()
            return
        if not self._waiting:
            self._waiting = True
            loop.call_later(GATHER, self._run)

    def _run(self) -> None:
        self._waiting = False
        self.action()


class Status(ipywidgets.HTML):
    """One line of words: what happened (grey), a warning (orange)."""

    def say(self, words: str, warning: bool = False) -> None:
        """Show these words."""
        colour = COLOURS["hole"] if warning else QUIET
        self.value = f'<span style="color:{colour}">{escape(words)}</span>' if words else ""

    def attempt(self, action: Callable[[], object]) -> None:
        """Run what a press asked for; an event has no cell that could show an error, so this line shows it."""
        try:
            action()
        except Exception as problem:
            self.say(f"{type(problem).__name__}: {problem}", warning=True)

    @property
    def words(self) -> str:
        """The words that are shown."""
        return unescape(self.value.partition(">")[2].rpartition("<")[0])
