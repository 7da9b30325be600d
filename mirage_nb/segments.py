"""The plan of stage 5: which frames belong to which segment, and the noise that each one starts from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Segment:
    """Pixel frames start, ..., stop - 1 of a video. The first one overlaps: the segment before has made it already (or
    it is the given image)."""

    index: int
    start: int
    stop: int
    stride: int

    @property
    def new(self) -> range:
        """The pixel frames that this segment adds; the very first segment counts the given image as its own."""
        return range(self.start + (self.index > 0), self.stop)

    @property
    def latent_frames(self) -> list[int]:
        """The pixel frame whose pose each latent frame has, the overlap first."""
        return list(range(self.start, self.stop, self.stride))


def plan_segments(num_frames: int, new_frames_per_segment: int, temporal_stride: int = 1) -> list[Segment]:
    """Cut a video into segments that overlap by one frame; every frame is new in exactly one. The last may be shorter.

    Args:
        num_frames: pixel frames, stride * k + 1 for a k of at least 1.
        new_frames_per_segment: pixel frames that a segment adds, a multiple of the stride (paper: 32).
        temporal_stride: pixel frames per latent frame (paper: 4).

    Raises:
        ValueError: a count that does not fit; the nearest ones that do are offered.
    """
    stride = temporal_stride
    if new_frames_per_segment < stride or new_frames_per_segment % stride:
        raise ValueError(f"new_frames_per_segment: expected a multiple of {stride}, got {new_frames_per_segment}")
    if isinstance(num_frames, bool) or not isinstance(num_frames, int):
        raise ValueError(f"num_frames: expected an integer, got {num_frames!r}")
    if num_frames <= stride or (num_frames - 1) % stride:
        below = (num_frames - 1) // stride * stride + 1
        near = [str(n) for n in (below, below + stride) if n > stride] or [str(stride + 1)]
        rule = f"{stride} * k + 1" if stride > 1 else "at least 2"
        raise ValueError(f"num_frames: expected {rule}, got {num_frames}; the nearest is {' or '.join(near)}")
    starts = range(0, num_frames - 1, new_frames_per_segment)
    return [
        Segment(index, start, min(start + new_frames_per_segment, num_frames - 1) + 1, stride)
        for index, start in enumerate(starts)
    ]


def segment_noise(seed: int, index: int, shape: Sequence[int], ahead: bool = False) -> Tensor:
    """The noise that a segment starts from, or that of the view `ahead` of it.

    It depends on nothing else, so that a resumed run, a batch and every kind of memory get the same.
    """
    key = (index, 1) if ahead else (index,)
    mixed = int(np.random.SeedSequence(seed, spawn_key=key).generate_state(1)[0])  # torch uses 32 bits of a seed
    return torch.randn(*shape, generator=torch.Generator().manual_seed(mixed))
