"""What all pictures share: colours, names, and the steps from a figure to an image and to a file."""

import io

from matplotlib.figure import Figure
from PIL import Image

# After Okabe and Ito: colour-blind eyes can tell them apart.
COLOURS = {
    "truth": "#3b4252", "camera": "#0072b2", "hole": "#d55e00", "memory": "#009e73",
    "latent": "#009e73", "append": "#56b4e9", "rgb": "#cc79a7", "rgb_capped": "#e69f00", "none": "#d55e00",
    "picked": "#e6007a",  # what a reader picked or a figure marks; no room has this colour
}  # fmt: skip
# What a method is called in pictures.
TITLES = {
    "latent": "latent memory", "append": "append-only memory", "rgb": "RGB point cloud",
    "rgb_capped": "RGB, last two chunks", "none": "no memory",
}  # fmt: skip
INK, PAPER, QUIET = "#22262e", "#ffffff", "#7b8494"


def title_of(name: str) -> str:
    """What a method is called in pictures; any other name stays as it is."""
    return TITLES.get(name, name)


def drawn(figure: Figure) -> Image.Image:
    """A matplotlib figure as an RGB image."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=90)
    return Image.open(buffer).convert("RGB")


def png(picture: Image.Image | Figure, fast: bool = False) -> bytes:
    """A picture as PNG; `fast` makes it quickly and somewhat larger."""
    picture = drawn(picture) if isinstance(picture, Figure) else picture
    buffer = io.BytesIO()
    picture.save(buffer, "png", **({"compress_level": 1} if fast else {"optimize": True}))
    return buffer.getvalue()
