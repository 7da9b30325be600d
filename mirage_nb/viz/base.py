"""What all pictures share: colours, names, and the step from a figure to an image.

Every picture is a PIL image, so that nothing depends on a window or a matplotlib backend.
"""

from __future__ import annotations

import io

import numpy as np
from matplotlib.figure import Figure
from PIL import Image, ImageFont

# After Okabe and Ito: colour-blind eyes can tell them apart.
COLOURS = {
    "truth": "#3b4252",
    "camera": "#0072b2",
    "memory": "#009e73",
    "latent": "#009e73",
    "append": "#56b4e9",
    "rgb": "#cc79a7",
    "rgb_capped": "#e69f00",
    "none": "#d55e00",
    "hole": "#d55e00",
    "picked": "#e6007a",  # what a reader picked or a figure marks; no room has this colour
}
# What a method is called in pictures.
TITLES = {
    "truth": "truth",
    "latent": "latent memory",
    "append": "append-only memory",
    "rgb": "RGB point cloud",
    "rgb_capped": "RGB, last two chunks",
    "none": "no memory",
}
INK, PAPER, QUIET = "#22262e", "#ffffff", "#7b8494"


def title_of(name: str) -> str:
    """What a method is called in pictures; any other name stays as it is."""
    return TITLES.get(name, name)


def font(size: int):
    """Pillow's own font."""
    return ImageFont.load_default(size)


def drawn(figure: Figure, dpi: int = 90) -> Image.Image:
    """A matplotlib figure as an RGB image."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi)
    return Image.open(buffer).convert("RGB")


def small(picture: Image.Image) -> Image.Image:
    """The picture with a palette of 256 colours, so that a notebook full of photographs stays a small file."""
    return picture.quantize(256, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)


def tile_of(picture, side: int) -> Image.Image:
    """An array (H, W, 3) uint8 as a picture of a height; a PIL image stays as it is.

    What is enlarged much, such as a grid of cells, keeps its sharp squares.
    """
    if isinstance(picture, Image.Image):
        return picture
    image = Image.fromarray(np.asarray(picture))
    how = Image.Resampling.NEAREST if image.height * 3 <= side else Image.Resampling.LANCZOS
    return image.resize((round(side * image.width / image.height), side), how)
