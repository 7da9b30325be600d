"""What the cost model says of the race, beside what was measured; and of worlds that nobody has walked yet.

Counted in the lines of the readout and the writes (the tests count again, with torch's dispatcher): bytes for each
pair of a camera and a point, more for each pair that is in view, for each pixel and cell, and how many operations are
started.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict

import torch
from torch import Tensor

from mirage_nb.benchmarks.costs import HALF, decoder_work, depth_work, encoder_work, transformer_work
from mirage_nb.benchmarks.rates import Rates, Work
from mirage_nb.cameras import Cameras, default_intrinsics
from mirage_nb.data.rooms.room import Room
from mirage_nb.memory.baselines import CODEC
from mirage_nb.models.vae import spatial_stride, temporal_stride
from mirage_nb.reprojection import CHUNK
from mirage_nb.stitching import new_frames_per_segment

DEPTH = 3.0  # metres to what is seen in a room
TOKEN_BYTES = 28  # of a token beside its channels: position 12; footprint, time, views and order 4 each
POINT_BYTES = 19  # of a coloured point: position 12, colour 3, footprint 4

PAIR, HIT = 500, 600  # bytes; a pair that wins its cell at least for a while is picked out and entered
PAIR_PICKS, HIT_PICKS = 2, 26  # values picked from, or written to, places out of order
CELL, LOOK = 600, 64  # bytes for each cell, beside the channels; and for each look around it
CALLS, CALLS_PER_PART = 60, 100  # of a readout, and of each CHUNK pairs in it
TOKEN_PIXEL, POINT_PIXEL = 430, 960  # bytes for each pixel of a write: depth edges and medians; lifting every pixel
TOKEN_PICKS, POINT_PICKS = 2, 9
WRITE_CALLS = {"latent": 500, "append": 310, "rgb": 90, "rgb_capped": 90}  # for each frame
MOVING_CALLS = 350  # for each frame, to find what moves


def held_bytes(tokens: float, channels: int) -> float:
    """Bytes of a latent memory."""
    return tokens * (HALF * channels + TOKEN_BYTES)


def readout_work(
    points: float,
    cameras: int,
    share: float,
    size: tuple[int, int],
    values: int,
    width: int = HALF,
    culled: bool = True,
) -> Work:
    """Read so many points from so many cameras of `size` cells.

    Args:
        share: of all pairs, those in view.
        values, width: how many values a point carries for its cell, of so many bytes.
        culled: blocks out of view are skipped: as many pairs are looked at again as are in view.
    """
    cells = cameras * size[0] * size[1]
    points, hits = points * min(1.0, 2 * share) if culled else points, points * cameras * share
    pairs, parts = points * cameras, cameras * max(1.0, points / CHUNK)
    looks = 1 + math.log2(max(1.0, points / CHUNK))
    work = Work(moved={4 * pairs / parts: PAIR * pairs}) + Work(moved={4 * hits / parts + 1: HIT * hits})
    work += Work(moved={4.0 * cells: cells * (CELL + 4 * values * width + LOOK * looks)})
    picks = PAIR_PICKS * pairs + HIT_PICKS * hits + cells * (4 + 2 * values)
    return work + Work(scattered=picks, calls=CALLS + CALLS_PER_PART * parts)


def share_in_view(writers: Cameras, readers: Cameras) -> float:
    """The share of what the writers saw that is in the readers' view, from their headings alone: of two views turned by
    an angle, 1 - angle / field of view overlaps."""
    angles = (_headings(readers.c2w)[:, None] - _headings(writers.c2w)).abs()
    angles = torch.minimum(angles, 2 * math.pi - angles)
    return (1 - angles / _field_of_view(writers)).clamp(min=0).mean().item()


def novelty(cameras: Cameras) -> Tensor:
    """(N,) the share of each view that none before it had, from the headings and positions alone: a step aside shows as
    much that is new as a turn by step / depth."""
    yaw, places, new = _headings(cameras.c2w), cameras.centers, torch.ones(len(cameras))
    for i in range(1, len(cameras)):
        angle = (yaw[:i] - yaw[i]).abs()
        turn = torch.minimum(angle, 2 * math.pi - angle) + (places[:i] - places[i]).norm(dim=1) / DEPTH
        new[i] = (turn.min() / _field_of_view(cameras)).clamp(max=1)
    return new


def kept_views(new: Tensor) -> float:
    """How many views' worth of tokens the grid keeps, of views of which a share is new (0: the very same view again).

    Where n views saw a surface, its density d is more than one token a cell: samples of another view fall anywhere, and
    a cell into which none falls, e**-d of them, takes one more. That adds up to ln(n + e - 1).
    """
    area, views = new.sum().item(), (new > 1e-4).sum().item()
    return area * _density(views / area)


def _density(views: float) -> float:
    """Tokens a cell, see `kept_views`; voxels of a quarter to a half of a footprint allow no more than 16."""
    return min(16.0, math.log(max(views, 1.0) + math.e - 1))


def _headings(c2w: Tensor) -> Tensor:
    return torch.atan2(c2w[:, 0, 2], c2w[:, 2, 2])


def _field_of_view(cameras: Cameras) -> float:
    return 2 * math.atan(cameras.size[1] / 2 / cameras.intrinsics[0, 0].item())


def write_work(name: str, frames: int, size: tuple[int, int], points: float, share: float, moving: bool) -> Work:
    """Write so many frames of `size` pixels into a memory that holds so many points, a share of them in view."""
    pixels, rgb = frames * size[0] * size[1], name in CODEC
    work = Work(moved={4.0 * pixels: pixels * (POINT_PIXEL if rgb else TOKEN_PIXEL)})
    picks = pixels * (POINT_PICKS if rgb else TOKEN_PICKS)
    work += Work(scattered=picks, calls=frames * (WRITE_CALLS[name] + moving * MOVING_CALLS))
    if name == "latent":  # coverage: each frame looks at what is there already
        work += frames * readout_work(points, 1, share, (1, 1), 0)
    return work


def memory_rows(
    name: str,
    row: dict,
    written: Sequence[Cameras],
    ahead: Cameras,
    keys: int,
    stride: int,
    channels: int,
    rates: Rates,
    moving: bool = False,
) -> list[dict]:
    """Bytes, read and write of one memory at one chunk, measured and predicted.

    Args:
        row: of the report.
        written: walks, each the cameras of what was written until then, at pixel size; predictions are their mean.
        ahead: cameras of the read: latent frames for a latent memory, pixel frames for one that is rendered.
        keys: frames written in a chunk.
    """
    size, rgb = ahead.size, name in CODEC
    grid, sums = (size[0] // stride, size[1] // stride), [0.0, 0.0, 0.0]
    for walk in written:
        walk = walk[-2 * keys :] if name == "rgb_capped" else walk
        frames = kept_views(novelty(walk)) if name == "latent" else len(walk)
        points = frames * math.prod(size if rgb else grid)
        share = share_in_view(walk, ahead)
        read = readout_work(
            points, len(ahead), share, size if rgb else grid, 3 if rgb else channels, 1 if rgb else HALF, not rgb
        )
        write = write_work(name, keys, size, max(0.0, points * (1 - keys / len(walk))), share, moving)
        predicted = (points * POINT_BYTES if rgb else held_bytes(points, channels), *map(rates.seconds, (read, write)))
        sums = [a + b / len(written) for a, b in zip(sums, predicted)]
    seconds = {s: row["seconds_per_frame"][s]["median"] * row["frames"] for s in ("read", "write")}
    where = f"{name}, chunk {row['chunk']}"
    return [
        {"what": f"{where}: bytes", "unit": "B", "measured": row["bytes"]["median"], "predicted": sums[0]},
        {"what": f"{where}: read", "unit": "s", "measured": seconds["read"], "predicted": sums[1]},
        {"what": f"{where}: write", "unit": "s", "measured": seconds["write"], "predicted": sums[2]},
    ]


def stage_row(stage: str, row: dict, work: Work, rates: Rates) -> list[dict]:
    """A network's stage, measured and predicted; nothing where it was not measured."""
    value = row["seconds_per_frame"][stage]
    if value is None:
        return []
    measured = value["median"] * row["frames"]
    return [{"what": f"{stage} of a chunk", "unit": "s", "measured": measured, "predicted": rates.seconds(work)}]


