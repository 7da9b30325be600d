"""diffusers' means for little memory on the full-size pipeline: quantised backbones, offloading, compilation, tiles."""

from __future__ import annotations

import copy

import pytest
import torch
from diffusers import DiffusionPipeline, PipelineQuantizationConfig, TorchAoConfig
from diffusers.hooks import apply_group_offloading
from safetensors.torch import save_file
from tiny_wan import Int8Linear, official_branch, wan_backbone, write_depth, write_wan

from mirage_nb import MiragePipeline
from mirage_nb.models.photo_depth import TransformersDepth
from mirage_nb.models.transformer import MirageTransformer3DModel
from mirage_nb.paths import camera_path

SIZE, FRAMES = (64, 96), 9
CPU = torch.device("cpu")
PARTS = ("text_encoder", "transformer", "vae", "depth_estimator")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("wan")
    write_wan(path / "wan")
    write_depth(path / "depth")
    save_file(official_branch(), path / "branch.safetensors")
    return path


def load(folder, depth: bool = True, **options):
    """With a branch that says something, so that its blocks' weights count."""
    estimator = TransformersDepth.from_transformers(folder / "depth") if depth else None
    options = dict(branch=folder / "branch.safetensors", torch_dtype=torch.float32) | options
    pipe = MiragePipeline.from_wan(folder / "wan", depth_estimator=estimator, **options)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def walk(pipe, frames: int = FRAMES, **options):
    g = torch.Generator().manual_seed(2)
    picture = torch.randint(0, 256, (*SIZE, 3), generator=g, dtype=torch.uint8)
    options = dict(num_inference_steps=2, generator=5, prompt="a room", output_type="uint8") | options
    return pipe(picture, c2w=camera_path("push_in", frames), **options)


@pytest.fixture(scope="module")
def plain(folder):
    return walk(load(folder))


def same(made, expected) -> None:
    assert torch.equal(made.latents, expected.latents) and torch.equal(made.frames, expected.frames)
    assert torch.equal(made.depth, expected.depth) and torch.equal(made.visibility, expected.visibility)


# ------------------------------------------------------------------------------------------------------- quantisation


def quantise(module: torch.nn.Module) -> torch.nn.Module:
    """As libraries do it: every linear layer of another class, except those that the model keeps in float32."""
    for name, child in module.named_children():
        if isinstance(child, torch.nn.Linear):
            setattr(module, name, Int8Linear(child))
        elif name != "time_embedder":
            quantise(child)
    return module


def test_the_configuration_reaches_diffusers_unchanged(folder, plain, monkeypatch):
    """With only the options that from_wan always gives."""
    given, config = {}, object()
    real = DiffusionPipeline.from_pretrained.__func__

    def from_pretrained(cls, source, **options):
        given.update(options)
        pipe = real(cls, source, **{k: v for k, v in options.items() if k != "quantization_config"})
        quantise(pipe.transformer)
        return pipe

    monkeypatch.setattr(DiffusionPipeline, "from_pretrained", classmethod(from_pretrained))
    pipe = load(folder, quantization_config=config)
    assert given.pop("quantization_config") is config
    assert set(given) == {"use_safetensors", "torch_dtype", "trust_remote_code"} and not given["trust_remote_code"]
    for block in pipe.transformer.blocks:
        assert isinstance(block.attn1.to_q, Int8Linear) and isinstance(block.ffn.net[2], Int8Linear)
    for block in pipe.transformer.vace_blocks:  # trained weights: plain layers, in the precision asked for
        assert type(block.attn1.to_q) is torch.nn.Linear and block.attn1.to_q.weight.dtype == torch.float32
    trained = official_branch()
    assert torch.equal(pipe.transformer.vace_blocks[1].attn1.to_q.weight, trained["vace_blocks.1.self_attn.q.weight"])
    near(walk(pipe), plain)


def near(made, expected) -> None:
    error = (made.latents - expected.latents).abs().mean() / expected.latents.abs().mean()
    assert 0 < error < 0.05, f"{error:.4f}: quantised, so not equal, but near"


@torch.no_grad()
def test_all_linear_layers_may_be_of_another_class():
    """Also those that give the timestep: no input may be cast to the type of weights that are integers."""
    plain, backbone = wan_backbone(), quantise(wan_backbone())
    model = MirageTransformer3DModel.from_wan(backbone).eval()
    g = torch.Generator().manual_seed(0)
    x, text = torch.randn(1, 6, 2, 4, 4, generator=g), torch.randn(1, 5, 16, generator=g)
    timestep = torch.tensor([[0.0, 400.0]])
    got = model(x, timestep, torch.randn(1, 12, 2, 4, 4, generator=g), text).sample
    expanded = timestep.repeat_interleave(4, 1)
    torch.testing.assert_close(got, backbone(x, expanded, text).sample, atol=1e-4, rtol=1e-3)
    assert (got - plain(x, expanded, text).sample).abs().mean() < 0.05 * got.abs().mean()


@pytest.mark.parametrize("branch", [False, True])
def test_torchao(folder, branch):
    """Its weights keep their names and shapes, and are of another class of tensor."""
    quantization = pytest.importorskip("torchao.quantization", reason="torchao is not installed")
    config = PipelineQuantizationConfig(
        quant_mapping={"transformer": TorchAoConfig(quantization.Int8WeightOnlyConfig())}
    )
    options = {} if branch else {"branch": None}
    pipe = load(folder, quantization_config=config, **options)
    kinds = [
        type(block.attn1.to_q.weight.data) for block in (pipe.transformer.blocks[0], pipe.transformer.vace_blocks[0])
    ]
    assert kinds[0] is not torch.Tensor and kinds[1] is torch.Tensor
    near(walk(pipe), walk(load(folder, **options)))


