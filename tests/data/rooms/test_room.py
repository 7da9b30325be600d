"""Procedural rooms: the truth they promise is true."""

from __future__ import annotations

import pytest
import torch

from mirage_nb.cameras import Cameras, default_intrinsics
from mirage_nb.data.rooms import raycast
from mirage_nb.data.rooms.raycast import BOX, CYLINDER, SPHERE, Primitives
from mirage_nb.data.rooms.room import CLEARANCE, Room, view
from mirage_nb.paths import camera_path


def look(room: Room, size=(48, 64), frames: int = 1) -> Cameras:
    return Cameras(room.start().repeat(frames, 1, 1), default_intrinsics(size), size)


def lone(kind: int, centre, half, yaw: float = 0.0) -> Primitives:
    row = lambda x, **kw: torch.tensor([x], **kw)  # noqa: E731
    return Primitives(
        row(kind), row(centre), row(half), row(yaw), row(0), row(False), row(False), row([0.0, 0, 0]), row(0.0)
    )


def with_scene(scene: Primitives) -> Room:
    room = Room(3, moving=0)
    room.scene = scene
    return room


def test_the_same_seed_makes_the_same_room_and_another_makes_another():
    one, two, other = Room(17), Room(17), Room(18)
    camera = look(one)
    a, b = one.render(camera), two.render(camera)
    assert torch.equal(a.frames, b.frames) and torch.equal(a.depth, b.depth)
    assert not torch.equal(a.frames, other.render(camera).frames)
    with pytest.raises(ValueError, match="seed"):
        Room(-1)


def test_depth_is_exact_z_depth_at_pixel_centres():
    """A sphere, a cylinder and a turned box alone, against their closed forms."""
    cameras = Cameras(torch.eye(4), torch.tensor([40.0, 44.0, 20.0, 15.0]), (32, 40))
    x = ((torch.arange(40) + 0.5 - 20) / 40).expand(32, 40).double()
    y = ((torch.arange(32)[:, None] + 0.5 - 15) / 44).expand(32, 40).double()
    a, c = x**2 + y**2 + 1, 9 - 0.25
    sphere = (3 - (9 - a * c).clamp(min=0).sqrt()) / a * ((9 - a * c) > 0)
    depth = with_scene(lone(SPHERE, [0.0, 0.0, 3.0], [0.5] * 3)).render(cameras).depth[0]
    torch.testing.assert_close(depth.double(), sphere, atol=1e-4, rtol=1e-4)
    # an upright cylinder that overfills the picture's height
    a = x**2 + 1
    disc = 9 - a * c
    cylinder = (3 - disc.clamp(min=0).sqrt()) / a * (disc > 0)
    depth = with_scene(lone(CYLINDER, [0.0, 0.0, 3.0], [0.5, 9.0, 0.5])).render(cameras).depth[0]
    torch.testing.assert_close(depth.double(), cylinder, atol=1e-4, rtol=1e-4)
    # a huge box turned by 30 degrees: its near face is the plane n . p = n . c - 1
    turn = torch.tensor(0.5236)
    depth = with_scene(lone(BOX, [0.0, 0.0, 4.0], [50.0, 50.0, 1.0], float(turn))).render(cameras).depth[0]
    normal = torch.stack([turn.sin(), torch.tensor(0.0), turn.cos()]).double()
    plane = (normal[2] * 4 - 1) / (normal[0] * x + normal[2])
    torch.testing.assert_close(depth.double(), plane, atol=1e-4, rtol=1e-4)


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


def test_culling_by_tiles_loses_nothing(monkeypatch):
    for seed in (11, 12, 13):
        room = Room(seed, moving=0)
        cameras = look(room)
        culled = room.render(cameras)
        with monkeypatch.context() as patch:
            everything = lambda scene, origins, rays: torch.ones(len(origins), len(scene.kind), dtype=torch.bool)  # noqa: E731
            patch.setattr(raycast, "_in_frustum", everything)
            whole = room.render(cameras)
        assert torch.equal(culled.frames, whole.frames) and torch.equal(culled.depth, whole.depth)


def test_a_size_that_is_no_multiple_of_the_tile():
    room = Room(2)
    clip = room.render(look(room, (37, 51)))
    assert clip.frames.shape == (1, 37, 51, 3) and clip.depth.shape == (1, 37, 51)
    assert (clip.depth[~clip.sky] > 0).all()


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


@pytest.mark.parametrize("path", [None, "push_in", "orbit_left", "there_and_back:pan_left+move_right", "loop"])
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
        room.walk(2000, path="push_in")
