"""The paper's stages: what learns and what does not."""

from __future__ import annotations

import pytest
import torch
from micro import build_micro
from safetensors.torch import load_file

from mirage_nb.pipeline import MiragePipeline
from mirage_nb.training.stages import branch_and_lora, train_transformer


def changed(folder, walks, stage: str) -> set[str]:
    """Names of the weights that a stage changes."""
    pipe = MiragePipeline(**build_micro())
    before = {name: p.clone() for name, p in pipe.transformer.state_dict().items()}
    target = train_transformer(pipe, stage, walks, folder, batch=2, steps=3, lr=2e-2, warmup=1)
    after = load_file(target / "diffusion_pytorch_model.safetensors")
    assert before.keys() == after.keys(), "the adapters are merged"
    return {name for name in after if not torch.allclose(after[name].float(), before[name], rtol=1e-2, atol=1e-3)}


def test_stage_1_changes_the_branch_alone(folder, tmp_path):
    names = changed(tmp_path, folder, "branch")
    assert names and all(name.startswith("vace_") for name in names)


def test_stage_2_changes_the_branch_and_the_attention(folder, tmp_path):
    names = changed(tmp_path, folder, "lora")
    backbone = {name for name in names if not name.startswith("vace_")}
    assert backbone and backbone != names
    assert all(name.startswith("blocks.") and ".attn1.to_" in name for name in backbone), backbone


def test_lora_begins_as_nothing_and_merges_into_the_same_model():
    model = build_micro()["transformer"].eval()
    torch.manual_seed(0)
    c = model.config
    x = torch.randn(1, c.in_channels, 3, 4, 4), torch.full((1, 3), 500.0), torch.randn(1, c.vace_in_channels, 3, 4, 4)
    torch.nn.init.normal_(model.proj_out.weight)
    with torch.no_grad():
        before = model(*x).sample
        branch_and_lora(model, rank=2)
        assert torch.allclose(model(*x).sample, before, atol=1e-5)
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.1)
        adapted = model(*x).sample
        assert not torch.allclose(adapted, before, atol=1e-3)
        model.fuse_lora()
        model.unload_lora()
        assert torch.allclose(model(*x).sample, adapted, atol=1e-4)


def test_an_unknown_stage_is_named_before_any_work(tmp_path):
    with pytest.raises(ValueError, match="stage"):
        train_transformer(None, "brunch", tmp_path, tmp_path, batch=2)
