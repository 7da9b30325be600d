"""Masks by class name, from tiny random models of transformers' own classes, saved and loaded again."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from micro import build_micro
from PIL import Image
from transformers import pipeline

from mirage_nb.models.segmentation import TransformersSegmentation, class_names
from mirage_nb.pipeline import MiragePipeline

LABELS = dict(enumerate(["wall", "sky-other-merged", "person, individual, someone", "car", "sports ball"]))
PIXELS = torch.rand(3, 3, 40, 56, generator=torch.Generator().manual_seed(0)) * 2 - 1


def semantic():
    from transformers import SegformerConfig, SegformerForSemanticSegmentation

    torch.manual_seed(0)
    config = SegformerConfig(
        hidden_sizes=[8, 8, 8, 8], depths=[1, 1, 1, 1], num_attention_heads=[1, 1, 1, 1], decoder_hidden_size=8,
        id2label=LABELS, label2id={v: k for k, v in LABELS.items()},
    )  # fmt: skip
    return SegformerForSemanticSegmentation(config).eval()


def universal():
    from transformers import DetrConfig, MaskFormerConfig, MaskFormerForInstanceSegmentation, SwinConfig

    torch.manual_seed(0)
    backbone = SwinConfig(
        embed_dim=8, depths=[1, 1, 1, 1], num_heads=[1, 1, 1, 1], window_size=2, image_size=64,
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )  # fmt: skip
    decoder = DetrConfig(
        d_model=32, decoder_layers=1, encoder_layers=1, decoder_attention_heads=2, decoder_ffn_dim=16, num_queries=6,
        encoder_ffn_dim=16, encoder_attention_heads=2,
    )  # fmt: skip
    config = MaskFormerConfig(
        fpn_feature_size=32, mask_feature_size=32, backbone_config=backbone, decoder_config=decoder,
        id2label=LABELS, label2id={v: k for k, v in LABELS.items()},
    )  # fmt: skip
    return MaskFormerForInstanceSegmentation(config).eval()


@pytest.fixture(scope="module", params=[semantic, universal], ids=["semantic", "universal"])
def folder(request, tmp_path_factory):
    """A model's folder and the model."""
    path, model = tmp_path_factory.mktemp(request.param.__name__), request.param()
    model.save_pretrained(path)
    (path / "preprocessor_config.json").write_text('{"image_mean": [0.5, 0.5, 0.5], "image_std": [0.25, 0.25, 0.25]}')
    return path, model


def test_masks_are_the_pixels_whose_most_likely_class_is_named(folder):
    path, model = folder
    estimator = TransformersSegmentation.from_transformers(path)
    assert estimator.moving == [2, 3, 4] and estimator.sky == [1]
    moving, sky = estimator.predict(PIXELS)
    for mask in (moving, sky):
        assert mask.shape == (3, 40, 56) and mask.dtype == torch.bool
    assert not (moving & sky).any()
    only = TransformersSegmentation.from_transformers(path, ["Car"])
    assert only.moving == [3] and not only.predict(PIXELS)[1].any()
    # transformers' own pipeline, class by class
    segment = pipeline("image-segmentation", model=model, image_processor=estimator.processor)
    labels = torch.zeros(3, 40, 56, dtype=torch.long)
    for frame, label in zip(PIXELS, labels):
        image = Image.fromarray(((frame + 1) * 127.5).round().byte().movedim(0, 2).numpy())
        for found in segment(image, subtask="semantic"):
            label[torch.from_numpy(np.array(found["mask"])) > 0] = model.config.label2id[found["label"]]
    assert len(labels.unique()) > 1, "a model that sees one class everywhere would prove nothing"
    assert torch.equal(moving, labels >= 2) and torch.equal(sky, labels == 1)
    assert torch.equal(only.predict(PIXELS)[0], labels == 3)


