"""The same loop again and again: does the memory grow with every lap, and what does the picture lose if it doesn't?"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from mirage_nb.evaluation import psnr, there_and_back_room
from mirage_nb.memory.baselines import make_memory
from mirage_nb.models.vae import spatial_stride
from mirage_nb.stitching import rollout

MEMORIES = ("latent", "append")


def measure_growth(
    pipe, seeds: Sequence[int], laps: int = 10, frames: int = 17, memories: Sequence[str] = MEMORIES, steps: int = 2
) -> dict:
    """Walk held-out rooms there and back, lap after lap, in one video, with each memory.

    Returns:
        memories.NAME: `tokens` and `closed_loop_psnr_by_lap` (a lap's last frame against the very first, in dB) lap by
        lap, means over the rooms; `growth`, tokens after the last lap over those after the first; and
        `closed_loop_psnr`, of the last lap. `psnr_difference`: the first memory's over the second's, in dB.
    """
    clips = [there_and_back_room(seed, frames) for seed in seeds]
    path = list(range(frames)) + list(range(1, frames)) * (laps - 1)  # a lap ends where the next one begins
    found: dict[str, dict] = {}
    for name in memories:
        stores = [
            make_memory(name, stride=spatial_stride(pipe.vae), channels=int(pipe.vae.config.z_dim)) for _ in clips
        ]
        image, cameras = torch.stack([clip.frames[0] for clip in clips]), [clip.cameras[path] for clip in clips]
        results = list(rollout(pipe, stores, image, cameras, seeds=list(seeds), num_inference_steps=steps))
        video = torch.cat([result.frames for result in results], 1)
        closed = [psnr(video[:, lap * (frames - 1)], video[:, 0]).mean().item() for lap in range(1, laps + 1)]
        ends = torch.tensor([result.frames.shape[1] for result in results]).cumsum(0) - 1
        at = [
            int(torch.searchsorted(ends, lap * (frames - 1))) for lap in range(1, laps + 1)
        ]  # segment that ends a lap
        tokens = [sum(results[index].tokens) / len(stores) for index in at]
        found[name] = {"tokens": tokens, "growth": tokens[-1] / tokens[0], "bytes": sum(s.nbytes for s in stores)}
        found[name] |= {"closed_loop_psnr_by_lap": closed, "closed_loop_psnr": closed[-1]}
    difference = found[memories[0]]["closed_loop_psnr"] - found[memories[-1]]["closed_loop_psnr"]
    return {"seeds": list(seeds), "laps": laps, "frames": frames, "memories": found, "psnr_difference": difference}
