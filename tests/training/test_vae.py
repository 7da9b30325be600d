"""The VAE's recipe: it learns, its latents stay where only the decoder learns, and collages are decoded as collages."""

from __future__ import annotations

import pytest
import torch
from diffusers import AutoencoderKLWan

from mirage_nb.models.presets import build_micro, bundled_model
from mirage_nb.training.vae import moments, only_decoder, reconstruct, set_statistics, vae_loss, vae_psnr


@pytest.mark.parametrize("decoder_only", [False, True])
def test_it_learns_on_a_fixed_batch(walks, decoder_only):
    vae, pixels = build_micro()["vae"], walks.pixels(torch.tensor([0]), torch.tensor([0]))
    loss, before = vae_loss(walks, batch=3, crop=32, decoder_only=decoder_only), moments(vae, pixels)[0]
    if decoder_only:
        only_decoder(vae)
    optimizer = torch.optim.Adam([p for p in vae.parameters() if p.requires_grad], lr=3e-3)
    values = []
    for _ in range(20):
        value, _ = loss(vae, torch.Generator().manual_seed(0))
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        values.append(value.item())
    assert values[-1] < values[0] - 0.1 * abs(values[0]), values
    assert torch.equal(moments(vae, pixels)[0], before) == decoder_only


def test_statistics_make_latents_standard(walks):
    vae = build_micro()["vae"]
    set_statistics(vae, walks, frames=14)
    latents = moments(vae, walks.pixels(*walks.draw_frames(14, torch.Generator().manual_seed(0))))[0]
    mean, deviation = (torch.tensor(x).view(1, -1, 1, 1, 1) for x in (vae.config.latents_mean, vae.config.latents_std))
    standard = (latents - mean) / deviation
    assert standard.mean((0, 2, 3, 4)).abs().max() < 0.05 and (standard.std((0, 2, 3, 4)) - 1).abs().max() < 0.05


def test_the_bundled_vae_decodes_a_collage_as_a_collage(walks):
    """Half of one room next to half of another: a VAE that never learnt on collages smooths the step at the seam."""
    vae = AutoencoderKLWan.from_pretrained(bundled_model(), subfolder="vae", torch_dtype=torch.float32)
    assert vae_psnr(vae, walks, frames=8)["psnr"] > 30
    left = torch.arange(128) < 64
    with torch.no_grad():
        for frame in (0, 3, 6):
            one, other = (walks.pixels(torch.tensor([room]), torch.tensor([frame])) for room in (0, 1))
            latents = torch.where(left[::8], moments(vae, one)[0], moments(vae, other)[0])
            steps = [x[..., 64] - x[..., 63] for x in (reconstruct(vae, latents), torch.where(left, one, other))]
            assert (steps[0] * steps[1]).sum() > 0.6 * steps[1].square().sum()