def test_class_names_are_whole_names_and_unknown_ones_are_told(folder):
    assert class_names("sky-other-merged") == {"sky-other-merged", "sky"}
    assert "ball" not in class_names("sports ball") and "individual" in class_names("person, individual")
    with pytest.raises(ValueError, match="masked: .*sports ball"):
        TransformersSegmentation.from_transformers(folder[0], ["sport ball"])


def test_what_is_no_segmentation_model_is_refused(tmp_path):
    from transformers import BertConfig

    with pytest.raises(FileNotFoundError, match="mask_estimator: .* can't be loaded"):
        TransformersSegmentation.from_transformers(tmp_path / "nowhere")
    BertConfig().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="is no segmentation model"):
        TransformersSegmentation.from_transformers(tmp_path)


def test_the_pipeline_writes_nothing_that_its_estimator_names():
    class Left:
        """Everything in the left half moves, and the top row of cells is sky."""

        name = "left"

        def predict(self, pixels):
            moving, sky = torch.zeros(2, len(pixels), *pixels.shape[2:], dtype=torch.bool)
            moving[..., :24], sky[:, :8] = True, True
            return moving, sky

    pipe = MiragePipeline(**build_micro(), mask_estimator=Left())
    pipe.set_progress_bar_config(disable=True)
    image, c2w = torch.randint(0, 256, (32, 48, 3), dtype=torch.uint8), torch.eye(4).repeat(3, 1, 1)
    depth = torch.full((3, 32, 48), 2.0)
    out = pipe(image, c2w=c2w, depth=depth, generator=0, output_type="uint8")
    seen = out.memory.read(_cameras(c2w)[0]).visibility[0]
    assert not seen[:, :3].any() and not seen[0].any() and seen[1:, 3:].all()
    pipe.mask_estimator = None
    assert len(pipe(image, c2w=c2w, depth=depth, generator=0, output_type="uint8").memory) > len(out.memory)


def test_the_command_line_masks_by_class(tmp_path):
    from typer.testing import CliRunner

    from mirage_nb.cli import app

    network = semantic()
    network.decode_head.classifier.bias.data[2] += 100.0  # whatever it looks at is a person
    network.save_pretrained(tmp_path / "persons")
    (tmp_path / "persons" / "preprocessor_config.json").write_text('{"size": {"height": 64, "width": 64}}')
    MiragePipeline(**build_micro()).save_pretrained(tmp_path / "model")
    options = ("--frames", "5", "--steps", "1", "--model", str(tmp_path / "model"))

    def tokens(*more: str) -> int:
        out = tmp_path / str(len(list(tmp_path.iterdir())))
        result = CliRunner().invoke(app, ["generate", "room:900005", *options, "--out", str(out), *more])
        assert result.exit_code == 0, result.output
        return json.loads((out / "report.json").read_text())["memory"]["tokens"]

    named = ("--segmentation", str(tmp_path / "persons"))
    assert tokens(*named) == 0 < tokens(*named, "--masked", "car, sky")
    again = ["generate", "room:900005", *options, "--out", str(tmp_path / "again"), *named, "--masked"]
    codes = [CliRunner().invoke(app, [*again, classes]).exit_code for classes in ("person", "car", "person")]
    assert codes == [0, 2, 0], "a run with other classes is another run, which this folder does not hold"
    for more, message in (
        (("--masked", "sky"), "masked: classes need a model"),
        ((*named, "--masked", "persn"), "got 'persn' (did you mean 'person'?)"),
        ((*named, "--masked", ","), "masked: expected one of"),
        (("--segmentation", str(tmp_path / "none")), "mask_estimator: "),
    ):
        result = CliRunner().invoke(app, ["generate", "room:900005", *options, "--out", str(tmp_path / "x"), *more])
        assert result.exit_code == 2 and message in result.output and "Traceback" not in result.output, result.output


def _cameras(c2w):
    from mirage_nb.cameras import Cameras, default_intrinsics

    return Cameras(c2w, default_intrinsics((32, 48)), (32, 48))
