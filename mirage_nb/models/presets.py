"""Named sizes: `tiny`, the bundled model, and `micro`, a few thousand parameters for tests."""

from __future__ import annotations

from pathlib import Path

import torch

from mirage_nb.models.control import control_channels
from mirage_nb.models.depth import MirageDepthModel
from mirage_nb.models.transformer import MirageTransformer3DModel
from mirage_nb.models.vae import build_vae


def bundled_model() -> Path:
    """Where the trained model lies that comes with the project."""
    return Path(__file__).resolve().parents[2] / "data" / "mirage-tiny"


TINY_TRANSFORMER = dict(
    num_attention_heads=4, attention_head_dim=64, in_channels=16, out_channels=16, text_dim=None, freq_dim=256,
    ffn_dim=1024, num_layers=6, vace_layers=(0, 2, 4), vace_in_channels=control_channels(16), memory_layout="mirage",
    memory_prior=True, prior_width=96, segment_latent_frames=5,
)  # fmt: skip


def build_scheduler(flow_shift: float = 3.0):
    """UniPC for flow matching, as in Wan's pipelines (paper: 20 steps, shift 5)."""
    from diffusers import UniPCMultistepScheduler

    return UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=flow_shift)


def build_tiny(seed: int = 0, **changes) -> dict:
    """The untrained parts of mirage-tiny by their names in the pipeline, with
    `changes` to the transformer's configuration."""
    torch.manual_seed(seed)
    return dict(
        vae=build_vae(), transformer=MirageTransformer3DModel(**TINY_TRANSFORMER | changes),
        scheduler=build_scheduler(), depth_estimator=MirageDepthModel(),
    )  # fmt: skip


def build_micro(seed: int = 0, temporal: bool = False, **changes) -> dict:
    """The same classes with a few thousand random parameters; with `temporal`, a VAE of temporal stride 4. `changes` to
    the transformer's configuration."""
    torch.manual_seed(seed)
    times = dict(temperal_downsample=[True, True], scale_factor_temporal=4) if temporal else {}
    vae = build_vae(base_dim=4, decoder_base_dim=4, z_dim=4, latents_mean=[0.0] * 4, latents_std=[1.0] * 4, **times)
    small = dict(
        num_attention_heads=2, attention_head_dim=12, in_channels=4, out_channels=4, text_dim=None, freq_dim=16,
        ffn_dim=32, num_layers=2, vace_layers=(0,), vace_in_channels=control_channels(4),
        memory_layout="mirage", segment_latent_frames=3,
    )  # fmt: skip
    transformer = MirageTransformer3DModel(**small | changes)
    torch.nn.init.normal_(transformer.vace_blocks[0].proj_out.weight, std=0.2)  # so that the memory shows in the output
    depth = MirageDepthModel(widths=(8, 8, 8), blocks=1, attention_layers=1)
    return dict(vae=vae, transformer=transformer, scheduler=build_scheduler(), depth_estimator=depth)
