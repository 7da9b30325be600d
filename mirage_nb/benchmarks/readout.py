"""The readout, measured: against gathering, sorting and scattering all tokens, and in scenes that grow.

The setting is the paper's: 9 views of 44 x 80 cells and tokens of 48 channels. The memory is filled by writing views
of a room of 10 x 3 x 14 m.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

from mirage_nb.benchmarks.measure import one_thread
from mirage_nb.cameras import Cameras
from mirage_nb.memory import LatentGrid
from mirage_nb.reprojection import NEAR, Readout, project, reproject

VIEWS, GRID, STRIDE, CHANNELS, FOCAL = 9, (44, 80), 16, 48, 64.0  # the paper's; the focal length in cells
ROOM = torch.tensor([5.0, 1.5, 7.0])  # metres from its middle to its walls
FRAMES = (45, 284)  # that are written: 158,400 tokens, five chunks of nine latent frames; and a million
TURN = {"in view": 0.1, "room": math.pi}  # radians to each side that the written views turn
ENOUGH = 3000  # milliseconds
PLOTS, PLOT_FRAMES = (1, 10, 100), 28  # rooms of about 100,000 tokens each, of which the cameras see one


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
        values, u, v, z = tokens[valid], u[valid], v[valid], z[valid]
        far_to_near = z.argsort(stable=True).flip(0)
        cell = v.long()[far_to_near] * w + u.long()[far_to_near]
        latents, index = tokens.new_zeros(h * w, channels), torch.full((h * w,), -1, device=points.device)
        depth, offset = z.new_zeros(h * w), z.new_zeros(h * w, 2)
        latents[cell] = values[far_to_near]
        index[cell] = valid[far_to_near]
        depth[cell] = z[far_to_near]
        offset[cell] = torch.stack([u - u.floor(), v - v.floor()], -1)[far_to_near] - 0.5
        views.append((latents.T.reshape(channels, h, w), (index >= 0).reshape(h, w), depth.reshape(h, w),
                      offset.T.reshape(2, h, w), index.reshape(h, w)))  # fmt: skip
    return Readout(*(torch.stack(part) for part in zip(*views)))


def views(yaw: Tensor, position: Tensor) -> Cameras:
    """Cameras at pixel size, turned by `yaw` (N,) in radians and standing at `position` (N, 3) in metres."""
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


def write_views(grid: LatentGrid, count: int, turn: float, seed: int, away: Tensor = torch.zeros(3)) -> None:
    """Write `count` views of the room: random tokens at the depth of its walls.

    Args:
        turn: each view turns by at most this many radians to each side.
        away: (3,) metres by which the room and the views in it are moved.
    """
    g = torch.Generator().manual_seed(seed)
    yaw, position = turn * (2 * torch.rand(count, generator=g) - 1), torch.rand(count, 3, generator=g) - 0.5
    origins, directions = views(yaw, position).downscale(STRIDE).rays()
    depth = ((ROOM * directions.sign() - origins[:, None, None]) / directions).amin(-1)  # (N, h, w)
    cameras = views(yaw, position + away)
    for index in range(count):
        latents = torch.randn(1, CHANNELS, *GRID, generator=g).half()
        grid.write(latents, depth[[index]], cameras[[index]])


def readouts(seed: int, say: Callable[[str], None], frames: tuple[int, ...] = FRAMES) -> list[dict]:
    """Rows of milliseconds for 9 views: `plain_ms` of `plain_readout`; `points_ms` of the memory, for the same result;
    and `splats_ms` of its default read, which also gives each token the extent of its surface."""
    cameras, rows = read_views(), []
    for scene, turn in TURN.items():
        for count in frames:
            grid = LatentGrid(stride=STRIDE, channels=CHANNELS, policy="append")
            write_views(grid, count, turn, seed)
            say(f"readout: {len(grid):,} tokens, {scene}")
            columns = grid.positions, grid.tokens, cameras.downscale(STRIDE)
            with one_thread():
                _check_same(plain_readout(*columns), grid.read(cameras, splats=False))
            rows.append({"scene": scene, "tokens": len(grid), "plain_ms": _milliseconds(plain_readout, *columns)})
            rows[-1]["points_ms"] = _milliseconds(grid.read, cameras, splats=False)
            rows[-1]["splats_ms"] = _milliseconds(grid.read, cameras)
    return rows


def growing(seed: int, say: Callable[[str], None], plots: tuple[int, ...] = PLOTS) -> list[dict]:
    """A scene that grows room by room, of which the cameras see the first: rows of milliseconds for 9 views, `ms` of
    the memory and `all_ms` of `reproject`, which goes through all tokens."""
    grid, written, rows, cameras = LatentGrid(stride=STRIDE, channels=CHANNELS, policy="append"), 0, [], read_views()
    for total in plots:
        for plot in range(written, total):  # all but the first stand in rows of ten behind the cameras
            away = torch.tensor([20.0 * (plot % 10 - 4.5), 0.0, -15.0 * (1 + plot // 10)]) * (plot > 0)
            write_views(grid, PLOT_FRAMES, TURN["in view"], seed, away)
        written = total
        say(f"growing scene: {len(grid):,} tokens")
        columns = grid.positions, grid.tokens, cameras.downscale(STRIDE), grid.footprints
        _check_same(reproject(*columns), grid.read(cameras))
        row = {"tokens": len(grid), "ms": _milliseconds(grid.read, cameras)}
        rows.append(row | {"all_ms": _milliseconds(reproject, *columns)})
    return rows


def measure_readout(seed: int = 0, say: Callable[[str], None] = print) -> dict:
    """All of it: `readout` and `growing`, lists of rows."""
    report = {"threads": torch.get_num_threads(), "torch": torch.__version__, "seed": seed}
    return report | {"readout": readouts(seed, say), "growing": growing(seed, say)}


def _check_same(a: Readout, b: Readout) -> None:
    if not all(torch.equal(getattr(a, name), getattr(b, name)) for name in ("index", "latents", "depth")):
        raise RuntimeError("two ways to read the same tokens differ")


def _milliseconds(task: Callable, *args, **options) -> float:
    """The median of five calls, of fewer if they take longer than ENOUGH."""
    times: list[float] = []
    while len(times) < 5 and sum(times) < ENOUGH:
        start = time.perf_counter()
        task(*args, **options)
        times.append(1000 * (time.perf_counter() - start))
    return statistics.median(times)
