"""The race of the memories: what each costs, stage by stage and chunk by chunk, and how well its loop closes."""

import platform
import statistics
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch

from mirage_nb.data.clip import Clip
from mirage_nb.evaluation.metrics import closed_loop_psnr, psnr
from mirage_nb.evaluation.walks import there_and_back_room
from mirage_nb.memory import make_memory
from mirage_nb.segments import Clock
from mirage_nb.stitching import rollout

MEMORIES = ("latent", "append", "rgb_capped", "rgb", "none")
STAGES = ("read", "encode", "denoise", "decode", "depth", "write")
MEMORY_STAGES = ("read", "encode", "write")  # what a memory takes; the other stages are the same for every memory
QUANTITIES = ("bytes", "tokens", "psnr_to_truth")


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch compute on one CPU thread, so that times can be compared and a scatter goes in order."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def machine(device: torch.device) -> dict:
    """What the figures are measured on."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    return {"device": device.type, "name": name, "threads": torch.get_num_threads(), "torch": torch.__version__}


def walk(pipe, name: str, clip: Clip, seed: int) -> dict:
    """Generate a video along a closed path with one memory: `chunks`, for each segment its new `frames`, `seconds` by
    stage (read is without encode) and QUANTITIES; and `closed_loop_psnr` of the whole video in dB."""
    model = pipe.video_model()
    clock = Clock(model.device)

    def timed(pixels):
        with clock("encode"):
            return model.encode(pixels)

    memory = make_memory(name, timed, stride=model.stride, channels=model.channels)
    chunks, start, frames = [], 0, torch.empty_like(clip.frames)
    clock.seconds["encode"] = 0.0
    for result in rollout(model, [memory], clip.frames[:1], [clip.cameras], seeds=[seed]):
        new = slice(start, start + result.frames.shape[1])
        frames[new] = result.frames[0]
        generated = slice(max(1, start), new.stop)  # the first frame is the truth itself
        encoding, clock.seconds["encode"] = clock.seconds["encode"], 0.0
        chunks.append({
            "frames": new.stop - start, "bytes": memory.nbytes, "tokens": len(memory),
            "seconds": result.seconds | {"read": result.seconds["read"] - encoding, "encode": encoding},
            "psnr_to_truth": psnr(frames[generated], clip.frames[generated]).mean().item(),
        })  # fmt: skip
        start = new.stop
    return {"chunks": chunks, "closed_loop_psnr": closed_loop_psnr(frames)}


@one_thread()
def race(
    pipe, runs: int = 5, chunks: int = 12, first_room: int = 900000, size: tuple[int, int] = (128, 128),
    track: Callable[[Iterable], Iterable] = iter,
) -> dict:  # fmt: skip
    """Walk `runs` rooms there and back with every memory, from the same noise, on one thread.

    The memories take turns in each room, so that a slow moment of the machine hits all of them.

    Args:
        chunks: of a walk there and back.
        first_room: seed of the first room; those from 900000 on were never trained on.
        track: goes through the rooms, for example with a progress bar.

    Returns:
        A report: `settings`, `machine`, `notes` and `memories` (of `summarise`).
    """
    model, raw = pipe.video_model(), {name: [] for name in MEMORIES}
    frames = chunks * model.new_frames + 1
    frames += model.latent_step if frames % 2 == 0 else 0  # a path there and back has an odd number
    for room in track(range(first_room, first_room + runs)):
        clip, start = there_and_back_room(room, frames, size), slice(2 * model.new_frames + 1)
        walk(pipe, "rgb", Clip(clip.frames[start], clip.depth[start], clip.cameras[start]), room)  # to warm up
        for name in MEMORIES:
            raw[name].append(walk(pipe, name, clip, room))
    notes = [
        "Each run is another held-out room, walked there and back by every memory from the same noise, two steps a "
        "chunk; closed loop: the last frame against the first. Writing includes finding what moves."
    ]
    settings = {"runs": runs, "chunks": chunks, "size": list(size), "first_room": first_room}
    about = {"settings": settings, "machine": machine(model.device)}
    return about | {"notes": notes, "memories": summarise(raw)}


def spread(values: Iterable[float]) -> dict[str, float]:
    """Median, lowest, highest and count of values."""
    values = [float(value) for value in values]
    return {"median": statistics.median(values), "low": min(values), "high": max(values), "runs": len(values)}


def summarise(raw: dict[str, list[dict]]) -> dict[str, dict]:
    """Runs to medians and ranges: NAME.chunks[i].{chunk, frames, seconds_per_frame.STAGE, total, QUANTITY}."""
    memories = {}
    for name, runs in raw.items():
        chunks = []
        for index, parts in enumerate(zip(*(run["chunks"] for run in runs))):
            frames = parts[0]["frames"]
            per_frame = {stage: spread(part["seconds"][stage] / frames for part in parts) for stage in STAGES}
            total = spread(sum(part["seconds"].values()) / frames for part in parts)
            row = {"chunk": index + 1, "frames": frames, "seconds_per_frame": per_frame, "total": total}
            chunks.append(row | {q: spread(part[q] for part in parts) for q in QUANTITIES})
        memories[name] = {"chunks": chunks, "closed_loop_psnr": spread(run["closed_loop_psnr"] for run in runs)}
    return memories


def ratios(memories: dict[str, dict], chunk: int, stages: Sequence[str] = STAGES) -> dict:
    """How many times the `time` (of some stages, per frame) and the `bytes` of the latent memory each memory takes."""

    def of(name: str) -> tuple[float, float]:
        row = memories[name]["chunks"][chunk - 1]
        return sum(row["seconds_per_frame"][stage]["median"] for stage in stages), row["bytes"]["median"]

    seconds, held = of("latent")
    return {name: {"time": of(name)[0] / seconds, "bytes": of(name)[1] / held} for name in memories}
