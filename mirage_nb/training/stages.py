"""The paper's stages: the memory branch alone on a frozen backbone, then the branch with LoRA on the backbone."""

import torch
from torch import nn


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
