"""The ray caster: exact depth, nothing lost by culling, and every image size."""

from __future__ import annotations

import torch

from mirage_nb.cameras import Cameras, default_intrinsics
from mirage_nb.data.rooms import raycast
from mirage_nb.data.rooms.raycast import BOX, CYLINDER, SPHERE, Primitives
from mirage_nb.data.rooms.room import Room


def look(room: Room, size=(48, 64)) -> Cameras:
    return Cameras(room.start()[None], default_intrinsics(size), size)


def lone(kind: int, centre, half, yaw: float = 0.0) -> Primitives:
    row = lambda x, **kw: torch.tensor([x], **kw)  # noqa: E731
    return Primitives(
        row(kind), row(centre), row(half), row(yaw), row(0), row(False), row(False), row([0.0, 0, 0]), row(0.0)
    )


def with_scene(scene: Primitives) -> Room:
    room = Room(3, moving=0)
    room.scene = scene
    return room


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


def test_culling_by_tiles_loses_nothing(monkeypatch):
    for seed in (11, 12, 13):
        room = Room(seed, moving=0)
        cameras = look(room)
        culled = room.render(cameras)
        with monkeypatch.context() as patch:
            everything = lambda scene, origin, rays: torch.ones(len(rays), len(scene.kind), dtype=torch.bool)  # noqa: E731
            patch.setattr(raycast, "_in_frustum", everything)
            whole = room.render(cameras)
        assert torch.equal(culled.frames, whole.frames) and torch.equal(culled.depth, whole.depth)


def test_a_size_that_is_no_multiple_of_the_tile():
    room = Room(2)
    clip = room.render(look(room, (37, 51)))
    assert clip.frames.shape == (1, 37, 51, 3) and clip.depth.shape == (1, 37, 51)
    assert (clip.depth[~clip.sky] > 0).all()
