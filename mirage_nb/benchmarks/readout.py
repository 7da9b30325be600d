"""The readout, measured against gathering, sorting and scattering all tokens.

The setting is the paper's: 9 views of 44 x 80 cells and tokens of 48 channels. The memory holds random tokens at the
surfaces of a procedural room.
"""

from collections.abc import Callable, Iterable
from itertools import product

import torch
from torch import Tensor
from torch.utils.benchmark import Timer

from mirage_nb.benchmarks.measure import machine, one_thread
from mirage_nb.cameras import Cameras, default_intrinsics
from mirage_nb.data.rooms.room import Room
from mirage_nb.memory import LatentGrid
from mirage_nb.models.presets import WAN22_SIZE
from mirage_nb.paths import camera_path
from mirage_nb.reprojection import NEAR, Readout, project

ROOM = 900007  # a held-out room with much to see all around
VIEWS, GRID, STRIDE, CHANNELS = 9, (44, 80), 16, 48  # the paper's
FRAMES = (45, 284)  # that are written: five chunks of nine latent frames, 150,000 tokens; and a million
TURN = {"in view": 10.0, "room": 360.0}  # degrees that the camera turns while it writes


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


def write_turn(frames: int, degrees: float) -> tuple[LatentGrid, Cameras]:
    """A memory of every token of a camera that turns in a room, and the cameras, at latent size, that read it."""
    room, grid = Room(ROOM, moving=0), LatentGrid(stride=STRIDE, channels=CHANNELS, policy="append")
    start, lens = room.start(), default_intrinsics(GRID)
    written = Cameras(camera_path("pan_left", frames, start, degrees_per_frame=degrees / frames), lens, GRID)
    generator = torch.Generator().manual_seed(0)
    for index in range(frames):
        depth = room.render(written[index]).depth.repeat_interleave(STRIDE, 1).repeat_interleave(STRIDE, 2)
        latents = torch.randn(1, CHANNELS, *GRID, generator=generator).half()
        grid.write(latents, depth, written[index].resize(WAN22_SIZE))
    return grid, Cameras(camera_path("push_in+pan_left", VIEWS, start, metres_per_frame=0.05), lens, GRID)


def measure_readout(frames: tuple[int, ...] = FRAMES, track: Callable[[Iterable], Iterable] = iter) -> dict:
    """Read 9 views of memories of several sizes, on one thread.

    Returns:
        `readout`, rows of milliseconds: `plain_ms` of `plain_readout`; `points_ms` of the memory, for the same result;
        and `splats_ms` of its default read, which also gives each token the extent of its surface.
    """
    rows = []
    with one_thread():
        about = machine(torch.device("cpu"))
        for scene, count in track(list(product(TURN, frames))):
            grid, cells = write_turn(count, TURN[scene])
            columns, cameras = (grid.positions, grid.tokens, cells), cells.resize(WAN22_SIZE)
            times = {
                "plain_ms": milliseconds(lambda: plain_readout(*columns)),
                "points_ms": milliseconds(lambda: grid.read(cameras, splats=False)),
                "splats_ms": milliseconds(lambda: grid.read(cameras)),
            }
            rows.append({"scene": scene, "tokens": len(grid)} | times)
    return {"machine": about, "readout": rows}


def milliseconds(task: Callable[[], object]) -> float:
    """The median of the calls of a second, one at least."""
    return 1000 * Timer("task()", globals={"task": task}).blocked_autorange(min_run_time=1).median
