"""The full-size system at small size: folders of the hub's classes and keys with random weights that the test makes."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from tiny_wan import Int8Linear, wan_backbone, write_wan

from mirage_nb import MiragePipeline
from mirage_nb.models.transformer import MirageTransformer3DModel
from mirage_nb.paths import camera_path
from mirage_nb.segments import segment_noise

SIZE, FRAMES = (64, 96), 33
PROMPT, NEGATIVE = "a room with red chairs", "blurry"


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A Wan pipeline of diffusers, and the folder where it is saved."""

    folder = tmp_path_factory.mktemp("wan")
    pipe = write_wan(folder)
    pipe.set_progress_bar_config(disable=True)
    return folder, pipe


@pytest.fixture(scope="module")
def folder(written):
    return written[0]


@pytest.fixture(scope="module")
def theirs(written):
    return written[1]


@pytest.fixture(scope="module")
def ours(folder):
    pipe = MiragePipeline.from_wan(str(folder), torch_dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def picture() -> torch.Tensor:
    return torch.randint(0, 256, (*SIZE, 3), generator=torch.Generator().manual_seed(2), dtype=torch.uint8)


def walk(pipe, frames: int = FRAMES, **options):
    options = dict(num_inference_steps=3, generator=5, prompt=PROMPT, output_type="uint8") | options
    depth = torch.full((frames, *SIZE), 2.0)
    return pipe(picture(), c2w=camera_path("push_in", frames), depth=depth, **options)


@pytest.mark.parametrize("scale", [1.0, 4.0])
def test_a_fresh_branch_makes_diffusers_own_image_to_video(ours, theirs, scale):
    """One segment on the same seed: latents and frames agree to rounding, with guidance and without."""
    noise = segment_noise(5, 0, (6, 9, SIZE[0] // 16, SIZE[1] // 16))[None]
    call = dict(
        image=Image.fromarray(picture().numpy()), prompt=PROMPT, negative_prompt=NEGATIVE, height=SIZE[0],
        width=SIZE[1], num_frames=FRAMES, num_inference_steps=3, guidance_scale=scale, latents=noise,
    )  # fmt: skip
    latents = theirs(**call, output_type="latent").frames
    frames = torch.from_numpy(theirs(**call, output_type="np").frames[0])
    guidance = dict(negative_prompt=NEGATIVE, guidance_scale=scale) if scale != 1 else {}
    made = walk(ours, **guidance, memory="none", output_type="pt")
    torch.testing.assert_close(made.latents.transpose(0, 1)[None], latents, atol=2e-5, rtol=1e-4)
    assert (made.frames.movedim(1, 3)[1:] - frames[1:]).abs().max() < 1 / 255 + 1e-4, "half a grey level, rounded"
    assert frames.std() > 0.02, "a picture of nothing would agree, too"


def test_prompts_seeds_and_guidance_matter(ours):
    one = walk(ours, frames=9, memory="none")
    assert torch.equal(one.latents, walk(ours, frames=9, memory="none").latents)
    for change in (dict(prompt="a kitchen"), dict(generator=6), dict(guidance_scale=3.0, negative_prompt=NEGATIVE)):
        assert not torch.equal(one.latents, walk(ours, frames=9, memory="none", **change).latents), change


def test_the_sampler_and_the_layout_are_the_papers(ours):
    assert type(ours.scheduler).__name__ == "UniPCMultistepScheduler" and ours.scheduler.config.flow_shift == 5.0
    config = ours.transformer.config
    assert config.memory_layout == "wan" and config.segment_latent_frames == 9
    assert tuple(config.vace_layers) == (0, 2) and config.vace_in_channels == 2 * config.in_channels


def test_weights_are_shared_not_copied():
    backbone = wan_backbone()
    model = MirageTransformer3DModel.from_wan(backbone)
    own = {name: p.data_ptr() for name, p in model.named_parameters()}
    for name, p in backbone.named_parameters():
        assert own[name] == p.data_ptr(), name
    assert type(backbone.blocks[0]).__name__ == "WanTransformerBlock", "the backbone itself is left as it is"
    assert not any(p.is_meta for p in [*model.parameters(), *model.buffers()])


@torch.no_grad()
def test_a_branch_that_says_something_changes_the_video(ours, folder):
    other = MiragePipeline.from_wan(str(folder), torch_dtype=torch.float32)
    other.set_progress_bar_config(disable=True)
    for block in other.transformer.vace_blocks:
        torch.nn.init.normal_(block.proj_out.weight, std=0.3)
    made = [walk(pipe, frames=9, conditioning="branch").latents for pipe in (ours, other)]
    assert not torch.allclose(*made, atol=1e-3)


@torch.no_grad()
def test_the_branchs_layers_run_inside_of_their_blocks():
    """Group offloading and device maps hook blocks: a layer called from outside would find its weights elsewhere."""
    model = MirageTransformer3DModel.from_wan(wan_backbone())
    inside = []
    for block in [*model.blocks, *model.vace_blocks]:
        block.register_forward_pre_hook(lambda *_: inside.append(True))
        block.register_forward_hook(lambda *_: inside.pop() and None)
        for layer in block.modules():
            if layer is not block:
                layer.register_forward_pre_hook(lambda layer, _: None if inside else pytest.fail(f"{layer}"))
    x = torch.randn(1, 6, 2, 4, 4)
    model(x, torch.rand(1, 2), torch.randn(1, 12, 2, 4, 4), torch.randn(1, 5, 16))


@torch.no_grad()
def test_a_quantised_backbone_stays_so():
    backbone = wan_backbone()
    for block in backbone.blocks:
        block.ffn.net[2] = Int8Linear(block.ffn.net[2])
    model = MirageTransformer3DModel.from_wan(backbone).eval()
    assert all(isinstance(block.ffn.net[2], Int8Linear) for block in model.blocks)
    g = torch.Generator().manual_seed(0)
    x, text = torch.randn(1, 6, 2, 4, 4, generator=g), torch.randn(1, 5, 16, generator=g)
    timestep = torch.tensor([[0.0, 400.0]])
    expected = backbone(x, timestep.repeat_interleave(4, 1), text).sample
    got = model(x, timestep, torch.randn(1, 12, 2, 4, 4), text).sample
    torch.testing.assert_close(got, expected, atol=1e-4, rtol=1e-3)


def test_a_backbone_of_another_kind_is_refused():
    """One with an image encoder, and one with more channels in than out, as in Wan's other image-to-video models."""
    with pytest.raises(ValueError, match="backbone: expected"):
        MirageTransformer3DModel.from_wan(wan_backbone(image_dim=8, added_kv_proj_dim=24))
    backbone = wan_backbone()
    backbone.register_to_config(in_channels=12)
    with pytest.raises(ValueError, match="backbone: expected .* 12 in"):
        MirageTransformer3DModel.from_wan(backbone)


def test_diffusers_means_for_little_memory(ours, theirs, folder):
    """Options go through to diffusers; tiles, layerwise casting and group offloading run."""
    pipe = MiragePipeline.from_wan(str(folder), torch_dtype=torch.bfloat16)
    pipe.set_progress_bar_config(disable=True)
    assert pipe.vae.dtype == torch.float32 and pipe.text_encoder.dtype == torch.bfloat16
    assert pipe.transformer.dtype == pipe.transformer.vace_blocks[0].proj_out.weight.dtype == torch.bfloat16
    pipe.vae.enable_tiling()
    pipe.transformer.enable_group_offload(
        onload_device=torch.device("cpu"), offload_device=torch.device("cpu"), offload_type="block_level",
        num_blocks_per_group=1,
    )  # fmt: skip
    made, reference = walk(pipe, frames=9), walk(ours, frames=9)
    assert made.latents.isfinite().all()
    assert (made.latents - reference.latents).abs().mean() < 0.05 * reference.latents.abs().mean() + 0.02


@torch.no_grad()
def test_blocks_compile_one_by_one():
    model = MirageTransformer3DModel.from_wan(wan_backbone())
    g = torch.Generator().manual_seed(0)
    x, text, control = (torch.randn(*s, generator=g) for s in ((1, 6, 2, 4, 4), (1, 5, 16), (1, 12, 2, 4, 4)))
    call = (x, torch.tensor([[0.0, 400.0]]), control, text)
    expected = model(*call).sample
    model.compile_repeated_blocks(backend="eager", fullgraph=True)
    torch.testing.assert_close(model(*call).sample, expected)


def test_a_device_map_is_refused(folder):
    with pytest.raises(ValueError, match="device_map: move the pipeline once it is loaded"):
        MiragePipeline.from_wan(folder, device_map="balanced")


def test_the_whole_pipeline_is_saved_and_loaded(ours, tmp_path):
    ours.save_pretrained(tmp_path)
    again = MiragePipeline.from_pretrained(tmp_path)
    again.set_progress_bar_config(disable=True)
    assert again.config.autocast is False
    torch.testing.assert_close(walk(ours, frames=9).latents, walk(again, frames=9).latents)


# -------------------------------------------------------------------------------------------------------- bad inputs


def one_line(error) -> str:
    assert "\n" not in str(error.value).strip()
    return str(error.value)


def copy_of(folder, tmp_path):
    import shutil

    shutil.copytree(folder, tmp_path / "copy")
    return tmp_path / "copy"


def test_missing_weights_are_named(theirs, folder, tmp_path):
    path = copy_of(folder, tmp_path)
    next((path / "transformer").glob("*.safetensors")).unlink()
    with pytest.raises(FileNotFoundError, match="transformer has no weights") as error:
        MiragePipeline.from_wan(path)
    one_line(error)
    with pytest.raises(FileNotFoundError, match="no such folder") as error:
        MiragePipeline.from_wan(tmp_path / "nowhere")
    for name in ("branch", "lora"):
        with pytest.raises(FileNotFoundError, match=f"{name}: no such file"):
            MiragePipeline.from_wan(folder, **{name: tmp_path / "none.safetensors"})


def test_a_hub_that_cannot_be_reached_is_one_line(monkeypatch):
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(FileNotFoundError, match="model: nobody/nothing-of-that-name") as error:
        MiragePipeline.from_wan("nobody/nothing-of-that-name")
    assert "doctor" in one_line(error)


def test_another_kind_of_model_is_refused(theirs, folder, tmp_path):
    path = copy_of(folder, tmp_path)
    index = json.loads((path / "model_index.json").read_text())
    (path / "model_index.json").write_text(json.dumps(index | {"expand_timesteps": False}))
    with pytest.raises(ValueError, match="expand_timesteps=False"):
        MiragePipeline.from_wan(path)


def test_too_little_memory_is_told_before_loading(theirs, folder, monkeypatch):
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=1000))
    with pytest.warns(UserWarning, match="model: .* GiB of main memory are free"):
        MiragePipeline.from_wan(folder)


def test_no_text_encoder(ours, tmp_path):
    write_wan(tmp_path / "silent", text=False)
    with pytest.raises(ValueError, match="has no text_encoder, and this transformer reads text"):
        MiragePipeline.from_wan(tmp_path / "silent")

    parts = {name: getattr(ours, name) for name in ("vae", "transformer", "scheduler")}
    with pytest.raises(ValueError, match="prompt: this transformer needs text"):
        walk(MiragePipeline(**parts, autocast=False))


def test_wrong_resolution_and_prompts(ours):
    with pytest.raises(ValueError, match="multiples of 32.*the nearest is 96x64"):
        ours(picture()[:60], "x", c2w=camera_path("push_in", 9))
    with pytest.raises(ValueError, match="guidance_scale: expected a number of at least 1"):
        walk(ours, frames=9, guidance_scale=0.5)
    with pytest.warns(UserWarning, match="negative_prompt: it only counts"):
        walk(ours, frames=9, negative_prompt="blurry")
