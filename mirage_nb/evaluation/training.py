"""What each ingredient of the training is worth: small models from nothing, equally long, one thing changed.

The budget is far below the bundled model's, so that it fits on a laptop. It tells which way an ingredient pulls early
on, not where long training would end. The bundled VAE and depth network serve all variants.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import nn

from mirage_nb.evaluation import evaluate_rooms
from mirage_nb.models.presets import build_tiny
from mirage_nb.models.transformer import MirageTransformer3DModel
from mirage_nb.training.encoded import EncodedWalks
from mirage_nb.training.loop import fit
from mirage_nb.training.memory import MemoryLoss
from mirage_nb.training.stages import PAPER_RANK, train_transformer

RAYS = 6  # the last channels of the control input


def forget_rays(model: nn.Module) -> None:
    """From now on the branch's weights for the camera rays are zero, and stay so in training."""
    weight = model.vace_patch_embedding.weight
    keep = torch.ones_like(weight)
    keep[:, -RAYS:] = 0
    weight.data.mul_(keep)
    weight.register_hook(lambda gradient: gradient * keep)


def branch_from_backbone(model: nn.Module) -> None:
    """Each branch block becomes a copy of its backbone block and hands on nothing yet: so stage 1 begins."""
    for layer, block in zip(model.config.vace_layers, model.vace_blocks):
        block.load_state_dict(model.blocks[layer].state_dict(), strict=False)
        nn.init.zeros_(block.proj_out.weight)
        nn.init.zeros_(block.proj_out.bias)


def train_variants(
    data: EncodedWalks,
    folder: Path,
    steps: int,
    lr: float = 6e-4,
    rank: int = PAPER_RANK,
    seed: int = 0,
    compile: bool = True,
) -> dict[str, Path]:
    """Train every variant for `steps` steps in all; returns their folders, by name. What is there is not done again.
    All but the last have the plain prior (`models.prior`), which learns nothing.

    Args:
        data: walks encoded by the bundled VAE, none of a held-out room.
        folder: gets a folder a variant.
        rank: of the LoRA of the staged variants.
        compile: compile the blocks of what is trained whole.
    """

    def whole(
        name: str,
        prepare: Callable[[nn.Module], None] | None = None,
        share: float = 1.0,
        prior_width: int = 0,
        **options,
    ) -> Path:
        target = folder / name / "transformer"
        if not target.exists():
            network = build_tiny(seed, prior_width=prior_width)["transformer"]
            if prepare:
                prepare(network)
            if compile:
                for block in (*network.blocks, *network.vace_blocks):
                    block.compile()
            loss = MemoryLoss(data, length=network.config.segment_latent_frames, **options)
            fit(network, loss, steps=int(share * steps), folder=folder / name, lr=lr, ema=0.99, seed=seed)
            network.eval().save_pretrained(target)
        return target

    def staged(name: str, start: Path, stage: str, share: float) -> Path:
        target, options = folder / name, dict(steps=int(share * steps), stage=stage, lr=lr, ema=0.99, seed=seed)
        options |= dict(rank=rank, references=0, preceding=0)
        if not (target / "transformer").exists():
            train_transformer("memory", start, data, target, **options)
        return target / "transformer"

    found = {"all at once": whole("joint"), "all at once, no rays": whole("no_rays", forget_rays)}
    backbone = folder / "with_branch"
    if not backbone.exists():
        network = MirageTransformer3DModel.from_pretrained(str(whole("backbone", share=0.5, drop=1.0, rehearse=0.0)))
        branch_from_backbone(network)
        network.save_pretrained(backbone)
    found["backbone first, then one stage"] = staged("one_stage", backbone, "2", 0.5)
    stage1 = staged("stage1", backbone, "1", 0.25)
    found["backbone first, then two stages"] = staged("stage2", stage1, "2", 0.25)
    width = build_tiny()["transformer"].config.prior_width
    found["all at once, learnt prior"] = whole("learnt_prior", prior_width=width)
    return found


def evaluate_variants(
    pipe, variants: dict[str, Path], seeds: Sequence[int], num_frames: int, progress: Callable[[int, int], None] | None
) -> dict[str, dict]:
    """`evaluate_rooms` with the latent memory, `methods` by variant, for the pipeline with each one's transformer."""
    figures = {}
    pipe.register_to_config(references=0, preceding=0, lookahead=0)  # they were trained without
    for number, (name, folder) in enumerate(variants.items()):
        pipe.transformer = MirageTransformer3DModel.from_pretrained(str(folder)).eval()

        def done(part: int, total: int, number: int = number) -> None:
            progress(number * total + part, len(variants) * total)

        report, _ = evaluate_rooms(pipe, seeds, num_frames, ("latent",), progress=done if progress else None)
        figures[name] = report["methods"]["latent"]
    return figures
