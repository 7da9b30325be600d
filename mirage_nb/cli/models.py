"""Which model the command line means, what can be known of it before it is loaded, and how it is loaded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

from mirage_nb import checks

WAN_NAMES = ("wan2.2", "wan")


class Choice(NamedTuple):
    """A model before it is loaded.

    source: folder, or name on the hub. wan: whether it is diffusers' own, without a branch. size: (height, width) it is
    made for. new_frames: pixel frames that a segment adds, stride: those of a latent frame. steps: by default.
    """

    source: str
    wan: bool
    size: tuple[int, int]
    new_frames: int
    stride: int
    steps: int

    @property
    def depth_model(self) -> str:
        """What estimates depth where nobody names a model, for Wan."""
        from mirage_nb.models.photo_depth import DEPTH_ANYTHING

        return DEPTH_ANYTHING


def choose_model(name: str | None, size: str | None = None) -> Choice:
    """The model by what stands after `--model`: nothing (the bundled one), `wan2.2`, or a folder.

    Args:
        size: `WIDTHxHEIGHT`, in place of the model's own.

    Raises:
        FileNotFoundError, ValueError: no such folder, a part of it missing, or a size that can't be read.
    """
    from mirage_nb.models.full_size import FRAMES, SIZE
    from mirage_nb.models.presets import bundled_model
    from mirage_nb.models.wan import WAN, is_wan_folder

    if name in WAN_NAMES:
        return Choice(WAN, True, _size(size, 32) or SIZE, FRAMES - 1, 4, 20)
    source = str(name or bundled_model())
    checks.check_model_folder(source)
    if is_wan_folder(source) or not Path(source).is_dir():  # a name on the hub is taken for Wan's layout
        return Choice(source, True, _size(size, 32) or SIZE, FRAMES - 1, 4, 20)
    parts = {part: _config(Path(source), part) for part in ("transformer", "vae")}
    stride = int(parts["vae"].get("scale_factor_temporal", 4))
    new = (int(parts["transformer"].get("segment_latent_frames", 9)) - 1) * stride
    full = parts["transformer"].get("memory_layout") == "wan"
    patch = parts["transformer"].get("patch_size", [1, 2, 2])[2]
    multiple = int(parts["vae"].get("scale_factor_spatial", 8)) * int(patch)
    own = SIZE if full else (128, 128)
    return Choice(source, False, _size(size, multiple) or own, new, stride, 20 if full else 2)


def _config(folder: Path, part: str) -> dict:
    try:
        return json.loads((folder / part / "config.json").read_text())
    except (OSError, ValueError) as error:
        raise ValueError(f"model: {folder / part / 'config.json'} can't be read ({error})") from None


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
    """The `mask_estimator` by its name and the classes that it is to mask; None without a name.

    Args:
        name: of a segmentation model of `transformers`, on the hub or a folder.
        classes: separated by commas, those of the sky among them; by default the usual ones that it knows.

    Raises:
        FileNotFoundError, ValueError: see `TransformersSegmentation.from_transformers`; or classes without a model.
    """
    if name is None:
        if classes is not None:
            raise ValueError("masked: classes need a model that knows them, --segmentation NAME")
        return None
    from mirage_nb.models.segmentation import SKY, TransformersSegmentation

    if classes is None:
        return TransformersSegmentation.from_transformers(name)
    named = [word.strip() for word in classes.split(",") if word.strip()]
    if not named:
        raise ValueError(f"masked: no class in {classes!r}; name some, as person,sky")
    sky = [word for word in named if word.lower() in SKY]
    moving = [word for word in named if word.lower() not in SKY]
    return TransformersSegmentation.from_transformers(name, moving, sky)


def load_model(
    choice: Choice,
    branch: Path | None = None,
    lora: Path | None = None,
    depth_model: str | None = None,
    scale_known: bool = True,
):
    """The pipeline, where it runs best, and a sentence that says where.

    Args:
        branch, lora: see `MiragePipeline.from_wan`.
        depth_model: a depth model of `transformers` by name; for Wan, Depth Anything V2 by default.
        scale_known: whether the first frame's depth is given, which a relative depth model needs.

    Raises:
        FileNotFoundError, ValueError: see `MiragePipeline.from_wan`.
    """
    from diffusers.utils import logging
    from transformers.utils import logging as transformers_logging

    from mirage_nb.models.photo_depth import TransformersDepth
    from mirage_nb.models.wan import place
    from mirage_nb.pipeline import MiragePipeline
    from mirage_nb.stitching import NO_SCALE

    for quiet in (logging, transformers_logging):
        quiet.set_verbosity_error()
        quiet.disable_progress_bar()
    if not choice.wan and (branch is not None or lora is not None):
        raise ValueError("branch: it goes on a Wan model (--model wan2.2, or a folder of its kind); this has its own")
    estimator = None
    if depth_model is not None or choice.wan:  # the small model first: what is missing is told at once
        estimator = TransformersDepth.from_transformers(depth_model or choice.depth_model)
        if estimator.relative and not scale_known:
            raise ValueError(NO_SCALE)
    if choice.wan:
        pipe = MiragePipeline.from_wan(choice.source, branch, lora, estimator)
    else:
        pipe = MiragePipeline.from_pretrained(choice.source, **({"depth_estimator": estimator} if estimator else {}))
    return pipe, place(pipe)
