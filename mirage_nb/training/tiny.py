"""mirage-tiny from nothing: rooms, VAE, depth network, transformer, and the folder that the pipeline loads.

Every stage leaves what it made in `folder` and is skipped, or taken up again where it stopped, the next time.
"""

from __future__ import annotations

import os
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

import torch

from mirage_nb.training.data import HELD_OUT, Walks, processes, write_walks
from mirage_nb.training.loop import fit

LEAPS = 100_000  # seeds of the rooms that are walked through in leaps
WILD, WILD_LEAPS, LARGE = 300_000, 340_000, 380_000  # of the wild rooms: step by step, in leaps, in twice the size
EVERY = 4  # frames from one frame of a leap to the next
LOOKAHEAD = 12  # frames that the bundled model looks ahead: three of these steps, of the four that it learns
TAKES = 8  # of each such view; without a choice some are fog
IMAGE_SHIFTS = 4  # places along a cell's edge at which the first frame is remembered


@dataclass
class Schedule:
    """Rooms and steps of the bundled model's training; `quick` is a dry run of every stage in a minute or two."""

    rooms: int = 528
    wild_rooms: int = 192
    leap_rooms: int = 768
    wild_leap_rooms: int = 384
    large_rooms: int = 256
    vae: int = 6000
    polish: int = 12000
    collages: int = 8000
    depth: int = 2600
    prior: int = 6000
    memory: int = 12000

    @staticmethod
    def quick() -> Schedule:
        return Schedule(4, 2, 1, 1, 1, vae=2, polish=2, collages=2, depth=2, prior=6, memory=6)


def train_tiny(folder: str | Path, schedule: Schedule | None = None, seed: int = 0, compile: bool = True) -> Path:
    """Train mirage-tiny; returns the folder to give to `MiragePipeline.from_pretrained`.

    Args:
        folder: where everything is kept: rooms (1.5 MB each), checkpoints, logs, and the model in `folder/mirage-tiny`.
        compile: compile the VAE's blocks (needs a C++ compiler on a CPU); the result is the same to rounding, and a
            step takes 0.7 of its time. The transformer's gained nothing.
    """
    from mirage_nb.models.presets import build_scheduler, build_tiny
    from mirage_nb.pipeline import MiragePipeline
    from mirage_nb.training.depth import depth_absrel, depth_loss

    folder, schedule = Path(folder), schedule or Schedule()
    leaps, wild = dict(num_frames=13, every=EVERY), dict(wild=True)
    for name, rooms, first, options in (
        ("walks", schedule.rooms, 0, {}),
        ("wild_walks", schedule.wild_rooms, WILD, wild),
        ("leap_walks", schedule.leap_rooms, LEAPS, leaps),
        ("wild_leap_walks", schedule.wild_leap_rooms, WILD_LEAPS, leaps | wild),
        ("large_walks", schedule.large_rooms, LARGE, leaps | wild | dict(size=256)),
        ("held_out", 32 if schedule.rooms > 32 else 2, HELD_OUT, {}),
    ):
        render_rooms(folder / name, rooms, first, **options)
    walks, held_out = Walks(folder / "walks"), Walks(folder / "held_out")
    parts = build_tiny(seed)
    vae, depth, transformer = parts["vae"], parts["depth_estimator"], parts["transformer"]

    _train_vae(vae, walks, held_out, folder, schedule, seed, compile)
    common = dict(seed=seed, validate=lambda model: depth_absrel(model, held_out))
    fit(depth, depth_loss(walks), steps=schedule.depth, folder=folder / "depth", lr=6e-4, ema=0.998, **common)
    depth.eval().requires_grad_(False)
    # The depth network never sees wild rooms: their exact depth stands for what a recording brings along.
    for kind in ("", "leap_", "wild_", "wild_leap_", "large_"):
        own = depth if kind in ("", "leap_") else None
        encode_with_bar(folder / f"{kind}walks", folder / f"{kind}encoded", vae, own)
    _train_transformer(transformer, folder, schedule, seed)

    parts = dict(vae=vae, transformer=transformer.eval(), scheduler=build_scheduler(), depth_estimator=depth)
    target = folder / "mirage-tiny"
    if processes().is_main_process:
        options = dict(references=4, lookahead=LOOKAHEAD, takes=TAKES, image_shifts=IMAGE_SHIFTS)
        _save(MiragePipeline(**options, **parts), target)
    processes().wait_for_everyone()
    return target


