"""Recipe 2: the depth network, on single frames with exact depth. L1 of log depth and of its gradients."""

import torch
from torch import nn

from mirage_nb.training.data import Walks


def depth_loss(walks: Walks, batch: int = 16):
    """The `batch_loss` of `loop.fit` for the depth network."""

    def batch_loss(model: nn.Module, generator: torch.Generator):
        which, device = walks.draw_frames(batch, generator), model.device
        pixels, depth = walks.pixels(*which).to(device), walks["depth"][which].float().to(device)
        error = model(pixels, walks["intrinsics"][which]) - depth.clamp(min=1e-2).log()
        measured = depth > 0  # (B, H, W)
        loss = error[measured].abs().mean()
        for dim in (1, 2):
            length = measured.shape[dim] - 1
            both = measured.narrow(dim, 1, length) & measured.narrow(dim, 0, length)
            loss = loss + 0.5 * error.diff(dim=dim)[both].abs().mean()
        return loss, {"absrel": (error.exp() - 1)[measured].abs().mean().item()}

    return batch_loss
