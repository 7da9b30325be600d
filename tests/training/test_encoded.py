"""Encoded walks: what is mirrored, joined and estimated."""

from __future__ import annotations

import pytest
import torch

from mirage_nb.lifting import lift
from mirage_nb.models.presets import build_micro
from mirage_nb.training.data import write_walks
from mirage_nb.training.encoded import EncodedWalks, encode_walks


def test_mirrored_walks_are_the_walks_of_a_mirrored_room(walks, data):
    points = [
        lift(data.latents[r].float(), data.depth[r].float(), data.cameras(r, torch.arange(7))).positions for r in (0, 1)
    ]
    h, w = data.size
    mirrored = points[0].reshape(7, h, w, 3) * torch.tensor([-1.0, 1.0, 1.0])
    assert torch.allclose(points[1].reshape(7, h, w, 3).flip(2), mirrored, atol=1e-3)
    plain = EncodedWalks.encode(walks, build_micro()["vae"], mirror=False)
    assert 2 * len(plain) == len(data) and torch.equal(plain.estimate, plain.depth)
    assert torch.equal(plain.latents[1], data.latents[2]) and torch.equal(plain.depth[1], data.depth[2])


def test_folders_are_joined(home, data, tmp_path):
    write_walks(tmp_path / "other", 1, num_frames=7, first_seed=5)
    encode_walks(tmp_path / "other", tmp_path / "other_encoded", build_micro()["vae"])
    joined = EncodedWalks.load(home / "encoded", tmp_path / "other_encoded")
    assert len(joined) == len(data) + 2 and torch.equal(joined.latents[: len(data)], data.latents)
    assert not torch.equal(data.estimate, data.depth), "a depth network was there"
    with pytest.raises(FileNotFoundError, match="nowhere"):
        EncodedWalks.load(home / "encoded", tmp_path / "nowhere")
    write_walks(tmp_path / "short", 1, num_frames=3)
    encode_walks(tmp_path / "short", tmp_path / "short_encoded", build_micro()["vae"])
    with pytest.raises(ValueError, match="data"):
        EncodedWalks.load(home / "encoded", tmp_path / "short_encoded")
