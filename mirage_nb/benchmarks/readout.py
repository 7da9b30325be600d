"""The readout measured: against the straightforward way, and with and without culling. And what writing takes.

The setting is the paper's: 9 views of 44 x 80 cells, tokens of 48 channels in float32.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

from mirage_nb.benchmarks.measure import one_thread
from mirage_nb.cameras import Cameras
from mirage_nb.memory.grid import LatentGrid
from mirage_nb.memory.voxels import voxel_keys
from mirage_nb.reprojection import NEAR, Readout, project

# The paper's: 9 latent frames of 704 x 1280 pixels a chunk, 64 degrees across.
VIEWS, SIZE, STRIDE, CHANNELS, FOCAL = 9, (44, 80), 16, 48, 64.0  # the focal length in cells
TOKENS = (158_400, 1_000_000)  # five chunks of nine frames, all kept; and a large world
PLOTS = (1, 3, 10, 30, 100)  # of 100,000 tokens each, one of them in view
SCENES = ("in view", "room")


def plain_readout(points: Tensor, tokens: Tensor, cameras: Cameras) -> Readout:
    """The straightforward way: view by view, gather the channels of all tokens that land in the image, sort them by
    depth, and scatter them from far to near. Equal depths go in the order of the index, the lowest last.

    Who is written last wins only as long as one thread writes: with several, the result is not even the same twice.
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


def views(count: int = VIEWS, turn: float = 0.02) -> Cameras:
    """Cameras at the size of the latent grid that step forward and turn a little."""
    c2w = torch.eye(4).repeat(count, 1, 1)
    angle = turn * (torch.arange(count) - (count - 1) / 2)
    c2w[:, 0, 0] = c2w[:, 2, 2] = angle.cos()
    c2w[:, 0, 2], c2w[:, 2, 0] = angle.sin(), -angle.sin()
    c2w[:, 2, 3] = 0.05 * torch.arange(count)
    return Cameras(c2w, torch.tensor([FOCAL, FOCAL, SIZE[1] / 2, SIZE[0] / 2]), SIZE)


