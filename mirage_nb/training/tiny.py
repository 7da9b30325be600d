"""mirage-tiny from nothing: rooms, VAE, depth network, transformer, and the folder that the pipeline loads."""

from dataclasses import dataclass
from pathlib import Path

import torch

from mirage_nb.models.depth import MirageDepthModel
from mirage_nb.models.presets import TINY_TRANSFORMER, build_scheduler
from mirage_nb.models.transformer import MirageTransformer3DModel
from mirage_nb.models.vae import build_vae
from mirage_nb.pipeline import MiragePipeline
from mirage_nb.training.data import Walks, write_walks
from mirage_nb.training.depth import depth_loss
from mirage_nb.training.encoded import EncodedWalks
from mirage_nb.training.loop import fit
from mirage_nb.training.memory import MemoryLoss
from mirage_nb.training.vae import set_statistics, vae_loss


@dataclass
class Schedule:
    """Numbers of rooms, of frames in each, and of steps for each network."""

    rooms: int = 720
    frames: int = 25
    vae: int = 18000
    depth: int = 2600
    transformer: int = 18000


QUICK = Schedule(rooms=1, frames=7, vae=1, depth=1, transformer=2)  # a dry run of everything in less than a minute


def train_tiny(folder: str | Path, schedule: Schedule) -> Path:
    """Train mirage-tiny; returns the folder for `MiragePipeline.from_pretrained`. A room takes 2.5 MB. Each step leaves
    its result in `folder`: a second call continues where the first one stopped."""
    folder = Path(folder)
    torch.manual_seed(0)
    vae, transformer, depth = build_vae(), MirageTransformer3DModel(**TINY_TRANSFORMER), MirageDepthModel()
    write_walks(folder / "walks", schedule.rooms, schedule.frames)
    walks = Walks(folder / "walks")

    fit(vae, vae_loss(walks), steps=schedule.vae, folder=folder / "vae", lr=8e-4, ema=0.998)
    vae.eval().requires_grad_(False)
    set_statistics(vae, walks)
    fit(depth, depth_loss(walks), steps=schedule.depth, folder=folder / "depth", lr=6e-4, ema=0.998)
    depth.eval().requires_grad_(False)

    loss = MemoryLoss(EncodedWalks.encode(walks, vae, depth), references=4, preceding=2)
    fit(transformer, loss, steps=schedule.transformer, folder=folder / "transformer", lr=6e-4, ema=0.999)

    target, scheduler = folder / "mirage-tiny", build_scheduler()
    pipe = MiragePipeline(vae, transformer.eval(), scheduler, depth, references=4)
    pipe.to(torch.bfloat16).save_pretrained(target, safe_serialization=True)
    return target
