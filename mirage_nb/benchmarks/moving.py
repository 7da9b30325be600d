"""What the moving-object mask is worth: record a walk in which things move, turn round, and let the model walk back.

What was written of a moving thing stands in the memory where the thing no longer is, and comes into the new pictures.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from mirage_nb.data.rooms.room import Room
from mirage_nb.evaluation import ghosts, psnr, summary
from mirage_nb.memory.grid import LatentGrid
from mirage_nb.models.vae import spatial_stride
from mirage_nb.scenes import Clock, Scenes
from mirage_nb.stitching import as_pixels, frame_encoder, new_frames_per_segment, rollout

MASKS = ("found by geometry", "exact", "none")
METRICS = ("psnr_to_truth", "psnr_ghosts", "ghost_tokens")
LEAST = 0.005  # share of pixels that must move in a recording for its room to count


@torch.no_grad()
def moving_things(
    pipe, seeds: Sequence[int], num_frames: int = 25, progress: Callable[[int, int], None] | None = None
) -> dict[str, dict[str, dict[str, float]]]:
    """The way back from a recorded walk through rooms with two moving things, with each way to mask them.

    The recording has exact depth; on the way back the depth is estimated, as always.

    Args:
        num_frames: of the recording, and of the way back.

    Returns:
        By mask, over the `rooms` in which something moves in view, mean and 95% interval: `psnr_to_truth` in dB of the
        way back, where nothing moves in the truth; `psnr_ghosts` only of those pixels at which the recording saw
        something move; `ghost_tokens` that the memory held when the camera turned round.
    """
    stride, channels, each = spatial_stride(pipe.vae), int(pipe.vae.config.z_dim), new_frames_per_segment(pipe)
    encode, figures = frame_encoder(pipe.vae), {mask: [] for mask in MASKS}
    groups = [[0]] + [list(range(i, min(i + each, num_frames))) for i in range(1, num_frames, each)]
    for number, seed in enumerate(seeds):
        room = Room(seed, moving=2)
        out = room.walk(num_frames)
        back = out[list(range(num_frames - 1, -1, -1))]
        clip = room.render(out)
        if progress:
            progress(number + 1, len(seeds))
        if clip.moving.float().mean() < LEAST:
            continue
        truth = room.render(back, times=num_frames - 1 + torch.arange(num_frames))
        pixels = as_pixels(clip.frames)
        latents = torch.cat([encode(part) for part in pixels.split(8)])
        for mask in MASKS:
            memory, moving = LatentGrid(stride=stride, channels=channels), _mask(mask, clip.moving)
            scenes = Scenes(pipe, [memory], [out], clip.depth[None], moving, torch.device("cpu"))
            for at in groups:
                stacked = (x[at].transpose(0, 1)[None] for x in (pixels, latents))
                scenes.remember(*stacked, at, None, Clock(torch.device("cpu")))
            held = float(ghosts(memory, out, clip.moving).sum())
            moving = _mask(mask, torch.zeros_like(clip.moving))
            options = dict(seeds=[seed], moving=moving, **pipe.beside)
            results = list(rollout(pipe, [memory], clip.frames[-1:], [back], **options))
            frames, still = torch.cat([r.frames for r in results], 1)[0], ~truth.moving
            haunted = still & clip.moving.flip(0)
            to_truth = (psnr(frames, truth.frames, where)[1:].nanmean().item() for where in (still, haunted))
            figures[mask].append(dict(zip(METRICS, (*to_truth, held))))
    return {
        mask: {key: summary(row[key] for row in rows) for key in METRICS} | {"rooms": len(rows)}
        for mask, rows in figures.items()
    }


def _mask(name: str, truth: Tensor) -> Tensor | None:
    """What `rollout` is told not to write, (1, T, H, W): nothing said means that it looks for itself."""
    return None if name == MASKS[0] else truth[None] & (name == "exact")