def cloud(scene: str, count: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Positions (P, 3) and footprints (P,) of tokens at random places of a scene's surfaces.

    "in view": three curved walls behind one another, all in view of all `views`. "room": the walls, floor and ceiling
    of a room of 10 x 3 x 14 m around the cameras, which see a small part of it.
    """
    g = torch.Generator().manual_seed(seed)
    if scene == "room":
        direction = torch.randn(count, 3, generator=g)
        walls = torch.where(direction > 0, torch.tensor([5.0, 1.5, 7.0]), torch.tensor([-5.0, -1.5, -7.0]))
        positions = direction * (walls / direction).amin(1, keepdim=True)
        return positions, positions.norm(dim=1) / FOCAL
    u = (torch.rand(count, generator=g) - 0.5) * 0.75 * SIZE[1] / FOCAL
    v = (torch.rand(count, generator=g) - 0.5) * 0.85 * SIZE[0] / FOCAL
    z = torch.tensor([3.0, 5.0, 9.0])[torch.arange(count) % 3] + 0.5 * (5 * u).sin() + 0.3 * (6 * v).cos()
    return torch.stack([u * z, v * z, z], 1), z / FOCAL


def fill(grid: LatentGrid, positions: Tensor, footprints: Tensor, tokens: Tensor) -> None:
    """Put tokens into a memory as they are, without asking what it holds already."""
    ones = torch.ones(len(positions), dtype=torch.int32)
    rows = {"positions": positions, "footprints": footprints, "tokens": tokens, "written": ones, "views": ones}
    grid._blocks.add(rows, voxel_keys(positions, footprints, grid.voxel_size))


def medians(runs: int, **steps: Callable[[], object]) -> dict[str, float]:
    """Median wall-clock milliseconds of steps, run in turn so that a slow moment of the machine hits all of them."""
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(runs):
        for name, step in steps.items():
            start = time.perf_counter()
            step()
            times[name].append(1000 * (time.perf_counter() - start))
    return {name: statistics.median(values) for name, values in times.items()}


def same(a: Readout, b: Readout) -> bool:
    return all(torch.equal(getattr(a, name), getattr(b, name)) for name in ("index", "visibility", "latents", "depth"))


def new_grid(positions: Tensor, footprints: Tensor, seed: int = 0) -> LatentGrid:
    grid = LatentGrid(stride=STRIDE, channels=CHANNELS)
    tokens = torch.randn(len(positions), CHANNELS, generator=torch.Generator().manual_seed(seed))
    fill(grid, positions, footprints, tokens)
    return grid


def readouts(seed: int, say: Callable[[str], None]) -> list[dict]:
    """The memory's readout against the straightforward one, tokens and scenes as above; winners must be the same."""
    latent, found = views(), []
    pixels = latent.resize((SIZE[0] * STRIDE, SIZE[1] * STRIDE))
    for scene in SCENES:
        for count in TOKENS:
            say(f"readout: {count:,} tokens, {scene}")
            grid = new_grid(*cloud(scene, count, seed), seed)
            points, tokens = grid.positions, grid.tokens
            first = medians(1, plain=lambda: plain_readout(points, tokens, latent))["plain"]
            with one_thread():
                plain = plain_readout(points, tokens, latent)
            if not same(plain, grid.read(pixels, splats=False)):
                raise RuntimeError(f"the readouts of {count} tokens, {scene}, differ")
            times = medians(
                1 if first > 2000 else 5,  # the straightforward way takes its time
                baseline_ms=lambda: plain_readout(points, tokens, latent),
                ms=lambda: grid.read(pixels, splats=False),
                splats_ms=lambda: grid.read(pixels),
            )
            if first > 2000:
                times |= medians(5, ms=lambda: grid.read(pixels, splats=False), splats_ms=lambda: grid.read(pixels))
                times["baseline_ms"] = (first + times["baseline_ms"]) / 2
            landed = int(plain.visibility.sum())
            row = {"scene": scene, "tokens": count} | {name: round(ms, 2) for name, ms in times.items()}
            found.append(row | {"speedup": round(times["baseline_ms"] / times["ms"], 2), "cells_hit": landed})
            found[-1] |= limit(grid, latent, landed)
    return found


def limit(grid: LatentGrid, cameras: Cameras, winners: int) -> dict:
    """What a readout has to do at least: each token in view is read once (position and order, 16 bytes) and projected
    into each camera that may see it (about 30 operations), each winner's channels are read and written once."""
    rows = pairs = 0
    for batch in grid._blocks.candidates(cameras, splats=False):
        rows, pairs = rows + len(batch.points), pairs + len(batch.points) * len(batch.cameras)
    return {"pairs": pairs, "operations": 30 * pairs, "bytes": 16 * rows + 2 * 4 * CHANNELS * winners}


def machine() -> dict:
    """What this machine can do, measured: bytes copied, and operations on numbers in its cache, a second."""
    source, target = torch.ones(1 << 24), torch.ones(1 << 24)
    a, b = torch.ones(1 << 14), torch.ones(1 << 14)
    times = medians(5, copy=lambda: target.copy_(source), multiply=lambda: [a.mul_(b) for _ in range(100)])
    return {"bytes_per_s": 2e3 * source.nbytes / times["copy"], "operations_per_s": 1e5 * len(a) / times["multiply"]}


def culling(seed: int, say: Callable[[str], None]) -> list[dict]:
    """A world that grows plot by plot, 100,000 tokens each; the cameras see the first one only."""
    positions, footprints = cloud(SCENES[0], 100_000, seed)
    tokens = torch.randn(len(positions), CHANNELS, generator=torch.Generator().manual_seed(seed))
    grid, plots, found = LatentGrid(stride=STRIDE, channels=CHANNELS), 0, []
    cameras = views().resize((SIZE[0] * STRIDE, SIZE[1] * STRIDE))
    for total in PLOTS:
        say(f"culling: {total * len(positions):,} tokens")
        while plots < total:  # all but the first in rows of ten behind the cameras
            away = torch.tensor([20.0 * (plots % 10 - 4.5), 0.0, -15.0 * (1 + plots // 10)]) * (plots > 0)
            fill(grid, positions + away, footprints, tokens)
            plots += 1
        off = 1 if total > 20 else 3
        if total <= 10 and not same(grid.read(cameras), grid.read(cameras, cull=False)):
            raise RuntimeError("culling changes the readout")
        times = medians(5, culled=lambda: grid.read(cameras, splats=False), splats=lambda: grid.read(cameras))
        times |= medians(off, all=lambda: grid.read(cameras, splats=False, cull=False))
        found.append(
            {"tokens": len(grid), "ms": times["culled"], "ms_without": times["all"], "splats_ms": times["splats"]}
        )
    return found


def writing(seed: int, say: Callable[[str], None]) -> list[dict]:
    """Nine latent frames with their depth per pixel, written into rooms that hold more and more."""
    cameras, found = views(turn=0.1).resize((SIZE[0] * STRIDE, SIZE[1] * STRIDE)), []
    origins, directions = cameras.rays()
    walls = torch.where(directions > 0, torch.tensor([5.0, 1.5, 7.0]), torch.tensor([-5.0, -1.5, -7.0]))
    depth = ((walls - origins[:, None, None]) / directions).amin(-1)
    latents = torch.randn(VIEWS, CHANNELS, *SIZE, generator=torch.Generator().manual_seed(seed))
    for count in (10_000, 100_000, 1_000_000):
        say(f"writing into {count:,} tokens")
        room = cloud("room", count, seed)
        times, added = [], 0
        for _ in range(3):
            grid = new_grid(*room, seed)
            start = time.perf_counter()
            added = grid.write(latents, depth, cameras)
            times.append(1000 * (time.perf_counter() - start))
        found.append({"tokens": count, "ms": statistics.median(times), "added": added})
    return found


def measure_readout(seed: int = 0, say: Callable[[str], None] = print) -> dict:
    """All of it. `readout` holds the scene in view of all cameras, `room` the one of which they see a part."""
    start = time.perf_counter(), time.process_time()
    report: dict = {"threads": torch.get_num_threads(), "torch": torch.__version__, "seed": seed, "machine": machine()}
    rows = readouts(seed, say)
    for row in rows:
        least = (
            row["operations"] / report["machine"]["operations_per_s"] + row["bytes"] / report["machine"]["bytes_per_s"]
        )
        row["limit_ms"] = round(1000 * least, 2)
    report["readout"] = [row for row in rows if row["scene"] == SCENES[0]]
    report["room"] = [row for row in rows if row["scene"] != SCENES[0]]
    report["culling"], report["writing"] = culling(seed, say), writing(seed, say)
    report["culling_ratio"] = report["culling"][-1]["ms"] / report["culling"][0]["ms"]
    wall, busy = time.perf_counter() - start[0], time.process_time() - start[1]
    return report | {"seconds": wall, "cpu_seconds": busy}  # far less of the latter: others had the processor, too
