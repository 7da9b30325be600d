"""Recipe 2: the depth network, on single frames with exact depth. L1 of log depth and of its gradients."""

from __future__ import annotations

import torch
from torch import nn

from mirage_nb.training.data import Walks, device_of


def depth_loss(walks: Walks, batch: int = 16):
    """The `batch_loss` of `loop.fit` for the depth network."""

    def batch_loss(model: nn.Module, generator: torch.Generator, part: slice = slice(None)):
        which = walks.draw_frames(batch, generator, part)
        # Random exposure and colour cast, so that the network does not rely on one palette.
        gain = 1 + 0.2 * torch.randn(batch, 1, 1, 1, generator=generator)[part]
        cast = 0.06 * torch.randn(batch, 3, 1, 1, generator=generator)[part]
        pixels = (walks.pixels(*which) * gain + cast).clamp(-1, 1)
        depth, intrinsics = walks["depth"][which].float(), walks["intrinsics"][which[0]]
        if torch.rand((), generator=generator) < 0.5:  # principal points are centred: the mirror has the same lens
            pixels, depth = pixels.flip(-1), depth.flip(-1)
        pixels, depth = pixels.to(device_of(model)), depth.to(device_of(model))
        error = model(pixels, intrinsics) - depth.clamp(min=1e-2).log()
        measured = depth > 0
        loss = error[measured].abs().mean()
        for dim in (1, 2):
            both = measured.narrow(dim, 1, measured.shape[dim] - 1) & measured.narrow(dim, 0, measured.shape[dim] - 1)
            loss = loss + 0.5 * error.diff(dim=dim)[both].abs().mean()
        return loss, {"absrel": (error.exp() - 1)[measured].abs().mean().item()}

    return batch_loss


@torch.no_grad()
def depth_absrel(model, held_out: Walks, frames: int = 32) -> dict[str, float]:
    """Mean |predicted - true| / true over the pixels of held-out frames whose depth is known."""
    walks, frame = held_out.draw_frames(frames, torch.Generator().manual_seed(0))
    truth = held_out["depth"][walks, frame].float()
    pixels = held_out.pixels(walks, frame).to(device_of(model))
    predicted = model.predict(pixels, held_out["intrinsics"][walks]).cpu()
    return {"absrel": ((predicted - truth).abs() / truth)[truth > 0].mean().item()}
