"""Two short walks, encoded by an untrained VAE, for all tests of the recipes."""

from __future__ import annotations

import pytest

from mirage_nb.models.presets import build_micro
from mirage_nb.training.data import Walks, write_walks
from mirage_nb.training.encoded import EncodedWalks, encode_walks


@pytest.fixture(scope="session")
def home(tmp_path_factory):
    """Folders `walks` and `encoded`, and a transformer to start from in `start`."""
    home = tmp_path_factory.mktemp("training")
    write_walks(home / "walks", 2, num_frames=7)
    parts = build_micro()
    encode_walks(home / "walks", home / "encoded", parts["vae"], parts["depth_estimator"])
    parts["transformer"].save_pretrained(home / "start")
    return home


@pytest.fixture(scope="session")
def walks(home) -> Walks:
    return Walks(home / "walks")


@pytest.fixture
def data(home) -> EncodedWalks:
    return EncodedWalks.load(home / "encoded")
