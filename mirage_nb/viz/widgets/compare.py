"""Videos in lockstep."""

from __future__ import annotations

from collections.abc import Mapping

import ipywidgets
import torch
from PIL import Image
from torch import Tensor

from mirage_nb.evaluation import psnr
from mirage_nb.viz.base import small, title_of
from mirage_nb.viz.space import board
from mirage_nb.viz.video import contact_sheet, side_by_side
from mirage_nb.viz.widgets.live import Live, live


def compare(videos: Mapping[str, Tensor], fps: int = 8) -> Live:
    """Two or three videos next to each other, to be played or moved through by frames, with the PSNR of the frame.

    Args:
        videos: name -> (T, H, W, 3) uint8, all of one length and size. PSNR is measured to the one named "truth";
            without it there is none.
        fps: of the play button.

    Raises:
        ValueError: lengths or sizes differ.
    """
    pages, last = side_by_side(videos, min_side=192), len(next(iter(videos.values()))) - 1
    others = {name: torch.as_tensor(frames) for name, frames in videos.items() if name != "truth"}
    truth = videos.get("truth")
    values = {} if truth is None else {name: psnr(frames, torch.as_tensor(truth)) for name, frames in others.items()}

    def draw(frame: int) -> Image.Image:
        words = ", ".join(f"{title_of(name)} {value[frame].item():.1f} dB" for name, value in values.items())
        return board({f"frame {frame}": Image.fromarray(pages[frame])}, note=words and f"to the truth: {words}")

    widget = live(draw, frame=(0, last, 0))
    widget.still = small(board({"": contact_sheet(videos, 7, tile=96), " ": draw(last)}, columns=1))
    play = ipywidgets.Play(value=0, min=0, max=last, interval=round(1000 / fps), repeat=True)
    ipywidgets.jslink((play, "value"), (widget.controls["frame"], "value"))
    widget.children = (play, *widget.children)
    return widget
