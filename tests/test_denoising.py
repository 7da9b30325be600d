"""From noise to latents: the steps of one segment."""

from __future__ import annotations

from types import SimpleNamespace

import torch

from mirage_nb.denoising import denoise
from mirage_nb.models.presets import build_scheduler


def test_denoising_with_the_true_velocity_finds_the_clean_latents():
    g = torch.Generator().manual_seed(0)
    clean, noise = torch.randn(2, 4, 3, 4, 6, generator=g), torch.randn(2, 4, 3, 4, 6, generator=g)
    seen = []

    def transformer(latents, timestep, control, encoder_hidden_states=None):
        seen.append(timestep)
        assert torch.equal(latents[:, :, 0], clean[:, :, 0]), "the first frame is context, at every step"
        return SimpleNamespace(sample=noise - clean)

    parts = SimpleNamespace(transformer=transformer, scheduler=build_scheduler())
    found = denoise(parts, clean[:, :, 0], noise, torch.zeros(1), 6)
    torch.testing.assert_close(found, clean, atol=1e-4, rtol=1e-4)
    timesteps = torch.stack(seen)
    assert timesteps.shape == (6, 2, 3) and not timesteps[..., 0].any()
    assert (timesteps[0, :, 1:] > 990).all() and (timesteps.diff(dim=0)[..., 1:] < 0).all()
