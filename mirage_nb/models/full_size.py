"""The full-size system's configuration, and what it takes: shapes on the `meta` device, no memory, no weights."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import nn

from mirage_nb.models.transformer import MirageTransformer3DModel
from mirage_nb.models.wan import HEADROOM, put_branch_on

SIZE = (704, 1280)  # paper
FRAMES = 33  # of a segment

BACKBONE = dict(
    patch_size=(1, 2, 2), num_attention_heads=24, attention_head_dim=128, in_channels=48, out_channels=48,
    text_dim=4096, freq_dim=256, ffn_dim=14336, num_layers=30, cross_attn_norm=True, qk_norm="rms_norm_across_heads",
    eps=1e-6, rope_max_seq_len=1024,
)  # fmt: skip
VAE = dict(
    base_dim=160, decoder_base_dim=256, z_dim=48, dim_mult=[1, 2, 4, 4], num_res_blocks=2, is_residual=True,
    in_channels=12, out_channels=12, patch_size=2, temperal_downsample=[False, True, True],
    scale_factor_temporal=4, scale_factor_spatial=16, latents_mean=[0.0] * 48, latents_std=[1.0] * 48,
)  # fmt: skip
TEXT = dict(
    vocab_size=256384, d_model=4096, d_kv=64, d_ff=10240, num_layers=24, num_heads=64, feed_forward_proj="gated-gelu",
    tie_word_embeddings=False,
)  # fmt: skip


@lru_cache(1)
def full_size_parts() -> dict[str, nn.Module]:
    """VAE, text encoder, and transformer with its branch at full size, on the `meta` device."""
    from diffusers import AutoencoderKLWan, WanTransformer3DModel
    from transformers import UMT5Config, UMT5EncoderModel

    with torch.device("meta"):
        backbone = WanTransformer3DModel(**BACKBONE)
        parts = dict(text_encoder=UMT5EncoderModel(UMT5Config(**TEXT)), vae=AutoencoderKLWan(**VAE))
        parts["transformer"] = put_branch_on(MirageTransformer3DModel, backbone)
    return {name: part.eval() for name, part in parts.items()}


def count(module: nn.Module, prefix: str = "") -> int:
    """Parameters whose name begins with `prefix`."""
    return sum(p.numel() for name, p in module.named_parameters() if name.startswith(prefix))


@dataclass(frozen=True)
class Plan:
    """Bytes of weights by part, at the precision that they are loaded in, and one way to run them."""

    parts: dict[str, int]

    @property
    def together(self) -> int:
        """GPU memory with everything resident."""
        return sum(self.parts.values()) + HEADROOM

    @property
    def one_by_one(self) -> int:
        """GPU memory with `enable_model_cpu_offload`: the largest part, and room to compute."""
        transformer = self.parts["backbone"] + self.parts["branch"]
        return max(transformer, self.parts["text_encoder"], self.parts["vae"]) + HEADROOM

    @property
    def by_blocks(self) -> int:
        """GPU memory with group offloading by blocks: two blocks at a time, and room to compute."""
        return 2 * self.parts["backbone"] // BACKBONE["num_layers"] + self.parts["vae"] + HEADROOM

    def advice(self, gpu: int, main: int) -> str:
        """What to do with this much GPU and main memory, in bytes: one sentence."""
        if main < sum(self.parts.values()):
            return "main memory does not hold the weights: quantise the backbone and the text encoder as they load"
        if gpu >= self.together:
            return "everything fits on the GPU"
        if gpu >= self.one_by_one:
            return "part by part: pipe.enable_model_cpu_offload(); pipe.vae.enable_tiling()"
        if gpu >= self.by_blocks:
            return "block by block: pipe.transformer.enable_group_offload(...), text encoder on the CPU, VAE in tiles"
        return "the GPU is too small for this resolution"


def memory_plan(parts: dict[str, nn.Module] | None = None, dtype: torch.dtype = torch.bfloat16) -> Plan:
    """The weights' bytes: all in `dtype`, the VAE in float32."""
    parts = parts or full_size_parts()
    branch = count(parts["transformer"], "vace_")
    sizes = {
        "text_encoder": count(parts["text_encoder"]) * dtype.itemsize,
        "backbone": (count(parts["transformer"]) - branch) * dtype.itemsize,
        "branch": branch * dtype.itemsize,
        "vae": count(parts["vae"]) * 4,
    }
    return Plan(sizes)
