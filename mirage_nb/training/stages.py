"""The paper's stages: the memory branch alone on a frozen backbone, then the branch with LoRA on the backbone."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from mirage_nb.checks import one_of
from mirage_nb.training.data import Walks, processes
from mirage_nb.training.encoded import EncodedWalks
from mirage_nb.training.loop import fit
from mirage_nb.training.memory import MemoryLoss


def only_branch(model: nn.Module) -> None:
    """Stage 1: the branch (`vace_*`) learns, the backbone is frozen."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.startswith("vace_"))


def branch_and_lora(model: nn.Module, rank: int = 64) -> None:
    """Stage 2: LoRA (paper: rank 64) on the backbone's self-attention learns, together with the branch.

    The adapters begin as zero, so the model begins as the one that stage 1 left. In the end `model.fuse_lora()` and
    `model.unload_lora()` add them to the weights.
    """
    from peft import LoraConfig

    targets = r"blocks\.\d+\.attn1\.(to_q|to_k|to_v|to_out\.0)"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model.add_adapter(LoraConfig(r=rank, lora_alpha=rank, target_modules=targets), adapter_name="memory")
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.startswith("vace_") or "lora_" in name)


def train_transformer(pipe, stage: str, walks: str | Path, folder: str | Path, batch: int, **options) -> Path:
    """Train a pipeline's transformer further; returns the folder of the new one, in diffusers' layout.

    Args:
        stage: `branch`, the paper's stage 1; or `lora`, its stage 2, whose adapters are merged in the end.
        walks: folder of walks. options: of `fit`.
    """
    one_of("stage", stage, ("branch", "lora"))
    data, model = EncodedWalks.encode(Walks(walks), pipe.vae, pipe.depth_estimator), pipe.transformer.float().train()
    only_branch(model) if stage == "branch" else branch_and_lora(model)
    loss = MemoryLoss(data, batch, model.config.segment_latent_frames, references=4, preceding=2)
    fit(model, loss, folder=folder, **options)
    if stage == "lora":
        model.fuse_lora()
        model.unload_lora()
    target = Path(folder) / "transformer"
    if processes().is_main_process:
        model.eval().to(torch.bfloat16).save_pretrained(target)
    return target
