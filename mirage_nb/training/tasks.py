"""What one training sample is about: a segment of a walk, what the memory holds, and the frames beside it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from mirage_nb.context import Context, choose_references, shared_voxel_size, visible_voxels
from mirage_nb.lifting import lift
from mirage_nb.reprojection import Readout, reproject
from mirage_nb.training.encoded import EncodedWalks

# In use depth is mostly a network's, which guesses one for a window's sky, too, and windows are remembered. Were they
# not in training, nearly half of what a memory does not show would be windows, and all that is new would turn bright.
GUESSED = 0.8  # share of samples with such depth


class Frames(NamedTuple):
    """Some frames of a walk: which ones (K,), and their latents (K, C, h, w), true or generated."""

    index: Tensor
    latents: Tensor

    def join(self, index: Tensor, latents: Tensor) -> Frames:
        return Frames(torch.cat([self.index, index]), torch.cat([self.latents, latents]))


@dataclass(frozen=True)
class Task:
    """A segment to be learnt.

    segment: (T,) frames of the walk `room`. first: (C, h, w), its clean first frame. known: what the memory holds;
    nothing where it is dropped. past: whom a reference may be taken from. preceding: the frames just before.
    """

    room: int
    segment: Tensor
    first: Tensor
    known: Frames
    past: Frames
    preceding: Frames


def choose(
    total: int, length: int, returning: bool, generator: torch.Generator, before: int = 0, leap: int = 1
) -> tuple[Tensor, Tensor, Tensor]:
    """Frames of the segment, first to last; `before` frames that precede it; and those whose tokens the memory holds.

    A segment's frames are up to `leap` of the walk's apart, as far as the walk is long. The memory holds, on the way
    back, frames from all along the walk; on the way out (from either end) only such as came before.
    """

    def below(n: int) -> int:
        return int(torch.randint(n, (), generator=generator))

    step = 1 + below(min(leap, (total - 1) // (length + before - 1)))
    start = below(total - step * (length + before - 1))
    window, first = start + step * torch.arange(before + length), start + step * before
    if returning:
        window = window.flip(0) if below(4) else window
        known = torch.randperm(total, generator=generator)[: 2 + below(6)]
        if below(2):  # in use the frame before has nearly always been written
            known = torch.cat([known, window[before : before + 1]])
    else:
        past = torch.randperm(first + 1, generator=generator)[: below(4)]
        known = torch.cat([torch.tensor([first]), past])
        if below(2):
            window, known = total - 1 - window, total - 1 - known
    return window[before:], window[:before], known.unique()


def draw_task(
    data: EncodedWalks, length: int, drop: float, returning: bool, before: int, generator: torch.Generator,
    leap: int = 1,
) -> Task:  # fmt: skip
    """A segment of `length` frames of a random walk, half of the time (or always) on the way back."""
    room = int(torch.randint(len(data.latents), (), generator=generator))
    returning = bool(torch.rand((), generator=generator) < 0.5) or returning
    segment, preceding, known = choose(data.latents.shape[1], length, returning, generator, before, leap)
    latents = data.latents[room].float()
    held = known[:0] if torch.rand((), generator=generator) < drop else known
    past = known[known != segment[0]] if len(known) > 1 else known
    frames = (Frames(which, latents[which]) for which in (held, past, preceding))
    return Task(room, segment, latents[segment[0]], *frames)


def spoil(data: EncodedWalks, task: Task, generator: torch.Generator) -> Task:
    """The task, its past as a long walk's own looks: on one side of a plane that stands in the room, softer than the
    truth and of another tint.

    Every segment begins where the one before ended. One that learnt from true frames alone takes a soft border for a
    soft wall, and so the next one is softer. The truth remains what is to be learnt.
    """

    def uniform() -> Tensor:
        return torch.rand((), generator=generator)

    def soft(latents: Tensor, window: int) -> Tensor:
        return torch.nn.functional.avg_pool2d(latents, window, 1, window // 2, count_include_pad=False)

    def points(index: Tensor) -> Tensor:
        return data.cameras(task.room, index).resize(size).unproject(data.depths[0][task.room, index].float())

    size = data.latents.shape[-2:]
    angle = 2 * torch.pi * uniform()
    normal = torch.stack([angle.cos(), torch.zeros(()), angle.sin()])  # y is down: the plane is upright
    seen = points(task.segment).flatten(0, 2)
    anchor = seen[int(torch.randint(len(seen), (), generator=generator))]
    room, frame = (int(torch.randint(n, (), generator=generator)) for n in data.latents.shape[:2])
    other = soft(data.latents[room, frame].float()[None], 9)
    window, strength, tint = 3 + 2 * int(torch.randint(3, (), generator=generator)), uniform(), 0.5 * uniform() ** 2

    def wrong(latents: Tensor, index: Tensor) -> Tensor:
        if not len(index):
            return latents
        where = ((points(index) - anchor) @ normal > 0)[:, None]
        change = strength * (soft(latents, window) - latents) + tint * (other - soft(latents, 9))
        return latents + where * change

    frames = {name: getattr(task, name) for name in ("known", "past", "preceding")}
    frames = {name: f._replace(latents=wrong(f.latents, f.index)) for name, f in frames.items()}
    return replace(task, first=wrong(task.first[None], task.segment[:1])[0], **frames)


def following(task: Task, made: Tensor, total: int, generator: torch.Generator) -> Task:
    """The segment after a generated one, (C, T - 1, h, w): onwards, or back over it. What was generated is written."""
    length = len(task.segment)
    last, step = int(task.segment[-1]), int(task.segment[1] - task.segment[0])
    onwards = 0 <= last + step * (length - 1) < total and torch.rand((), generator=generator) < 0.5
    segment = last + (step if onwards else -step) * torch.arange(length)
    new = (task.segment[1:], made.transpose(0, 1))
    walked = task.preceding.join(task.segment[:1], task.first[None]).join(*new)
    before = slice(len(walked.index) - 1 - len(task.preceding.index), -1)
    preceding = Frames(walked.index[before], walked.latents[before])
    return Task(task.room, segment, made[:, -1], task.known.join(*new), task.past.join(*new), preceding)


def around(cells: Tensor) -> Tensor:
    """The cells (N, h, w), bool, and their neighbours."""
    return torch.nn.functional.max_pool2d(cells.float(), 3, 1, 1) > 0


def without_holes(depth: Tensor) -> Tensor:
    """Depth (N, h, w) whose unknown cells, 0, take that of the nearest known ones, the farthest of them."""
    for _ in range(max(depth.shape[1:])):
        depth = torch.where(depth > 0, depth, torch.nn.functional.max_pool2d(depth, 3, 1, 1))
    return depth


def remember(
    data: EncodedWalks, task: Task, frames: Tensor, generator: torch.Generator, guessed: float = GUESSED
) -> Readout:
    """The readout, in the cameras of some frames, of the task's memory, with imperfect depth and tokens."""

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    index, tokens = task.known
    target = data.cameras(task.room, frames).resize(data.latents.shape[-2:])
    if not len(index):
        return Readout.empty(target, data.latents.shape[2])
    source = data.depths[int(torch.randint(len(data.depths), (), generator=generator))]
    depth, cells = source[task.room, index].float(), data.cells[task.room, index]
    if torch.rand((), generator=generator) < guessed:
        windows = around(data.depths[0][task.room, index] == 0)
        depth, cells = without_holes(depth), cells | windows
    if torch.rand((), generator=generator) < 0.5:
        bend = torch.nn.functional.interpolate(draw(len(index), 1, 3, 3), depth.shape[1:], mode="bicubic")[:, 0]
        depth = depth * (1 + 0.02 * bend + 0.02 * draw(1, 1, 1) + 0.01 * draw(len(index), 1, 1)).clamp(0.7, 1.4)
    tokens = tokens + 0.15 * torch.rand((), generator=generator) * draw(*tokens.shape)
    points = lift(tokens, depth, data.cameras(task.room, index), cells)
    return reproject(points.positions, points.tokens, target, points.footprints)


