"""The race of the memories: what each costs, stage by stage and chunk by chunk, and what it is worth.

All of them stand behind the contract of `LatentGrid`, and all walk the same rooms along the same paths from the same
noise. A report (JSON) has, for every memory and chunk, the median and the range of all runs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch

from mirage_nb import scenes
from mirage_nb.benchmarks.measure import Peak, Results, one_thread, spread, timer_of
from mirage_nb.data.clip import Clip
from mirage_nb.evaluation import closed_loop_psnr, psnr, there_and_back_room
from mirage_nb.memory.baselines import make_memory
from mirage_nb.models.vae import spatial_stride, temporal_stride
from mirage_nb.stitching import frame_encoder, new_frames_per_segment, plan_segments, rollout

MEMORIES = ("latent", "append", "rgb_capped", "rgb", "none")
STAGES = ("read", "encode", "denoise", "decode", "depth", "write")
QUANTITIES = ("bytes", "tokens", "peak_bytes", "psnr_to_truth")
# Published, one H100 (arXiv 2606.09828): chunks 1 to 5. Printed beside ours, never mixed with them.
PUBLISHED = {
    "Mirage": {"seconds_per_frame": [0.79, 0.25, 0.25, 0.25, 0.25], "mib": [0.46, 0.90, 1.36, 1.80, 2.25]},
    "GEN3C": {"seconds_per_frame": [2.80, 2.88, 2.88, 2.87, 2.90], "mib": [22.3, 43.8, 43.8, 43.8, 43.8]},
    "Spatia": {"seconds_per_frame": [4.03, 5.03, 6.32, 6.00, 7.63], "mib": [23.4, 47.0, 73.2, 98.4, 124.0]},
    "VMem": {"seconds_per_frame": [4.07, 6.19, 6.79, 7.24, 7.25], "mib": [18.8, 33.8, 48.8, 63.8, 78.8]},
}
PUBLISHED_RATIOS = {"speed": 10.57, "bytes": 55.0}


@contextmanager
def stage_timer(device: torch.device) -> Iterator[Callable[[], float]]:
    """Have the stages of a rollout timed by `measure.timer_of(device)`."""
    before = scenes.Clock.timer
    scenes.Clock.timer = staticmethod(timer_of(device))
    try:
        yield scenes.Clock.timer
    finally:
        scenes.Clock.timer = staticmethod(before)


def walk(pipe, name: str, clip: Clip, seed: int, steps: int = 2) -> dict:
    """Generate a video along a closed path with one memory, and take the time of everything.

    Returns:
        `chunks`: of each segment its new `frames`, `seconds` by stage (the VAE encode of an RGB memory is told apart
        from the rest of its read), and QUANTITIES; `closed_loop_psnr` of the whole video, in dB.
    """
    device = next(pipe.transformer.parameters()).device
    encode, peak, spent = frame_encoder(pipe.vae), Peak(device), [0.0]
    with stage_timer(device) as clock:

        def timed(pixels):
            start = clock()
            latents = encode(pixels)
            spent[0] += clock() - start
            return latents

        memory = make_memory(name, timed, stride=spatial_stride(pipe.vae), channels=int(pipe.vae.config.z_dim))
        results = rollout(pipe, [memory], clip.frames[:1], [clip.cameras], seeds=[seed], num_inference_steps=steps)
        chunks, frames, start = [], [], 0
        peak.reset()
        for result in results:
            new = result.frames[0]
            truth = clip.frames[start : start + len(new)]
            given = int(start == 0)  # the first frame is the truth itself
            seconds = {"read": result.seconds["read"] - spent[0], "encode": spent[0]}
            seconds |= {stage: result.seconds[stage] for stage in STAGES[2:]}
            figures = {
                "frames": len(new),
                "seconds": seconds,
                "bytes": int(memory.nbytes),
                "tokens": len(memory),
                "peak_bytes": peak.bytes(),
                "psnr_to_truth": psnr(new[given:], truth[given:]).mean().item(),
            }
            chunks.append(figures)
            frames.append(new)
            start, spent[0] = start + len(new), 0.0
            peak.reset()
    return {"chunks": chunks, "closed_loop_psnr": closed_loop_psnr(torch.cat(frames))}


def race(
    pipe,
    results: Results,
    runs: int = 5,
    chunks: int = 12,
    memories: Sequence[str] = MEMORIES,
    first_room: int = 900000,
    steps: int = 2,
    size: tuple[int, int] = (128, 128),
    progress: Callable[[int, int, str], None] | None = None,
) -> dict[str, list[dict]]:
    """Walk `runs` held-out rooms there and back with every memory, on one thread; finished walks are kept in `results`.

    The memories take turns in each room, so that whatever slows the machine down meets all of them.

    Returns:
        The runs of each memory, as `walk` returns them.
    """
    frames = chunks * new_frames_per_segment(pipe) + 1
    frames += temporal_stride(pipe.vae) if frames % 2 == 0 else 0
    raw: dict[str, list[dict]] = {name: [] for name in memories}
    with one_thread():
        for run in range(runs):
            clip = None
            for index, name in enumerate(memories):

                def task(room: int = first_room + run) -> dict:
                    nonlocal clip
                    if clip is None:
                        clip = there_and_back_room(room, frames, size)
                        _warm_up(pipe, clip, steps)
                    return walk(pipe, name, clip, room, steps)

                if progress:
                    progress(run * len(memories) + index, runs * len(memories), f"room {first_room + run}, {name}")
                raw[name].append(results.once(f"{first_room + run}-{name}", task))
    if progress:
        progress(runs * len(memories), runs * len(memories), "")
    return raw


def _warm_up(pipe, clip: Clip, steps: int) -> None:
    """Two chunks that do not count: kernels are chosen and buffers allocated at the first call."""
    count = plan_segments(len(clip.frames), new_frames_per_segment(pipe), temporal_stride(pipe.vae))[1].stop
    short = Clip(clip.frames[:count], clip.depth[:count], clip.cameras[list(range(count))])
    walk(pipe, "rgb", short, 0, steps)


def summarise(raw: dict[str, list[dict]]) -> dict[str, dict]:
    """Runs to medians and ranges: NAME.chunks[i].{chunk, frames, seconds_per_frame.STAGE, total, QUANTITY}.

    A stage that no run measured is None, and the total is that of the stages that were. One that only some runs
    measured enters the totals of the others as its median.
    """
    memories = {}
    for name, runs in raw.items():
        chunks = []
        for index, parts in enumerate(zip(*(run["chunks"] for run in runs))):
            frames = parts[0]["frames"]
            per_frame = {s: spread(p["seconds"][s] / frames for p in parts if s in p["seconds"]) for s in STAGES}
            known = {stage: value["median"] for stage, value in per_frame.items() if value}
            totals = (sum(p["seconds"].get(s, known[s] * frames) for s in known) / frames for p in parts)
            row = {"chunk": index + 1, "frames": frames, "seconds_per_frame": per_frame}
            row |= {"total": spread(totals)} | {q: spread(part.get(q) for part in parts) for q in QUANTITIES}
            chunks.append(row)
        closed = spread(run.get("closed_loop_psnr") for run in runs)
        memories[name] = {"chunks": chunks, "closed_loop_psnr": closed}
    return memories


def ratios(memories: dict[str, dict], chunk: int, over: str = "latent", stages: Sequence[str] = STAGES) -> dict:
    """How many times the time (of some stages, per frame) and the bytes of `over` each memory takes, at one chunk."""

    def seconds(name: str) -> float:
        per_frame = memories[name]["chunks"][chunk - 1]["seconds_per_frame"]
        return sum(per_frame[s]["median"] for s in stages if per_frame[s])

    def held(name: str) -> float:
        return memories[name]["chunks"][chunk - 1]["bytes"]["median"]

    return {
        name: {"time": seconds(name) / seconds(over), "bytes": held(name) / held(over) if held(over) else None}
        for name in memories
        if name != over
    }
