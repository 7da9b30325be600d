"""Recipe 3: the transformer with its memory branch, by flow matching on segments of walks.

The memory of a sample is built as at inference, by our own lift and readout, from other frames of the same walk: on the
way out from frames that came before, on the way back from frames all along the walk. Part of the time the model first
generates a segment, which is written back, and then learns on the next one; and part of the time the past is spoilt as
that of a long walk is: so it meets its own mistakes, and those that grow from them.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from mirage_nb.context import Context
from mirage_nb.models.control import memory_control
from mirage_nb.models.prior import surprise
from mirage_nb.training.data import device_of
from mirage_nb.training.encoded import EncodedWalks
from mirage_nb.training.tasks import Task, beside, draw_task, following, remember, spoil

SHIFT = 3.0  # of the noise schedule; the paper's 5 is for pictures of 44 x 80 cells, ours have 16 x 16


class Batch(NamedTuple):
    """Clean latents (B, C, T, h, w), control (B, K, T + p, h, w), noise like the latents, sigma (B, T), and the
    context frames, which the control knows as far as they precede the segment."""

    clean: Tensor
    control: Tensor
    noise: Tensor
    sigma: Tensor
    context: Context

    def to(self, device: torch.device) -> Batch:
        beside = (frames.to(device) for frames in (self.context.references, self.context.preceding))
        return Batch(*(x.to(device) for x in self[:-1]), Context(*beside))

    def velocity(self, model: nn.Module, noisy: Tensor, sigma: Tensor) -> Tensor:
        """What the model predicts for the segment, (B, C, T, h, w)."""
        hidden_states, timestep, options = self.context.arguments(noisy, 1000 * sigma)
        return self.context.of_target(model(hidden_states, timestep, self.control, **options).sample)

    def error(self, model: nn.Module) -> Tensor:
        """Squared error of the velocity, (B, C, T - 1, h, w): the clean first frame does not count."""
        level = self.sigma[:, None, :, None, None]
        velocity = self.velocity(model, (1 - level) * self.clean + level * self.noise, self.sigma)
        return (velocity - (self.noise - self.clean))[:, :, 1:].square()

    def surprise(self, prior: nn.Module) -> Tensor:
        """Of the new frames, to what the memory alone tells (`models.prior`), (B, C, T - 1, h, w)."""
        length = self.clean.shape[2]
        return surprise(*prior(self.control[:, :, 1:length]), self.clean[:, :, 1:])

    @torch.no_grad()
    def generate(self, model: nn.Module, start: Tensor) -> Tensor:
        """The new frames as the sampler makes them in two steps, (B, C, T - 1, h, w): where `start` (B,) is 1 from pure
        noise, below from the noisy truth, so that its shapes are kept and its details are the model's."""
        made = self.clean
        for part in (1.0, 0.5):
            level = shifted(part * start)[:, None].repeat(1, self.clean.shape[2])
            level[:, 0] = 0
            wide = level[:, None, :, None, None]
            noisy = torch.cat([self.clean[:, :, :1], ((1 - wide) * made + wide * self.noise)[:, :, 1:]], 2)
            made = noisy - wide * self.velocity(model, noisy, level)
        return made[:, :, 1:]


def shifted(uniform: Tensor) -> Tensor:
    """Noise levels sigma from uniform ones in [0, 1]."""
    return SHIFT * uniform / (1 + (SHIFT - 1) * uniform)


