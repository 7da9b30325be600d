"""The dry run at full size, the memory plan, and the headers that it is made from."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file
from tiny_wan import write_wan

from mirage_nb import weights as headers
from mirage_nb.models.dry_run import dry_run
from mirage_nb.models.full_size import count, full_size_parts, memory_plan
from mirage_nb.viz import full_size as plots


@pytest.fixture(scope="module")
def full():
    return full_size_parts()


def test_a_segment_goes_through_without_memory(full):
    text, image, step, video = dry_run(full)
    assert text.gives == (1, 512, 4096) and image.gives == (1, 48, 1, 44, 80)
    assert step.takes == step.gives == (1, 48, 4 + 9 + 2, 44, 80)
    assert video.takes == (1, 48, 9, 44, 80) and video.gives == (1, 3, 33, 704, 1280)
    # By hand: 2 FLOP a weight and token in the blocks, branch and backbone; attention comes on top.
    tokens = 15 * 22 * 40
    named = full["transformer"].named_parameters()
    linear = sum(p.numel() for name, p in named if name.startswith("blocks.") and p.ndim == 2)
    assert step.flop > 2 * tokens * linear
    attention = 4 * tokens**2 * 3072 * 30
    assert step.flop > 2 * tokens * linear * 0.9 + attention


def test_the_plan_counts_every_part_once(full):
    plan = memory_plan(full)
    assert plan.parts["backbone"] + plan.parts["branch"] == 2 * count(full["transformer"])
    assert plan.parts["vae"] == 4 * count(full["vae"]) and plan.parts["text_encoder"] == 2 * count(full["text_encoder"])
    assert plan.by_blocks < plan.one_by_one < plan.together
    eight = memory_plan(full, torch.int8)
    assert eight.parts["vae"] == plan.parts["vae"] and eight.parts["backbone"] * 2 == plan.parts["backbone"]


def test_headers_tell_the_size_of_a_folder(tmp_path):
    theirs = write_wan(tmp_path)
    parts = headers.folder_parts(tmp_path)
    assert set(parts) == {"transformer", "vae", "text_encoder"}
    for name in ("transformer", "vae"):
        assert parts[name] == sum(p.numel() for p in getattr(theirs, name).parameters()), name
    half, whole = (headers.folder_bytes(tmp_path, dtype) for dtype in (torch.bfloat16, torch.float32))
    assert whole - half == 2 * (parts["transformer"] + parts["text_encoder"]) + parts["transformer"], "and the branch"
    assert 0 < headers.free_memory() <= 1 << 62


def test_broken_headers(tmp_path):
    save_file({"a": torch.zeros(4, 5)}, tmp_path / "a.safetensors")
    assert headers.read_header(tmp_path / "a.safetensors")["a"]["shape"] == [4, 5]
    whole = (tmp_path / "a.safetensors").read_bytes()
    for broken in (b"", whole[:20], b"\xff" * 64):
        (tmp_path / "a.safetensors").write_bytes(broken)
        with pytest.raises(ValueError, match="not a whole safetensors file"):
            headers.read_header(tmp_path / "a.safetensors")


def test_pictures(full):
    plan = memory_plan(full)
    pictures = [plots.memory_bars(plan, gpu) for gpu in (8, 24, 80)]
    pictures += [plots.grids({"a": ((128, 128), 8)}), plots.weights({"a": {"vae": 10**6}, "b": {"vae": 10**9}})]
    assert all(len(picture.getcolors(1 << 20)) > 10 for picture in pictures)
    assert pictures[0] != pictures[1]
