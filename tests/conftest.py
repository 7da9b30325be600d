"""Fixtures that several test files share: pipelines of a few thousand random parameters."""

from __future__ import annotations

import pytest
from micro import build_micro

from mirage_nb import MiragePipeline


@pytest.fixture(scope="module", params=[False, True], ids=["stride1", "stride4"])
def temporal(request):
    return request.param


@pytest.fixture(scope="module")
def pipe(temporal):
    """Once with a latent for every frame, once with one for four."""
    pipe = MiragePipeline(**build_micro(temporal=temporal))
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module")
def single():
    pipe = MiragePipeline(**build_micro())
    pipe.set_progress_bar_config(disable=True)
    return pipe
