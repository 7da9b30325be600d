"""Recipe 3: the transformer with its memory branch, by flow matching on segments of walks.

The memory of a sample is built as at inference, by our own lift and readout, from other frames of the same walk: on the
way out from frames that came before, on the way back from frames all along the walk.
"""

from __future__ import annotations

from dataclasses import dataclass

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
    def encode(walks: Walks, vae, depth_model=None, progress=None) -> EncodedWalks:
        """Encode all frames; with a depth network, also note the depth that it would have given."""
        stride = spatial_stride(vae)
        latents, depths, cells = [], [[], []], []
        for room in range(len(walks)):
            pixels = walks.pixels(room, slice(None))
            with torch.autocast(pixels.device.type, torch.bfloat16):
                latents.append(encode(vae, pixels.transpose(0, 1)[None])[0].transpose(0, 1).half())
            depth = walks["depth"][room].float()
            depths[0].append(depth_to_latent(depth, stride).half())
            if depth_model is not None:
                intrinsics = walks["intrinsics"][room].expand(len(pixels), 4)
                guess = depth_model.predict(pixels, intrinsics)
                depths[1].append(depth_to_latent(guess, stride).half())
            cells.append(writable(depth, moving=~walks["writable"][room], stride=stride))
            if progress:
                progress(room + 1)
        size = tuple(walks["frames"].shape[2:4])
        stacked = [torch.stack(d) for d in depths if d]
        return EncodedWalks(torch.stack(latents), stacked, torch.stack(cells), walks["c2w"], walks["intrinsics"], size)

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


def _remember(data: EncodedWalks, room: int, known: Tensor, segment: Tensor, generator: torch.Generator) -> Readout:
    """The readout, in the segment's cameras, of a memory of the known frames, with imperfect depth and tokens."""

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    source = data.depths[int(torch.randint(len(data.depths), (), generator=generator))]
    depth = source[room, known].float()
    if torch.rand((), generator=generator) < 0.5:
        n = len(known)
        bend = torch.nn.functional.interpolate(draw(n, 1, 3, 3), depth.shape[1:], mode="bicubic")[:, 0]
        depth = depth * (1 + 0.02 * bend + 0.02 * draw(1, 1, 1) + 0.01 * draw(n, 1, 1)).clamp(0.7, 1.4)
    tokens = data.latents[room, known].float()
    tokens = tokens + 0.15 * torch.rand((), generator=generator) * draw(*tokens.shape)
    points = lift(tokens, depth, data.cameras(room, known), data.cells[room, known])
    target = data.cameras(room, segment).resize(depth.shape[1:])
    return reproject(points.positions, points.tokens, target, points.footprints)


def memory_loss(data: EncodedWalks, batch: int = 8, length: int = 5, drop: float = 0.1):
    """The `batch_loss` of `loop.fit`: flow matching with the first latent frame clean and out of the loss."""

    def sample(generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Clean latents (B, C, T, h, w) and the control input of a batch."""
        clean, readouts, cameras = [], [], []
        for room in torch.randint(len(data.latents), (batch,), generator=generator).tolist():
            returning = bool(torch.rand((), generator=generator) < 0.5)
            segment, known = _choose(data.latents.shape[1], length, returning, generator)
            target = data.cameras(room, segment).resize(data.latents.shape[-2:])
            if torch.rand((), generator=generator) < drop:
                readouts.append(Readout.empty(target, data.latents.shape[2]))
            else:
                readouts.append(_remember(data, room, known, segment, generator))
            clean.append(data.latents[room, segment].float().transpose(0, 1))
            cameras.append(target)
        return torch.stack(clean), memory_control(readouts, cameras)

    def batch_loss(model: nn.Module, step: int, generator: torch.Generator):
        clean, control = sample(generator)
        uniform = (torch.arange(batch) + torch.rand(batch, generator=generator)) / batch  # stratified
        sigma = (
            (SHIFT * uniform / (1 + (SHIFT - 1) * uniform))[:, None, None, None, None]
            .expand(-1, -1, length, -1, -1)
            .clone()
        )
        sigma[:, :, 0] = 0
        noise = torch.randn(clean.shape, generator=generator)
        noisy = (1 - sigma) * clean + sigma * noise
        # The clean frame will be a generated one: let it be a little wrong already here.
        noisy[:, :, 0] += 0.1 * torch.rand(batch, 1, 1, 1, generator=generator) * noise[:, :, 0]
        velocity = model(noisy, sigma[:, 0, :, 0, 0] * 1000, control).sample
        error = (velocity - (noise - clean))[:, :, 1:].square()
        high = sigma[:, 0, 1, 0, 0] > 0.8
        figures = {"high": error[high].mean().item()} if high.any() else {}
        return error.mean(), figures

    return batch_loss
