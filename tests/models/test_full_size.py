"""The full-size layout on the meta device, the memory plan, and the headers of weight files."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file
from tiny_wan import write_wan

from mirage_nb.models.full_size import (
    GIB,
    count,
    folder_bytes,
    folder_parts,
    free_memory,
    full_size_parts,
    memory_plan,
)
from mirage_nb.models.presets import WAN22_TRANSFORMER
from mirage_nb.models.transformer import MirageTransformer3DModel
from mirage_nb.viz.full_size import memory_bars


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
    assert plan.parts["backbone"] + plan.parts["branch"] == 2 * count(parts["transformer"])
    assert plan.parts["vae"] == 4 * count(parts["vae"])
    assert plan.parts["text_encoder"] == 2 * count(parts["text_encoder"])
    needs = list(plan.ways.values())
    assert needs == sorted(needs, reverse=True)
    eight = memory_plan(torch.int8)
    assert eight.parts["vae"] == plan.parts["vae"] and eight.parts["backbone"] * 2 == plan.parts["backbone"]


@pytest.mark.parametrize(
    "gpu, main, words",
    [
        (80, 128, "everything fits"), (24, 64, "enable_model_cpu_offload"), (12, 64, "block by block"),
        (6, 64, "too small"), (80, 16, "quantise"),
    ],
)  # fmt: skip
def test_the_advice(gpu, main, words):
    assert words in memory_plan().advice(gpu * GIB, main * GIB)


def test_headers_tell_the_size_of_a_folder(tmp_path):
    theirs = write_wan(tmp_path)
    parts = folder_parts(tmp_path)
    assert set(parts) == {"transformer", "vae", "text_encoder"}
    for name in ("transformer", "vae"):
        assert parts[name] == count(getattr(theirs, name)), name
    half, whole = (folder_bytes(tmp_path, dtype) for dtype in (torch.bfloat16, torch.float32))
    assert whole - half == 2 * (parts["transformer"] + parts["text_encoder"]) + parts["transformer"], "and the branch"
    assert 0 < free_memory() <= 1 << 62


def test_broken_headers(tmp_path):
    file = tmp_path / "vae" / "a.safetensors"
    file.parent.mkdir()
    save_file({"a": torch.zeros(4, 5)}, file)
    whole = file.read_bytes()
    for broken in (b"", whole[:20], b"\xff" * 64):
        file.write_bytes(broken)
        with pytest.raises(ValueError, match="not a whole safetensors file"):
            folder_parts(tmp_path)


def test_the_picture_of_a_plan():
    pictures = [memory_bars(memory_plan(), gpu, 64) for gpu in (8, 24)]
    assert pictures[0] != pictures[1]
