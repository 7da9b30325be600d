"""The race of the memories: what each costs, stage by stage and chunk by chunk, and how well its loop closes.

All memories obey one contract, and all walk the same rooms along the same paths from the same noise. A report (JSON)
has the median and the range of all runs for every memory and chunk.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch

from mirage_nb.benchmarks.measure import clock_of, machine, one_thread, spread
from mirage_nb.data.clip import Clip
from mirage_nb.evaluation.metrics import closed_loop_psnr, psnr
from mirage_nb.evaluation.rooms import there_and_back_room
from mirage_nb.memory import make_memory
from mirage_nb.models.vae import frame_encoder, spatial_stride, temporal_stride
from mirage_nb.segments import new_frames_per_segment
from mirage_nb.stitching import rollout

MEMORIES = ("latent", "append", "rgb_capped", "rgb", "none")
STAGES = ("read", "encode", "denoise", "decode", "depth", "write")
MEMORY_STAGES = ("read", "encode", "write")  # what a memory takes; the other stages are the same for every memory
QUANTITIES = ("bytes", "tokens", "psnr_to_truth")
FIRST_ROOM = 900000  # rooms from here on were never trained on


def walk(pipe, name: str, clip: Clip, seed: int) -> dict:
    """Generate a video along a closed path with one memory.

    Returns:
        `chunks`, for each segment its new `frames`, `seconds` by stage and QUANTITIES; the seconds of an RGB memory's
        VAE encode are told apart from the rest of its read. And `closed_loop_psnr` of the whole video in dB.
    """
    clock = clock_of(next(pipe.transformer.parameters()).device)
    encode, encoding = frame_encoder(pipe.vae), 0.0

    def timed(pixels):
        nonlocal encoding
        start = clock()
        latents = encode(pixels)
        encoding += clock() - start
        return latents

    memory = make_memory(name, timed, stride=spatial_stride(pipe.vae), channels=int(pipe.vae.config.z_dim))
    chunks, frames, start = [], [], 0
    for result in rollout(pipe, [memory], clip.frames[:1], [clip.cameras], seeds=[seed]):
        new = result.frames[0]
        truth = clip.frames[start : start + len(new)]
        given = int(start == 0)  # the first frame is the truth itself
        seconds = result.seconds | {"read": result.seconds["read"] - encoding, "encode": encoding}
        chunks.append({
            "frames": len(new), "seconds": seconds, "bytes": memory.nbytes, "tokens": len(memory),
            "psnr_to_truth": psnr(new[given:], truth[given:]).mean().item(),
        })  # fmt: skip
        frames.append(new)
        start, encoding = start + len(new), 0.0
    return {"chunks": chunks, "closed_loop_psnr": closed_loop_psnr(torch.cat(frames))}


def race(
    pipe,
    runs: int = 5,
    chunks: int = 12,
    memories: Sequence[str] = MEMORIES,
    first_room: int = FIRST_ROOM,
    size: tuple[int, int] = (128, 128),
    track: Callable[[Iterable], Iterable] = iter,
) -> dict:
    """Walk `runs` rooms there and back with every memory, on one thread.

    The memories take turns in each room, so that a slow moment of the machine hits all of them.

    Args:
        track: goes through the rooms, for example with a progress bar.

    Returns:
        A report: `settings`, `machine`, `notes` and `memories` (of `summarise`).
    """
    frames, step = chunks * new_frames_per_segment(pipe) + 1, temporal_stride(pipe.vae)
    frames += step if frames % 2 == 0 else 0  # a path there and back has an odd number
    raw: dict[str, list[dict]] = {name: [] for name in memories}
    with one_thread():
        for room in track(range(first_room, first_room + runs)):
            clip, start = there_and_back_room(room, frames, size), slice(2 * new_frames_per_segment(pipe) + 1)
            walk(pipe, "rgb", Clip(clip.frames[start], clip.depth[start], clip.cameras[start]), room)  # to warm up
            for name in memories:
                raw[name].append(walk(pipe, name, clip, room))
    notes = [
        f"Each run is another held-out room, walked {chunks} chunks there and back by every memory from the same "
        "noise, two steps a chunk; closed loop: the last frame against the first. Writing includes finding what moves."
    ]
    settings = {"runs": runs, "chunks": chunks, "size": list(size), "first_room": first_room}
    about = machine(next(pipe.transformer.parameters()).device, threads=1)
    return {"scale": "tiny", "settings": settings, "machine": about, "notes": notes, "memories": summarise(raw)}


def summarise(raw: dict[str, list[dict]]) -> dict[str, dict]:
    """Runs to medians and ranges: NAME.chunks[i].{chunk, frames, seconds_per_frame.STAGE, total, QUANTITY}.

    A stage that no run measured is None and not in the total. A stage that only some runs measured enters the totals of
    the others as its median.
    """
    memories = {}
    for name, runs in raw.items():
        chunks = []
        for index, parts in enumerate(zip(*(run["chunks"] for run in runs))):
            frames = parts[0]["frames"]
            per_frame = {s: spread(p["seconds"][s] / frames for p in parts if s in p["seconds"]) for s in STAGES}
            middle = {stage: value["median"] for stage, value in per_frame.items() if value}
            totals = (sum(p["seconds"].get(s, middle[s] * frames) for s in middle) / frames for p in parts)
            row = {"chunk": index + 1, "frames": frames, "seconds_per_frame": per_frame, "total": spread(totals)}
            chunks.append(row | {q: spread(part.get(q) for part in parts) for q in QUANTITIES})
        memories[name] = {"chunks": chunks, "closed_loop_psnr": spread(run.get("closed_loop_psnr") for run in runs)}
    return memories


def ratios(memories: dict[str, dict], chunk: int, over: str = "latent", stages: Sequence[str] = STAGES) -> dict:
    """How many times the `time` (of some stages, per frame) and the `bytes` of the memory `over` each memory takes."""

    def of(name: str) -> tuple[float, float]:
        row = memories[name]["chunks"][chunk - 1]
        return sum(v["median"] for s in stages if (v := row["seconds_per_frame"][s])), row["bytes"]["median"]

    seconds, held = of(over)
    return {name: {"time": of(name)[0] / seconds, "bytes": of(name)[1] / held} for name in memories}
