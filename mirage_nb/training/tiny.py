"""mirage-tiny from nothing: rooms, VAE, depth network, prior, transformer, and the folder that the pipeline loads.

Every step leaves its result in `folder`. A second call skips what is done and continues where the first one stopped.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import torch

from mirage_nb.training.data import HELD_OUT, Walks, processes, write_walks
from mirage_nb.training.depth import depth_absrel, depth_loss
from mirage_nb.training.encoded import EncodedWalks, encode_walks
from mirage_nb.training.loop import fit
from mirage_nb.training.memory import MemoryLoss, prior_loss
from mirage_nb.training.vae import only_decoder, set_statistics, vae_loss, vae_psnr

AUGMENTED = 300_000  # seed of the first augmented room


@dataclass
class Schedule:
    """Numbers of rooms, and of steps for each network."""

    rooms: int = 528
    augmented_rooms: int = 192
    held_out_rooms: int = 32
    vae: int = 6000
    decoder: int = 12000
    depth: int = 2600
    prior: int = 6000
    transformer: int = 12000

    @staticmethod
    def quick() -> Schedule:
        """A dry run of everything in less than a minute."""
        return Schedule(2, 1, 1, vae=2, decoder=2, depth=2, prior=2, transformer=4)


def train_tiny(folder: str | Path, schedule: Schedule | None = None, seed: int = 0, compile: bool = True) -> Path:
    """Train mirage-tiny; returns the folder for `MiragePipeline.from_pretrained`.

    Args:
        folder: gets the rooms (1.5 MB each), latents, checkpoints, logs, and the model in `folder/mirage-tiny`.
        compile: compile the VAE's blocks: 0.7 of the time of a step. Needs a C++ compiler on a CPU.
    """
    from diffusers.models.autoencoders.autoencoder_kl_wan import WanResidualBlock

    from mirage_nb.models.presets import build_scheduler, build_tiny
    from mirage_nb.pipeline import MiragePipeline

    folder, schedule = Path(folder), schedule or Schedule()
    write_walks(folder / "walks", schedule.rooms)
    write_walks(folder / "augmented", schedule.augmented_rooms, first_seed=AUGMENTED, augmented=True)
    write_walks(folder / "held_out", schedule.held_out_rooms, first_seed=HELD_OUT)
    walks, held_out = Walks(folder / "walks"), Walks(folder / "held_out")
    parts = build_tiny(seed)
    vae, depth, transformer = parts["vae"], parts["depth_estimator"], parts["transformer"]

    for block in vae.modules() if compile else ():
        if isinstance(block, WanResidualBlock):
            block.compile(dynamic=False)
    options = dict(seed=seed, weight_decay=0.0, validate=lambda model: vae_psnr(model, held_out))
    fit(vae, vae_loss(walks), steps=schedule.vae, folder=folder / "vae", lr=8e-4, **options)
    only_decoder(vae)
    loss = vae_loss(walks, decoder_only=True)
    fit(vae, loss, steps=schedule.decoder, folder=folder / "decoder", lr=4e-4, ema=0.998, **options)
    vae.eval().requires_grad_(False)
    set_statistics(vae, walks)

    options = dict(seed=seed, validate=lambda model: depth_absrel(model, held_out))
    fit(depth, depth_loss(walks), steps=schedule.depth, folder=folder / "depth", lr=6e-4, ema=0.998, **options)
    depth.eval().requires_grad_(False)
    encode_walks(folder / "walks", folder / "encoded", vae, depth)
    # The depth network has not learnt augmented rooms: their exact depth stands for what a recording brings along.
    encode_walks(folder / "augmented", folder / "augmented_encoded", vae)

    data = EncodedWalks.load(folder / "encoded", folder / "augmented_encoded")
    loss = MemoryLoss(data, rehearse=0.25, corrupt=0.3, references=4, preceding=2)
    prior, options = prior_loss(loss), dict(seed=seed)
    fit(transformer.prior, prior, steps=schedule.prior, folder=folder / "prior", lr=1.5e-3, ema=0.998, **options)
    options |= dict(lr=6e-4, ema=0.999, warmup=200)
    fit(transformer, loss, steps=schedule.transformer, folder=folder / "transformer", **options)

    target = folder / "mirage-tiny"
    if processes().is_main_process:
        parts = dict(vae=vae, transformer=transformer.eval(), scheduler=build_scheduler(), depth_estimator=depth)
        partial = target.with_name("mirage-tiny.partial")
        MiragePipeline(references=4, **parts).to(torch.bfloat16).save_pretrained(partial, safe_serialization=True)
        if target.exists():
            target.rename(target.with_name(f"mirage-tiny.before-{os.getpid()}"))
        os.replace(partial, target)
    processes().wait_for_everyone()
    return target
