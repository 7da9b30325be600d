"""Named sizes: the bundled model's, and Wan2.2's."""

from pathlib import Path

from mirage_nb.models.control import EXTRA_CHANNELS
from mirage_nb.models.folders import BUNDLED

TINY_TRANSFORMER = dict(
    num_attention_heads=4, attention_head_dim=64, in_channels=16, out_channels=16, text_dim=None, freq_dim=256,
    ffn_dim=1024, num_layers=6, vace_layers=(0, 2, 4), vace_in_channels=16 + EXTRA_CHANNELS, memory_layout="mirage",
    prior_width=96, segment_latent_frames=5,
)  # fmt: skip

# Wan2.2-TI2V-5B as the hub configures it, for diffusers' classes. The latents' statistics are left at 0 and 1.
WAN22_SIZE = (704, 1280)  # height and width of its pictures (paper)
WAN22_FRAMES = 33  # pixel frames of a segment (paper)
WAN22_TRANSFORMER = dict(
    patch_size=(1, 2, 2), num_attention_heads=24, attention_head_dim=128, in_channels=48, out_channels=48,
    text_dim=4096, freq_dim=256, ffn_dim=14336, num_layers=30, cross_attn_norm=True, eps=1e-6, rope_max_seq_len=1024,
)  # fmt: skip
WAN22_VAE = dict(
    base_dim=160, decoder_base_dim=256, z_dim=48, dim_mult=[1, 2, 4, 4], num_res_blocks=2, is_residual=True,
    in_channels=12, out_channels=12, patch_size=2, temperal_downsample=[False, True, True],
    scale_factor_temporal=4, scale_factor_spatial=16, latents_mean=[0.0] * 48, latents_std=[1.0] * 48,
)  # fmt: skip
WAN22_TEXT_ENCODER = dict(
    vocab_size=256384, d_model=4096, d_kv=64, d_ff=10240, num_layers=24, num_heads=64, feed_forward_proj="gated-gelu",
    tie_word_embeddings=False,
)  # fmt: skip


def bundled_model() -> Path:
    """The folder of the trained model that comes with the project."""
    return BUNDLED


def build_scheduler(flow_shift: float = 3.0):
    """UniPC for flow matching, as in Wan's pipelines (paper: 20 steps, shift 5)."""
    from diffusers import UniPCMultistepScheduler

    return UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=flow_shift)
