"""Recipe 3: the transformer with its memory branch, by flow matching on segments of walks.

The memory of a sample is built as at inference, by our own lift and readout, from other frames of the same walk: on the
way out from frames that came before, on the way back from frames all along the walk. Part of the time the model first
generates a segment, which is written back, and then learns on the next one: so it meets its own mistakes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mirage_nb.lifting import lift
from mirage_nb.models.control import memory_control
from mirage_nb.reprojection import Readout, reproject
from mirage_nb.training.encoded import EncodedWalks

SHIFT = 3.0  # of the noise schedule; the paper's 5 is for pictures of 44 x 80 cells, ours have 16 x 16


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


class MemoryLoss:
    """The `batch_loss` of `loop.fit`: flow matching with the first latent frame clean and out of the loss.

    Args:
        data: walks to learn from.
        batch: samples, over all processes.
        length: latent frames of a segment, the clean one included.
        drop: share of samples without a memory.
        rehearse: share of batches in which the model first generates a segment and learns on the one after it, which
            sees what was generated. Only on the way back: there the memory tells what is right.
    """

    def __init__(
        self, data: EncodedWalks, batch: int = 8, length: int = 5, drop: float = 0.1, rehearse: float = 0.25
    ) -> None:
        self.data, self.batch, self.length, self.drop, self.rehearse = data, batch, length, drop, rehearse
        if data.latents.shape[1] < length:
            raise ValueError(f"data: expected walks of at least {length} latent frames, got {data.latents.shape[1]}")

    def __call__(self, model: nn.Module, step: int, generator: torch.Generator, part: slice = slice(None)):
        clean, control, noise, sigma = self.sample(generator, part, model)
        level = sigma[:, None, :, None, None]
        velocity = model((1 - level) * clean + level * noise, sigma * 1000, control).sample
        error = (velocity - (noise - clean))[:, :, 1:].square()
        high = sigma[:, 1] > 0.8
        return error.mean(), {"high": error[high].mean().item()} if high.any() else {}

    def sample(
        self, generator: torch.Generator, part: slice = slice(None), model: nn.Module | None = None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Clean latents (B, C, T, h, w), control (B, K, T, h, w), noise like the latents, and sigma (B, T).

        The first frame is clean, sigma 0, though a little wrong, since in use it is a generated one. Without a model
        nothing is rehearsed.
        """
        rehearsed = bool(torch.rand((), generator=generator) < self.rehearse) and model is not None
        uniform = (torch.arange(self.batch) + torch.rand(self.batch, generator=generator))[part] / self.batch
        # A generator of its own for each sample, so that it does not matter who computes the others.
        numbers = torch.randint(2**62, (self.batch,), generator=generator)[part].tolist()
        generators = [torch.Generator().manual_seed(number) for number in numbers]
        tasks = [self._task(rehearsed, g) for g in generators]
        clean, control, noise = self._inputs(tasks, generators)
        if rehearsed:
            made = self._generate(model, clean, control, noise)
            tasks = [self._after(task, m, g) for task, m, g in zip(tasks, made, generators)]
            clean, control, noise = self._inputs(tasks, generators)
        wrong = torch.stack([torch.rand((), generator=g) for g in generators])[:, None, None, None]
        clean[:, :, 0] += 0.1 * wrong * noise[:, :, 0]
        sigma = (SHIFT * uniform / (1 + (SHIFT - 1) * uniform))[:, None].repeat(1, self.length)  # stratified, shifted
        sigma[:, 0] = 0
        return clean, control, noise, sigma

    def _task(self, returning: bool, generator: torch.Generator) -> _Task:
        room = int(torch.randint(len(self.data.latents), (), generator=generator))
        returning = bool(torch.rand((), generator=generator) < 0.5) or returning
        segment, known = _choose(self.data.latents.shape[1], self.length, returning, generator)
        if torch.rand((), generator=generator) < self.drop:
            known = known[:0]
        latents = self.data.latents[room].float()
        return _Task(room, segment, known, latents[known], latents[segment[0]])

    def _after(self, task: _Task, made: Tensor, generator: torch.Generator) -> _Task:
        """The segment that follows a generated one, (C, length - 1, h, w): onwards, or back over it."""
        last, step, total = int(task.segment[-1]), int(task.segment[1] - task.segment[0]), self.data.latents.shape[1]
        onwards = 0 <= last + step * (self.length - 1) < total and torch.rand((), generator=generator) < 0.5
        segment = last + (step if onwards else -step) * torch.arange(self.length)
        tokens = torch.cat([task.tokens, made.transpose(0, 1)])
        return _Task(task.room, segment, torch.cat([task.known, task.segment[1:]]), tokens, made[:, -1])

    def _inputs(self, tasks: list[_Task], generators: list[torch.Generator]) -> tuple[Tensor, Tensor, Tensor]:
        latents = self.data.latents
        views = [self.data.cameras(t.room, t.segment).resize(latents.shape[-2:]) for t in tasks]
        readouts = [
            _remember(self.data, t, g) if len(t.known) else Readout.empty(v, latents.shape[2])
            for t, v, g in zip(tasks, views, generators)
        ]
        clean = torch.stack([latents[t.room, t.segment].float().transpose(0, 1) for t in tasks])
        clean[:, :, 0] = torch.stack([t.first for t in tasks])
        noise = torch.stack([torch.randn(clean.shape[1:], generator=g) for g in generators])
        return clean, memory_control(readouts, views), noise

    @torch.no_grad()
    def _generate(self, model: nn.Module, clean: Tensor, control: Tensor, noise: Tensor) -> Tensor:
        """New frames (B, C, length - 1, h, w) in a single step from pure noise."""
        noise[:, :, 0] = clean[:, :, 0]
        timestep = torch.full((len(clean), self.length), 1000.0)
        timestep[:, 0] = 0
        return (noise - model(noise, timestep, control).sample)[:, :, 1:]


@torch.no_grad()
def velocity_error(
    model: nn.Module, held_out: EncodedWalks, sigma: float, memory: bool = True, batches: int = 4, seed: int = 0
) -> float:
    """Mean squared error of the predicted velocity on held-out walks, at one noise level; the same for every model."""
    loss = MemoryLoss(held_out, batch=4, length=model.config.segment_latent_frames, drop=0.0 if memory else 1.0)
    errors = []
    for batch in range(batches):
        clean, control, noise, level = loss.sample(torch.Generator().manual_seed(seed + batch))
        level[:, 1:] = sigma
        mixed = level[:, None, :, None, None]
        with torch.autocast(clean.device.type, torch.bfloat16):
            velocity = model((1 - mixed) * clean + mixed * noise, level * 1000, control).sample
        errors.append((velocity - (noise - clean))[:, :, 1:].square().mean().item())
    return sum(errors) / len(errors)
