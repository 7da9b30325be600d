"""The paper's stages: the memory branch alone on a frozen backbone, then the branch with LoRA on the backbone."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from mirage_nb.checks import one_of
from mirage_nb.training.encoded import EncodedWalks
from mirage_nb.training.loop import fit
from mirage_nb.training.memory import MemoryLoss

TRANSFORMER_STAGES = ("backbone", "branch", "lora", "joint")
ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
PAPER_RANK = 64


def only_branch(model: nn.Module) -> None:
    """Stage 1: the branch (`vace_*`) learns, the backbone is frozen."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.startswith("vace_"))


def branch_and_lora(model: nn.Module, rank: int = PAPER_RANK, seed: int = 0) -> None:
    """Stage 2: LoRA of the given rank on the backbone's self-attention learns, together with the branch.

    The adapters begin as zero, so the model begins as the one that stage 1 left.
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
    """Add the adapters to the weights and remove them: the same model, without overhead."""
    model.fuse_lora()
    model.unload_lora()


def train_transformer(
    stage: str,
    model: str | Path,
    data: EncodedWalks,
    folder: str | Path,
    *,
    steps: int,
    batch: int = 8,
    rank: int = PAPER_RANK,
    seed: int = 0,
    gradient_checkpointing: bool = False,
    **options,
) -> Path:
    """Train the transformer of a model folder further; returns the folder of the new one, in diffusers' layout.

    Args:
        stage: `backbone` learns image to video without a memory; `branch` is the paper's stage 1 and `lora` its stage 2
            (the adapters are merged in the end); `joint` trains everything at once, as the bundled model was trained,
            since it has no ready backbone.
        model: a folder that `MirageTransformer3DModel.from_pretrained` reads.
        options: of `fit`.
    """
    from mirage_nb.models.transformer import MirageTransformer3DModel

    one_of("stage", stage, TRANSFORMER_STAGES)
    network = MirageTransformer3DModel.from_pretrained(str(model), torch_dtype=torch.float32)
    if stage == "branch":
        only_branch(network)
    elif stage == "lora":
        branch_and_lora(network, rank, seed)
    elif stage == "backbone" and network.prior is not None:
        network.prior.requires_grad_(False)  # without a memory it would unlearn to read one
    if gradient_checkpointing:
        network.enable_gradient_checkpointing()
    shares = dict(drop=1.0, rehearse=0.0) if stage == "backbone" else dict(drop=0.1, rehearse=0.25)
    length = network.config.segment_latent_frames
    fit(network, MemoryLoss(data, batch, length, references=4, preceding=2, **shares), steps=steps, folder=folder,
        seed=seed, **options)  # fmt: skip
    if stage == "lora":
        merge_lora(network)
    target = Path(folder) / "transformer"
    network.eval().to(torch.bfloat16).save_pretrained(target)
    return target
