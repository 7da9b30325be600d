"""The networks: their agreement with diffusers' own, shapes, and what each input may and may not change."""

from __future__ import annotations

import pytest
import torch

from mirage_nb.cameras import Cameras
from mirage_nb.models.control import control_channels, memory_control
from mirage_nb.models.presets import build_micro
from mirage_nb.models.transformer import MirageTransformer3DModel
from mirage_nb.models.vae import build_vae, decode, encode
from mirage_nb.reprojection import Readout

SMALL = dict(
    num_attention_heads=2, attention_head_dim=12, in_channels=4, out_channels=4, freq_dim=16, ffn_dim=32, num_layers=4
)


def wan(text_dim: int = 8):
    from diffusers import WanTransformer3DModel

    torch.manual_seed(0)
    return WanTransformer3DModel(**SMALL, text_dim=text_dim, cross_attn_norm=True).eval()


def inputs(frames: int = 3, channels: int = 8):
    g = torch.Generator().manual_seed(1)
    x = torch.randn(2, 4, frames, 4, 6, generator=g)
    return (
        x,
        torch.rand(2, frames, generator=g) * 1000,
        torch.randn(2, channels, frames, 4, 6, generator=g),
        torch.randn(2, 5, 8, generator=g),
    )


@torch.no_grad()
def test_a_fresh_branch_changes_nothing_and_frames_keep_their_own_timesteps():
    backbone = wan()
    model = MirageTransformer3DModel.from_wan(backbone).eval()
    x, timestep, control, text = inputs()
    tokens = timestep.repeat_interleave(2 * 3, 1)  # diffusers wants a timestep a token
    expected = backbone(x, tokens, text).sample
    torch.testing.assert_close(model(x, timestep, control, text).sample, expected, atol=2e-5, rtol=1e-4)


@torch.no_grad()
def test_branch_equals_diffusers_vace_where_that_can_express_it():
    from diffusers import WanVACETransformer3DModel

    torch.manual_seed(0)
    other = WanVACETransformer3DModel(**SMALL, text_dim=8, vace_layers=[0, 2], vace_in_channels=8).eval()
    for block in other.vace_blocks:
        torch.nn.init.normal_(block.proj_out.weight, std=0.1)
    model = MirageTransformer3DModel(**SMALL, text_dim=8, vace_layers=(0, 2), vace_in_channels=8).eval()
    # diffusers' VACE block wraps the last projections the same way, under the same names
    model.load_state_dict({k: v for k, v in other.state_dict().items() if k in model.state_dict()}, strict=True)
    x, _, control, text = inputs()
    timestep = torch.tensor([300.0, 700.0])
    expected = other(x, timestep, text, control_hidden_states=control).sample
    torch.testing.assert_close(model(x, timestep, control, text).sample, expected, atol=2e-5, rtol=1e-4)


@torch.no_grad()
def test_references_reach_the_backbone_but_not_the_branch():
    torch.manual_seed(0)
    model = MirageTransformer3DModel(**SMALL, text_dim=None, vace_layers=(0, 2), vace_in_channels=8).eval()
    for block in model.vace_blocks:
        torch.nn.init.normal_(block.proj_out.weight, std=0.1)
    x, timestep, control, _ = inputs(frames=4)
    seen = []
    model.vace_blocks[0].register_forward_hook(lambda m, args, out: seen.append(args[0].clone()))
    with_reference = model(x, timestep, control[:, :, 1:], num_references=1).sample
    other = x.clone()
    other[:, :, 0] += 1
    changed = model(other, timestep, control[:, :, 1:], num_references=1).sample
    assert torch.equal(seen[0], seen[1]), "the branch saw the reference"
    assert (with_reference - changed)[:, :, 1:].abs().max() > 1e-3, "the backbone did not"
    moved = model(x, timestep, control[:, :, 1:], num_references=1, frame_positions=torch.tensor([9, 0, 1, 2])).sample
    assert (moved - with_reference).abs().max() > 1e-4, "a reference's temporal position has no effect"


def test_text_and_no_text_are_told_apart():
    model = MirageTransformer3DModel(**SMALL, text_dim=None, vace_layers=(0,), vace_in_channels=8)
    x, timestep, control, text = inputs()
    with pytest.raises(ValueError, match="encoder_hidden_states"):
        model(x, timestep, control, text)
    with pytest.raises(ValueError, match="vace_layers"):
        MirageTransformer3DModel(**SMALL, vace_layers=(0, 9), vace_in_channels=8)


@torch.no_grad()
def test_frame_kernels_equal_the_3d_convolutions():
    from diffusers import AutoencoderKLWan

    fast = build_vae(base_dim=8, decoder_base_dim=8).eval()
    slow = AutoencoderKLWan(**{k: v for k, v in fast.config.items() if not k.startswith("_")}).eval()
    slow.load_state_dict(fast.state_dict())
    image = torch.rand(2, 3, 1, 32, 48) * 2 - 1
    a, b = fast.encode(image).latent_dist.mode(), slow.encode(image).latent_dist.mode()
    torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(fast.decode(a).sample, slow.decode(a).sample, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("temporal", [False, True])
def test_encode_decode_shapes_and_statistics(temporal):
    vae = build_micro(temporal=temporal)["vae"]
    video = torch.rand(2, 3, 5, 16, 24) * 2 - 1
    latents = encode(vae, video)
    assert latents.shape == (2, 4, 2 if temporal else 5, 2, 3)
    assert decode(vae, latents).shape == video.shape
    vae.register_to_config(latents_mean=[1.0] * 4, latents_std=[2.0] * 4)
    torch.testing.assert_close(encode(vae, video), (latents - 1) / 2)
    torch.testing.assert_close(decode(vae, (latents - 1) / 2), decode(build_micro(temporal=temporal)["vae"], latents))


def test_control_is_zero_where_memory_is_empty_but_for_rays():
    cameras = Cameras(torch.eye(4).repeat(3, 1, 1), torch.tensor([4.0, 4.0, 3.0, 2.0]), (4, 6))
    control = memory_control([Readout.empty(cameras, 4)], [cameras])
    assert control.shape == (1, control_channels(4), 3, 4, 6)
    assert not control[:, :8].any() and control[:, 8:11].any()
    with pytest.raises(ValueError, match="memory_layout"):
        memory_control([Readout.empty(cameras, 4)], [cameras], layout="other")


@torch.no_grad()
def test_control_does_not_depend_on_where_the_world_has_its_origin():
    from mirage_nb.paths import camera_path

    path = camera_path("pan_left+push_in", 3)
    shifted = torch.eye(4)
    shifted[:3, 3] = torch.tensor([5.0, -2.0, 1.0])
    one = Cameras(path, torch.tensor([4.0, 4.0, 3.0, 2.0]), (4, 6))
    two = Cameras(shifted @ path, one.intrinsics, one.size)
    a, b = (memory_control([Readout.empty(c, 4)], [c]) for c in (one, two))
    torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)
