"""The transformer: its agreement with diffusers' own, and what each input may and may not change."""

from __future__ import annotations

import pytest
import torch

from mirage_nb.models.transformer import MirageTransformer3DModel

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
    frames = timestep[:, None].expand(-1, 3)
    expected = other(x, timestep, text, control_hidden_states=control).sample
    torch.testing.assert_close(model(x, frames, control, text).sample, expected, atol=2e-5, rtol=1e-4)


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
    moved = model(x, timestep, control[:, :, 1:], num_references=1, frame_positions=torch.tensor([3, 0, 1, 2])).sample
    assert (moved - with_reference).abs().max() > 1e-4, "a reference's temporal position has no effect"


def test_text_and_no_text_are_told_apart():
    model = MirageTransformer3DModel(**SMALL, text_dim=None, vace_layers=(0,), vace_in_channels=8)
    x, timestep, control, text = inputs()
    with pytest.raises(ValueError, match="encoder_hidden_states"):
        model(x, timestep, control, text)
    with pytest.raises(ValueError, match="vace_layers"):
        MirageTransformer3DModel(**SMALL, vace_layers=(0, 9), vace_in_channels=8)
