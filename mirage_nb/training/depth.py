"""Recipe 2: the depth network, on single frames with exact depth. L1 of log depth and of its gradients."""

from __future__ import annotations

import torch
from torch import nn

from mirage_nb.training.data import Walks, device_of


def depth_loss(walks: Walks, batch: int = 16):
    """The `batch_loss` of `loop.fit` for the depth network."""

    def batch_loss(model: nn.Module, step: int, generator: torch.Generator, part: slice = slice(None)):
        rooms = torch.randint(len(walks), (batch,), generator=generator)[part]
        frames = torch.randint(walks.num_frames, (batch,), generator=generator)[part]
        # Random exposure, contrast and colour cast, so that the network does not lean on one palette.
        gain = 1 + 0.2 * torch.randn(batch, 1, 1, 1, generator=generator)[part]
        cast = 0.06 * torch.randn(batch, 3, 1, 1, generator=generator)[part]
        pixels = (walks.pixels(rooms, frames) * gain + cast).clamp(-1, 1)
        depth, intrinsics = walks["depth"][rooms, frames].float(), walks["intrinsics"][rooms]
        if (
            torch.rand((), generator=generator) < 0.5
        ):  # our principal points are centred, so a mirror image needs no more
            pixels, depth = pixels.flip(-1), depth.flip(-1)
        pixels, depth = pixels.to(device_of(model)), depth.to(device_of(model))
        error = model(pixels, intrinsics) - depth.clamp(min=1e-2).log()
        known = depth > 0
        loss = error[known].abs().mean()
        for dim in (1, 2):
            both = known.narrow(dim, 1, known.shape[dim] - 1) & known.narrow(dim, 0, known.shape[dim] - 1)
            loss = loss + 0.5 * error.diff(dim=dim)[both].abs().mean()
        return loss, {"absrel": (error.exp() - 1)[known].abs().mean().item()}

    return batch_loss


@torch.no_grad()
def depth_absrel(model, held_out: Walks, frames: int = 96) -> dict[str, float]:
    """Mean |predicted - true| / true over the known pixels of held-out frames."""
    rooms, index = torch.arange(frames) % len(held_out), (torch.arange(frames) * 7) % held_out.num_frames
    truth = held_out["depth"][rooms, index].float()
    pixels = held_out.pixels(rooms, index).to(device_of(model))
    predicted = model.predict(pixels, held_out["intrinsics"][rooms]).cpu()
    known = truth > 0
    return {"absrel": ((predicted - truth).abs() / truth)[known].mean().item()}
