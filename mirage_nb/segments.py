"""The plan of stage 5: which frames belong to which segment, the noise that each one starts from, and a stopwatch."""

import time
from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Segment:
    """Pixel frames start, ..., stop - 1 of a video. The first one ends the segment before (or is the given image)."""

    index: int
    start: int
    stop: int
    latent_step: int

    @property
    def latent_frames(self) -> list[int]:
        """The pixel frame whose pose each latent frame has, the clean first one included."""
        return list(range(self.start, self.stop, self.latent_step))


def plan_segments(num_frames: int, new_frames: int, latent_step: int = 1) -> list[Segment]:
    """Cut a video into segments that share one frame; every frame is new in exactly one. The last may be shorter.

    Args:
        num_frames: pixel frames, latent_step * k + 1 for a k of at least 1.
        new_frames: pixel frames that a segment adds, a multiple of latent_step (paper: 32).
        latent_step: pixel frames per latent frame, the VAE's temporal stride (paper: 4).

    Raises:
        ValueError: a count that does not fit; the message offers the nearest ones that do.
    """
    if new_frames < latent_step or new_frames % latent_step:
        raise ValueError(f"new_frames: expected a multiple of {latent_step}, got {new_frames}")
    if isinstance(num_frames, bool) or not isinstance(num_frames, int):
        raise ValueError(f"num_frames: expected an integer, got {num_frames!r}")
    if num_frames <= latent_step or (num_frames - 1) % latent_step:
        below = (num_frames - 1) // latent_step * latent_step + 1
        near = [str(n) for n in (below, below + latent_step) if n > latent_step] or [str(latent_step + 1)]
        rule = f"{latent_step} * k + 1" if latent_step > 1 else "at least 2"
        raise ValueError(f"num_frames: expected {rule}, got {num_frames}; the nearest is {' or '.join(near)}")
    starts = range(0, num_frames - 1, new_frames)
    stops = [min(start + new_frames, num_frames - 1) + 1 for start in starts]
    return [Segment(index, *ends, latent_step) for index, ends in enumerate(zip(starts, stops))]


def segment_seed(seed: int, index: int) -> int:
    """The seed of a segment's noise. It depends on the video's seed and on the index only, so that a resumed run, a
    batch, and every kind of memory get the same noise."""
    return int(np.random.SeedSequence(seed, spawn_key=(index,)).generate_state(1)[0])  # torch uses 32 bits of a seed


def segment_noise(seed: int, index: int, shape: Sequence[int]) -> Tensor:
    """The noise that a segment starts from."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(segment_seed(seed, index)))


class Clock:
    """Seconds by stage, an accelerator's work included: `with clock("read"): ...`."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seconds = dict.fromkeys(("read", "denoise", "decode", "depth", "write"), 0.0)

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    @contextmanager
    def __call__(self, stage: str):
        start = self._now()
        yield
        self.seconds[stage] += self._now() - start
