"""The widgets that move a camera: `Walk` and `PathEditor`, without a browser."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from mirage_nb import LatentGrid
from mirage_nb.cameras import Cameras
from mirage_nb.data.rooms.room import Room
from mirage_nb.formats.trajectory_files import load_trajectory
from mirage_nb.formats.trajectory_writers import WRITERS
from mirage_nb.viz.widgets import (
    PathEditor,
    Walk,
    measure_steps,
    steps_curve,
)
from mirage_nb.viz.widgets.path_editor import CLEARANCE
from mirage_nb.viz.widgets.paths import Move, compose, through, turned, yaw_of
from mirage_nb.viz.widgets.walk import KEYS
from tests.scenes import camera, pose
from tests.widget_tools import SIZE, image, is_shown, rows_of, same, scene

# -------------------------------------------------------------------------------------------------------------- walk


def test_presses_are_one_rollout(pipe):
    walk = Walk(pipe, image(), seed=5)
    new = [walk.press(key) for key in ("left", "forward", "step-right")]
    assert len(walk.frames) == len(walk.cameras) == 1 + sum(map(len, new))
    assert torch.equal(walk.frames[1:], torch.cat(new)) and len(walk.seconds) == 3
    once = pipe(image(), c2w=walk.cameras.c2w, seed=5, output_type="uint8")
    assert torch.equal(once.frames, walk.frames) and same(walk.memory, rows_of(once.memory))
    is_shown(walk)


def test_undo_is_exact_and_what_follows_is_as_if_nothing_had_been(single):
    walk = Walk(single, image(), seed=1)
    walk.press("left")
    rows, frames, count = rows_of(walk.memory), walk.frames.clone(), walk.memory.frames
    held = walk.memory
    walk.press("forward")
    assert not torch.equal(walk.frames[: len(frames)], walk.frames[-len(frames) :]) and walk.memory.frames > count
    assert walk.undo() and held is walk.memory
    assert same(walk.memory, rows) and torch.equal(walk.frames, frames) and walk.memory.frames == count
    assert len(walk.cameras) == len(frames) and walk.presses == ["left"]
    walk.press("right")
    other = Walk(single, image(), seed=1)
    other.press("left"), other.press("right")
    assert torch.equal(other.frames, walk.frames) and same(walk.memory, rows_of(other.memory))
    walk.undo(), walk.undo()
    assert not len(walk.memory) and torch.equal(walk.frames, image()[None])
    assert not walk.undo() and "nothing to undo" in walk.status.words


def test_a_walk_goes_on_in_a_stored_world(single, tmp_path):
    walk = Walk(single, image())
    walk.press("left")
    paths = walk.save(tmp_path / "deep" / "world")
    memory = LatentGrid.load(paths["memory"])
    c2w, intrinsics = load_trajectory(paths["trajectory"])
    assert same(memory, rows_of(walk.memory)) and paths["frames"].stat().st_size
    assert torch.allclose(c2w, walk.cameras.c2w, atol=1e-6) and torch.allclose(intrinsics, walk.cameras.intrinsics)
    rows = rows_of(memory)
    on = Walk(single, walk.frames[-1], start=c2w[-1], memory=memory)
    on.press("back")
    assert len(memory) >= len(rows["tokens"]) and on.memory is memory and memory.frames > int(rows["written"].max())
    on.undo()
    assert same(memory, rows)


def test_a_failed_press_leaves_the_world_as_it_was(single, monkeypatch):
    walk = Walk(single, image())
    walk.press("left")
    rows, frames = rows_of(walk.memory), walk.frames.clone()
    original = LatentGrid.write

    def broken(self, *args, **kwargs):
        original(self, *args, **kwargs)
        raise RuntimeError("the disk is full")

    monkeypatch.setattr(LatentGrid, "write", broken)
    with pytest.raises(RuntimeError):
        walk.press("forward")
    assert same(walk.memory, rows) and torch.equal(walk.frames, frames) and walk.presses == ["left"]
    walk._event("forward")
    assert "disk is full" in walk.status.words


def test_a_wall_stops_the_walk(single):
    room = Room(900001)
    ahead = compose(room.start(), [Move("push_in", 200, 2.0)])
    walk = Walk(single, room, start=ahead[room.blocked(ahead) - 1], size=SIZE)
    assert walk.press("forward") is None and "wall" in walk.status.words
    assert len(walk.frames) == 1 and not len(walk.memory)


def test_keys_and_buttons_press(single):
    walk = Walk(single, image())
    walk.view.pressed = ["ArrowLeft", 1]
    walk.buttons["forward"].click()
    assert walk.presses == ["left", "forward"] and walk.view.frames == len(walk.frames)
    assert Image.open(io.BytesIO(walk.view.picture)).n_frames == len(walk.frames) // 2
    walk.view.pressed = ["d", 2]
    walk.buttons["undo"].click()
    assert walk.presses == ["left", "forward"]
    assert {f"mirage-walk-{key}" for key in (*KEYS, "undo", "save")} == {
        name for button in walk.buttons.values() for name in button._dom_classes
    }
    assert "http" not in walk.view._esm, "nothing is fetched"
    with pytest.raises(ValueError, match="^key:"):
        walk.press("up")


def test_steps_are_measured_on_closed_walks(single):
    rows = measure_steps(single, seeds=[900001], steps=(1, 2), presses=("left", "right"))
    assert [row["steps"] for row in rows] == [1, 2] and all(row["seconds"] > 0 for row in rows)
    assert all(np.isfinite(row["closed_loop_psnr"]) and np.isfinite(row["psnr_to_truth"]) for row in rows)
    assert rows[0]["closed_loop_psnr"] != rows[1]["closed_loop_psnr"]
    assert steps_curve(rows, chosen=2).width > 300


# ------------------------------------------------------------------------------------------------------ path editor


def test_moves_follow_each_other():
    start = pose((1.0, -1.5, 2.0), (0.1, 0.4, 0.0))
    path = compose(start, [Move("push_in", 10, 2.0), Move("pan_left", 5)])
    assert path.shape == (16, 4, 4) and torch.equal(path[0], start)
    assert torch.allclose((path[10, :3, 3] - start[:3, 3]).norm(), torch.tensor(10 * 2 * 0.02), atol=1e-5)
    assert torch.allclose(path[10:, :3, 3], path[10, :3, 3], atol=1e-6) and not torch.equal(path[10], path[15])
    for move in (Move("pull_up", 3), Move("push_in", 0), Move("push_in", 3, -1.0)):
        with pytest.raises(ValueError):
            compose(start, [move])


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


@settings(max_examples=20, deadline=None)
@given(st.floats(-179, 179), st.floats(-1, 1))
def test_turning_a_camera_keeps_its_place_and_tilt(yaw, tilt):
    c2w = pose((1.0, 2.0, 3.0), (tilt, 0.0, 0.0))
    new = turned(c2w, yaw)
    assert yaw_of(new) == pytest.approx(yaw, abs=1e-2)
    assert torch.equal(new[:3, 3], c2w[:3, 3]) and torch.allclose(new[1, :3], c2w[1, :3], atol=1e-6)


def test_a_path_is_edited_by_moves_and_by_keys():
    editor = PathEditor(Room(900001), size=SIZE)
    editor.append("pan_left", 10)
    editor.buttons["append"].click()
    assert [m.name for m in editor.moves] == ["pan_left", "push_in"] and len(editor.cameras()) == 27
    by_moves = editor.cameras().c2w
    editor.to_keys(4)
    assert torch.allclose(editor.cameras().c2w[editor.at], by_moves[editor.at], atol=1e-6)
    editor.move_key(2, x=1.5, yaw=30.0)
    moved = editor.cameras().c2w[editor.at[2]]
    assert moved[0, 3] == 1.5 and yaw_of(moved) == pytest.approx(30.0, abs=1e-3)
    assert torch.allclose(moved[1:3, 3], by_moves[editor.at[2], 1:3, 3])
    editor.key.value = "3"
    editor.fields["z"].value = 2.0
    assert editor.key_cameras[3, 2, 3] == 2.0
    with pytest.raises(ValueError, match="^index:"):
        editor.move_key(0, x=1.0)
    editor.remove()
    assert editor.key_cameras is None and [m.name for m in editor.moves] == ["pan_left"]
    editor.remove(), editor.remove()
    assert len(editor.cameras()) == 1
    editor.buttons["keys"].click()
    assert "append a move first" in editor.status.words
    with pytest.raises(ValueError, match="push_in"):
        editor.append("push_inn")
    assert not editor.moves, "a move that is none is not kept"


def test_the_editor_warns_of_walls_at_the_right_frame():
    room = Room(900001)
    editor = PathEditor(room, size=SIZE)
    editor.append("push_in", 60, 8.0)
    hit = editor.blocked()
    near = room.clearance(editor.cameras().centers) < CLEARANCE
    assert hit is not None and near[hit] and not near[:hit].any()
    assert f"frame {hit}" in editor.warning() == editor.status.words
    editor.remove()
    assert not editor.warning()


def test_without_a_room_the_memory_tells_of_walls():
    memory, cameras, _ = scene()
    editor = PathEditor(cameras[0], memory)
    editor.append("push_in", 20, 1.0)
    assert editor.blocked() is None
    editor.append("push_in", 60, 3.0)
    distance = (memory.positions - editor.cameras().centers[editor.blocked()]).norm(dim=1).min()
    assert distance < 0.15
    is_shown(editor)


def test_the_preview_is_the_readout_decoded(single):
    walk = Walk(single, image())
    walk.press("left")
    editor = PathEditor(walk.cameras[0], walk.memory, single)
    editor.append("pan_left", 20, 4.0)
    frames = editor.preview(5)
    assert frames.shape == (5, *SIZE, 3) and frames.dtype == torch.uint8
    path = editor.cameras()[[0, 5, 10, 15, 20]]
    seen = walk.memory.read(path).visibility.repeat_interleave(8, 1).repeat_interleave(8, 2)
    assert seen.any() and not seen.all()
    assert (frames[~seen] == 255).all() and not (frames[seen] == 255).all()
    editor.buttons["preview"].click()
    assert editor.film.value
    is_shown(editor)
    with pytest.raises(ValueError, match="^preview:"):
        PathEditor(walk.cameras[0]).preview()


@pytest.mark.parametrize("format", sorted(WRITERS))
def test_a_path_is_saved_in_every_format(format, tmp_path):
    editor = PathEditor(camera(pose((0.5, -1.0, 0.2), (0.0, 0.3, 0.0))))
    editor.append("pan_left+push_in", 6)
    endings = {"nerfstudio": "json", "worldscore": "json", "geometry": "npz", "colmap": "folder"}
    editor.format.value = format
    editor.file.value = str(tmp_path / f"new/w2c.{endings.get(format, 'txt')}")
    editor.buttons["save"].click()
    assert "saved" in editor.status.words
    c2w, _ = load_trajectory(editor.file.value)
    assert torch.allclose(c2w, editor.cameras().c2w, atol=1e-4)
