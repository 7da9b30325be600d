"""Videos in lockstep, without a browser."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image
from widget_tools import is_shown

from mirage_nb.viz.widgets.compare import compare


def test_compare_shows_one_frame_of_all():
    truth = torch.full((5, 16, 24, 3), 100, dtype=torch.uint8)
    other = truth.clone()
    other[2] += 10
    widget = compare({"truth": truth, "latent": other})
    widget.controls["frame"].value = 2
    page = np.asarray(Image.open(io.BytesIO(widget.image.value)))
    assert (page == 110).all(-1).any() and (page == 100).all(-1).any()
    assert widget.children[0].max == widget.controls["frame"].max == 4
    is_shown(widget)
    with_psnr, without = (np.asarray(is_shown(w)).shape for w in (widget, compare({"a": truth, "b": other})))
    assert with_psnr[0] > without[0], "a line tells the PSNR where the truth is known"
    with pytest.raises(ValueError, match="^videos:"):
        compare({"truth": truth[1:], "a": truth})
