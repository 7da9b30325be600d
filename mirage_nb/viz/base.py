"""What all pictures share: a figure becomes an image, so that nothing depends on a window or a backend."""

from __future__ import annotations

import io

from matplotlib.figure import Figure
from PIL import Image


def drawn(figure: Figure, dpi: int = 90) -> Image.Image:
    """The figure as an RGB image; put it last in a cell, or `display` it."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi)
    return Image.open(buffer).convert("RGB")


def small(picture: Image.Image) -> Image.Image:
    """The picture in its own 256 colours: a notebook full of photographs stays small enough to be kept."""
    return picture.quantize(256, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
