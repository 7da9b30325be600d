"""Procedural rooms with exact ground truth: colour, z-depth, cameras, and masks of moving bodies and of sky."""

import math

import torch
from torch import Tensor

from mirage_nb.cameras import Cameras, default_intrinsics
from mirage_nb.data.clip import Clip
from mirage_nb.data.rooms.layout import build
from mirage_nb.data.rooms.raycast import SAMPLES, TILE, shade, tile_rays, tiles_of, trace
from mirage_nb.data.rooms.textures import Palette
from mirage_nb.paths import camera_path

CLEARANCE = 0.3  # metres that a camera keeps from every static surface
# A random walk combines a turn and a move, each drawn from these.
TURNS = ("pan_left", "pan_right", "pan_left", "pan_right", "fixed")
MOVES = ("push_in", "pull_out", "move_left", "move_right", "push_in", "move_left", "move_right")


class Room:
    """A furnished room made from a seed; the same seed always makes the same room.

    Args:
        seed: any non-negative integer. Seeds from 900000 on are held out: no model of ours is trained on them.
        moving: number of moving bodies; by default 0 to 2, drawn from the seed.
    """

    def __init__(self, seed: int, *, moving: int | None = None) -> None:
        if seed < 0:
            raise ValueError(f"seed: expected a non-negative integer, got {seed}")
        self.seed = seed
        palette = Palette(torch.Generator().manual_seed(seed * 2654435761 % 2**31 + 17))
        drawn = max(0, palette.integer(5) - 2)
        parts = build(palette, drawn if moving is None else moving)
        self.scene, self.textures, self.light, (self.width, self.depth) = parts

    def clearance(self, points: Tensor) -> Tensor:
        """(Q,) metres from world points (Q, 3) to the nearest static surface, negative inside of one."""
        return self.scene.distance(points)

    def start(self, attempt: int = 0) -> Tensor:
        """(4, 4) c2w of a view from inside the main room, at eye height, with free space in front of it."""
        generator = torch.Generator().manual_seed(self.seed * 1000003 % 2**31 + attempt)
        draws = torch.rand(200, 4, generator=generator)
        for x, z, turn, tilt in draws.tolist():
            position = torch.tensor([0.6 + x * (self.width - 1.2), -1.25 - 0.3 * tilt, 0.6 + z * (self.depth - 1.2)])
            if self.clearance(position[None]) < 0.55:
                continue
            pose = view(position, 2 * math.pi * turn, -0.02 - 0.13 * tilt)
            ahead = self._depth_ahead(pose)
            if ahead.median() > 2.2 and ahead.min() > 0.7:
                return pose
        return pose

    def _depth_ahead(self, pose: Tensor) -> Tensor:
        lens = torch.tensor([TILE * 0.9, TILE * 0.9, TILE / 2, TILE / 2])
        rays = tile_rays(Cameras(pose, lens, (TILE, TILE)))[..., :1, :]
        return trace(self.scene.at(0.0), pose[:3, 3], rays)[0]

    def walk(self, num_frames: int, path: str | None = None, size: tuple[int, int] = (128, 128)) -> Cameras:
        """Cameras along a path that keeps clear of walls and furniture; ValueError where it fits from none of the 60
        starts that are drawn from the seed.

        Args:
            path: a name that `camera_path` knows; by default a turn and a move drawn from the room's seed, at 0.7 to
                1.6 degrees and 1 to 3 cm a frame, with a lens of 58 to 70 degrees.
            size: (height, width) in pixels.
        """
        for attempt in range(60):
            generator = torch.Generator().manual_seed(self.seed * 7919 % 2**31 + attempt)
            turn, speed, lens, pick = torch.rand(4, generator=generator).tolist()
            name, degrees, metres, fov = path, 1.0, 0.02, 64.0
            if path is None:
                name = TURNS[int(pick * len(TURNS))] + "+" + MOVES[int(pick * 7919) % len(MOVES)]
                degrees, metres, fov = 0.7 + 0.9 * turn, 0.01 + 0.02 * speed, 58 + 12 * lens
            start = self.start(attempt)
            c2w = camera_path(name, num_frames, start, degrees_per_frame=degrees, metres_per_frame=metres)
            if self.blocked(c2w) is None and self._depth_ahead(c2w[num_frames // 2]).min() > 0.5:
                return Cameras(c2w, default_intrinsics(size, fov), size)
        raise ValueError(f"path: {path!r} over {num_frames} frames hits something from every start in room {self.seed}")

    def blocked(self, c2w: Tensor) -> int | None:
        """The first frame of a path (T, 4, 4) that comes too near to a wall or to furniture, or None."""
        near = (self.clearance(c2w[:, :3, 3]) < CLEARANCE).nonzero()
        return int(near[0]) if len(near) else None

    @torch.no_grad()
    def render(self, cameras: Cameras, times: Tensor | None = None) -> Clip:
        """Render T cameras of any size. A pixel's colour is the mean of five samples; depth and masks are its centre's.
        times, for the moving bodies, are (T,) in frames, by default 0, 1, 2, ..."""
        times = torch.arange(len(cameras)) if times is None else torch.as_tensor(times)
        parts = [self._render(cameras[i], float(times[i])) for i in range(len(cameras))]
        frames, depth, moving, sky = (torch.cat(x) for x in zip(*parts))
        return Clip(frames, depth, cameras, moving, sky)

    def _render(self, camera: Cameras, time: float) -> tuple[Tensor, ...]:
        """Colour, depth, moving and sky of one camera at a time in frames."""
        scene, tiles, origin = self.scene.at(time), tile_rays(camera), camera.centers[0]
        depth, index = trace(scene, origin, tiles)
        directions = tiles.flatten(0, 3)
        points = origin + depth.nan_to_num(posinf=0.0).view(-1, 1) * directions
        colour = shade(scene, self.textures, self.light, points, directions, index.flatten())
        colour = colour.view(-1, TILE * TILE, len(SAMPLES), 3).mean(2)
        depth, index = (x.view(-1, TILE * TILE, len(SAMPLES))[..., 0] for x in (depth, index))
        sky = (scene.texture[index] < 0) | ~torch.isfinite(depth)

        def picture(x: Tensor) -> Tensor:
            (height, width), (rows, columns) = camera.size, tiles_of(camera.size)
            x = x.view(rows, columns, TILE, TILE, -1).transpose(1, 2).reshape(1, rows * TILE, columns * TILE, -1)
            return x[:, :height, :width]

        frames = (picture(colour) * 255).round().to(torch.uint8)
        depth = torch.where(sky, 0.0, depth)
        return frames, picture(depth)[..., 0], picture(scene.moving[index] & ~sky)[..., 0], picture(sky)[..., 0]


def view(position: Tensor, yaw: float, pitch: float = 0.0) -> Tensor:
    """(4, 4) c2w of a level camera: yaw turns it to the right about the vertical, a negative pitch looks down."""
    (c, s), (cp, sp), pose = (math.cos(yaw), math.sin(yaw)), (math.cos(pitch), math.sin(pitch)), torch.eye(4)
    turn = torch.tensor([[c, 0.0, s], [0.0, 1.0, 0.0], [-s, 0.0, c]])
    tilt = torch.tensor([[1.0, 0.0, 0.0], [0.0, cp, -sp], [0.0, sp, cp]])
    pose[:3, :3] = turn @ tilt
    pose[:3, 3] = position
    return pose
