"""Files of the paper's released code: its names at small shapes, into our classes and back."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file
from tiny_wan import DIM, Int8Linear, official_branch, official_lora, wan_backbone

from mirage_nb.models.checkpoints import load_weights, to_ours
from mirage_nb.models.transformer import MirageTransformer3DModel


def model():
    return MirageTransformer3DModel.from_wan(wan_backbone()).eval()


def inputs():
    g = torch.Generator().manual_seed(3)
    return (
        torch.randn(1, 6, 2, 4, 4, generator=g), torch.tensor([[0.0, 500.0]]),
        torch.randn(1, 12, 2, 4, 4, generator=g), torch.randn(1, 5, 16, generator=g),
    )  # fmt: skip


@pytest.mark.parametrize("prefix", ["", "pipe.vace."])
def test_the_official_branch_loads(prefix, tmp_path):
    tensors = official_branch()
    save_file({prefix + name: t for name, t in tensors.items()}, tmp_path / "branch.safetensors")
    transformer = model()
    load_weights(transformer, "branch", tmp_path / "branch.safetensors")
    block = transformer.vace_blocks[1]
    torch.testing.assert_close(block.attn2.to_out[0].weight, tensors["vace_blocks.1.cross_attn.o.weight"])
    torch.testing.assert_close(transformer.vace_blocks[0].proj_in.weight, tensors["vace_blocks.0.before_proj.weight"])
    torch.testing.assert_close(transformer.vace_blocks[0].ffn.net[0].proj.bias, tensors["vace_blocks.0.ffn.0.bias"])
    own = dict(transformer.named_parameters())
    assert all(torch.equal(own[to_ours(name)], tensor) for name, tensor in tensors.items())
    assert {to_ours(name) for name in tensors} == {name for name in own if name.startswith("vace_")}


@torch.no_grad()
def test_a_loaded_block_computes_what_the_paper_s_block_computes():
    """DiffSynth's block by hand on the official names, against ours after loading (no rotary: one token)."""
    tensors, transformer = official_branch(), model()
    for name, tensor in tensors.items():
        transformer.get_parameter(to_ours(name)).copy_(tensor)
    w = {name.removeprefix("vace_blocks.0."): t for name, t in tensors.items() if name.startswith("vace_blocks.0.")}
    g = torch.Generator().manual_seed(5)
    control, x, text = (torch.randn(1, n, DIM, generator=g) for n in (1, 1, 5))
    temb = torch.randn(1, 1, 6, DIM, generator=g)

    def linear(x, name):
        return torch.nn.functional.linear(x, w[f"{name}.weight"], w[f"{name}.bias"])

    def norm(x):
        return torch.nn.functional.layer_norm(x, (DIM,), eps=1e-6)

    def rms(x, name):
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * w[f"{name}.weight"]

    def attend(x, y, name):
        heads = [t.unflatten(-1, (2, 12)).transpose(1, 2) for t in (
            rms(linear(x, f"{name}.q"), f"{name}.norm_q"), rms(linear(y, f"{name}.k"), f"{name}.norm_k"),
            linear(y, f"{name}.v"))]  # fmt: skip
        joined = torch.nn.functional.scaled_dot_product_attention(*heads).transpose(1, 2).flatten(2)
        return linear(joined, f"{name}.o")

    shift, scale, gate, shift2, scale2, gate2 = (w["modulation"] + temb[:, 0]).split(1, 1)
    c = linear(control, "before_proj") + x
    y = norm(c) * (1 + scale) + shift
    c = c + gate * attend(y, y, "self_attn")
    y = torch.nn.functional.layer_norm(c, (DIM,), w["norm3.weight"], w["norm3.bias"], 1e-6)
    c = c + attend(y, text, "cross_attn")
    y = norm(c) * (1 + scale2) + shift2
    c = c + gate2 * linear(torch.nn.functional.gelu(linear(y, "ffn.0"), approximate="tanh"), "ffn.2")
    still = (torch.ones(1, 1, 1, 12), torch.zeros(1, 1, 1, 12))  # position 0: nothing is turned
    got, hint = transformer.vace_blocks[0](control, x, text, temb, still)
    torch.testing.assert_close(got, c, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(hint, linear(c, "after_proj"), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("adapter", ["", ".default"])
@torch.no_grad()
def test_the_official_lora_adds_b_times_a(adapter, tmp_path):
    tensors = official_lora(adapter=adapter)
    save_file(tensors, tmp_path / "lora.safetensors")
    plain, adapted = model(), model()
    load_weights(adapted, "lora", tmp_path / "lora.safetensors")
    plain_names = official_lora()
    for n, block in enumerate(plain.blocks):
        for official, layer in (("self_attn.q", block.attn1.to_q), ("self_attn.o", block.attn1.to_out[0]),
                                ("self_attn.k", block.attn1.to_k), ("self_attn.v", block.attn1.to_v),
                                ("cross_attn.q", block.attn2.to_q), ("cross_attn.o", block.attn2.to_out[0]),
                                ("cross_attn.k", block.attn2.to_k), ("cross_attn.v", block.attn2.to_v),
                                ("ffn.0", block.ffn.net[0].proj), ("ffn.2", block.ffn.net[2])):  # fmt: skip
            a, b = (plain_names[f"blocks.{n}.{official}.lora_{x}.weight"] for x in "AB")
            layer.weight += b @ a
    got, expected = adapted(*inputs()).sample, plain(*inputs()).sample
    torch.testing.assert_close(got, expected, atol=1e-4, rtol=1e-3)
    assert not torch.allclose(got, model()(*inputs()).sample, atol=1e-3)


@torch.no_grad()
def test_a_trained_branch_goes_on_a_quantised_backbone(tmp_path):
    """The branch has plain layers; the backbone's stay as they are."""
    backbone, expected = wan_backbone(), model()
    for theirs, ours in zip(backbone.blocks, expected.blocks):
        theirs.ffn.net[2] = Int8Linear(theirs.ffn.net[2])
        ours.ffn.net[2].weight.copy_(theirs.ffn.net[2].weight * theirs.ffn.net[2].scale)
    quantised = MirageTransformer3DModel.from_wan(backbone).eval()
    save_file(official_branch(), tmp_path / "branch.safetensors")
    for transformer in (quantised, expected):
        load_weights(transformer, "branch", tmp_path / "branch.safetensors")
    assert isinstance(quantised.blocks[0].ffn.net[2], Int8Linear)
    torch.testing.assert_close(quantised(*inputs()).sample, expected(*inputs()).sample, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_one_file_may_hold_both(tmp_path):
    both, branch, lora = (tmp_path / f"{name}.safetensors" for name in ("both", "branch", "lora"))
    save_file(official_branch() | official_lora(), both)
    save_file(official_branch(), branch)
    save_file(official_lora(), lora)
    at_once, one_by_one = model(), model()
    load_weights(at_once, "branch", both)
    load_weights(one_by_one, "branch", branch)
    load_weights(one_by_one, "lora", lora)
    torch.testing.assert_close(at_once(*inputs()).sample, one_by_one(*inputs()).sample)


def test_official_names():
    for official, ours in {
        "blocks.3.norm3.bias": "blocks.3.norm2.bias",
        "dit.blocks.7.self_attn.o.lora_A.default.weight": "blocks.7.attn1.to_out.0.lora_A.weight",
        "pipe.vace.vace_blocks.0.after_proj.weight": "vace_blocks.0.proj_out.weight",
        "vace_blocks.1.modulation": "vace_blocks.1.scale_shift_table",
    }.items():
        assert to_ours(official) == ours
    assert all(to_ours(name) == name for name, _ in model().named_parameters())


def test_branch_and_lora_by_the_pipeline(tmp_path):
    from tiny_wan import write_wan

    from mirage_nb import MiragePipeline

    write_wan(tmp_path / "wan")
    save_file(official_branch(), tmp_path / "branch.safetensors")
    save_file(official_lora(), tmp_path / "lora.safetensors")
    pipe = MiragePipeline.from_wan(
        tmp_path / "wan", tmp_path / "branch.safetensors", tmp_path / "lora.safetensors", torch_dtype=torch.float32
    )
    assert pipe.transformer.vace_blocks[0].proj_out.weight.any() and pipe.config.references == 4
    assert any("lora" in name for name, _ in pipe.transformer.named_parameters())


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda t: t.pop("vace_blocks.1.ffn.2.bias"), "lacks vace_blocks.1.ffn.net.2.bias"),
        (lambda t: t.update({"vace_blocks.7.modulation": torch.zeros(1)}), "holds vace_blocks.7"),
        (lambda t: t.update({"depth_adapter.0.weight": torch.zeros(1)}), "holds depth_adapter.0.weight"),
        (
            lambda t: t.update({"vace_patch_embedding.weight": torch.zeros(24, 96, 1, 2, 2)}),
            r"holds vace_patch_embedding.weight \(24, 96,",
        ),
        (lambda t: t.update({"vace_blocks.0.modulation": torch.full((1, 6, 24), torch.nan)}), "not finite"),
    ],
)
def test_a_branch_that_does_not_fit_leaves_the_model_alone(change, message, tmp_path):
    tensors, transformer = official_branch(), model()
    change(tensors)
    save_file(tensors, tmp_path / "branch.safetensors")
    before = {name: p.clone() for name, p in transformer.named_parameters()}
    with pytest.raises(ValueError, match="branch: .*" + message):
        load_weights(transformer, "branch", tmp_path / "branch.safetensors")
    assert all(torch.equal(p, before[name]) for name, p in transformer.named_parameters())


def test_loras_that_do_not_fit(tmp_path):
    def check(tensors, message):
        save_file(tensors, tmp_path / "lora.safetensors")
        with pytest.raises(ValueError, match="lora: .*" + message):
            load_weights(model(), "lora", tmp_path / "lora.safetensors")

    half = {name: tensor for name, tensor in official_lora().items() if "lora_A" in name}
    check(official_branch(), "holds no lora")
    check(half, "no pair of lora_A and lora_B")
    check(official_lora(layers=9), "that fits the layer blocks.[4-8]")
    check({name: t[:, :3].contiguous() for name, t in official_lora().items()}, "that fits the layer")
    (tmp_path / "lora.safetensors").write_bytes(b"no")
    with pytest.raises(ValueError, match="lora: "):
        load_weights(model(), "lora", tmp_path / "lora.safetensors")