def _train_vae(vae, walks: Walks, held_out: Walks, folder: Path, schedule: Schedule, seed: int, compile: bool) -> None:
    """The whole VAE: first roughly, then for PSNR and on collages, near what it was; and the latents' statistics."""
    from diffusers.models.autoencoders.autoencoder_kl_wan import WanResidualBlock

    from mirage_nb.training.vae import set_statistics, vae_loss, vae_psnr

    if compile:
        for block in vae.modules():
            if isinstance(block, WanResidualBlock):
                block.compile(dynamic=False)
    common = dict(seed=seed, weight_decay=0.0, validate=lambda model: vae_psnr(model, held_out))
    fit(vae, vae_loss(walks), steps=schedule.vae, folder=folder / "vae", lr=8e-4, **common)
    leaps = Walks(folder / "leap_walks")
    for name, rooms, steps in (("polish", walks, schedule.polish), ("collages", leaps, schedule.collages)):
        loss = vae_loss(rooms, near=deepcopy(vae).eval().requires_grad_(False), collages=name == "collages")
        fit(vae, loss, steps=steps, folder=folder / name, lr=4e-4, ema=0.998, **common)
    vae.eval().requires_grad_(False)
    set_statistics(vae, walks, frames=min(512, 25 * len(walks)))


def _train_transformer(transformer, folder: Path, schedule: Schedule, seed: int) -> None:
    """What the memory alone tells; then that and all else at once."""
    from mirage_nb.training.encoded import EncodedWalks
    from mirage_nb.training.memory import MemoryLoss, in_turn
    from mirage_nb.training.prior import prior_loss

    segments = EncodedWalks.load(folder / "encoded", folder / "wild_encoded")
    plain = MemoryLoss(segments, rehearse=0.0)
    lived = MemoryLoss(segments, rehearse=0.5, references=4, preceding=2, spoilt=0.6)
    # Of such a segment 4% is new. What there is to invent is learnt from leaps: of a view some frames ahead 14% is, and
    # fewer frames cost less (notebook 06 counts). But leaps alone teach too little of what a memory tells.
    far = dict(rehearse=0.0, spoilt=0.3, leap=4)
    leaps = MemoryLoss(
        EncodedWalks.load(folder / "leap_encoded", folder / "wild_leap_encoded"), batch=16, length=2, **far
    )
    large = MemoryLoss(EncodedWalks.load(folder / "large_encoded"), batch=4, length=2, **far)
    losses = plain, leaps, lived, plain, large, lived

    fit(
        transformer.prior, in_turn(*map(prior_loss, losses)), steps=schedule.prior, folder=folder / "prior", lr=1.5e-3,
        ema=0.998, seed=seed,
    )  # fmt: skip
    fit(
        transformer, in_turn(*losses), steps=schedule.memory, folder=folder / "memory", lr=6e-4, ema=0.999, warmup=200,
        seed=seed,
    )  # fmt: skip


def _save(pipe, target: Path) -> None:
    partial = target.with_name(target.name + ".partial")
    pipe.to(torch.bfloat16).save_pretrained(partial, safe_serialization=True)
    if target.exists():
        target.rename(target.with_name(f"{target.name}.before-{os.getpid()}"))
    os.replace(partial, target)


def render_rooms(
    folder: Path, rooms: int, first: int, num_frames: int = 25, wild: bool = False, every: int = 1, size: int = 128
) -> None:
    """`write_walks` with a progress bar."""
    from tqdm.auto import tqdm

    with tqdm(total=rooms, desc=folder.name, disable=not processes().is_main_process) as bar:

        def progress(done: int) -> None:
            bar.update(min(done, rooms) - bar.n)

        write_walks(folder, rooms, num_frames, first, wild, every, size, progress)


def encode_with_bar(walks: Path, folder: Path, vae, depth) -> None:
    """`encode_walks` with a progress bar."""
    from tqdm.auto import tqdm

    from mirage_nb.training.encoded import encode_walks

    with tqdm(desc="shards to encode", disable=not processes().is_main_process) as bar:

        def progress(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        encode_walks(walks, folder, vae, depth, progress)
