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

WILD = 300_000  # seeds of the wild rooms
LEAPS = 100_000  # and of those that are walked through in leaps
EVERY = 4  # frames from one of their frames to the next
LOOKAHEAD = 12  # frames that the bundled model looks ahead: three of these steps, of the four that it learns


@dataclass
class Schedule:
    """Rooms and steps of the bundled model's training; `quick` is a dry run of every stage in a minute or two."""

    rooms: int = 528
    wild_rooms: int = 384
    leap_rooms: int = 1024
    vae: int = 6000
    polish: int = 9000
    depth: int = 2600
    prior: int = 4500
    memory: int = 5000
    context: int = 2500
    leap: int = 3000

    @staticmethod
    def quick() -> Schedule:
        return Schedule(4, 2, 1, vae=2, polish=2, depth=2, prior=2, memory=2, context=2, leap=2)


def train_tiny(folder: str | Path, schedule: Schedule | None = None, seed: int = 0, compile: bool = True) -> Path:
    """Train mirage-tiny; returns the folder to give to `MiragePipeline.from_pretrained`.

    Args:
        folder: where everything is kept: rooms (1.5 MB each), checkpoints, logs, and the model in `folder/mirage-tiny`.
        compile: compile the transformer's blocks (needs a C++ compiler on a CPU); the result is the same to rounding.
    """
    from mirage_nb.models.presets import build_scheduler, build_tiny
    from mirage_nb.pipeline import MiragePipeline
    from mirage_nb.training.depth import depth_absrel, depth_loss

    folder, schedule = Path(folder), schedule or Schedule()
    render_rooms(folder / "walks", schedule.rooms, 0, "rooms to learn from")
    render_rooms(folder / "wild_walks", schedule.wild_rooms, WILD, "wild rooms", wild=True)
    render_rooms(folder / "leap_walks", schedule.leap_rooms, LEAPS, "rooms to leap through", 13, every=EVERY)
    render_rooms(folder / "held_out", 32 if schedule.rooms > 32 else 2, HELD_OUT, "held-out rooms")
    walks, held_out = Walks(folder / "walks"), Walks(folder / "held_out")
    parts = build_tiny(seed)
    vae, depth, transformer = parts["vae"], parts["depth_estimator"], parts["transformer"]

    _train_vae(vae, walks, held_out, folder, schedule, seed)
    common = dict(seed=seed, validate=lambda model: depth_absrel(model, held_out))
    fit(depth, depth_loss(walks), steps=schedule.depth, folder=folder / "depth", lr=6e-4, ema=0.998, **common)
    depth.eval().requires_grad_(False)
    encode_with_bar(folder / "walks", folder / "encoded", vae, depth)
    encode_with_bar(folder / "leap_walks", folder / "leap_encoded", vae, depth)
    # The depth network never sees wild rooms: their exact depth stands for what a recording brings along.
    encode_with_bar(folder / "wild_walks", folder / "wild_encoded", vae, None)
    _train_transformer(transformer, folder, schedule, seed, compile)

    parts = dict(vae=vae, transformer=transformer.eval(), scheduler=build_scheduler(), depth_estimator=depth)
    target = folder / "mirage-tiny"
    if processes().is_main_process:
        _save(MiragePipeline(references=4, lookahead=LOOKAHEAD, **parts), target)
    processes().wait_for_everyone()
    return target


def _train_vae(vae, walks: Walks, held_out: Walks, folder: Path, schedule: Schedule, seed: int) -> None:
    """The whole VAE: first roughly, then for PSNR, near what it was; and the latents' statistics."""
    from mirage_nb.training.vae import set_statistics, vae_loss, vae_psnr

    common = dict(seed=seed, weight_decay=0.0, validate=lambda model: vae_psnr(model, held_out))
    fit(vae, vae_loss(walks), steps=schedule.vae, folder=folder / "vae", lr=8e-4, **common)
    loss = vae_loss(walks, near=deepcopy(vae).eval().requires_grad_(False))
    fit(vae, loss, steps=schedule.polish, folder=folder / "polish", lr=4e-4, ema=0.998, **common)
    vae.eval().requires_grad_(False)
    set_statistics(vae, walks, frames=min(512, 25 * len(walks)))


def _train_transformer(transformer, folder: Path, schedule: Schedule, seed: int, compile: bool) -> None:
    """The prior; then to read the memory; then to live with what was generated; then to leap."""
    from mirage_nb.training.encoded import EncodedWalks
    from mirage_nb.training.memory import MemoryLoss, in_turn
    from mirage_nb.training.prior import prior_loss

    encoded = EncodedWalks.load(folder / "encoded", folder / "wild_encoded")
    common = dict(ema=0.998, seed=seed)
    fit(transformer.prior, prior_loss(encoded), steps=schedule.prior, folder=folder / "prior", lr=1.5e-3, **common)
    if compile:
        for block in (*transformer.blocks, *transformer.vace_blocks):
            block.compile()
    common = dict(steps=schedule.memory, ema=0.999, warmup=200, seed=seed)
    fit(transformer, MemoryLoss(encoded), folder=folder / "memory", lr=6e-4, **common)
    # Then with past frames beside the segment, oftener on what it has made itself, and on spoilt pasts; earlier that
    # would only make every step longer.
    near = MemoryLoss(encoded, rehearse=0.5, references=4, preceding=2, spoilt=0.6)
    fit(transformer, near, steps=schedule.context, folder=folder / "context", lr=4e-4, ema=0.998, seed=seed + 1)
    # Of such a segment 4% is new; of a view some frames ahead 14%, and two frames cost less than five. So what there is
    # to invent is learnt from leaps (notebook 06 counts).
    leaps = EncodedWalks.load(folder / "leap_encoded")
    leap = MemoryLoss(leaps, batch=16, length=2, rehearse=0.0, spoilt=0.3, leap=4)
    loss = in_turn(leap, leap, leap, leap, near)
    transformer.prior.requires_grad_(False)  # what a memory tells it knows by now
    common = dict(steps=schedule.leap, ema=0.998, seed=seed + 2, warmup=200)
    fit(transformer, loss, folder=folder / "leap", lr=5e-4, **common)


def _save(pipe, target: Path) -> None:
    partial = target.with_name(target.name + ".partial")
    pipe.to(torch.bfloat16).save_pretrained(partial, safe_serialization=True)
    if target.exists():
        target.rename(target.with_name(f"{target.name}.before-{os.getpid()}"))
    os.replace(partial, target)


def render_rooms(
    folder: Path, rooms: int, first: int, what: str, num_frames: int = 25, wild: bool = False, every: int = 1
) -> None:
    """`write_walks` with a progress bar."""
    from tqdm.auto import tqdm

    with tqdm(total=rooms, desc=what) as bar:
        write_walks(folder, rooms, num_frames, first, wild, every, lambda done: bar.update(min(done, rooms) - bar.n))


def encode_with_bar(walks: Path, folder: Path, vae, depth) -> None:
    """`encode_walks` with a progress bar."""
    from tqdm.auto import tqdm

    from mirage_nb.training.encoded import encode_walks

    with tqdm(desc="shards to encode") as bar:

        def progress(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        encode_walks(walks, folder, vae, depth, progress)
