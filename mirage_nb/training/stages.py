"""The paper's two stages: first the memory branch alone on a frozen backbone, then LoRA on the backbone with it."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from mirage_nb.training.encoded import EncodedWalks
from mirage_nb.training.loop import fit
from mirage_nb.training.memory import MemoryLoss, in_turn

RECIPES = ("backbone", "memory")
STAGES = ("joint", "1", "2")
ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
PAPER_RANK = 64


def only_branch(model: nn.Module) -> None:
    """Stage 1: the branch (`vace_*`) learns, the backbone is frozen."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.startswith("vace_"))


def branch_and_lora(model: nn.Module, rank: int = PAPER_RANK, seed: int = 0) -> None:
    """Stage 2: LoRA of the given rank on the backbone's self-attention learns, and the branch goes on.

    The adapters begin as zero, so the model is the one that stage 1 left.
    """
    from peft import LoraConfig

    width = model.config.num_attention_heads * model.config.attention_head_dim
    if not 1 <= rank <= width:
        raise ValueError(f"rank: expected 1 to the model's width, {width}, got {rank}")
    targets = [f"blocks.{i}.attn1.{name}" for i in range(len(model.blocks)) for name in ATTENTION]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model.add_adapter(LoraConfig(r=rank, lora_alpha=rank, target_modules=targets), adapter_name="memory")
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.startswith("vace_") or "lora_" in name)


def merge_lora(model: nn.Module) -> None:
    """Add the adapters to the weights and forget them: the same model, without any overhead."""
    model.fuse_lora()
    model.unload_lora()


def train_transformer(
    recipe: str,
    model: str | Path,
    data: EncodedWalks,
    folder: str | Path,
    *,
    steps: int,
    stage: str = "joint",
    rank: int = PAPER_RANK,
    lr: float = 4e-4,
    batch: int = 8,
    references: int = 4,
    preceding: int = 2,
    leap: int = 1,
    seed: int = 0,
    gradient_checkpointing: bool = False,
    **options,
) -> Path:
    """Train the transformer of a model folder further; returns the folder of the new one, in diffusers' layout.

    Args:
        recipe: `backbone` learns image-to-video without a memory (the rays always tell where the camera looks);
            `memory` learns with it.
        model: a folder that `MirageTransformer3DModel.from_pretrained` reads.
        stage: of the memory recipe. `1` trains the branch alone, `2` LoRA on the backbone and the branch, `joint`
            everything at once, as the bundled model was trained, since it has no ready backbone.
        references, preceding: clean past frames shown beside the segment, at most, see `MemoryLoss`.
        leap: if above 1, every second batch is of views up to so many frames ahead, each with the frame it starts from
            (`MemoryLoss`, two frames a sample): what `lookahead` needs in a rollout.
        rank: of the LoRA; it is merged into the weights in the end.
        options: of `fit`.
    """
    from mirage_nb.models.transformer import MirageTransformer3DModel

    if recipe not in RECIPES:
        raise ValueError(f"recipe: expected one of {', '.join(RECIPES)}, got {recipe!r}")
    if stage not in STAGES or (recipe == "backbone" and stage != "joint"):
        raise ValueError(f"stage: expected one of {', '.join(STAGES)}, of the memory recipe, got {stage!r}")
    network = MirageTransformer3DModel.from_pretrained(str(model), torch_dtype=torch.float32)
    if stage == "1":
        only_branch(network)
    elif stage == "2":
        branch_and_lora(network, rank, seed)
    if recipe == "backbone" and network.prior is not None:
        network.prior.requires_grad_(False)  # without a memory it would unlearn what a memory tells
    if gradient_checkpointing:
        network.enable_gradient_checkpointing()
    drop = 1.0 if recipe == "backbone" else 0.1
    beside = dict(references=references, preceding=preceding)
    rehearse, length = 0.25 if drop < 1 else 0.0, network.config.segment_latent_frames
    losses = [MemoryLoss(data, batch, length, drop, rehearse, **beside)]
    if leap > 1:
        losses.append(MemoryLoss(data, 2 * batch, 2, drop, 0.0, leap=leap))
    fit(network, in_turn(*losses), steps=steps, folder=folder, lr=lr, seed=seed, **options)
    if stage == "2":
        merge_lora(network)
    target = Path(folder) / "transformer"
    network.eval().to(torch.bfloat16).save_pretrained(target)
    return target
