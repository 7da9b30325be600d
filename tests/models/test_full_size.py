"""The full-size layout on the meta device, and the memory plan."""

from __future__ import annotations

import torch

from mirage_nb.models.full_size import HEADROOM, HOW, count, full_size_parts, memory_plan
from mirage_nb.models.presets import WAN22_TRANSFORMER
from mirage_nb.models.transformer import MirageTransformer3DModel


def test_the_full_size_layout():
    """Wan2.2-TI2V-5B's own number of parameters, and the branch's shapes; nothing is allocated."""
    parts = full_size_parts()
    transformer = parts["transformer"]
    assert all(p.is_meta for part in parts.values() for p in part.parameters())
    assert count(transformer) - count(transformer, "vace_") == 4_999_787_712, "as the hub counts it"
    assert len(transformer.vace_blocks) == 15 and tuple(transformer.config.vace_layers) == tuple(range(0, 30, 2))
    assert transformer.vace_patch_embedding.weight.shape == (3072, 96, 1, 2, 2)
    assert transformer.vace_blocks[3].ffn.net[0].proj.weight.shape == (WAN22_TRANSFORMER["ffn_dim"], 3072)
    assert parts["text_encoder"].config.d_model == transformer.config.text_dim
    assert parts["vae"].config.z_dim == 48 and parts["vae"].config.scale_factor_spatial == 16
    with torch.device("meta"):
        same = MirageTransformer3DModel(**WAN22_TRANSFORMER)
    shapes = [{name: p.shape for name, p in model.named_parameters()} for model in (same, transformer)]
    assert shapes[0] == shapes[1]


def test_the_plan_counts_every_part_once():
    parts, plan = full_size_parts(), memory_plan()
    text_encoder, vae, transformer = (count(part) for part in parts.values())
    assert plan["all at once"] - HEADROOM == 2 * (text_encoder + transformer) + 4 * vae
    assert plan["part by part"] - HEADROOM == 2 * max(transformer, text_encoder)
    assert list(plan) == list(HOW) and list(plan.values()) == sorted(plan.values(), reverse=True)
    saved = plan["all at once"] - memory_plan(torch.int8)["all at once"]
    assert saved == text_encoder + transformer, "the VAE stays in float32"
