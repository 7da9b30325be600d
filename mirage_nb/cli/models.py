"""The models that the command line names: what is known of them before they are loaded, and how they are loaded."""

import math
import re
from functools import partial
from pathlib import Path
from typing import NamedTuple

import typer

from mirage_nb.cli.console import load_pipeline
from mirage_nb.models.folders import Transformer, Vae, check_model_folder, read_config, read_index

LARGEST = 4096  # pixels along an edge: what H.264 can hold of two pictures side by side
# Measured with the bundled model on one core, at 128 to 1024 pixels a side: a segment's working memory, and its time.
WORKING_BYTES = 2200  # per pixel
HELD_BYTES = 20  # per pixel of every frame, counted: colour and depth of the video and of the true one, both together
SECONDS, STEP_SECONDS, ATTENTION_SECONDS = 8e-6, 3e-6, 1.2e-11  # per pixel; the same per step; per step and pixel**2
PATIENCE = 3  # minutes that need no announcement


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
    taken for Wan's layout. `size` is WIDTHxHEIGHT, instead of the model's own; ValueError where it does not fit."""
    from mirage_nb.models.presets import WAN22_FRAMES, WAN22_SIZE
    from mirage_nb.models.wan import WAN

    source = WAN if name == "wan2.2" else check_model_folder(name)
    choice, multiple = Choice(source, True, WAN22_SIZE, WAN22_FRAMES - 1, 4, 20), 32
    if Path(source).is_dir():
        index = read_index(Path(source))
        kinds = {part: kind for part, (_, kind) in index.parts.items() if part in ("transformer", "vae")}
        parts = {part: read_config(Path(source) / part, kind) for part, kind in kinds.items()}
        network, vae = parts.get("transformer"), parts.get("vae")
        if not isinstance(network, Transformer) or not isinstance(vae, Vae):
            raise ValueError(f"model: {source} is not one of a MiragePipeline, nor of Wan")
        if not index.class_name.startswith("Wan"):
            stride, multiple = vae.scale_factor_temporal, vae.scale_factor_spatial * network.patch_size[2]
            own, steps = (WAN22_SIZE, 20) if network.memory_layout == "wan" else ((128, 128), 2)
            choice = Choice(source, False, own, (network.segment_latent_frames - 1) * stride, stride, steps)
    if size is None:
        return choice
    match = re.fullmatch(r"([1-9]\d{0,4})x([1-9]\d{0,4})", size.lower())
    width, height = map(int, match.groups()) if match else (1, 1)
    if width % multiple or height % multiple or max(width, height) > LARGEST:
        rule = f"in multiples of {multiple} up to {LARGEST}"
        raise ValueError(f"size: expected WIDTHxHEIGHT {rule}, as 1280x704, got {size!r}")
    return choice._replace(size=(height, width))


def check_work(choice: Choice, frames: int, steps: int | None) -> None:
    """Say how long a video will take, if minutes; raise ValueError where it takes more memory than the machine has."""
    import psutil
    import torch

    from mirage_nb.models.full_size import GIB, HEADROOM
    from mirage_nb.models.presets import WAN22_SIZE

    (height, width), full, steps = choice.size, choice.steps > 2, steps or choice.steps
    pixels, main, size = height * width, psutil.virtual_memory().available, f"{frames} frames of {width}x{height}"
    gpu = torch.cuda.mem_get_info()[1] if torch.cuda.is_available() else None
    working = pixels * (HEADROOM / math.prod(WAN22_SIZE) if full else WORKING_BYTES)
    needs = {"main": (frames * pixels * HELD_BYTES + (0 if gpu else working), main), "GPU": (working, gpu or main)}
    for kind, (need, free) in needs.items():
        if need > free:
            words = f"expected work for {free / GIB:.0f} GiB of {kind} memory"
            raise ValueError(f"size, frames: {words}, {size} take about {need / GIB:.0f} GiB")
    segment = pixels * (SECONDS + STEP_SECONDS * steps) + pixels**2 * ATTENTION_SECONDS * steps
    minutes = segment * math.ceil((frames - 1) / choice.new_frames) / 60
    if not full and not gpu and minutes > PATIENCE:
        typer.echo(f"note: {size} take about {minutes:.0f} minutes on one core; after Ctrl-C the same command goes on")


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
    from mirage_nb.checks import check_weights
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
    load = partial(MiragePipeline.from_wan, branch=branch, lora=lora) if choice.wan else load_pipeline
    pipe = load(choice.source, **options)
    check_weights(pipe.components)
    return pipe, move_to_best_device(pipe)
