"""Camera paths by name and by keystroke."""

from __future__ import annotations

import math

import pytest
import torch

from mirage_nb.cameras import Cameras
from mirage_nb.paths import MOVES, actions_to_c2w, camera_path, there_and_back

EVERY_PATH = [*MOVES, "pan_left+push_in", "orbit_right+pull_out", "pan_left,push_in,move_right"]


def somewhere(seed: int) -> torch.Tensor:
    """A c2w matrix (4, 4), turned and moved at random."""
    generator = torch.Generator().manual_seed(seed)
    turn = torch.randn(3, 3, generator=generator, dtype=torch.float64)
    c2w = torch.eye(4)
    c2w[:3, :3] = torch.matrix_exp(turn - turn.mT)
    c2w[:3, 3] = 2 * torch.randn(3, generator=generator)
    return c2w


def project(c2w: torch.Tensor, point: list[float], f: float = 64.0, half: float = 32.0) -> tuple[torch.Tensor, ...]:
    """u, v, z (T,) of one world point along a path, seen with 64x64 pixels and a field of view of 53 degrees."""
    uv, z = Cameras(c2w, torch.tensor([f, f, half, half]), (64, 64)).project(torch.tensor([point]))
    return uv[:, 0, 0], uv[:, 0, 1], z[:, 0]


@pytest.mark.parametrize("move, sign", [("pan_left", 1), ("pan_right", -1)])
def test_pan_shows_what_was_at_that_side(move, sign):
    start = somewhere(1)
    path = camera_path(move, 31, start)
    hidden = (start @ torch.tensor([-sign * math.tan(math.radians(45.0)), 0.0, 1.0, 1.0]))[:3]  # 45 degrees to the side
    u, v, z = project(path, hidden.tolist())
    assert not 0 <= u[0] < 64  # outside of the picture, whose half width is 26.6 degrees
    expected = 32 - sign * 64 * torch.tan(torch.deg2rad(45 - torch.arange(31.0)))
    torch.testing.assert_close(u, expected, atol=1e-2, rtol=0)
    torch.testing.assert_close(v, torch.full((31,), 32.0), atol=1e-3, rtol=0)
    torch.testing.assert_close(path[:, :3, 3], start[:3, 3].expand(31, 3))


def test_moves_go_where_they_say():
    at = {name: camera_path(name, 26, metres_per_frame=0.04)[-1, :3, 3] for name in MOVES}
    for name, (x, z) in {"push_in": (0, 1), "pull_out": (0, -1), "move_left": (-1, 0), "move_right": (1, 0)}.items():
        torch.testing.assert_close(at[name], torch.tensor([x, 0.0, z]))
    torch.testing.assert_close(at["fixed"], torch.zeros(3))
    near, far = (project(camera_path("move_left", 26), [0.0, 0.0, z])[0] for z in (1.0, 4.0))
    assert near[-1] > 32 and near[-1] - 32 == pytest.approx(4 * (far[-1] - 32).item())  # to the right, near ones faster


@pytest.mark.parametrize("move, sign", [("orbit_left", 1), ("orbit_right", -1)])
def test_orbit_faces_its_centre(move, sign):
    path = camera_path(move, 41, degrees_per_frame=2.0, orbit_radius=1.5)
    u, v, z = project(path, [0.0, 0.0, 1.5])
    torch.testing.assert_close(torch.stack([u, v, z]), torch.tensor([32.0, 32.0, 1.5])[:, None].expand(3, 41))
    angle = torch.deg2rad(torch.tensor(80.0))
    expected = torch.stack([-sign * 1.5 * angle.sin(), torch.tensor(0.0), 1.5 - 1.5 * angle.cos()])
    torch.testing.assert_close(path[-1, :3, 3], expected)
    front, behind = (project(path[:2], [0.0, 0.0, z])[0][1] - 32 for z in (1.0, 3.0))
    assert sign * front > 0 > sign * behind


@pytest.mark.parametrize("name", [name for name in EVERY_PATH if "," not in name])
def test_speed_is_constant(name):
    path = camera_path(name, 60, somewhere(2)).double()
    steps = torch.linalg.inv(path[:-1]) @ path[1:]
    torch.testing.assert_close(steps, steps[:1].expand(59, 4, 4), atol=2e-6, rtol=0)


