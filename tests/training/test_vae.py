"""The VAE's recipe: it learns, its latents stay small, and latents of two views are decoded side by side."""

from __future__ import annotations

import torch
from diffusers import AutoencoderKLWan
from micro import build_micro

from mirage_nb.models.presets import bundled_model
from mirage_nb.training.vae import latent_cost, posterior, reconstruct, set_statistics, vae_loss

GOOD = 0.012  # L1 of a reconstruction of 34 dB


def test_it_learns_on_a_fixed_batch(walks, descends):
    assert descends(vae_loss(walks, batch=3, crop=32), build_micro()["vae"], steps=20)


def test_latents_cost_little_until_they_grow():
    logvar = torch.full((1000,), -4.0)
    mean = torch.linspace(-(3**0.5), 3**0.5, 1000)  # a deviation of 1
    assert 0.03 * GOOD < latent_cost(mean, logvar) < 0.2 * GOOD
    assert GOOD < latent_cost(10 * mean, logvar) < 5 * GOOD


def test_statistics_make_latents_standard(walks):
    model = build_micro()["vae"]
    set_statistics(model, walks, frames=14)
    pixels = walks.pixels(*walks.draw_frames(14, torch.Generator().manual_seed(0)))
    mean, deviation = (
        torch.tensor(x).view(1, -1, 1, 1, 1) for x in (model.config.latents_mean, model.config.latents_std)
    )
    standard = (posterior(model, pixels)[0] - mean) / deviation
    assert standard.mean((0, 2, 3, 4)).abs().max() < 0.05 and (standard.std((0, 2, 3, 4)) - 1).abs().max() < 0.05


def test_the_bundled_vae_decodes_a_collage_as_a_collage(walks):
    """Half of one room next to half of another: the step at the seam stays."""
    model = AutoencoderKLWan.from_pretrained(bundled_model(), subfolder="vae", torch_dtype=torch.float32)
    left = torch.arange(128) < 64
    with torch.no_grad():
        for frame in (0, 3, 6):
            one, other = (walks.pixels(torch.tensor([room]), torch.tensor([frame])) for room in (0, 1))
            latents = torch.where(left[::8], posterior(model, one)[0], posterior(model, other)[0])
            steps = [x[..., 64] - x[..., 63] for x in (reconstruct(model, latents), torch.where(left, one, other))]
            assert (steps[0] * steps[1]).sum() > 0.6 * steps[1].square().sum()
