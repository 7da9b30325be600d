"""Recipe 3: the transformer with its memory branch (and its prior, if it has one), by flow matching on segments.

A sample's memory is built as at inference, by our own `lift` and `reproject`. It is imperfect on purpose, because in
use depth is estimated and past frames are generated.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mirage_nb.cameras import Cameras
from mirage_nb.context import Context, choose_references, shared_voxel_size, visible_voxels
from mirage_nb.lifting import lift
from mirage_nb.models.control import memory_control
from mirage_nb.reprojection import Readout, reproject
from mirage_nb.training.encoded import EncodedWalks

SHIFT = 3.0  # of the noise schedule, as in use (paper: 5, for latents of 44 x 80 cells where ours have 16 x 16)
FIRST_FRAME_NOISE = 0.1  # largest deviation of the noise on the clean first frame, which in use is a generated one
# Share of memories that are lifted at the estimated depth. It gives the sky in windows a depth, too, as in use; if
# windows were never written, the model would invent them.
ESTIMATED = 0.75
TOKEN_NOISE = 0.15  # largest deviation of the noise on the memory's tokens
CONTEXT_NOISE = 0.1  # the same for clean context frames


class Sample(NamedTuple):
    """A segment to learn: frames of a walk, by number."""

    walk: int
    latents: Tensor  # (frames of the walk, C, h, w)
    segment: Tensor  # (T,)
    past: Tensor  # (K,), what the memory holds, and what references are chosen from
    preceding: Tensor  # (P,), those just before the segment


def draw_sample(data: EncodedWalks, length: int, before: int, generator: torch.Generator) -> Sample:
    """A segment of `length` frames of a random walk, with the `before` frames that precede it.

    Half of them are on the way back: the memory holds frames from everywhere on the walk. On the way out it holds
    earlier ones only. Half of the walks are walked from their end.
    """

    def below(n: int) -> int:
        return int(torch.randint(n, (), generator=generator))

    walk, total, returning = below(len(data)), data.latents.shape[1], below(2) == 1
    first = before + below(total - length - before + 1)
    segment, preceding = first + torch.arange(length), first - before + torch.arange(before)
    seen, count = (total, 2 + below(6)) if returning else (first + 1, below(4))
    past = torch.randperm(seen, generator=generator)[:count]
    if not returning or below(2):  # in use the segment's first frame has nearly always been written
        past = torch.cat([past, segment[:1]])
    frames = (segment, past.unique(), preceding)
    if below(2):
        frames = (total - 1 - index for index in frames)
    return Sample(walk, data.latents[walk].float(), *frames)


def read_memory(data: EncodedWalks, sample: Sample, target: Cameras, generator: torch.Generator) -> Readout:
    """Write the sample's past, with imperfect depth and tokens, and read it in some cameras at latent size."""

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    index, tokens = sample.past, sample.latents[sample.past]
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
    shown = sample.latents[sample.preceding]
    if references:
        earlier = sample.past[sample.past != sample.segment[0]]  # the clean first frame is shown anyway
        earlier = earlier if len(earlier) else sample.past
        index = torch.cat([sample.segment, earlier])
        depth, cameras = data.depth[sample.walk, index].float(), data.cameras(sample.walk, index)
        size, length = shared_voxel_size(depth, cameras), len(sample.segment)
        voxels = [visible_voxels(depth[i : i + 1], cameras[i : i + 1], None, size) for i in range(len(index))]
        chosen = choose_references(torch.cat(voxels[:length]).unique(), voxels[length:], references) or [0]
        chosen += chosen[-1:] * (references - len(chosen))
        shown = torch.cat([sample.latents[earlier[chosen]], shown])
    noise = CONTEXT_NOISE * torch.rand((), generator=generator) * torch.randn(shown.shape, generator=generator)
    shown = (shown + noise).transpose(0, 1)[None]  # (1, C, references + preceding, h, w)
    return Context(shown[:, :, :references], shown[:, :, references:])


