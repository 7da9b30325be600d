"""The VAE helpers: single frames, shapes, and the latents' statistics."""

from __future__ import annotations

import pytest
import torch
from micro import build_micro

from mirage_nb.models.vae import build_vae, decode, encode


@torch.no_grad()
def test_frame_kernels_equal_the_3d_convolutions():
    from diffusers import AutoencoderKLWan

    fast = build_vae(base_dim=8, decoder_base_dim=8).eval()
    slow = AutoencoderKLWan(**{k: v for k, v in fast.config.items() if not k.startswith("_")}).eval()
    slow.load_state_dict(fast.state_dict())
    image = torch.rand(2, 3, 1, 32, 48) * 2 - 1
    a, b = fast.encode(image).latent_dist.mode(), slow.encode(image).latent_dist.mode()
    torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(fast.decode(a).sample, slow.decode(a).sample, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("temporal", [False, True])
def test_encode_decode_shapes_and_statistics(temporal):
    vae = build_micro(temporal=temporal)["vae"]
    video = torch.rand(2, 3, 5, 16, 24) * 2 - 1
    latents = encode(vae, video)
    assert latents.shape == (2, 4, 2 if temporal else 5, 2, 3)
    assert decode(vae, latents).shape == video.shape
    vae.register_to_config(latents_mean=[1.0] * 4, latents_std=[2.0] * 4)
    torch.testing.assert_close(encode(vae, video), (latents - 1) / 2)
    torch.testing.assert_close(decode(vae, (latents - 1) / 2), decode(build_micro(temporal=temporal)["vae"], latents))