def test_simultaneous_and_successive_moves():
    assert torch.equal(camera_path("pan_left+push_in", 9), camera_path("push_in+pan_left", 9))
    path = camera_path("pan_left,push_in", 61, degrees_per_frame=3.0)  # 30 steps each
    torch.testing.assert_close(path[:31], camera_path("pan_left", 31, degrees_per_frame=3.0))
    torch.testing.assert_close(path[-1, :3, 3], torch.tensor([-0.6, 0.0, 0.0]), atol=1e-6, rtol=0)  # now facing left
    both = camera_path("pan_left+push_in", 31, degrees_per_frame=3.0)
    torch.testing.assert_close(both[-1, :3, :3], path[-1, :3, :3], atol=1e-6, rtol=0)
    radius = 0.02 / math.radians(3.0)  # a walk on a circle: a quarter of it
    torch.testing.assert_close(both[-1, :3, 3], torch.tensor([-radius, 0.0, radius]))


@pytest.mark.parametrize("num_frames", [1, 2, 3, 48, 49])
@pytest.mark.parametrize("moves", EVERY_PATH)
def test_there_and_back_is_the_same_way_exactly(moves, num_frames):
    start = somewhere(5)
    path = camera_path(f"there_and_back:{moves}", num_frames, start)
    assert path.shape == (num_frames, 4, 4) and torch.equal(path, path.flip(0)) and torch.equal(path[0], start)
    out = (num_frames + 1) // 2
    torch.testing.assert_close(path[:out], camera_path(moves, out, start))


def test_there_and_back_of_any_path():
    out = torch.stack([somewhere(seed) for seed in range(5)])
    path = there_and_back(out)
    assert path.shape == (9, 4, 4) and torch.equal(path, path.flip(0)) and torch.equal(path[:5], out)


@pytest.mark.parametrize(
    "name, message",
    [
        ("pan_lft", "path: expected one of fixed, push_in.* got 'pan_lft' .did you mean 'pan_left'"),
        ("there_and_back:push_in+orbit", "got 'orbit' .did you mean 'orbit_"),
        ("there_and_bakc", "did you mean 'there_and_back'"),
        ("ther_and_back:pan_left", "got 'ther_and_back' .did you mean 'there_and_back'"),
        ("pan_left,there_and_back", "as in 'there_and_back:"),
        ("there_and_back:there_and_back", "as in 'there_and_back:"),
        ("", "path: expected one of fixed, push_in.* got ''"),
        ("pan_left,", "got ''"),
    ],
)
def test_unknown_paths_offer_the_nearest(name, message):
    with pytest.raises(ValueError, match=message):
        camera_path(name, 9)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"num_frames": 0}, "num_frames: expected an integer of at least 1"),
        ({"num_frames": 4.5}, "num_frames"),
        ({"metres_per_frame": -1.0}, "metres_per_frame: expected a positive number"),
        ({"degrees_per_frame": math.nan}, "degrees_per_frame"),
        ({"orbit_radius": 0.0}, "orbit_radius"),
        ({"start": torch.eye(3)}, r"c2w: expected \(N, 4, 4\)"),
        ({"start": torch.eye(4) * 2}, "c2w: expected rigid"),
    ],
)
def test_bad_path_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        camera_path("push_in", **{"num_frames": 9, **arguments})


# ----------------------------------------------------------------------------------------------------------- actions


def test_actions_move_and_turn():
    path = actions_to_c2w("w-10,j-20,d-4,none-2")
    assert path.shape == (37, 4, 4) and path.dtype == torch.float32
    torch.testing.assert_close(path[10, :3, 3], torch.tensor([0.0, 0.0, 0.5]))
    turned_left = camera_path("pan_left", 21, degrees_per_frame=1.2)[-1]
    torch.testing.assert_close(path[30, :3, :3], turned_left[:3, :3])
    torch.testing.assert_close(path[34, :3, 3] - path[30, :3, 3], 0.2 * turned_left[:3, 0])  # to its new right
    assert torch.equal(path[34], path[36])
    assert actions_to_c2w("i-10")[-1, 1, 2] < 0  # looks up, and y points down


@pytest.mark.parametrize("action", ["", "w", "w-0", "x-3", "w-3;j-2"])
def test_bad_actions(action):
    with pytest.raises(ValueError, match="action: .*Example: 'w-32"):
        actions_to_c2w(action)
