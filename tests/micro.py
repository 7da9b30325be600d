"""A pipeline's components with a few thousand random parameters."""

from __future__ import annotations

from types import SimpleNamespace

import torch

from mirage_nb.denoising import MirageModel
from mirage_nb.models.control import EXTRA_CHANNELS
from mirage_nb.models.depth import MirageDepthModel
from mirage_nb.models.presets import build_scheduler
from mirage_nb.models.transformer import MirageTransformer3DModel
from mirage_nb.models.vae import build_vae

MICRO_TRANSFORMER = dict(
    num_attention_heads=2, attention_head_dim=12, in_channels=4, out_channels=4, text_dim=None, freq_dim=16, ffn_dim=32,
    num_layers=2, vace_layers=(0,), vace_in_channels=4 + EXTRA_CHANNELS, memory_layout="mirage",
    segment_latent_frames=3,
)  # fmt: skip


def build_micro(seed: int = 0, temporal: bool = False, **changes) -> dict:
    """The components of a pipeline with a few thousand random parameters; `temporal` gives the VAE a temporal stride of
    4, and `changes` are to the transformer's configuration."""
    torch.manual_seed(seed)
    times = dict(temperal_downsample=[True, True], scale_factor_temporal=4) if temporal else {}
    vae = build_vae(base_dim=4, decoder_base_dim=4, z_dim=4, latents_mean=[0.0] * 4, latents_std=[1.0] * 4, **times)
    transformer = MirageTransformer3DModel(**MICRO_TRANSFORMER | changes)
    torch.nn.init.normal_(transformer.vace_blocks[0].proj_out.weight, std=0.2)  # so that the memory shows in the output
    depth = MirageDepthModel(widths=(8, 8, 8), blocks=1, attention_layers=1)
    return dict(vae=vae, transformer=transformer, scheduler=build_scheduler(), depth_estimator=depth)


def micro_model(temporal: bool = False, **options) -> MirageModel:
    """The same as a `VideoModel`; its `parts` can be replaced. Options are those of `MirageModel`."""
    return MirageModel(SimpleNamespace(**build_micro(temporal=temporal), mask_estimator=None), **options)