def at_paper_scale(scale, report: dict, rates: Rates) -> dict:
    """Predicted beside measured for the turn around a room, at the first, the fifth and the last chunk."""
    from mirage_nb.benchmarks.paper import cameras_around

    cameras, keys = cameras_around(scale, torch.eye(4))
    memories = {name: m["chunks"] for name, m in report["memories"].items() if name != "none"}
    any_rgb = next((chunks[0] for name, chunks in memories.items() if name in CODEC), None)
    work = chunk_work(scale)
    rows = stage_row("encode", any_rgb, work["encode"], rates) if any_rgb else []
    for stage in ("denoise", "decode"):
        rows += stage_row(stage, next(iter(memories.values()))[0], work[stage], rates)
    for chunk in sorted({1, min(5, scale.chunks), scale.chunks}):
        written = [cameras[sum(keys[:chunk], [])]]
        for name, chunks in memories.items():
            step = 1 if name in CODEC else scale.temporal_stride
            ahead = cameras[list(range(chunk * scale.new_frames, chunk * scale.new_frames + scale.frames, step))]
            args = (name, chunks[chunk - 1], written, ahead, scale.keys, scale.stride, scale.channels, rates)
            rows += memory_rows(*args)
    return {"rates": asdict(rates), "rows": rows} | end_to_end(scale) | {"beyond": beyond(scale, rates)}


