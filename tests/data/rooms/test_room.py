"""Rooms: the same seed makes the same room, for ever; their ground truth is true; walks keep clear of walls."""

from __future__ import annotations

import pytest
import torch

from mirage_nb.cameras import Cameras, default_intrinsics
from mirage_nb.data.rooms.room import CLEARANCE, Room, view
from mirage_nb.paths import camera_path


def look(room: Room, size=(48, 64), frames: int = 1) -> Cameras:
    return Cameras(room.start().repeat(frames, 1, 1), default_intrinsics(size), size)


# The held-out rooms are the benchmark, so a seed must never make another room. Position and focal length of the last of
# nine cameras; of its picture two pixels' colour and depth; and the mean of all colours.
ROOMS = {
    900000: ([1.4363, -1.4730, 2.3865], 53.862, [[92, 86, 71], [70, 75, 78]], [6.513, 5.141], 86.77),
    900007: ([2.4959, -1.2946, 4.1497], 55.811, [[137, 124, 108], [126, 114, 99]], [2.391, 2.788], 114.95),
    12: ([3.7626, -1.3941, 1.5726], 55.638, [[102, 110, 107], [32, 54, 32]], [3.588, 3.240], 93.08),
}


@pytest.mark.parametrize("seed", ROOMS)
def test_a_seed_makes_the_room_that_it_always_made(seed):
    position, focal, colours, depths, mean = ROOMS[seed]
    room = Room(seed)
    cameras = room.walk(9, size=(48, 64))
    clip = room.render(cameras[[0, 8]])
    torch.testing.assert_close(cameras.centers[8], torch.tensor(position), atol=1e-3, rtol=0)
    assert cameras.intrinsics[0, 0].item() == pytest.approx(focal, abs=1e-2)
    y, x = [12, 30], [16, 50]
    torch.testing.assert_close(clip.frames[1, y, x].float(), torch.tensor(colours).float(), atol=1, rtol=0)
    torch.testing.assert_close(clip.depth[1, y, x], torch.tensor(depths), atol=2e-3, rtol=0)
    assert clip.frames.float().mean().item() == pytest.approx(mean, abs=0.05)


def test_the_same_seed_makes_the_same_room_and_another_makes_another():
    one, two, other = Room(17), Room(17), Room(18)
    camera = look(one)
    a, b = one.render(camera), two.render(camera)
    assert torch.equal(a.frames, b.frames) and torch.equal(a.depth, b.depth)
    assert not torch.equal(a.frames, other.render(camera).frames)
    with pytest.raises(ValueError, match="seed"):
        Room(-1)


def test_one_view_predicts_the_depth_of_another():
    room = Room(5, moving=0)
    cameras = room.walk(13, size=(64, 64))[[0, 12]]
    clip = room.render(cameras)
    points = cameras[0].unproject(clip.depth[:1])[clip.depth[:1] > 0]
    uv, z = cameras[1].project(points)
    inside = (uv[0] >= 0).all(-1) & (uv[0] < 64).all(-1) & (z[0] > 0)
    u, v = uv[0, inside].long().unbind(-1)
    seen = clip.depth[1, v, u]
    assert inside.float().mean() > 0.3
    close = (seen - z[0, inside]).abs() < 0.05 * z[0, inside]
    assert close.float().mean() > 0.9, "surfaces do not stay where they are"


def test_moving_bodies_are_marked_and_nothing_else_changes():
    for seed in range(40, 60):
        room = Room(seed, moving=2)
        clip = room.render(look(room, frames=4), times=torch.tensor([0, 7, 15, 22]))
        if clip.moving.flatten(1).any(1).sum() >= 2:
            break
    else:
        pytest.fail("no mover came into view in 20 rooms")
    still = ~clip.moving.any(0)
    assert torch.equal(clip.depth[0][still], clip.depth[2][still])
    assert not torch.equal(clip.depth[0], clip.depth[2]), "nothing moved"


def test_sky_is_seen_through_windows_and_has_no_depth():
    skies = 0
    for seed in range(8):
        room = Room(seed)
        clip = room.render(look(room))
        skies += int(clip.sky.any())
        assert (clip.depth[clip.sky] == 0).all() and (clip.depth[~clip.sky] > 0).all()
        assert not (clip.sky & clip.moving).any()
    assert skies >= 2


@pytest.mark.parametrize("path", [None, "push_in", "orbit_left", "there_and_back:pan_left+move_right"])
def test_walks_never_run_through_a_wall(path):
    for seed in range(4):
        room = Room(seed)
        cameras = room.walk(25, path=path)
        assert len(cameras) == 25 and room.blocked(cameras.c2w) is None
        assert room.clearance(cameras.centers).min() >= CLEARANCE


def test_a_path_through_the_wall_is_found():
    room = Room(1)
    inside = view(torch.tensor([room.width / 2, -1.4, 0.5]), torch.pi)  # faces the wall at z = 0
    path = camera_path("push_in", 30, inside, metres_per_frame=0.05)
    frame = room.blocked(path)
    assert frame is not None and path[frame, 2, 3] < CLEARANCE + 0.05
    with pytest.raises(ValueError, match="path"):
        room.walk(600, path="push_in")
