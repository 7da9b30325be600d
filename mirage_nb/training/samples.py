"""What one training sample is about: a segment of a walk, and the past frames that the generator may use.

A sample's memory is built as at inference, by our own `lift` and `reproject`. It is imperfect on purpose, because in
use depth is estimated and past frames are generated.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from mirage_nb.cameras import Cameras
from mirage_nb.context import Context, choose_references, shared_voxel_size, visible_voxels
from mirage_nb.lifting import lift
from mirage_nb.reprojection import Readout, reproject
from mirage_nb.training.encoded import EncodedWalks

# Share of memories that are lifted at the estimated depth. It gives the sky in windows a depth, too, as in use. If
# windows were never written, they would be half of what a memory does not show, and the model would invent them.
ESTIMATED = 0.75
TOKEN_NOISE = 0.15  # largest deviation of the noise on the memory's tokens
CONTEXT_NOISE = 0.1  # the same for clean context frames


class Frames(NamedTuple):
    """Some frames of a walk: which ones (K,), and their latents (K, C, h, w), true or generated."""

    index: Tensor
    latents: Tensor

    def join(self, index: Tensor, latents: Tensor) -> Frames:
        return Frames(torch.cat([self.index, index]), torch.cat([self.latents, latents]))


@dataclass(frozen=True)
class Sample:
    """A segment to learn."""

    walk: int
    segment: Tensor  # (T,) its frames
    first: Tensor  # (C, h, w), its clean first frame
    past: Frames  # what the memory holds, and what references are chosen from
    preceding: Frames  # the frames just before the segment


def draw_sample(data: EncodedWalks, length: int, returning: bool, before: int, generator: torch.Generator) -> Sample:
    """A segment of `length` frames of a random walk, with the `before` frames that precede it.

    Half of them (with `returning` all) are on the way back: the memory holds frames from everywhere on the walk. On the
    way out it holds earlier ones only. Half of the walks are walked from their end.
    """

    def below(n: int) -> int:
        return int(torch.randint(n, (), generator=generator))

    walk, total, returning = below(len(data)), data.latents.shape[1], below(2) == 1 or returning
    first = before + below(total - length - before + 1)
    segment, preceding = first + torch.arange(length), first - before + torch.arange(before)
    seen, count = (total, 2 + below(6)) if returning else (first + 1, below(4))
    past = torch.randperm(seen, generator=generator)[:count]
    if not returning or below(2):  # in use the segment's first frame has nearly always been written
        past = torch.cat([past, segment[:1]])
    frames = (segment, past.unique(), preceding)
    if below(2):
        frames = (total - 1 - index for index in frames)
    segment, past, preceding = (Frames(index, data.latents[walk, index].float()) for index in frames)
    return Sample(walk, segment.index, segment.latents[0], past, preceding)


def next_sample(sample: Sample, generated: Tensor, total: int) -> Sample:
    """The segment after a generated one, (C, T - 1, h, w), whose frames are now past: onwards, or else back over it."""
    last, step = int(sample.segment[-1]), int(sample.segment[1] - sample.segment[0])
    onwards = 0 <= last + step * (len(sample.segment) - 1) < total
    segment = last + (step if onwards else -step) * torch.arange(len(sample.segment))
    new = (sample.segment[1:], generated.transpose(0, 1))
    walked = sample.preceding.join(sample.segment[:1], sample.first[None]).join(*new)
    before = slice(len(walked.index) - 1 - len(sample.preceding.index), -1)
    preceding = Frames(walked.index[before], walked.latents[before])
    return replace(sample, segment=segment, first=generated[:, -1], past=sample.past.join(*new), preceding=preceding)


def read_memory(data: EncodedWalks, sample: Sample, target: Cameras, generator: torch.Generator) -> Readout:
    """Write the sample's past, with imperfect depth and tokens, and read it in some cameras at latent size."""

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    index, tokens = sample.past
    estimated, bent = (torch.rand(2, generator=generator) < torch.tensor([ESTIMATED, 0.5])).tolist()
    depth = (data.estimate if estimated else data.depth)[sample.walk, index].float()
    if bent:  # and scaled, a little, each frame in its own way
        bend = F.interpolate(draw(len(index), 1, 3, 3), depth.shape[1:], mode="bicubic")[:, 0]  # (K, h, w)
        depth = depth * (1 + 0.02 * bend + 0.02 * draw(1, 1, 1) + 0.01 * draw(len(index), 1, 1)).clamp(0.7, 1.4)
    tokens = tokens + TOKEN_NOISE * torch.rand((), generator=generator) * draw(*tokens.shape)
    points = lift(tokens, depth, data.cameras(sample.walk, index), data.writable[sample.walk, index])
    return reproject(points.positions, points.tokens, target, points.footprints)


def show_context(data: EncodedWalks, sample: Sample, references: int, generator: torch.Generator) -> Context:
    """The clean context frames (batch of one), with some noise: the past frames that overlap the segment most, and
    those that precede it. If too few overlap it, the last one is shown again."""
    shown = sample.preceding.latents
    if references:
        earlier = sample.past.index != sample.segment[0]  # the clean first frame is shown anyway
        earlier = earlier if earlier.any() else ~earlier
        index = torch.cat([sample.segment, sample.past.index[earlier]])
        depth, cameras = data.depth[sample.walk, index].float(), data.cameras(sample.walk, index)
        size, length = shared_voxel_size(depth, cameras), len(sample.segment)
        voxels = [visible_voxels(depth[i : i + 1], cameras[i : i + 1], None, size) for i in range(len(index))]
        chosen = choose_references(torch.cat(voxels[:length]).unique(), voxels[length:], references) or [0]
        chosen += chosen[-1:] * (references - len(chosen))
        shown = torch.cat([sample.past.latents[earlier][chosen], shown])
    noise = CONTEXT_NOISE * torch.rand((), generator=generator) * torch.randn(shown.shape, generator=generator)
    shown = (shown + noise).transpose(0, 1)[None]  # (1, C, references + preceding, h, w)
    return Context(shown[:, :, :references], shown[:, :, references:])
