"""What several test files share: one pipeline of a few thousand random parameters, and which worker runs what."""

from __future__ import annotations

import pytest
from micro import build_micro

from mirage_nb import MiragePipeline


@pytest.fixture(scope="module")
def temporal():
    """Whether a latent frame stands for four frames. Tests of both kinds parametrize it."""
    return False


@pytest.fixture(scope="module")
def pipe(temporal):
    pipe = MiragePipeline(**build_micro(temporal=temporal))
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """One worker runs all tests of a file, so that its fixtures are made once; each notebook is a group of its own."""
    for item in items:
        notebook = item.callspec.params.get("path") if hasattr(item, "callspec") else None
        first = "quickstart" in item.name
        group = getattr(notebook, "stem", "00_quickstart" if first else str(item.path))
        item.add_marker(pytest.mark.xdist_group(group))