class Batch(NamedTuple):
    """Clean latents, control input, noise and noise levels of B segments of T frames, and their context frames."""

    clean: Tensor  # (B, C, T, h, w)
    control: Tensor  # (B, K, T + preceding, h, w)
    noise: Tensor  # (B, C, T, h, w)
    sigma: Tensor  # (B, T), 0 for the clean first frame
    context: Context

    def to(self, device: torch.device) -> "Batch":
        return Batch(*(part.to(device) for part in self))

    def error(self, model: nn.Module) -> Tensor:
        """Squared error of the velocity, (B, C, T - 1, h, w): the clean first frame does not count."""
        level = self.sigma[:, None, :, None, None]
        noisy = (1 - level) * self.clean + level * self.noise
        latents, timesteps, layout = self.context.add_to(noisy, 1000 * self.sigma)
        velocity = self.context.of_target(model(latents, timesteps, self.control, **layout).sample)
        return (velocity - (self.noise - self.clean))[:, :, 1:].square()


def shifted(uniform: Tensor) -> Tensor:
    """Noise levels sigma from uniform numbers in [0, 1]: more of them are high, where only a memory can tell."""
    return SHIFT * uniform / (1 + (SHIFT - 1) * uniform)


@dataclass
class MemoryLoss:
    """The `batch_loss` of `loop.fit`: flow matching with the first latent frame clean and out of the loss.

    Half of the batches have no context frames, the others a random number of them.
    """

    data: EncodedWalks
    batch: int = 8  # samples
    length: int = 5  # latent frames of a segment, the clean one included
    drop: float = 0.1  # share of samples without a memory
    references: int = 0  # context frames at most (paper: 4 and 2)
    preceding: int = 0

    def __post_init__(self) -> None:
        total, needed = self.data.latents.shape[1], self.length + self.preceding
        if total < needed:
            raise ValueError(f"data: expected walks of at least {needed} latent frames, got {total}")

    def __call__(self, model: nn.Module, generator: torch.Generator):
        batch = self.sample(generator).to(model.device)
        loss, prior = batch.error(model).mean(), getattr(model, "prior", None)
        if prior is not None and any(p.requires_grad for p in prior.parameters()):
            mean, deviation = prior(batch.control[:, :, 1 : self.length])
            loss = loss + F.gaussian_nll_loss(mean, batch.clean[:, :, 1:], deviation.square())
        return loss, {}

    def sample(self, generator: torch.Generator) -> Batch:
        """A batch, on the CPU."""
        with_context = torch.rand((), generator=generator) < 0.5
        most = (self.references, self.preceding) if with_context else (0, 0)
        references, preceding = (int(torch.randint(n + 1, (), generator=generator)) for n in most)
        samples = [draw_sample(self.data, self.length, preceding, generator) for _ in range(self.batch)]
        data, count = self.data, len(samples)
        # The branch sees the segment, then the preceding frames.
        views = [data.cameras(s.walk, torch.cat([s.segment, s.preceding])) for s in samples]
        readouts = [read_memory(data, s, view, generator) for s, view in zip(samples, views)]
        for i in (torch.rand(count, generator=generator) < self.drop).nonzero()[:, 0].tolist():
            readouts[i] = Readout.empty(views[i], data.latents.shape[2])
        contexts = [show_context(data, s, references, generator) for s in samples]
        clean = torch.stack([s.latents[s.segment].transpose(0, 1) for s in samples])
        noise = torch.randn(clean.shape, generator=generator)
        wrong = FIRST_FRAME_NOISE * torch.rand(count, 1, 1, 1, generator=generator)
        clean[:, :, 0] += wrong * noise[:, :, 0]
        level = shifted((torch.arange(count) + torch.rand(count, generator=generator)) / count)
        sigma = level[:, None].repeat(1, self.length)
        sigma[:, 0] = 0
        return Batch(clean, memory_control(readouts, views), noise, sigma, Context.stack(contexts))


@torch.no_grad()
def velocity_error(
    model: nn.Module, held_out: EncodedWalks, sigma: float, memory: bool = True, batches: int = 4
) -> float:
    """Mean squared error of the predicted velocity on held-out walks, at one noise level; the same for every model."""
    loss = MemoryLoss(held_out, batch=4, length=model.config.segment_latent_frames, drop=0.0 if memory else 1.0)
    total = 0.0
    for number in range(batches):
        batch = loss.sample(torch.Generator().manual_seed(number)).to(model.device)
        batch.sigma[:, 1:] = sigma
        with torch.autocast(batch.clean.device.type, torch.bfloat16):
            total += batch.error(model).mean().item()
    return total / batches