class MemoryLoss:
    """The `batch_loss` of `loop.fit`: flow matching with the first latent frame clean and out of the loss.

    Args:
        data: walks to learn from.
        batch: samples, over all processes.
        length: latent frames of a segment, the clean one included.
        drop: share of samples without a memory.
        rehearse: share of batches in which the model first generates a segment and learns on the one after it, which
            sees what was generated. Only on the way back: there the memory tells what is right.
        references, preceding: clean past frames beside the segment, at most (paper: 4 and 2). Half of the batches have
            none, the others a random number.
        spoilt: share of samples whose past is as wrong as a long walk's own (`tasks.spoil`).
        leap: frames of a walk from one of a segment to the next, at most; every sample draws its own.
    """

    def __init__(
        self,
        data: EncodedWalks,
        batch: int = 8,
        length: int = 5,
        drop: float = 0.1,
        rehearse: float = 0.25,
        references: int = 0,
        preceding: int = 0,
        spoilt: float = 0.0,
        leap: int = 1,
    ) -> None:
        self.data, self.batch, self.length, self.drop, self.rehearse = data, batch, length, drop, rehearse
        self.references, self.preceding, self.spoilt, self.leap = references, preceding, spoilt, leap
        if data.latents.shape[1] < length + preceding:
            raise ValueError(
                f"data: expected walks of at least {length + preceding} latent frames, got {data.latents.shape[1]}"
            )

    def __call__(self, model: nn.Module, step: int, generator: torch.Generator, part: slice = slice(None)):
        batch = self.sample(generator, part, model).to(device_of(model))
        error, high = batch.error(model), batch.sigma[:, 1] > 0.8
        figures = {"high": error[high].mean().item()} if high.any() else {}
        prior = getattr(model, "prior", None)
        if prior is None or not any(p.requires_grad for p in prior.parameters()):
            return error.mean(), figures
        return error.mean() + batch.surprise(prior).mean(), figures

    def sample(self, generator: torch.Generator, part: slice = slice(None), model: nn.Module | None = None) -> Batch:
        """One part of a batch, on the processor. The first frame is clean, sigma 0, though a little wrong, since in use
        it is a generated one. Without a model nothing is rehearsed."""
        rehearsed = bool(torch.rand((), generator=generator) < self.rehearse) and model is not None
        uniform = (torch.arange(self.batch) + torch.rand(self.batch, generator=generator))[part] / self.batch
        # A generator of its own for each sample, so that it does not matter who computes the others.
        numbers = torch.randint(2**62, (self.batch,), generator=generator)[part].tolist()
        generators = [torch.Generator().manual_seed(number) for number in numbers]
        references, preceding = self._counts(generator)
        tasks = [draw_task(self.data, self.length, self.drop, rehearsed, preceding, g, self.leap) for g in generators]
        if self.spoilt:
            chosen = [bool(torch.rand((), generator=g) < self.spoilt) for g in generators]
            tasks = [spoil(self.data, t, g) if yes else t for t, g, yes in zip(tasks, generators, chosen)]
        batch = self._inputs(tasks, generators, references)
        if rehearsed:
            start = torch.stack([(1.5 * torch.rand((), generator=g)).clamp(0.4, 1) for g in generators])
            device, total = device_of(model), self.data.latents.shape[1]
            made = batch.to(device).generate(model, start.to(device)).cpu()
            tasks = [following(task, m, total, g) for task, m, g in zip(tasks, made, generators)]
            batch = self._inputs(tasks, generators, references)
        wrong = torch.stack([torch.rand((), generator=g) for g in generators])[:, None, None, None]
        batch.clean[:, :, 0] += 0.1 * wrong * batch.noise[:, :, 0]
        sigma = shifted(uniform)[:, None].repeat(1, self.length)  # stratified
        sigma[:, 0] = 0
        return batch._replace(sigma=sigma)

    def _counts(self, generator: torch.Generator) -> tuple[int, int]:
        """How many references and preceding frames this batch shows."""
        if not self.references and not self.preceding or torch.rand((), generator=generator) < 0.5:
            return 0, 0
        draws = (torch.randint(most + 1, (), generator=generator) for most in (self.references, self.preceding))
        return tuple(map(int, draws))

    def _inputs(self, tasks: list[Task], generators: list[torch.Generator], references: int) -> Batch:
        """A batch that still lacks its sigma."""
        latents = self.data.latents
        whole = [torch.cat([t.segment, t.preceding.index]) for t in tasks]
        views = [self.data.cameras(t.room, frames).resize(latents.shape[-2:]) for t, frames in zip(tasks, whole)]
        readouts = [remember(self.data, t, frames, g) for t, frames, g in zip(tasks, whole, generators)]
        clean = torch.stack([latents[t.room, t.segment].float().transpose(0, 1) for t in tasks])
        clean[:, :, 0] = torch.stack([t.first for t in tasks])
        noise = torch.stack([torch.randn(clean.shape[1:], generator=g) for g in generators])
        contexts = [beside(self.data, t, references, g) for t, g in zip(tasks, generators)]
        return Batch(clean, memory_control(readouts, views), noise, clean[:, 0, :, 0, 0], Context.stack(contexts))


def in_turn(*losses: MemoryLoss):
    """The `batch_loss` of `loop.fit` that takes its batches from several losses, one after another."""

    def batch_loss(model: nn.Module, step: int, generator: torch.Generator, part: slice = slice(None)):
        return losses[step % len(losses)](model, step, generator, part)

    return batch_loss


@torch.no_grad()
def velocity_error(
    model: nn.Module, held_out: EncodedWalks, sigma: float, memory: bool = True, batches: int = 4, seed: int = 0
) -> float:
    """Mean squared error of the predicted velocity on held-out walks, at one noise level; the same for every model."""
    loss = MemoryLoss(held_out, batch=4, length=model.config.segment_latent_frames, drop=0.0 if memory else 1.0)
    errors = []
    for number in range(batches):
        batch = loss.sample(torch.Generator().manual_seed(seed + number)).to(device_of(model))
        batch.sigma[:, 1:] = sigma
        with torch.autocast(batch.clean.device.type, torch.bfloat16):
            errors.append(batch.error(model).mean().item())
    return sum(errors) / len(errors)
