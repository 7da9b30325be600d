"""Recipe 3: the transformer with its memory branch, by flow matching on segments of walks.

The memory of a sample is built as at inference, by our own lift and readout, from other frames of the same walk: on the
way out from frames that came before, on the way back from frames all along the walk. Part of the time the model first
generates a segment, which is written back, and then learns on the next one: so it meets its own mistakes.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor, nn

from mirage_nb.cameras import Cameras
from mirage_nb.lifting import depth_to_latent, lift
from mirage_nb.masking import writable
from mirage_nb.models.control import memory_control
from mirage_nb.models.vae import encode, spatial_stride
from mirage_nb.reprojection import Readout, reproject
from mirage_nb.training.data import Walks

SHIFT = 3.0  # of the noise schedule; the paper's 5 is for pictures of 44 x 80 cells, ours have 16 x 16


@dataclass
class EncodedWalks:
    """What the memory recipe needs of R walks of T frames, at latent resolution.

    latents (R, T, C, h, w) and depths (a list of (R, T, h, w): the exact one, and the depth network's) in float16,
    cells (R, T, h, w) bool: what may be written; c2w (R, T, 4, 4); intrinsics (R, 4) at pixel size; size in pixels.
    """

    latents: Tensor
    depths: list[Tensor]
    cells: Tensor
    c2w: Tensor
    intrinsics: Tensor
    size: tuple[int, int]

    @staticmethod
    @torch.no_grad()
    def encode(walks: Walks, vae, depth_model=None, mirror: bool = True, progress=None) -> EncodedWalks:
        """Encode all frames; with a depth network, also note the depth that it would have given.

        With `mirror` every walk comes a second time as in a mirror, which is another room. Progress counts both.
        """
        stride, size = spatial_stride(vae), tuple(walks["frames"].shape[2:4])
        latents, depths, cells, c2w, intrinsics = [], [[], []], [], [], []
        for room, flip in product(range(len(walks)), (False, True) if mirror else (False,)):
            cameras = walks.cameras(room, slice(None))
            cameras = cameras.mirror() if flip else cameras
            pixels, depth, moving = walks.pixels(room, slice(None)), walks["depth"][room], ~walks["writable"][room]
            if flip:
                pixels, depth, moving = pixels.flip(-1), depth.flip(-1), moving.flip(-1)
            with torch.autocast(pixels.device.type, torch.bfloat16):
                latents.append(encode(vae, pixels.transpose(0, 1)[None])[0].transpose(0, 1).half())
            depths[0].append(depth_to_latent(depth.float(), stride).half())
            if depth_model is not None:
                guess = depth_model.predict(pixels, cameras.intrinsics)
                depths[1].append(depth_to_latent(guess, stride).half())
            cells.append(writable(depth.float(), moving=moving, stride=stride))
            c2w.append(cameras.c2w)
            intrinsics.append(cameras.intrinsics[0])
            if progress:
                progress(len(latents))
        stacked = [torch.stack(d) for d in depths if d]
        rest = (torch.stack(x) for x in (cells, c2w, intrinsics))
        return EncodedWalks(torch.stack(latents), stacked, *rest, size)

    def cameras(self, room: int, frames: Tensor) -> Cameras:
        return Cameras(self.c2w[room, frames], self.intrinsics[room], self.size)


def _choose(total: int, length: int, returning: bool, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Frames of the segment, first to last, and frames whose tokens the memory holds.

    On the way back, frames from all along the walk; on the way out (from either end) only such as came before.
    """

    def below(n: int) -> int:
        return int(torch.randint(n, (), generator=generator))

    first = below(total - length + 1)
    segment = torch.arange(first, first + length)
    if returning:
        segment = segment.flip(0) if below(4) else segment
        known = torch.randperm(total, generator=generator)[: 2 + below(6)]
    else:
        past = torch.randperm(first + 1, generator=generator)[: below(4)]
        known = torch.cat([torch.tensor([first]), past])
        if below(2):
            segment, known = total - 1 - segment, total - 1 - known
    return segment, known.unique()


@dataclass
class _Task:
    """A segment to be learnt, and what the memory holds: tokens (K, C, h, w) of known frames; none where dropped."""

    room: int
    segment: Tensor
    known: Tensor
    tokens: Tensor
    first: Tensor  # (C, h, w), the clean first frame


def _remember(data: EncodedWalks, task: _Task, generator: torch.Generator) -> Readout:
    """The readout, in the segment's cameras, of a memory of the known frames, with imperfect depth and tokens."""

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    source = data.depths[int(torch.randint(len(data.depths), (), generator=generator))]
    depth = source[task.room, task.known].float()
    if torch.rand((), generator=generator) < 0.5:
        n = len(task.known)
        bend = torch.nn.functional.interpolate(draw(n, 1, 3, 3), depth.shape[1:], mode="bicubic")[:, 0]
        depth = depth * (1 + 0.02 * bend + 0.02 * draw(1, 1, 1) + 0.01 * draw(n, 1, 1)).clamp(0.7, 1.4)
    tokens = task.tokens + 0.15 * torch.rand((), generator=generator) * draw(*task.tokens.shape)
    points = lift(tokens, depth, data.cameras(task.room, task.known), data.cells[task.room, task.known])
    target = data.cameras(task.room, task.segment).resize(depth.shape[1:])
    return reproject(points.positions, points.tokens, target, points.footprints)


def memory_loss(data: EncodedWalks, batch: int = 8, length: int = 5, drop: float = 0.1, rehearse: float = 0.25):
    """The `batch_loss` of `loop.fit`: flow matching with the first latent frame clean and out of the loss.

    Args:
        drop: share of samples without a memory.
        rehearse: share of batches in which the model first generates a segment and learns on the one after it, which
            sees what was generated. Only on the way back: there the memory tells what is right.
    """
    total = data.latents.shape[1]

    def draw(returning: bool | None, generator: torch.Generator) -> _Task:
        room = int(torch.randint(len(data.latents), (), generator=generator))
        if returning is None:
            returning = bool(torch.rand((), generator=generator) < 0.5)
        segment, known = _choose(total, length, returning, generator)
        if torch.rand((), generator=generator) < drop:
            known = known[:0]
        latents = data.latents[room].float()
        return _Task(room, segment, known, latents[known], latents[segment[0]])

    def after(task: _Task, made: Tensor, generator: torch.Generator) -> _Task:
        """The segment that follows a generated one, (C, length - 1, h, w): onwards, or back over it."""
        last, step = int(task.segment[-1]), int(task.segment[1] - task.segment[0])
        onwards = 0 <= last + step * (length - 1) < total and torch.rand((), generator=generator) < 0.5
        segment = last + (step if onwards else -step) * torch.arange(length)
        tokens = torch.cat([task.tokens, made.transpose(0, 1)])
        return _Task(task.room, segment, torch.cat([task.known, task.segment[1:]]), tokens, made[:, -1])

    def inputs(tasks: list[_Task], generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Clean latents (B, C, T, h, w) and the control input."""
        views = [data.cameras(t.room, t.segment).resize(data.latents.shape[-2:]) for t in tasks]
        readouts = [
            _remember(data, t, generator) if len(t.known) else Readout.empty(v, data.latents.shape[2])
            for t, v in zip(tasks, views)
        ]
        clean = torch.stack([data.latents[t.room, t.segment].float().transpose(0, 1) for t in tasks])
        clean[:, :, 0] = torch.stack([t.first for t in tasks])
        return clean, memory_control(readouts, views)

    @torch.no_grad()
    def generate(model: nn.Module, clean: Tensor, control: Tensor, generator: torch.Generator) -> Tensor:
        """New frames (B, C, length - 1, h, w) in a single step from pure noise."""
        noise = torch.randn(clean.shape, generator=generator)
        noise[:, :, 0] = clean[:, :, 0]
        timestep = torch.full((len(clean), length), 1000.0)
        timestep[:, 0] = 0
        return (noise - model(noise, timestep, control).sample)[:, :, 1:]

    def batch_loss(model: nn.Module, step: int, generator: torch.Generator):
        rehearsed = bool(torch.rand((), generator=generator) < rehearse)
        tasks = [draw(True if rehearsed else None, generator) for _ in range(batch)]
        clean, control = inputs(tasks, generator)
        if rehearsed:
            made = generate(model, clean, control, generator)
            tasks = [after(task, m, generator) for task, m in zip(tasks, made)]
            clean, control = inputs(tasks, generator)
        uniform = (torch.arange(batch) + torch.rand(batch, generator=generator)) / batch  # stratified
        noise_level = SHIFT * uniform / (1 + (SHIFT - 1) * uniform)
        sigma = noise_level[:, None, None, None, None].repeat(1, 1, length, 1, 1)
        sigma[:, :, 0] = 0
        noise = torch.randn(clean.shape, generator=generator)
        noisy = (1 - sigma) * clean + sigma * noise
        # The clean frame will be a generated one: let it be a little wrong already here.
        noisy[:, :, 0] += 0.1 * torch.rand(batch, 1, 1, 1, generator=generator) * noise[:, :, 0]
        velocity = model(noisy, sigma[:, 0, :, 0, 0] * 1000, control).sample
        error = (velocity - (noise - clean))[:, :, 1:].square()
        high = sigma[:, 0, 1, 0, 0] > 0.8
        return error.mean(), {"high": error[high].mean().item()} if high.any() else {}

    return batch_loss
