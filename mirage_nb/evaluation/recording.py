"""A real recording's path, walked from its first frame and compared with what was recorded."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mirage_nb.data.clip import Clip
from mirage_nb.evaluation.metrics import mean_psnr, summary
from mirage_nb.evaluation.rooms import Progress, methods_by_name, walk


def evaluate_recording(
    pipe,
    clip: Clip,
    memories: Sequence[str] = ("latent", "none"),
    *,
    seeds: Sequence[int] = range(4),
    num_inference_steps: int = 2,
    given_depth: bool = True,
    progress: Progress | None = None,
) -> tuple[dict, dict[str, Tensor]]:
    """Walk the path of a recording with each memory, once for each noise.

    Args:
        memories: names; `psnr_to_truth_covered` of all of them is measured at the pixels that the first one shows.
        seeds: of the noise. The report's intervals are over them.
        given_depth: use the recorded depth of every frame, otherwise that of the first frame alone.
        progress: called after each walk.

    Returns:
        A report, `methods.NAME.METRIC.{mean,ci95}` of `psnr_to_truth` and `psnr_to_truth_covered` in dB, and the share
        of `covered` pixels; and the videos of the first seed, {"recorded": (T, H, W, 3), NAME: ...}.
    """
    methods, depth = methods_by_name(pipe, memories), clip.depth if given_depth else clip.depth[:1]
    everywhere = torch.ones_like(clip.depth, dtype=torch.bool)
    figures: dict[str, list[dict[str, float]]] = {name: [] for name in memories}
    videos, shares, done = {"recorded": clip.frames}, [], 0
    for seed in seeds:
        for name, method in methods.items():
            walked = walk(pipe, method, [clip], [seed], steps=num_inference_steps, depth=depth[None])
            frames = walked.frames[0]
            if name == memories[0]:
                covered = walked.covered(0)
                shares.append(covered[1:].float().mean().item())
            videos.setdefault(name, frames)
            compared = {"psnr_to_truth": everywhere, "psnr_to_truth_covered": covered}
            figures[name].append({key: mean_psnr(frames, clip.frames, where) for key, where in compared.items()})
            done += 1
            if progress is not None:
                progress(done, len(seeds) * len(memories))
    means = {name: {key: summary(row[key] for row in rows) for key in rows[0]} for name, rows in figures.items()}
    settings = dict(frames=len(clip.frames), seeds=list(seeds), given_depth=given_depth)
    return {"settings": settings, "methods": means, "covered": sum(shares) / len(shares)}, videos
