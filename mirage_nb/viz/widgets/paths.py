"""Camera paths put together by hand: moves one after the other, and paths through key cameras."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from mirage_nb import checks
from mirage_nb.paths import MOVES, camera_path

METRES, DEGREES = 0.02, 1.0  # a frame, at speed 1


class Move(NamedTuple):
    """One move of a path: a name of `trajectories.MOVES`, or several with + between them; how many frames; how fast."""

    name: str
    frames: int
    speed: float = 1.0


def compose(start: Tensor, moves: list[Move]) -> Tensor:
    """The path (T, 4, 4) of moves one after the other from `start` (4, 4); T is 1 and the frames of all moves.

    Raises:
        ValueError: an unknown move, a count below 1, a speed that is not positive.
    """
    path = start[None].float()
    for move in moves:
        checks.integer("frames", move.frames, 1)
        if any(part.strip() not in MOVES for part in move.name.split("+")):
            checks.one_of("move", move.name, MOVES)
        speeds = {"metres_per_frame": METRES * move.speed, "degrees_per_frame": DEGREES * move.speed}
        path = torch.cat([path, camera_path(move.name, move.frames + 1, path[-1], **speeds)[1:]])
    return path


def through(keys: Tensor, at: list[int]) -> Tensor:
    """The path (at[-1] + 1, 4, 4) that passes the key cameras (K, 4, 4) at the frames `at`, exactly.

    Positions follow monotone cubics (they never overshoot a key, so never swing into a wall beside it), rotations the
    shortest way.
    """
    if len(keys) < 2:
        return keys.float()
    from scipy.interpolate import PchipInterpolator
    from scipy.spatial.transform import Rotation, Slerp

    frames, keys = np.arange(at[-1] + 1), keys.double().numpy()
    path = np.tile(np.eye(4), (len(frames), 1, 1))
    path[:, :3, :3] = Slerp(at, Rotation.from_matrix(keys[:, :3, :3]))(frames).as_matrix()
    path[:, :3, 3] = PchipInterpolator(at, keys[:, :3, 3])(frames)
    path[at] = keys
    return torch.from_numpy(path).float()


def yaw_of(c2w: Tensor) -> float:
    """Degrees by which a camera (4, 4) looks to the right of the world's +z."""
    return math.degrees(math.atan2(c2w[0, 2], c2w[2, 2]))


def turned(c2w: Tensor, yaw: float) -> Tensor:
    """The camera (4, 4), turned about the world's vertical until it has this yaw in degrees; its tilt stays."""
    turn = math.radians(yaw - yaw_of(c2w))
    c, s = math.cos(turn), math.sin(turn)
    new = c2w.clone()
    new[:3, :3] = torch.tensor([[c, 0.0, s], [0.0, 1.0, 0.0], [-s, 0.0, c]]) @ c2w[:3, :3]
    return new
