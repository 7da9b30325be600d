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

from mirage_nb.context import Context, choose_references, shared_voxel_size, visible_voxels
from mirage_nb.lifting import lift
from mirage_nb.reprojection import Readout, reproject
from mirage_nb.training.encoded import EncodedWalks

# In use a depth network gives the sky in windows a depth, too, so windows are written. If they were never written in
# training, half of what a memory does not show would be windows, and the model would invent bright panes everywhere.
FILLED_SKY = 0.8  # share of samples in which the sky gets a depth
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
    has_memory: bool


def choose_frames(
    total: int, length: int, returning: bool, generator: torch.Generator, before: int = 0
) -> tuple[Tensor, Tensor, Tensor]:
    """Frames of a segment, first to last; `before` frames that precede it; and those that the memory holds.

    On the way back the memory holds frames from everywhere on the walk; on the way out (from either end) only earlier
    ones.
    """

    def below(n: int) -> int:
        return int(torch.randint(n, (), generator=generator))

    start = below(total - length - before + 1)
    window, first = start + torch.arange(before + length), start + before
    if returning:
        window = window.flip(0) if below(4) else window
        written = torch.randperm(total, generator=generator)[: 2 + below(6)]
        if below(2):  # in use the segment's first frame has nearly always been written
            written = torch.cat([written, window[before : before + 1]])
    else:
        earlier = torch.randperm(first + 1, generator=generator)[: below(4)]
        written = torch.cat([torch.tensor([first]), earlier])
        if below(2):
            window, written = total - 1 - window, total - 1 - written
    return window[before:], window[:before], written.unique()


def draw_sample(
    data: EncodedWalks, length: int, drop: float, returning: bool, before: int, generator: torch.Generator
) -> Sample:
    """A segment of `length` frames of a random walk; half of them (with `returning` all) are on the way back."""
    walk = int(torch.randint(len(data), (), generator=generator))
    returning = bool(torch.rand((), generator=generator) < 0.5) or returning
    segment, preceding, written = choose_frames(data.latents.shape[1], length, returning, generator, before)
    latents = data.latents[walk].float()
    has_memory = bool(torch.rand((), generator=generator) >= drop)
    frames = (Frames(index, latents[index]) for index in (written, preceding))
    return Sample(walk, segment, latents[segment[0]], *frames, has_memory)


def corrupt_past(data: EncodedWalks, sample: Sample, generator: torch.Generator) -> Sample:
    """The sample with a past as a long walk generates it: on one side of a random upright plane, softer and tinted.

    What is to be learnt stays true. So the model learns to repair what it continues, where one that has only seen true
    frames takes a soft border for a soft wall, and makes the next segment softer still.
    """

    def points(index: Tensor) -> Tensor:
        """(K, h, w, 3) world coordinates of the cells of some frames."""
        return data.cameras(sample.walk, index).unproject(data.depth[sample.walk, index].float())

    angle, softness, strength = torch.rand(3, generator=generator)
    normal = torch.stack([(6.28 * angle).cos(), torch.zeros(()), (6.28 * angle).sin()])  # y is down: an upright plane
    surface = points(sample.segment).flatten(0, 2)
    anchor = surface[int(torch.randint(len(surface), (), generator=generator))]
    window = 3 + 2 * int(torch.randint(3, (), generator=generator))
    tint = 0.5 * strength**2 * torch.randn(data.latents.shape[2], 1, 1, generator=generator)

    def corrupted(frames: Frames) -> Frames:
        where = ((points(frames.index) - anchor) @ normal > 0)[:, None]  # (K, 1, h, w)
        soft = F.avg_pool2d(frames.latents, window, 1, window // 2, count_include_pad=False)
        return frames._replace(latents=frames.latents + where * (softness * (soft - frames.latents) + tint))

    first = corrupted(Frames(sample.segment[:1], sample.first[None])).latents[0]
    return replace(sample, first=first, past=corrupted(sample.past), preceding=corrupted(sample.preceding))


def next_sample(sample: Sample, generated: Tensor, total: int, generator: torch.Generator) -> Sample:
    """The segment after a generated one, (C, T - 1, h, w), whose frames are now past: onwards, or back over it."""
    length = len(sample.segment)
    last, step = int(sample.segment[-1]), int(sample.segment[1] - sample.segment[0])
    onwards = 0 <= last + step * (length - 1) < total and torch.rand((), generator=generator) < 0.5
    segment = last + (step if onwards else -step) * torch.arange(length)
    new = (sample.segment[1:], generated.transpose(0, 1))
    walked = sample.preceding.join(sample.segment[:1], sample.first[None]).join(*new)
    before = slice(len(walked.index) - 1 - len(sample.preceding.index), -1)
    preceding = Frames(walked.index[before], walked.latents[before])
    return replace(sample, segment=segment, first=generated[:, -1], past=sample.past.join(*new), preceding=preceding)


def fill_depth(depth: Tensor) -> Tensor:
    """Depth (N, h, w) whose unknown cells, 0, take the depth of the nearest known ones, the farthest of them."""
    for _ in range(max(depth.shape[1:])):
        depth = torch.where(depth > 0, depth, F.max_pool2d(depth, 3, 1, 1))
    return depth


def read_memory(
    data: EncodedWalks,
    sample: Sample,
    frames: Tensor,
    generator: torch.Generator,
    filled_sky: float = FILLED_SKY,
) -> Readout:
    """Write the sample's past, with imperfect depth and tokens, and read it in the cameras of some frames."""

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    def chance(share: float) -> bool:
        return bool(torch.rand((), generator=generator) < share)

    (index, tokens), target = sample.past, data.cameras(sample.walk, frames)
    if not sample.has_memory:
        return Readout.empty(target, tokens.shape[1])
    exact, allowed = data.depth[sample.walk, index].float(), data.writable[sample.walk, index]
    depth = exact if chance(0.5) else data.estimate[sample.walk, index].float()
    if chance(filled_sky):
        sky = F.max_pool2d((exact == 0).float(), 3, 1, 1) > 0  # with the neighbours that hold some sky
        depth, allowed = fill_depth(depth), allowed | sky
    if chance(0.5):  # depth that is bent and scaled a little, each frame in its own way
        bend = F.interpolate(draw(len(index), 1, 3, 3), depth.shape[1:], mode="bicubic")[:, 0]
        depth = depth * (1 + 0.02 * bend + 0.02 * draw(1, 1, 1) + 0.01 * draw(len(index), 1, 1)).clamp(0.7, 1.4)
    tokens = tokens + TOKEN_NOISE * torch.rand((), generator=generator) * draw(*tokens.shape)
    points = lift(tokens, depth, data.cameras(sample.walk, index), allowed)
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
