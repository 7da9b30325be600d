"""What all widgets share: how they are shown, with a still picture for pages that run no kernel."""

from __future__ import annotations

import asyncio
import base64
import io
from collections.abc import Callable
from html import escape

import ipywidgets
from IPython.display import display
from matplotlib.figure import Figure
from PIL import Image

from mirage_nb.viz.base import drawn
from mirage_nb.viz.video import COLOURS, QUIET

PATIENCE = 0.015  # seconds in which the events that wait in the kernel's queue are gathered into one


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


def bundle(widget: ipywidgets.DOMWidget, picture: Image.Image | Figure, text: str = "") -> dict:
    """One output with two faces: the widget where a kernel runs, the picture everywhere else."""
    return {
        "application/vnd.jupyter.widget-view+json": {
            "version_major": 2,
            "version_minor": 0,
            "model_id": widget.model_id,
        },
        "image/png": base64.b64encode(png(picture)).decode(),
        "text/plain": text or f"{type(widget).__name__} (a picture here; live in a running notebook)",
    }


def show(widget: ipywidgets.DOMWidget, picture: Image.Image | Figure, text: str = "") -> None:
    """Display a widget of any kind with the picture that stands for it on pages that run no kernel."""
    display(bundle(widget, picture, text), raw=True)


class Shown(ipywidgets.VBox):
    """A column of widgets with a still picture. Put it last in a cell, or `display` it.

    Its root has the CSS class `css`.
    """

    css = ""

    def __init__(self, children=(), **kwargs) -> None:
        super().__init__(children, **kwargs)
        if self.css:
            self.add_class(self.css)

    def picture(self) -> Image.Image | Figure:
        """The still picture of its present state."""
        raise NotImplementedError

    def _repr_mimebundle_(self, **kwargs) -> dict:
        return bundle(self, self.picture())


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
            loop.call_later(PATIENCE, self._run)

    def _run(self) -> None:
        self._waiting = False
        self.action()


class Status(ipywidgets.HTML):
    """One line of words: what happened (grey), a warning (orange)."""

    def say(self, words: str, warning: bool = False) -> None:
        colour = COLOURS["hole"] if warning else QUIET
        self.value = f'<span style="color:{colour}">{escape(words)}</span>' if words else ""

    @property
    def words(self) -> str:
        from html import unescape

        return unescape(self.value.partition(">")[2].rpartition("<")[0])
