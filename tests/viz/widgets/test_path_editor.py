"""`PathEditor` without a browser."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scenes import pose
from widget_tools import is_shown, scene

from mirage_nb.cameras import Cameras
from mirage_nb.data.rooms.room import Room
from mirage_nb.viz.widgets.path_editor import CLEARANCE, PathEditor, through, yaw_of


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000), st.integers(2, 5))
def test_a_path_passes_its_keys_and_stays_between_them(seed, count):
    g = torch.Generator().manual_seed(seed)
    draw = lambda: torch.randn(3, generator=g).tolist()  # noqa: E731
    keys = torch.stack([pose(draw(), draw()) for _ in range(count)])
    at = [7 * i for i in range(count)]
    path = through(keys, at)
    assert len(path) == at[-1] + 1 and torch.allclose(path[at], keys, atol=1e-6)
    Cameras(path, torch.tensor([1.0, 1.0, 0.5, 0.5]), (1, 1))  # rigid
    for i in range(count - 1):
        low, high = torch.minimum(keys[i], keys[i + 1])[:3, 3], torch.maximum(keys[i], keys[i + 1])[:3, 3]
        leg = path[at[i] : at[i + 1] + 1, :3, 3]
        assert (leg >= low - 1e-5).all() and (leg <= high + 1e-5).all()


def test_every_move_adds_a_key_camera_that_can_be_chosen_and_moved():
    editor = PathEditor(Room(900001))
    w = editor.widgets
    editor.append("pan_left", 10)
    w["append"].click()  # push_in, 16 frames
    assert editor.at == [0, 10, 26] and len(editor.cameras()) == 27
    assert w["key"].options == (1, 2) and w["key"].value == 2
    before = editor.path.clone()
    w["key"].value = 1
    assert w["yaw"].value == pytest.approx(yaw_of(before[10]), abs=0.01) and torch.equal(editor.path, before)
    w["x"].value = 1.5
    w["yaw"].value = 30.0
    key = editor.path[10]
    assert key[0, 3] == 1.5 and yaw_of(key) == pytest.approx(30.0, abs=1e-3) and w["key"].value == 1
    assert torch.allclose(key[1:3, 3], before[10, 1:3, 3], atol=0.01)
    assert torch.isclose(key[1, 2], before[10, 1, 2], atol=1e-6), "its tilt stays"
    assert torch.equal(editor.path[[0, 26]], before[[0, 26]]), "its neighbours stay"
    editor.append("orbit_left", 4)
    assert editor.path[10, 0, 3] == 1.5 and w["key"].options == (1, 2, 3)
    editor.move_key(3, 0.0, 2.0, 10.0)
    assert editor.path[30, 2, 3] == 2.0 and torch.equal(editor.path[10], key)
    with pytest.raises(ValueError, match="^index:"):
        editor.move_key(0, 1.0, 1.0, 0.0)
    for _ in range(4):
        w["remove"].click()
    assert len(editor.cameras()) == 1 and not w["key"].options and w["key"].value is None
    w["x"].value = 2.0
    assert torch.equal(editor.path[0], before[0]), "the start stays"
    for move in (("push_inn",), ("push_in", 0), ("push_in", 3, -1.0)):
        with pytest.raises(ValueError):
            editor.append(*move)
    assert len(editor.path) == 1


def test_the_editor_warns_of_walls_at_the_right_frame():
    room = Room(900001)
    editor = PathEditor(room)
    editor.append("push_in", 60, 8.0)
    hit = room.blocked(editor.path)
    near = room.clearance(editor.cameras().centers) < CLEARANCE
    assert hit is not None and near[hit] and not near[:hit].any()
    assert f"frame {hit}" in editor.status.words
    editor.remove()
    assert room.blocked(editor.path) is None and "nothing in the way" in editor.status.words


def test_a_path_is_shown_in_a_memory():
    editor = PathEditor(Room(900001), scene()[0])
    editor.append("push_in", 20)
    assert torch.equal(editor.cameras().c2w[0], Room(900001).start())
    is_shown(editor)
