"""The readout, measured against gathering, sorting and scattering all tokens.

The setting is the paper's: 9 views of 44 x 80 cells and tokens of 48 channels. The memory is filled by writing views
of a room of 10 x 3 x 14 m.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterable
from itertools import product

import torch
from torch import Tensor

from mirage_nb.benchmarks.measure import machine, one_thread
from mirage_nb.cameras import Cameras
from mirage_nb.memory import LatentGrid
from mirage_nb.reprojection import NEAR, Readout, project

VIEWS, GRID, STRIDE, CHANNELS, FOCAL = 9, (44, 80), 16, 48, 64.0  # the paper's; the focal length in cells
ROOM = torch.tensor([5.0, 1.5, 7.0])  # metres from its middle to its walls
FRAMES = (45, 284)  # that are written: 158,400 tokens, five chunks of nine latent frames; and a million
TURN = {"in view": 0.1, "room": math.pi}  # radians to each side that the written views turn
ENOUGH = 3000  # milliseconds of calls, after which no further one is timed


def plain_readout(points: Tensor, tokens: Tensor, cameras: Cameras) -> Readout:
    """The straightforward way: for each view, gather the tokens in the image, sort them by depth, and scatter them from
    far to near. Of equal depths the lowest index comes last.

    The last one written wins only while one thread writes; with several, results differ from run to run.
    """
    (h, w), channels, views = cameras.size, tokens.shape[1], []
    for c2w, intrinsics in zip(cameras.c2w, cameras.intrinsics):
        u, v, z = project(points, c2w, intrinsics)
        inside = (z > NEAR) & (z < torch.inf) & (u >= 0) & (u < w) & (v >= 0) & (v < h)
        valid = inside.nonzero()[:, 0]
        valid = valid[z[valid].argsort(stable=True).flip(0)]  # far to near
        u, v, z = u[valid], v[valid], z[valid]
        cell = v.long() * w + u.long()
        latents, index = tokens.new_zeros(h * w, channels), torch.full((h * w,), -1, device=points.device)
        depth, offset = z.new_zeros(h * w), z.new_zeros(h * w, 2)
        latents[cell], index[cell], depth[cell] = tokens[valid], valid, z
        offset[cell] = torch.stack([u - u.floor(), v - v.floor()], -1) - 0.5
        views.append((latents.T.reshape(channels, h, w), (index >= 0).reshape(h, w), depth.reshape(h, w),
                      offset.T.reshape(2, h, w), index.reshape(h, w)))  # fmt: skip
    return Readout(*(torch.stack(part) for part in zip(*views)))


def views(yaw: Tensor, position: Tensor) -> Cameras:
    """Cameras at pixel size, turned by `yaw` (N,) in radians, at `position` (N, 3) in metres."""
    c2w = torch.eye(4).repeat(len(yaw), 1, 1)
    c2w[:, 0, 0] = c2w[:, 2, 2] = yaw.cos()
    c2w[:, 0, 2], c2w[:, 2, 0] = yaw.sin(), -yaw.sin()
    c2w[:, :3, 3] = position
    intrinsics = STRIDE * torch.tensor([FOCAL, FOCAL, GRID[1] / 2, GRID[0] / 2])
    return Cameras(c2w, intrinsics, (GRID[0] * STRIDE, GRID[1] * STRIDE))


def read_views() -> Cameras:
    """The views that are read: they step forward and turn a little."""
    steps = torch.arange(float(VIEWS))
    return views(0.02 * (steps - VIEWS // 2), steps[:, None] * torch.tensor([0.0, 0.0, 0.05]))


def write_views(grid: LatentGrid, count: int, turn: float, seed: int) -> None:
    """Write `count` views, each turned by at most `turn` radians: random tokens at the depth of the room's walls."""
    g = torch.Generator().manual_seed(seed)
    yaw, position = turn * (2 * torch.rand(count, generator=g) - 1), torch.rand(count, 3, generator=g) - 0.5
    cameras = views(yaw, position)
    origins, directions = cameras.downscale(STRIDE).rays()
    depth = ((ROOM * directions.sign() - origins[:, None, None]) / directions).amin(-1)  # (N, h, w)
    for index in range(count):
        latents = torch.randn(1, CHANNELS, *GRID, generator=g).half()
        grid.write(latents, depth[[index]], cameras[[index]])


def measure_readout(seed: int, frames: tuple[int, ...] = FRAMES, track: Callable[[Iterable], Iterable] = iter) -> dict:
    """Read 9 views of memories of several sizes.

    Returns:
        `readout`, rows of milliseconds: `plain_ms` of `plain_readout`; `points_ms` of the memory, for the same result;
        and `splats_ms` of its default read, which also gives each token the extent of its surface.
    """
    cameras, rows = read_views(), []
    for scene, count in track(list(product(TURN, frames))):
        grid = LatentGrid(stride=STRIDE, channels=CHANNELS, policy="append")
        write_views(grid, count, TURN[scene], seed)
        columns = grid.positions, grid.tokens, cameras.downscale(STRIDE)
        with one_thread():
            plain, fast = plain_readout(*columns), grid.read(cameras, splats=False)
        if not all(torch.equal(getattr(plain, name), getattr(fast, name)) for name in ("index", "latents", "depth")):
            raise RuntimeError("two ways to read the same tokens differ")
        times = {
            "plain_ms": milliseconds(lambda: plain_readout(*columns)),
            "points_ms": milliseconds(lambda: grid.read(cameras, splats=False)),
            "splats_ms": milliseconds(lambda: grid.read(cameras)),
        }
        rows.append({"scene": scene, "tokens": len(grid)} | times)
    return {"machine": machine(torch.device("cpu")), "seed": seed, "readout": rows}


def milliseconds(task: Callable[[], object]) -> float:
    """The median of five calls, of fewer if they take longer than ENOUGH."""
    times: list[float] = []
    while len(times) < 5 and sum(times) < ENOUGH:
        start = time.perf_counter()
        task()
        times.append(1000 * (time.perf_counter() - start))
    return statistics.median(times)
