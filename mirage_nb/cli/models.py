"""The models that the command line names: what is known of them before they are loaded, and how they are loaded."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import NamedTuple

from mirage_nb import checks
from mirage_nb.cli.console import load_pipeline


class Choice(NamedTuple):
    """A model before it is loaded."""

    source: str  # folder, or name on the hub
    wan: bool  # whether it is diffusers' own, without a branch
    size: tuple[int, int]  # (height, width) of its video
    new_frames: int  # pixel frames that a segment adds
    stride: int  # pixel frames of a latent frame
    steps: int  # denoising steps by default


def choose_model(name: str | None, size: str | None = None) -> Choice:
    """The model by the value of `--model`: None (the bundled one), `wan2.2`, a folder, or a name on the hub, which is
    taken for Wan's layout. `size` is WIDTHxHEIGHT, instead of the model's own.

    Raises:
        FileNotFoundError, ValueError: no such folder, a part of it missing, or a size that can't be read.
    """
    from mirage_nb.models.presets import WAN22_FRAMES, WAN22_SIZE, bundled_model
    from mirage_nb.models.wan import WAN

    source = WAN if name == "wan2.2" else str(name or bundled_model())
    checks.check_model_folder(source)
    wan, full, stride, multiple, new_frames = True, True, 4, 32, WAN22_FRAMES - 1
    try:
        if Path(source).is_dir():
            files = ("model_index.json", "transformer/config.json", "vae/config.json")
            index, network, vae = (json.loads((Path(source) / file).read_text()) for file in files)
            wan = index["_class_name"].startswith("Wan")
        if not wan:
            stride, full = vae["scale_factor_temporal"], network["memory_layout"] == "wan"
            multiple = vae["scale_factor_spatial"] * network["patch_size"][2]
            new_frames = (network["segment_latent_frames"] - 1) * stride
    except (OSError, KeyError) as error:
        raise ValueError(f"model: {source} is not one of a MiragePipeline ({error})") from None
    height, width = WAN22_SIZE if full else (128, 128)
    if size is not None:
        match = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", size.lower())
        width, height = map(int, match.groups()) if match else (1, 1)
        if width % multiple or height % multiple:
            raise ValueError(f"size: expected WIDTHxHEIGHT in multiples of {multiple}, as 1280x704, got {size!r}")
    return Choice(source, wan, (height, width), new_frames, stride, 20 if full else 2)


def choose_masks(name: str | None, masked: str | None = None):
    """The `mask_estimator` of a segmentation model's name and a list of classes; None without a name."""
    if name is None:
        if masked is not None:
            raise ValueError("masked: classes need a model that knows them, --segmentation NAME")
        return None
    from mirage_nb.models.segmentation import TransformersSegmentation

    return TransformersSegmentation.from_transformers(name, masked and [word.strip() for word in masked.split(",")])


def load_model(
    choice: Choice, branch: Path | None = None, lora: Path | None = None, depth_model: str | None = None,
    scale_known: bool = True,
):  # fmt: skip
    """The pipeline, on the device where it runs best, and the words for this device. See `MiragePipeline.from_wan`.

    Args:
        depth_model: name of a depth model of `transformers`; by default Wan gets one, and others have their own.
        scale_known: whether the first frame's depth is given, which a relative depth model needs.
    """
    from mirage_nb.depth_alignment import NO_SCALE
    from mirage_nb.models.photo_depth import DEPTH_ANYTHING, TransformersDepth
    from mirage_nb.models.wan import move_to_best_device
    from mirage_nb.pipeline import MiragePipeline

    if not choice.wan and (branch is not None or lora is not None):
        raise ValueError("branch: it goes on a Wan model (--model wan2.2, or a folder of its kind); this has its own")
    options = {}
    if depth_model or choice.wan:  # before the large model, so that its errors come at once
        options["depth_estimator"] = TransformersDepth.from_transformers(depth_model or DEPTH_ANYTHING)
        if options["depth_estimator"].relative and not scale_known:
            raise ValueError(NO_SCALE)
    if choice.wan:
        pipe = MiragePipeline.from_wan(choice.source, branch, lora, **options)
    else:
        pipe = load_pipeline(choice.source, **options)
    return pipe, move_to_best_device(pipe)
