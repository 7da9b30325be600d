"""Two short walks, encoded by an untrained VAE, for all tests of the recipes."""

from __future__ import annotations

import pytest
import torch
from micro import build_micro

from mirage_nb.training.data import Walks, write_walks
from mirage_nb.training.encoded import EncodedWalks


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """Two walks of 9 frames."""
    folder = tmp_path_factory.mktemp("walks")
    write_walks(folder, 2, num_frames=9)
    return folder


@pytest.fixture(scope="session")
def walks(folder) -> Walks:
    return Walks(folder)


@pytest.fixture(scope="session")
def encoded(walks) -> EncodedWalks:
    parts = build_micro()
    return EncodedWalks.encode(walks, parts["vae"], parts["depth_estimator"])


@pytest.fixture
def data(encoded) -> EncodedWalks:
    """A copy that a test may change."""
    return EncodedWalks(*(tensor.clone() for tensor in vars(encoded).values()))


@pytest.fixture
def descends():
    """Whether a loss gets smaller by a tenth in some steps on one batch."""

    def check(loss, model, steps: int = 15) -> bool:
        optimizer, values = torch.optim.Adam(model.parameters(), lr=3e-3), []
        for _ in range(steps):
            value, _ = loss(model, torch.Generator().manual_seed(0))
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
            values.append(value.item())
        return values[-1] < values[0] - 0.1 * abs(values[0])

    return check
