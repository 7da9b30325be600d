"""Encoded walks: cells in place of pixels, and what may be written."""

from __future__ import annotations

import torch
from micro import build_micro

from mirage_nb.lifting import depth_to_latent
from mirage_nb.models.vae import as_pixels, encode


def test_walks_are_encoded_frame_by_frame(walks, data):
    assert len(data) == 2 and data.latents.shape == (2, 9, 4, 16, 16)
    with torch.autocast("cpu", torch.bfloat16):
        latents = encode(build_micro()["vae"], as_pixels(walks["frames"][1, 3:4])[:, :, None])[0, :, 0]
    torch.testing.assert_close(data.latents[1, 3].float(), latents.float(), atol=2e-2, rtol=2e-2)
    assert torch.equal(data.depth[1].float(), depth_to_latent(walks["depth"][1].float(), 8).half().float())
    cameras = data.cameras(1, torch.tensor([2, 5]))
    assert cameras.size == (16, 16) and torch.equal(cameras.c2w, walks["c2w"][1, [2, 5]])
    torch.testing.assert_close(cameras.intrinsics, walks["intrinsics"][1, [2, 5]] / 8)


def test_what_moves_is_not_written_and_the_sky_is_where_it_has_an_estimate(walks, data):
    moves = walks["moving"].unflatten(3, (16, 8)).unflatten(2, (16, 8)).any(5).any(3)  # (R, T, h, w)
    assert not torch.equal(data.estimate, data.depth), "a depth network was there"
    assert torch.equal(data.writable, ~moves) and (data.depth == 0).any(), "the sky has an estimate"