def test_quanto(folder, plain):
    pytest.importorskip("optimum.quanto", reason="optimum-quanto is not installed")
    from diffusers import QuantoConfig

    config = PipelineQuantizationConfig(quant_mapping={"transformer": QuantoConfig(weights_dtype="int8")})
    pipe = load(folder, quantization_config=config)
    assert type(pipe.transformer.blocks[0].attn1.to_q).__name__ == "QLinear"
    assert type(pipe.transformer.vace_blocks[0].attn1.to_q) is torch.nn.Linear
    near(walk(pipe), plain)


def test_bitsandbytes(folder, plain):
    pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed")
    if not torch.cuda.is_available():
        pytest.skip("diffusers quantises with bitsandbytes on a GPU only")
    from diffusers import BitsAndBytesConfig

    config = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float32)
    pipe = load(folder, quantization_config=PipelineQuantizationConfig(quant_mapping={"transformer": config}))
    assert type(pipe.transformer.blocks[0].attn1.to_q).__name__ == "Linear4bit"
    assert type(pipe.transformer.vace_blocks[0].attn1.to_q) is torch.nn.Linear
    made, expected = walk(pipe).latents, plain.latents
    assert 0 < (made - expected).abs().mean() < 0.2 * expected.abs().mean()


# --------------------------------------------------------------------------------------------------------- offloading


def test_every_part_is_offloaded(folder):
    pipe = load(folder)
    modules = [name for name, part in pipe.components.items() if isinstance(part, torch.nn.Module)]
    assert sorted(MiragePipeline.model_cpu_offload_seq.split("->")) == sorted(modules) == sorted(PARTS)


@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_weights_that_are_only_there_while_they_are_used(folder, plain, scale):
    """Sequential offloading, as diffusers does it: between calls every weight and buffer lies on `meta`."""
    from accelerate import cpu_offload

    guidance = {} if scale == 1 else dict(guidance_scale=scale, negative_prompt="blurry")
    pipe = load(folder)
    for name in PARTS:
        part = getattr(pipe, name)
        cpu_offload(part, CPU, offload_buffers=len(part._parameters) > 0)
        assert all(p.is_meta for p in part.parameters()), name
    assert pipe._execution_device == CPU and pipe.transformer.device.type == "meta"
    same(walk(pipe, **guidance), walk(load(folder), **guidance) if guidance else plain)
    assert all(p.is_meta for p in pipe.transformer.parameters())


def test_parts_that_are_put_back_by_hooks(folder, plain):
    """Model offloading: a hook a part, which moves it as a whole."""
    from accelerate import cpu_offload_with_hook

    pipe, hook = load(folder), None
    for name in PARTS:
        _, hook = cpu_offload_with_hook(getattr(pipe, name), CPU, prev_module_hook=hook)
    same(walk(pipe), plain)


@pytest.mark.parametrize("kind", ["block_level", "leaf_level", "disk"])
def test_group_offloading_is_exact(folder, plain, tmp_path, kind):
    pipe = load(folder)
    options = dict(onload_device=CPU, offload_device=CPU)
    if kind == "block_level":
        pipe.enable_group_offload(offload_type=kind, num_blocks_per_group=1, exclude_modules=["vae"], **options)
        pipe.vae.enable_group_offload(offload_type="leaf_level", **options)
    else:
        # UMT5 ties its embeddings. diffusers writes a tied weight twice, the second time emptied: not to disk, then.
        for name in PARTS[1:] if kind == "disk" else PARTS:
            disk = {"offload_to_disk_path": str(tmp_path / name)} if kind == "disk" else {}
            apply_group_offloading(getattr(pipe, name), offload_type="leaf_level", **disk, **options)
    assert hasattr(pipe.transformer, "_diffusers_hook")
    same(walk(pipe), plain)
    if kind == "disk":
        assert list((tmp_path / "transformer").glob("*.safetensors"))


# ------------------------------------------------------------------------------------------------ compilation and tiles


@pytest.mark.parametrize("how", ["repeated", "each"])
def test_compiled_blocks_give_the_same(folder, plain, how):
    torch._dynamo.reset()
    pipe = load(folder)
    if how == "repeated":
        pipe.transformer.compile_repeated_blocks(backend="eager")
    else:
        for block in [*pipe.transformer.blocks, *pipe.transformer.vace_blocks]:
            block.compile(backend="eager")
    made = walk(pipe)
    torch.testing.assert_close(made.latents, plain.latents, atol=1e-5, rtol=1e-4)
    assert (made.frames.int() - plain.frames.int()).abs().max() <= 1


def test_tiles(folder):
    """One tile is the whole; smaller ones overlap and are blended, so values differ a little: a tile's attention and
    convolutions do not see beyond its edge."""
    depth = torch.full((FRAMES, *SIZE), 2.0)
    expected = walk(load(folder, depth=False), depth=depth)
    pipe = load(folder, depth=False)
    pipe.vae.enable_tiling()
    same(walk(pipe, depth=depth), expected)
    small = copy.deepcopy(pipe)
    small.vae.enable_tiling(
        tile_sample_min_height=64, tile_sample_min_width=64, tile_sample_stride_height=48, tile_sample_stride_width=48
    )
    made = walk(small, depth=depth)
    assert made.frames.shape == expected.frames.shape and made.latents.shape == expected.latents.shape
    error = (made.frames.float() - expected.frames.float()).abs().mean()
    assert 0 < error < 0.5 * expected.frames.float().std()
