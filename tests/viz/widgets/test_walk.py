"""`Walk` without a browser."""

from __future__ import annotations

import io

import pytest
import torch
from PIL import Image
from widget_tools import image, is_shown, rows_of, same

from mirage_nb.data.rooms.room import Room
from mirage_nb.memory.grid import LatentGrid
from mirage_nb.viz.widgets.walk import KEYS, Walk


@pytest.mark.parametrize("temporal", [False, True], scope="module")
def test_presses_are_one_rollout(pipe):
    walk = Walk(pipe, image(), seed=5)
    new = [walk.press(key) for key in ("left", "forward", "step-right")]
    assert len(walk.frames) == len(walk.cameras) == 1 + sum(map(len, new))
    assert torch.equal(walk.frames[1:], torch.cat(new))
    once = pipe(image(), c2w=walk.cameras.c2w, generator=5, output_type="uint8")
    assert torch.equal(once.frames, walk.frames) and same(walk.memory, rows_of(once.memory))
    is_shown(walk)


def test_a_failed_press_changes_nothing(pipe, monkeypatch):
    walk = Walk(pipe, image())
    walk.press("left")
    rows, frames = rows_of(walk.memory), walk.frames.clone()
    original = LatentGrid.write

    def broken(self, *args, **kwargs):
        original(self, *args, **kwargs)
        raise RuntimeError("the disk is full")

    monkeypatch.setattr(LatentGrid, "write", broken)
    with pytest.raises(RuntimeError):
        walk.press("forward")
    assert same(walk.memory, rows) and torch.equal(walk.frames, frames) and walk.presses == ("left",)
    walk._event("forward")
    assert "disk is full" in walk.status.words


def test_a_wall_stops_the_walk(pipe):
    walk = Walk(pipe, Room(900001))
    while walk.press("forward") is not None:
        assert len(walk.presses) < 50
    frames = len(walk.frames)
    assert "wall" in walk.status.words and walk.room.blocked(walk.cameras.c2w) is None
    assert walk.press("left") is not None and len(walk.frames) > frames


def test_keys_and_buttons_press(pipe):
    walk = Walk(pipe, image())
    walk.view.pressed = ["ArrowLeft", 1]
    walk.buttons["forward"].click()
    assert walk.presses == ("left", "forward") and walk.view.frames == len(walk.frames)
    assert Image.open(io.BytesIO(walk.view.picture)).n_frames == len(walk.frames) // 2
    walk.view.pressed = ["d", 2]
    assert walk.presses == ("left", "forward", "step-right")
    names = {name for button in walk.buttons.values() for name in button._dom_classes}
    assert names == {f"mirage-walk-{key}" for key in KEYS}
    assert "http" not in str(walk.view._esm) and "render" in str(walk.view._esm), "nothing is fetched"
    with pytest.raises(ValueError, match="^key:"):
        walk.press("up")
