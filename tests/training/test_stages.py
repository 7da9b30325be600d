"""The paper's stages: what learns and what does not."""

from __future__ import annotations

import torch
from micro import build_micro

from mirage_nb.training.stages import branch_and_lora, only_branch


def test_stage_1_trains_the_branch_alone():
    model = build_micro()["transformer"]
    only_branch(model)
    assert {name.startswith("vace_") for name, p in model.named_parameters() if p.requires_grad} == {True}


def test_lora_begins_as_nothing_and_merges_into_the_same_model():
    model = build_micro()["transformer"].eval()
    torch.manual_seed(0)
    c = model.config
    x = torch.randn(1, c.in_channels, 3, 4, 4), torch.full((1, 3), 500.0), torch.randn(1, c.vace_in_channels, 3, 4, 4)
    torch.nn.init.normal_(model.proj_out.weight)
    with torch.no_grad():
        before = model(*x).sample
        branch_and_lora(model, rank=2)
        learns = {name.split(".")[0] for name, p in model.named_parameters() if p.requires_grad}
        assert learns == {"vace_patch_embedding", "vace_blocks", "blocks"}
        assert torch.allclose(model(*x).sample, before, atol=1e-5)
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.1)
        adapted = model(*x).sample
        assert not torch.allclose(adapted, before, atol=1e-3)
        model.fuse_lora()
        model.unload_lora()
        assert torch.allclose(model(*x).sample, adapted, atol=1e-4)
