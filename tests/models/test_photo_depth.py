"""Depth models of transformers: their depth is the library's own."""

from __future__ import annotations

import pytest
import torch
from micro import build_micro
from PIL import Image
from tiny_wan import write_depth

from mirage_nb import MiragePipeline
from mirage_nb.models.photo_depth import TransformersDepth


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("depth")
    for kind in ("metric", "relative"):
        write_depth(folder / kind, kind)
    return folder


def pixels(n=2, size=(40, 60)):
    return torch.rand(n, 3, *size, generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_metric_depth_is_the_librarys_own(models):
    """The same as transformers' own pipeline for it, resized to the picture."""
    from transformers import pipeline

    ours, frames = TransformersDepth.from_transformers(models / "metric"), pixels()
    depth = ours.predict(frames, torch.ones(2, 4))
    assert depth.shape == (2, 40, 60) and depth.dtype == torch.float32 and not ours.relative
    assert (depth > 0).all() and (depth < 20).all() and depth.std() > 1e-4
    theirs = pipeline("depth-estimation", model=str(models / "metric"))
    for frame, found in zip(frames, depth):
        image = Image.fromarray(((frame.movedim(0, 2) + 1) * 127.5).round().byte().numpy())
        torch.testing.assert_close(found, theirs(image)["predicted_depth"].float(), atol=1e-4, rtol=1e-4)
    assert TransformersDepth.from_transformers(models / "relative").relative


def test_the_depth_model_is_saved_with_the_pipeline(models, tmp_path):
    pipe = MiragePipeline(**build_micro() | {"depth_estimator": TransformersDepth.from_transformers(models / "metric")})
    pipe.save_pretrained(tmp_path)
    again = MiragePipeline.from_pretrained(tmp_path)
    expected = pipe.depth_estimator.predict(pixels(1), torch.ones(1, 4))
    torch.testing.assert_close(again.depth_estimator.predict(pixels(1), torch.ones(1, 4)), expected)


def test_bad_depth_models_are_one_line(models, tmp_path):
    with pytest.raises(FileNotFoundError, match="depth: .*nowhere can't be loaded") as error:
        TransformersDepth.from_transformers(tmp_path / "nowhere")
    assert "\n" not in str(error.value)
    (tmp_path / "bert").mkdir()
    (tmp_path / "bert" / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(ValueError, match="is no depth model") as error:
        TransformersDepth.from_transformers(tmp_path / "bert")
    assert "\n" not in str(error.value)


# ------------------------------------------------------------------------------------------------------------ alignment
