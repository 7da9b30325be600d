"""Videos in lockstep."""

from __future__ import annotations

from collections.abc import Mapping

import ipywidgets
import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from mirage_nb.evaluation import psnr
from mirage_nb.viz.base import small
from mirage_nb.viz.video import COLOURS, INK, PAPER, as_frames, contact_sheet, side_by_side
from mirage_nb.viz.widgets.base import Latest, Shown, png

CAPTION = 24  # pixels below the pictures


class Compare(Shown):
    """Two or three videos next to each other, to be played or moved through by frames, with the PSNR of the frame.

    Args:
        videos: name -> (T, H, W, 3) uint8, all of one length and size. Names in `video.COLOURS` get their colour.
        truth: what PSNR is measured to; by default the video named "truth". Without it there is none.
        fps: of the play button.

    Raises:
        ValueError: lengths or sizes differ.
    """

    css = "mirage-compare"

    def __init__(
        self, videos: Mapping[str, Tensor | np.ndarray], truth: Tensor | np.ndarray | None = None, fps: int = 8
    ) -> None:
        self._pages = side_by_side(videos, min_side=192)
        self.videos = {name: as_frames(frames, name) for name, frames in videos.items()}
        truth = self.videos.get("truth") if truth is None else as_frames(truth, "truth")
        shape = next(iter(self.videos.values())).shape
        if truth is not None and truth.shape != shape:
            raise ValueError(f"truth: expected {shape} as the videos, got {truth.shape}")
        self.psnr: dict[str, Tensor] = {}
        if truth is not None:
            to = torch.from_numpy(truth.copy())
            self.psnr = {n: psnr(torch.from_numpy(v.copy()), to) for n, v in self.videos.items() if n != "truth"}
        last = shape[0] - 1
        self.play = ipywidgets.Play(value=0, min=0, max=last, interval=round(1000 / fps), repeat=True)
        self.slider = ipywidgets.IntSlider(value=0, min=0, max=last, description="frame", continuous_update=True)
        self.slider.add_class("mirage-compare-frame")
        self.play.add_class("mirage-compare-play")
        ipywidgets.jslink((self.play, "value"), (self.slider, "value"))
        self.image = ipywidgets.Image(format="png", layout={"max_width": "100%"})
        self.image.add_class("mirage-compare-picture")
        super().__init__([ipywidgets.HBox([self.play, self.slider]), self.image])
        self._follow()
        self.slider.observe(Latest(self._follow).call, "value")

    def frame(self, index: int) -> Image.Image:
        """One frame of all videos, under each its PSNR to the truth."""
        page = self._pages[index]
        if not self.psnr:
            return Image.fromarray(page)
        sheet = Image.new("RGB", (page.shape[1], page.shape[0] + CAPTION), PAPER)
        sheet.paste(Image.fromarray(page))
        draw, step = ImageDraw.Draw(sheet), page.shape[1] / len(self.videos)
        for column, name in enumerate(self.videos):
            if name in self.psnr:
                value = self.psnr[name][index].item()
                words = "the same picture" if np.isinf(value) else f"{value:.1f} dB to the truth"
                place = ((column + 0.5) * step, sheet.height - CAPTION / 2)
                draw.text(place, words, COLOURS.get(name, INK), ImageFont.load_default(14), "mm")
        return sheet

    def picture(self) -> Image.Image:
        """A strip of frames; under it the last one, with its PSNR."""
        strip, last = contact_sheet(self.videos, 7, tile=96), self.frame(len(self._pages) - 1)
        height = round(last.height * strip.width / last.width)
        if last.width > strip.width:
            last = last.resize((strip.width, height), Image.Resampling.LANCZOS)
        words = ImageFont.load_default(14)
        whole = Image.new("RGB", (strip.width, strip.height + last.height + 26), PAPER)
        whole.paste(strip)
        ImageDraw.Draw(whole).text((14, strip.height + 5), f"frame {len(self._pages) - 1}", INK, words)
        whole.paste(last, ((whole.width - last.width) // 2, strip.height + 26))
        return small(whole)

    def _follow(self) -> None:
        self.image.value = png(self.frame(self.slider.value), fast=True)
