"""A click on a token, and the colours of all, without a browser."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from widget_tools import is_shown, scene

from mirage_nb.memory.grid import LatentGrid
from mirage_nb.viz.widgets.memory_viewer import MemoryViewer


def test_a_clicked_token_says_where_and_when_it_was_seen():
    memory, cameras, frames = scene()
    viewer = MemoryViewer(memory, cameras, frames)
    row = int((memory.written == memory.written.max()).nonzero()[0])
    viewer._clicked([row])
    about = viewer.pick(row)
    assert about["frame"] == int(memory.written.max()) > 0
    assert np.allclose(about["position"], memory.positions[row], atol=1e-6)
    assert viewer.figure.data[-1].x[0] == about["position"][0]
    index = memory.read(cameras).index
    assert about["shown_in"] == [i for i in range(len(cameras)) if (index[i] == row).any()] and about["shown_in"]
    assert f"token {row}" in viewer.about.value and viewer.seen.value
    with pytest.raises(ValueError, match="^row:"):
        viewer.pick(len(memory))


def test_the_cell_that_wrote_a_token_is_framed_in_its_frame():
    memory, cameras, frames = scene()
    viewer = MemoryViewer(memory, cameras, frames)
    for row in (20, len(memory) - 1):
        frame = int(memory.written[row])
        plain = frames[frame].numpy().repeat(2, 0).repeat(2, 1)
        mark = np.argwhere((np.asarray(viewer.seen_in(row)) != plain).any(-1))
        uv, _ = cameras[frame].project(memory.positions[[row]])
        assert np.abs((mark.min(0) + mark.max(0))[::-1] / 2 - 2 * uv[0, 0].numpy()).max() < 2


def test_colours_are_those_of_the_cell_that_wrote_the_token():
    memory, cameras, frames = scene()
    colours = MemoryViewer(memory, cameras, frames).rgb("colour of its cell")
    assert torch.equal(colours, ((memory.tokens[:, :3] + 1) * 127).byte())


def test_every_colour_can_be_chosen_and_drawn():
    memory, cameras, frames = scene()
    viewer = MemoryViewer(memory, cameras, frames)
    for colour in viewer.colour.options:
        viewer.colour.value = colour
        assert len(viewer.figure.data[0].marker.color) == len(memory)
        assert viewer.rgb(colour).shape == (len(memory), 3)
    assert viewer.colour.value == "number of views"
    assert torch.equal(torch.tensor(viewer.figure.data[0].marker.color), memory.views.float())
    is_shown(viewer)


def test_of_many_tokens_a_click_means_the_one_that_is_drawn(monkeypatch):
    monkeypatch.setattr("mirage_nb.viz.space.MOST_POINTS", 50)
    viewer = MemoryViewer(*scene())
    assert len(viewer.figure.data[0].x) == len(viewer.rows) <= 50
    viewer._clicked([3])
    assert f"token {int(viewer.rows[3])}<" in viewer.about.value


def test_the_viewer_refuses_what_it_cannot_show():
    memory, cameras, frames = scene()
    with pytest.raises(ValueError, match="^memory:"):
        MemoryViewer(LatentGrid(), cameras, frames)
    with pytest.raises(ValueError, match="^frames:"):
        MemoryViewer(memory, cameras, frames[1:])
    with pytest.raises(ValueError, match="^frames:"):
        MemoryViewer(memory, cameras, frames, every=2)
