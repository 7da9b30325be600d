"""Recipe 3: the transformer with its memory branch, by flow matching on segments of walks; and its prior.

Part of the time the model first generates a segment, which becomes past, and then learns on the next one; and part of
the time the past is corrupted as that of a long walk is. So it meets its own mistakes, and learns not to add to them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from mirage_nb.context import Context
from mirage_nb.models.control import memory_control
from mirage_nb.models.prior import surprise
from mirage_nb.training.data import device_of
from mirage_nb.training.encoded import EncodedWalks
from mirage_nb.training.samples import Sample, corrupt_past, draw_sample, next_sample, read_memory, show_context

SHIFT = 3.0  # of the noise schedule, as in use (paper: 5, for latents of 44 x 80 cells where ours have 16 x 16)
FIRST_FRAME_NOISE = 0.1  # largest deviation of the noise on the clean first frame, which in use is a generated one


class Batch(NamedTuple):
    """Clean latents, control input, noise and noise levels of B segments of T frames, and their context frames."""

    clean: Tensor  # (B, C, T, h, w)
    control: Tensor  # (B, K, T + preceding, h, w)
    noise: Tensor  # (B, C, T, h, w)
    sigma: Tensor  # (B, T), 0 for the clean first frame
    context: Context

    def to(self, device: torch.device) -> Batch:
        context = Context(self.context.references.to(device), self.context.preceding.to(device))
        return Batch(*(x.to(device) for x in self[:-1]), context)

    def velocity(self, model: nn.Module, noisy: Tensor, sigma: Tensor) -> Tensor:
        """What the model predicts for the segment, (B, C, T, h, w)."""
        hidden_states, timestep, options = self.context.add_to(noisy, 1000 * sigma)
        return self.context.of_target(model(hidden_states, timestep, self.control, **options).sample)

    def error(self, model: nn.Module) -> Tensor:
        """Squared error of the velocity, (B, C, T - 1, h, w): the clean first frame does not count."""
        level = self.sigma[:, None, :, None, None]
        velocity = self.velocity(model, (1 - level) * self.clean + level * self.noise, self.sigma)
        return (velocity - (self.noise - self.clean))[:, :, 1:].square()

    def surprise(self, prior: nn.Module) -> Tensor:
        """Negative log likelihood of the new frames under the prior, (B, C, T - 1, h, w)."""
        length = self.clean.shape[2]
        return surprise(*prior(self.control[:, :, 1:length]), self.clean[:, :, 1:])

    @torch.no_grad()
    def generate(self, model: nn.Module, start: Tensor) -> Tensor:
        """The new frames as the sampler makes them in two steps, (B, C, T - 1, h, w).

        start: (B,), 1 to begin with pure noise, less to begin with the noisy truth, whose shapes then stay.
        """
        latents = self.clean
        for part in (1.0, 0.5):
            level = shifted(part * start)[:, None].repeat(1, self.clean.shape[2])
            level[:, 0] = 0
            wide = level[:, None, :, None, None]
            noisy = torch.cat([self.clean[:, :, :1], ((1 - wide) * latents + wide * self.noise)[:, :, 1:]], 2)
            latents = noisy - wide * self.velocity(model, noisy, level)
        return latents[:, :, 1:]


def shifted(uniform: Tensor) -> Tensor:
    """Noise levels sigma from uniform numbers in [0, 1]: more of them are high, where only a memory can tell."""
    return SHIFT * uniform / (1 + (SHIFT - 1) * uniform)


@dataclass
class MemoryLoss:
    """The `batch_loss` of `loop.fit`: flow matching with the first latent frame clean and out of the loss.

    Args:
        data: walks to learn from.
        batch: samples, over all processes.
        length: latent frames of a segment, the clean one included.
        drop: share of samples without a memory.
        rehearse: share of batches in which the model first generates a segment and then learns on the next one. Only
            on the way back, where the memory shows what is right.
        corrupt: share of samples whose past is corrupted (`samples.corrupt_past`).
        references, preceding: clean context frames, at most (paper: 4 and 2). Half of the batches have none, the others
            a random number.
    """

    data: EncodedWalks
    batch: int = 8
    length: int = 5
    drop: float = 0.1
    rehearse: float = 0.25
    corrupt: float = 0.0
    references: int = 0
    preceding: int = 0

    def __post_init__(self) -> None:
        total, needed = self.data.latents.shape[1], self.length + self.preceding
        if total < needed:
            raise ValueError(f"data: expected walks of at least {needed} latent frames, got {total}")

    def __call__(self, model: nn.Module, generator: torch.Generator, part: slice = slice(None)):
        batch = self.sample(generator, part, model).to(device_of(model))
        loss, prior = batch.error(model).mean(), getattr(model, "prior", None)
        if prior is not None and any(p.requires_grad for p in prior.parameters()):
            loss = loss + batch.surprise(prior).mean()
        return loss, {}

    def sample(self, generator: torch.Generator, part: slice = slice(None), model: nn.Module | None = None) -> Batch:
        """This process's part of a batch, on the CPU. Without a model nothing is rehearsed."""
        rehearse = bool(torch.rand((), generator=generator) < self.rehearse) and model is not None
        uniform = (torch.arange(self.batch) + torch.rand(self.batch, generator=generator))[part] / self.batch
        # Every sample has its own generator, so it does not depend on which process computes the others.
        seeds = torch.randint(2**62, (self.batch,), generator=generator)[part].tolist()
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        references, preceding = self._context_counts(generator)
        samples = [draw_sample(self.data, self.length, self.drop, rehearse, preceding, g) for g in generators]
        for index, g in enumerate(generators):
            if torch.rand((), generator=g) < self.corrupt:
                samples[index] = corrupt_past(self.data, samples[index], g)
        batch = self._inputs(samples, generators, references)
        if rehearse:
            start = torch.stack([(1.5 * torch.rand((), generator=g)).clamp(0.4, 1) for g in generators])
            device, total = device_of(model), self.data.latents.shape[1]
            generated = batch.to(device).generate(model, start.to(device)).cpu()
            samples = [next_sample(s, new, total, g) for s, new, g in zip(samples, generated, generators)]
            batch = self._inputs(samples, generators, references)
        wrong = torch.stack([torch.rand((), generator=g) for g in generators])[:, None, None, None]
        batch.clean[:, :, 0] += FIRST_FRAME_NOISE * wrong * batch.noise[:, :, 0]
        sigma = shifted(uniform)[:, None].repeat(1, self.length)
        sigma[:, 0] = 0
        return batch._replace(sigma=sigma)

    def _context_counts(self, generator: torch.Generator) -> tuple[int, int]:
        """How many references and preceding frames this batch shows."""
        if torch.rand((), generator=generator) < 0.5:
            return 0, 0
        counts = (torch.randint(most + 1, (), generator=generator) for most in (self.references, self.preceding))
        return tuple(map(int, counts))

    def _inputs(self, samples: list[Sample], generators: list[torch.Generator], references: int) -> Batch:
        """A batch that still lacks its sigma."""
        seen = [torch.cat([s.segment, s.preceding.index]) for s in samples]  # what the branch sees
        views = [self.data.cameras(s.walk, frames) for s, frames in zip(samples, seen)]
        readouts = [read_memory(self.data, s, frames, g) for s, frames, g in zip(samples, seen, generators)]
        clean = torch.stack([self.data.latents[s.walk, s.segment].float().transpose(0, 1) for s in samples])
        clean[:, :, 0] = torch.stack([s.first for s in samples])
        noise = torch.stack([torch.randn(clean.shape[1:], generator=g) for g in generators])
        contexts = [show_context(self.data, s, references, g) for s, g in zip(samples, generators)]
        return Batch(clean, memory_control(readouts, views), noise, clean[:, 0, :, 0, 0], Context.stack(contexts))


def prior_loss(samples: MemoryLoss):
    """The `batch_loss` of `loop.fit` for a `MemoryPrior` alone: its negative log likelihood on the same samples."""

    def batch_loss(model: nn.Module, generator: torch.Generator, part: slice = slice(None)):
        return samples.sample(generator, part).to(device_of(model)).surprise(model).mean(), {}

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
