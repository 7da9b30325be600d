"""What the memory alone tells of the clean latents (`models.prior`), learnt by maximum likelihood."""

from __future__ import annotations

import torch
from torch import nn

from mirage_nb.training.data import device_of
from mirage_nb.training.memory import MemoryLoss


def prior_loss(samples: MemoryLoss):
    """The `batch_loss` of `loop.fit` for a `MemoryPrior`: negative log likelihood a latent, on the memory recipe's own
    samples. The clean first frame, which is known, does not count."""

    def batch_loss(model: nn.Module, step: int, generator: torch.Generator, part: slice = slice(None)):
        drawn = samples.sample(generator, part).to(device_of(model))
        return drawn.surprise(model).mean(), {}

    return batch_loss