def at_tiny_scale(pipe, report: dict, rates: Rates) -> dict:
    """Predicted beside measured for the bundled model, at the last chunk of walks there and back."""
    settings, vae, network = report["settings"], dict(pipe.vae.config), pipe.transformer.config
    size, chunks, stride = tuple(settings["size"]), settings["chunks"], spatial_stride(pipe.vae)
    grid, new = (size[0] // stride, size[1] // stride), new_frames_per_segment(pipe)
    keys = new // temporal_stride(pipe.vae)
    half = chunks * new // 2 + 1
    out = [Room(settings["first_room"] + run).walk(half, size=size) for run in range(settings["runs"])]
    written = [Cameras.cat([walk, walk[list(range(half - 2, -1, -1))]]) for walk in out]
    last = {name: m["chunks"][chunks - 1] for name, m in report["memories"].items()}
    any_memory = next(iter(last.values()))
    rows = stage_row("encode", last["rgb"], encoder_work(vae, new + 1, size), rates) if "rgb" in last else []
    rows += stage_row("denoise", any_memory, settings["steps"] * transformer_work(network, keys + 1, grid), rates)
    rows += stage_row("decode", any_memory, decoder_work(vae, new, size), rates)
    rows += stage_row("depth", any_memory, depth_work(pipe.depth_estimator.config, keys, size), rates)
    ahead = written[0][list(range(len(written[0]) - new - 1, len(written[0])))]
    for name, row in last.items():
        if name != "none":
            args = (name, row, written, ahead, keys, stride, int(vae["z_dim"]), rates)
            rows += memory_rows(*args, moving=True)
    return {"rates": asdict(rates), "rows": rows}


def chunk_work(scale, steps: int = 20) -> dict[str, Work]:
    """The networks' work for one chunk of Wan2.2-TI2V-5B."""
    from mirage_nb.benchmarks.paper import TEXT, WAN22_TRANSFORMER, WAN22_VAE

    return {
        "encode": encoder_work(WAN22_VAE, scale.frames, scale.size),
        "denoise": steps * transformer_work(WAN22_TRANSFORMER, scale.latent_frames, scale.grid, TEXT),
        "decode": decoder_work(WAN22_VAE, scale.frames, scale.size),
    }


def end_to_end(scale) -> dict:
    """What the detour's encode adds to a whole chunk, in operations alone: the same on every machine."""
    flops = {stage: work.total_flops for stage, work in chunk_work(scale).items()}
    rest = flops["denoise"] + flops["decode"]
    return {"teraflops": {s: f / 1e12 for s, f in flops.items()}, "end_to_end_ratio": (rest + flops["encode"]) / rest}


# Worlds that nobody has walked: what is seen there from how far, square metres of surface and metres.
FPS = 24
VIEWS = 4
WORLDS = {
    "an hour in one flat": {"frames": 3600 * FPS, "area": 500.0, "depth": 3.0},
    "an hour of new streets": {"frames": 3600 * FPS, "area": 3600 * 1.4 * 40.0, "depth": 8.0},  # 1.4 m/s, 40 m around
    "a city of one square kilometre": {"frames": 100 * 3600 * FPS, "area": 4e6, "depth": 8.0},  # ground and facades
}


def beyond(scale, rates: Rates) -> dict[str, dict[str, float]]:
    """Bytes of each memory in WORLDS, and seconds a frame to read the grid and to render all points, if VIEWS times as
    much as one view shows is in view.

    The point clouds and the appended tokens grow with time, the grid with the surface that was seen: a token for each
    patch as wide as its footprint, depth * stride / focal length.
    """
    focal = default_intrinsics(scale.size)[0].item()
    result = {}
    for world, seen in WORLDS.items():
        written = seen["frames"] / scale.new_frames * scale.keys
        tokens = written * math.prod(scale.grid)
        patches = min(tokens, seen["area"] / (seen["depth"] * scale.stride / focal) ** 2)
        patches = min(tokens, patches * _density(tokens / patches))
        points = written * math.prod(scale.size)
        reads = {}
        for name, count, cameras, size, values, width in (
            ("latent", patches, scale.latent_frames, scale.grid, scale.channels, HALF),
            ("rgb", points, scale.frames, scale.size, 3, 1),
        ):
            share = min(1.0, VIEWS * math.prod(size) / count)
            work = readout_work(count, cameras, share, size, values, width, name == "latent")
            reads[f"{name}_read_seconds"] = rates.seconds(work) / scale.new_frames
        result[world] = reads | {
            "latent": held_bytes(patches, scale.channels),
            "append": held_bytes(tokens, scale.channels),
            "rgb_capped": 2 * scale.keys * math.prod(scale.size) * POINT_BYTES,
            "rgb": points * POINT_BYTES,
            "latent_tokens": patches,
            "rgb_points": points,
        }
    return result


def worst(rows: Sequence[dict]) -> dict:
    """The row whose prediction is farthest from what was measured, by ratio."""
    return max(rows, key=lambda row: abs(math.log(row["predicted"] / row["measured"])))
