"""The same loop, lap after lap: does the memory grow, and does the loop still close?"""

from __future__ import annotations

from collections.abc import Sequence

from mirage_nb.data.clip import Clip
from mirage_nb.evaluation.metrics import psnr
from mirage_nb.evaluation.rooms import methods_by_name, there_and_back_room, walk

MEMORIES = ("latent", "append")


def measure_growth(
    pipe, seeds: Sequence[int], laps: int = 10, frames: int = 17, memories: Sequence[str] = MEMORIES, steps: int = 2
) -> dict:
    """Walk rooms there and back, lap after lap in one video, with each memory.

    Returns:
        memories.NAME: `tokens` and `closed_loop_psnr_by_lap` (the last frame of a lap against the very first frame, in
        dB), means over the rooms; `growth`, the tokens after the last lap divided by those after the first; `bytes`;
        and `closed_loop_psnr` of the last lap.
    """
    loops = [there_and_back_room(seed, frames) for seed in seeds]
    path = list(range(frames)) + list(range(1, frames)) * (laps - 1)  # a lap ends where the next one begins
    clips = [Clip(loop.frames[path], loop.depth[path], loop.cameras[path]) for loop in loops]
    lap_ends = [lap * (frames - 1) for lap in range(1, laps + 1)]
    found: dict[str, dict] = {}
    for name, method in methods_by_name(pipe, memories).items():
        walked = walk(pipe, method, clips, seeds, steps=steps)
        video, tokens, held = walked.frames, [], []
        for segment in walked.segments:  # tokens after the segment, for each of its frames
            tokens += [sum(segment.tokens) / len(seeds)] * segment.frames.shape[1]
        held = [tokens[end] for end in lap_ends]
        closed = [psnr(video[:, end], video[:, 0]).mean().item() for end in lap_ends]
        found[name] = {
            "tokens": held, "growth": held[-1] / held[0], "bytes": sum(m.nbytes for m in walked.memories),
            "closed_loop_psnr_by_lap": closed, "closed_loop_psnr": closed[-1],
        }  # fmt: skip
    return {"seeds": list(seeds), "laps": laps, "frames": frames, "memories": found}
