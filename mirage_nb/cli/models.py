"""The models that the command line names: what is known of them before they are loaded, and how they are loaded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

from mirage_nb import checks
from mirage_nb.cli.console import quiet


class Choice(NamedTuple):
    """A model before it is loaded.

    source: folder, or name on the hub. wan: whether it is diffusers' own, without a branch. size: (height, width) it is
    made for. new_frames: pixel frames that a segment adds. stride: pixel frames of a latent frame. steps: the default.
    depth_model: the default name of a depth model, None if the model has its own.
    """

    source: str
    wan: bool
    size: tuple[int, int]
    new_frames: int
    stride: int
    steps: int
    depth_model: str | None


def choose_model(name: str | None, size: str | None = None) -> Choice:
    """The model by the value of `--model`: None (the bundled one), `wan2.2`, a folder, or a name on the hub.

    Args:
        size: `WIDTHxHEIGHT`, instead of the model's own.

    Raises:
        FileNotFoundError, ValueError: no such folder, a part of it missing, or a size that can't be read.
    """
    from mirage_nb.models.photo_depth import DEPTH_ANYTHING
    from mirage_nb.models.presets import WAN22_FRAMES, WAN22_SIZE, bundled_model
    from mirage_nb.models.wan import WAN, is_wan_folder

    source = WAN if name in ("wan", "wan2.2") else str(name or bundled_model())
    checks.check_model_folder(source)
    if is_wan_folder(source) or not Path(source).is_dir():  # a name on the hub is taken for Wan's layout
        return Choice(source, True, _size(size, 32) or WAN22_SIZE, WAN22_FRAMES - 1, 4, 20, DEPTH_ANYTHING)
    try:
        network, vae = (
            json.loads((Path(source) / part / "config.json").read_text()) for part in ("transformer", "vae")
        )
        stride, full = vae["scale_factor_temporal"], network["memory_layout"] == "wan"
        multiple = vae["scale_factor_spatial"] * network["patch_size"][2]
        new_frames = (network["segment_latent_frames"] - 1) * stride
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(f"model: a config.json in {source} is not one of a MiragePipeline ({error})") from None
    own = WAN22_SIZE if full else (128, 128)
    return Choice(source, False, _size(size, multiple) or own, new_frames, stride, 20 if full else 2, None)


def _size(text: str | None, multiple: int) -> tuple[int, int] | None:
    if text is None:
        return None
    words = text.lower().split("x")
    if len(words) != 2 or not all(word.isdigit() and int(word) for word in words):
        raise ValueError(f"size: expected WIDTHxHEIGHT, as 1280x704, got {text!r}")
    width, height = map(int, words)
    if width % multiple or height % multiple:
        near = "x".join(str(max(multiple, round(side / multiple) * multiple)) for side in (width, height))
        raise ValueError(f"size: expected multiples of {multiple}, got {text}; the nearest is {near}")
    return height, width


def choose_masks(name: str | None, classes: str | None = None):
    """The `mask_estimator`, or None without a name.

    Args:
        name: of a segmentation model of `transformers`, on the hub or a folder.
        classes: to mask, separated by commas; by default the usual ones that the model knows.

    Raises:
        FileNotFoundError, ValueError: see `TransformersSegmentation.from_transformers`; or classes without a model.
    """
    if name is None:
        if classes is not None:
            raise ValueError("masked: classes need a model that knows them, --segmentation NAME")
        return None
    from mirage_nb.models.segmentation import SKY, TransformersSegmentation

    quiet()
    if classes is None:
        return TransformersSegmentation.from_transformers(name)
    named = [word.strip() for word in classes.lower().split(",") if word.strip()]
    if not named:
        raise ValueError(f"masked: no class in {classes!r}; name some, as person,sky")
    sky = [word for word in named if word in SKY]
    return TransformersSegmentation.from_transformers(name, [word for word in named if word not in SKY], sky)


def load_model(
    choice: Choice,
    branch: Path | None = None,
    lora: Path | None = None,
    depth_model: str | None = None,
    scale_known: bool = True,
):
    """The pipeline, on the device where it runs best, and the words for this device.

    Args:
        branch, lora: see `MiragePipeline.from_wan`.
        depth_model: name of a depth model of `transformers`, instead of the choice's.
        scale_known: whether the first frame's depth is given, which a relative depth model needs.

    Raises:
        FileNotFoundError, ValueError: see `MiragePipeline.from_wan`.
    """
    from mirage_nb.depth_alignment import NO_SCALE
    from mirage_nb.models.photo_depth import TransformersDepth
    from mirage_nb.models.wan import move_to_best_device
    from mirage_nb.pipeline import MiragePipeline

    quiet()
    if not choice.wan and (branch is not None or lora is not None):
        raise ValueError("branch: it goes on a Wan model (--model wan2.2, or a folder of its kind); this has its own")
    depth_model, options = depth_model or choice.depth_model, {}
    if depth_model is not None:  # before the large model, so that its errors come at once
        options["depth_estimator"] = TransformersDepth.from_transformers(depth_model)
        if options["depth_estimator"].relative and not scale_known:
            raise ValueError(NO_SCALE)
    if choice.wan:
        pipe = MiragePipeline.from_wan(choice.source, branch, lora, **options)
    else:
        pipe = MiragePipeline.from_pretrained(choice.source, **options)
    return pipe, move_to_best_device(pipe)
