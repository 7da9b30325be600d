"""What `mirage-nb generate` starts from."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
import torch
from PIL import Image
from posed_clip import UNIT, rendered_clip, write_recording

from mirage_nb.cameras import Cameras
from mirage_nb.data import choose_path, read_input
from mirage_nb.data.inputs import warn_collisions
from mirage_nb.formats import Trajectory, load_trajectory
from mirage_nb.paths import actions_to_c2w, camera_path

REAL = Path(__file__).resolve().parents[3] / "shared" / "real"


def test_a_room_is_walked_there_and_back():
    scene = read_input("room:3", frames=5, size=(16, 24))
    assert scene.image.shape == (16, 24, 3) and torch.equal(scene.image, scene.truth[0]) and len(scene.truth) == 5
    assert torch.equal(scene.cameras.c2w, scene.cameras.c2w.flip(0)) and scene.depth is None and not scene.note


@pytest.mark.parametrize("path, frames", [(Trajectory(actions_to_c2w("w-200")), 49), ("push_in", 501)])
def test_a_path_through_the_wall_is_a_warning(path, frames):
    with pytest.warns(UserWarning, match="path: it runs through"):
        read_input("room:3", path, frames=frames, size=(16, 16))


def test_a_photo_and_its_path(tmp_path):
    Image.new("RGB", (60, 40), "red").save(tmp_path / "a.png")
    scene = read_input(str(tmp_path / "a.png"), frames=5, size=(16, 24), fov=90)
    assert len(scene.cameras) == 5 and scene.depth is scene.truth is None and "90 degrees" in scene.note
    assert scene.cameras.intrinsics[0].tolist() == pytest.approx([12, 12, 12, 8])
    elsewhere = camera_path("pan_right", 100)[-1] @ camera_path("pan_left+push_in", 7)
    scene = read_input(str(tmp_path / "a.png"), Trajectory(elsewhere), frames=5, size=(16, 24))
    torch.testing.assert_close(scene.cameras.c2w, camera_path("pan_left+push_in", 7), atol=1e-6, rtol=0)


def test_one_path_at_most(tmp_path):
    assert choose_path(None, None, None, 9) is None and choose_path("pan_left", None, None, 9) == "pan_left"
    assert torch.equal(choose_path(None, "w-20", None, 9).c2w, actions_to_c2w("w-20"))
    (tmp_path / "a.txt").write_text("".join(f"{i} {i} 0 0 0 0 0 1\n" for i in range(5)))
    assert torch.equal(choose_path(None, None, tmp_path / "a.txt", 3).c2w, load_trajectory(tmp_path / "a.txt").c2w[:3])
    walked = choose_path(None, None, tmp_path / "a.txt", 3, scale=0.5)
    assert walked.c2w[:, 0, 3].tolist() == [0, 0.5, 1]
    Image.new("RGB", (60, 40)).save(tmp_path / "a.png")
    scene = read_input(str(tmp_path / "a.png"), walked, size=(16, 24), scale=0.5)
    assert scene.cameras.c2w[:, 0, 3].tolist() == [0, 0.5, 1], "once"
    with pytest.raises(ValueError, match="path: expected at most one"):
        choose_path("pan_left", "w-3", None, 9)


@pytest.mark.parametrize(
    "source, error", [("room:x", ValueError), ("room:-1", ValueError), ("a.jpg", FileNotFoundError)]
)
def test_bad_inputs(source, error):
    with pytest.raises(error, match="INPUT: "):
        read_input(source)


@pytest.mark.skipif(not REAL.is_dir(), reason="no real data at ../shared/real")
def test_real_recordings():
    kitchen = read_input(str(REAL / "kitchen"), frames=9)
    assert kitchen.image.shape == (128, 128, 3) and kitchen.depth.shape == (9, 128, 128) and len(kitchen.truth) == 9
    elsewhere = read_input(str(REAL / "kitchen"), "pan_left", frames=9)
    assert elsewhere.truth is None and torch.equal(elsewhere.cameras.c2w[0], kitchen.cameras.c2w[0])
    assert torch.equal(elsewhere.depth, kitchen.depth[:1]) and len(elsewhere.cameras) == 9
    photo = read_input(str(REAL / "posed_photo"), frames=9)
    assert photo.depth is None and len(photo.cameras) == 9 and "dining" in photo.prompt and photo.note


def test_recordings_of_all_kinds(tmp_path):
    """A posed video starts at its first frame; its path is in the unit of its file."""
    folder = write_recording(tmp_path / "clip")
    for source in (folder, folder / "video.mp4"):
        scene = read_input(str(source), frames=7, size=(48, 64), scale=1 / UNIT)
        truth = rendered_clip().cameras[:7]
        torch.testing.assert_close(scene.cameras.c2w, truth.relative_to(truth.c2w[0]).c2w, atol=1e-4, rtol=0)
        assert scene.depth is None and len(scene.truth) == 7 and "--scale" in scene.note
    named = read_input(str(folder), "pan_left", frames=5, size=(48, 64))
    assert torch.equal(named.cameras.c2w, camera_path("pan_left", 5, named.cameras.c2w[0])) and named.truth is None
    with pytest.raises(ValueError, match="it has no depth, which the options axes"):
        read_input(str(folder), axes="opengl", w2c=None)
    for scale in (0, -1, float("nan")):
        with pytest.raises(ValueError, match="scale: expected a positive number"):
            read_input(str(folder), scale=scale)


def test_a_path_keeps_its_zoom(tmp_path):
    Image.new("RGB", (60, 40), "red").save(tmp_path / "a.png")
    lens = torch.tensor([[30.0, 30, 30, 20], [45, 45, 30, 20], [60, 60, 30, 20]])
    path = Trajectory(camera_path("push_in", 3), lens, (40, 60))
    scene = read_input(str(tmp_path / "a.png"), path, size=(20, 30))
    assert scene.cameras.intrinsics[:, 0].tolist() == [15, 22.5, 30]
    room = read_input("room:3", path, size=(20, 30))
    torch.testing.assert_close(room.cameras.intrinsics[:, 1] / room.cameras.intrinsics[0, 1], torch.tensor([1, 1.5, 2]))


def test_a_path_through_what_was_seen_is_told():
    cameras = Cameras(camera_path("push_in", 5, metres_per_frame=0.5), torch.tensor([20.0, 20, 10, 10]), (20, 20))
    for depth, message in ((1.2, "runs through a surface from frame 3 on"), (0.0, None), (3.0, None)):
        surface = torch.full((20, 20), depth)
        with contextlib.nullcontext() if message is None else pytest.warns(UserWarning, match=message):
            warn_collisions(surface, cameras)
    aside = Cameras(camera_path("move_right", 5, metres_per_frame=1.0), cameras.intrinsics, (20, 20))
    with pytest.warns(UserWarning, match="leaves what was seen from frame 3 on, at 3.00 m .*--scale"):
        warn_collisions(torch.full((20, 20), 2.5), aside)