def beside(data: EncodedWalks, task: Task, references: int, generator: torch.Generator) -> Context:
    """The clean frames shown beside the segment (batch of one): those of the past that overlap it most, as in use, and
    those that precede it. Their latents are a little wrong, since in use they are generated.

    A past with fewer frames than `references` shows its last choice again.
    """
    shown = task.preceding.latents
    if not references and not len(shown):
        return Context(*2 * [shown.transpose(0, 1)[None]])
    if references:
        everything = torch.cat([task.segment, task.past.index])
        depth = data.depths[0][task.room, everything].float()
        cameras = data.cameras(task.room, everything).resize(depth.shape[1:])
        target = len(task.segment)
        size = shared_voxel_size(depth, cameras)
        sets = [visible_voxels(depth[i : i + 1], cameras[i : i + 1], None, size) for i in range(len(everything))]
        chosen = choose_references(torch.cat(sets[:target]).unique(), sets[target:], references, least=0.0)
        chosen += chosen[-1:] * (references - len(chosen))
        shown = torch.cat([task.past.latents[chosen], shown])
    wrong = 0.1 * torch.rand((), generator=generator)
    shown = (shown + wrong * torch.randn(shown.shape, generator=generator)).transpose(0, 1)[None]
    return Context(shown[:, :, :references], shown[:, :, references:])
