"""diffusers' own image-to-video pipelines with random weights: the hub's classes, schedulers and strides, but tiny."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch

TEXT = 16  # channels of the prompt's tokens


class Facts(NamedTuple):
    """What the callback of a pipeline sees, and what is done with it."""

    temporal: int  # pixel frames for each latent frame after the first
    spatial: int  # pixels along a side of a latent cell
    channels: int
    layout: str  # "bcthw", "btchw", or "packed": (B, T*H*W, C)
    lead: int = 0  # latent frames at the front that are not part of the returned video
    num_frames: int = 13  # gives at least 4 latent frames without those of `lead`
    clean_first: bool = False  # the pipeline itself keeps the first latent frame at the image's latents
    frames_argument: str = "num_frames"  # the name of the call's argument


# Frames, channels, height and width of the latents are four different numbers, so that no two can be confused.
FACTS = {
    "wan21": Facts(4, 8, 6, "bcthw"),
    "wan22": Facts(4, 16, 6, "bcthw", clean_first=True),
    "ltx": Facts(8, 32, 8, "packed", num_frames=25, clean_first=True),
    # An even number of latent frames decodes to four pixel frames each: 13 would give 16 frames.
    "cogvideox": Facts(4, 8, 4, "btchw", num_frames=17),
    "cogvideox15": Facts(4, 8, 4, "btchw", lead=1, num_frames=17),  # five latent frames are padded to six
    "hunyuan": Facts(4, 8, 6, "bcthw", lead=1, num_frames=17),  # returns 4 frames fewer than it was asked for
    "hunyuan_replace": Facts(4, 8, 6, "bcthw", clean_first=True),
    "svd": Facts(1, 8, 4, "btchw", num_frames=5),
    "ltx2": Facts(8, 32, 6, "packed", num_frames=25, clean_first=True),
    "skyreels": Facts(4, 8, 6, "bcthw"),
    "cosmos2": Facts(4, 8, 6, "bcthw", clean_first=True),
    "sana_video": Facts(4, 8, 6, "bcthw", clean_first=True, frames_argument="frames"),
}


def tokens(length: int = 5, channels: int = TEXT, seed: int = 7) -> torch.Tensor:
    return torch.randn(1, length, channels, generator=torch.Generator().manual_seed(seed))


def clip_image_encoder(projection: bool):
    from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModel, CLIPVisionModelWithProjection

    config = CLIPVisionConfig(
        hidden_size=8, projection_dim=TEXT, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16,
        image_size=224, patch_size=56,
    )  # fmt: skip
    Model = CLIPVisionModelWithProjection if projection else CLIPVisionModel
    return Model(config).eval(), CLIPImageProcessor()


def wan_vae():
    from diffusers import AutoencoderKLWan

    return AutoencoderKLWan(
        base_dim=4, z_dim=6, dim_mult=[1, 1, 1, 1], num_res_blocks=1, temperal_downsample=[False, True, True],
        latents_mean=[0.1, -0.2, 0.0, 0.3, 0.1, -0.1], latents_std=[0.5, 0.8, 1.1, 0.6, 0.9, 0.7],
    )  # fmt: skip


def wan21(family: str = "Wan", flow_shift: float = 3.0):
    """SkyReels V2 differs from Wan 2.1 in the names of its classes, and in its shift."""
    import diffusers

    Pipeline = getattr(diffusers, f"{family}ImageToVideoPipeline")
    transformer = getattr(diffusers, f"{family}Transformer3DModel")(
        patch_size=(1, 2, 2), num_attention_heads=2, attention_head_dim=12, in_channels=2 * 6 + 4, out_channels=6,
        text_dim=TEXT, freq_dim=16, ffn_dim=32, num_layers=2, rope_max_seq_len=64, image_dim=8, added_kv_proj_dim=24,
    )  # fmt: skip
    scheduler = diffusers.UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=flow_shift
    )
    encoder, processor = clip_image_encoder(projection=family != "Wan")
    pipe = Pipeline(
        vae=wan_vae(), transformer=transformer, scheduler=scheduler, image_encoder=encoder, image_processor=processor,
        tokenizer=None, text_encoder=None,
    )  # fmt: skip
    return pipe, dict(height=64, width=80, guidance_scale=1.0, prompt_embeds=tokens())


def wan22():
    from tempfile import TemporaryDirectory

    from tiny_wan import write_wan

    with TemporaryDirectory() as folder:
        pipe = write_wan(Path(folder), text=False)
    return pipe, dict(height=128, width=160, guidance_scale=1.0, prompt_embeds=tokens())


def ltx():
    from diffusers import (
        AutoencoderKLLTXVideo,
        FlowMatchEulerDiscreteScheduler,
        LTXImageToVideoPipeline,
        LTXVideoTransformer3DModel,
    )

    vae = AutoencoderKLLTXVideo(
        latent_channels=8, block_out_channels=(4, 4, 4, 4), decoder_block_out_channels=(4, 4, 4, 4),
        layers_per_block=(1, 1, 1, 1, 1), decoder_layers_per_block=(1, 1, 1, 1, 1),
        spatio_temporal_scaling=(True, True, True, False), decoder_spatio_temporal_scaling=(True, True, True, False),
        decoder_inject_noise=(False,) * 5, upsample_residual=(False,) * 4, upsample_factor=(1, 1, 1, 1),
        timestep_conditioning=True, patch_size=4, patch_size_t=1, encoder_causal=True, decoder_causal=False,
    )  # fmt: skip
    vae.latents_mean.copy_(torch.linspace(-0.3, 0.4, 8))
    vae.latents_std.copy_(torch.linspace(0.5, 1.2, 8))
    transformer = LTXVideoTransformer3DModel(
        in_channels=8, out_channels=8, num_attention_heads=2, attention_head_dim=8, cross_attention_dim=16,
        num_layers=1, caption_channels=TEXT,
    )  # fmt: skip
    scheduler = FlowMatchEulerDiscreteScheduler(
        use_dynamic_shifting=True, base_image_seq_len=1024, max_image_seq_len=4096, base_shift=0.95, max_shift=2.05,
        shift_terminal=0.1,
    )  # fmt: skip
    pipe = LTXImageToVideoPipeline(
        vae=vae, transformer=transformer, scheduler=scheduler, text_encoder=None, tokenizer=None
    )
    kwargs = dict(prompt_embeds=tokens(), prompt_attention_mask=torch.ones(1, 5, dtype=torch.bool))
    return pipe, kwargs | dict(height=96, width=160, guidance_scale=1.0, decode_timestep=0.05)


def cogvideox(version15: bool = False):
    from diffusers import (
        AutoencoderKLCogVideoX,
        CogVideoXDDIMScheduler,
        CogVideoXDPMScheduler,
        CogVideoXImageToVideoPipeline,
        CogVideoXTransformer3DModel,
    )

    vae = AutoencoderKLCogVideoX(
        block_out_channels=(4, 4, 4, 4), latent_channels=4, layers_per_block=1, norm_num_groups=2,
        temporal_compression_ratio=4, scaling_factor=0.7, invert_scale_latents=version15,
    )  # fmt: skip
    options = dict(patch_size_t=2, ofs_embed_dim=4, patch_bias=False) if version15 else {}
    transformer = CogVideoXTransformer3DModel(
        num_attention_heads=2, attention_head_dim=16, in_channels=8, out_channels=4, time_embed_dim=4,
        text_embed_dim=TEXT, num_layers=1, sample_width=10, sample_height=8, sample_frames=17, patch_size=2,
        max_text_seq_length=5, use_rotary_positional_embeddings=True, **options,
    )  # fmt: skip
    Scheduler = CogVideoXDPMScheduler if version15 else CogVideoXDDIMScheduler
    scheduler = Scheduler(
        beta_schedule="scaled_linear", prediction_type="v_prediction", rescale_betas_zero_snr=True,
        snr_shift_scale=1.0, timestep_spacing="trailing",
    )  # fmt: skip
    pipe = CogVideoXImageToVideoPipeline(
        vae=vae, transformer=transformer, scheduler=scheduler, text_encoder=None, tokenizer=None
    )
    return pipe, dict(height=64, width=80, guidance_scale=1.0, prompt_embeds=tokens())


def hunyuan(condition: str = "latent_concat"):
    from diffusers import (
        AutoencoderKLHunyuanVideo,
        FlowMatchEulerDiscreteScheduler,
        HunyuanVideoImageToVideoPipeline,
        HunyuanVideoTransformer3DModel,
    )

    vae = AutoencoderKLHunyuanVideo(
        latent_channels=6, block_out_channels=(4, 4, 4, 4), layers_per_block=1, norm_num_groups=2,
        mid_block_add_attention=False,
    )  # fmt: skip
    transformer = HunyuanVideoTransformer3DModel(
        in_channels=2 * 6 + 1 if condition == "latent_concat" else 6, out_channels=6, num_attention_heads=2,
        attention_head_dim=10, num_layers=1, num_single_layers=1, num_refiner_layers=1, patch_size=2,
        guidance_embeds=False, text_embed_dim=TEXT, pooled_projection_dim=8, rope_axes_dim=(2, 4, 4),
        image_condition_type=condition,
    )  # fmt: skip
    pipe = HunyuanVideoImageToVideoPipeline(
        vae=vae, transformer=transformer, scheduler=FlowMatchEulerDiscreteScheduler(shift=7.0), text_encoder=None,
        tokenizer=None, text_encoder_2=None, tokenizer_2=None, image_processor=None,
    )  # fmt: skip
    kwargs = dict(prompt_embeds=tokens(), prompt_attention_mask=torch.ones(1, 5, dtype=torch.long))
    return pipe, kwargs | dict(height=64, width=80, pooled_prompt_embeds=tokens(1, 8)[:, 0])


def svd():
    from diffusers import (
        AutoencoderKLTemporalDecoder,
        EulerDiscreteScheduler,
        StableVideoDiffusionPipeline,
        UNetSpatioTemporalConditionModel,
    )

    vae = AutoencoderKLTemporalDecoder(
        down_block_types=("DownEncoderBlock2D",) * 4, block_out_channels=(32, 32, 32, 32), latent_channels=4
    )
    unet = UNetSpatioTemporalConditionModel(
        block_out_channels=(32, 32), down_block_types=("CrossAttnDownBlockSpatioTemporal", "DownBlockSpatioTemporal"),
        up_block_types=("UpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal"), addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=24, layers_per_block=1, cross_attention_dim=TEXT,
        num_attention_heads=2, num_frames=5,
    )  # fmt: skip
    scheduler = EulerDiscreteScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", prediction_type="v_prediction",
        use_karras_sigmas=True, sigma_min=0.002, sigma_max=700.0, timestep_spacing="leading", steps_offset=1,
        timestep_type="continuous",
    )  # fmt: skip
    encoder, processor = clip_image_encoder(projection=True)
    pipe = StableVideoDiffusionPipeline(
        vae=vae, unet=unet, scheduler=scheduler, image_encoder=encoder, feature_extractor=processor
    )
    return pipe, dict(height=64, width=80, min_guidance_scale=1.0, max_guidance_scale=1.0)


def ltx2():
    from diffusers import (
        AutoencoderKLLTX2Audio,
        AutoencoderKLLTX2Video,
        FlowMatchEulerDiscreteScheduler,
        LTX2ImageToVideoPipeline,
        LTX2VideoTransformer3DModel,
    )
    from diffusers.pipelines.ltx2 import LTX2TextConnectors, LTX2Vocoder

    vae = AutoencoderKLLTX2Video(
        latent_channels=6, block_out_channels=(4, 8, 16, 32), decoder_block_out_channels=(8, 16, 32),
        layers_per_block=(1,) * 5, decoder_layers_per_block=(1,) * 4, spatial_compression_ratio=32,
        temporal_compression_ratio=8,
    )  # fmt: skip
    vae.latents_mean.copy_(torch.linspace(-0.3, 0.4, 6))
    vae.latents_std.copy_(torch.linspace(0.5, 1.2, 6))
    audio_vae = AutoencoderKLLTX2Audio(
        base_channels=4, ch_mult=(1,), num_res_blocks=1, resolution=32, latent_channels=2, mel_bins=8
    )
    transformer = LTX2VideoTransformer3DModel(
        in_channels=6, out_channels=6, num_attention_heads=2, attention_head_dim=8, cross_attention_dim=16,
        audio_in_channels=4, audio_out_channels=4, audio_num_attention_heads=2, audio_attention_head_dim=4,
        audio_cross_attention_dim=8, num_layers=1, caption_channels=TEXT, rope_double_precision=False,
        rope_type="split",
    )  # fmt: skip
    half = dict(num_attention_heads=2, attention_head_dim=TEXT // 2, num_layers=1, num_learnable_registers=None)
    connectors = LTX2TextConnectors(
        caption_channels=TEXT, text_proj_in_factor=2, rope_double_precision=False, rope_type="split",
        **{f"{kind}_connector_{key}": value for kind in ("video", "audio") for key, value in half.items()},
    )  # fmt: skip
    vocoder = LTX2Vocoder(
        in_channels=2 * 8, hidden_channels=8, upsample_kernel_sizes=[4, 4], upsample_factors=[2, 2],
        resnet_kernel_sizes=[3], resnet_dilations=[[1, 3, 5]], output_sampling_rate=16000,
    )  # fmt: skip
    scheduler = FlowMatchEulerDiscreteScheduler(
        use_dynamic_shifting=True, base_image_seq_len=1024, max_image_seq_len=4096, base_shift=0.95, max_shift=2.05,
        shift_terminal=0.1,
    )  # fmt: skip
    pipe = LTX2ImageToVideoPipeline(
        scheduler=scheduler, vae=vae, audio_vae=audio_vae, transformer=transformer, connectors=connectors,
        vocoder=vocoder, text_encoder=None, tokenizer=None,
    )  # fmt: skip
    kwargs = dict(prompt_embeds=tokens(channels=2 * TEXT), prompt_attention_mask=torch.ones(1, 5, dtype=torch.long))
    guidance = ("guidance_scale", "modality_scale", "audio_guidance_scale", "audio_modality_scale")
    kwargs |= dict.fromkeys(guidance, 1.0) | dict(stg_scale=0.0, audio_stg_scale=0.0, image_crf=0)
    return pipe, kwargs | dict(height=96, width=160)


class Allow:
    """In place of the safety checker, which is a package of its own."""

    def to(self, device):
        return self

    def check_text_safety(self, prompt):
        return True

    def check_video_safety(self, video):
        return video


def cosmos2():
    from diffusers import Cosmos2VideoToWorldPipeline, CosmosTransformer3DModel, FlowMatchEulerDiscreteScheduler

    transformer = CosmosTransformer3DModel(
        in_channels=6 + 1, out_channels=6, num_attention_heads=2, attention_head_dim=16, num_layers=1, mlp_ratio=2,
        text_embed_dim=TEXT, adaln_lora_dim=4, max_size=(4, 32, 32), patch_size=(1, 2, 2), extra_pos_embed_type=None,
        concat_padding_mask=False,  # True needs torchvision
    )  # fmt: skip
    pipe = Cosmos2VideoToWorldPipeline(
        vae=wan_vae(), transformer=transformer, scheduler=FlowMatchEulerDiscreteScheduler(use_karras_sigmas=True),
        text_encoder=None, tokenizer=None, safety_checker=Allow(),
    )  # fmt: skip
    return pipe, dict(height=64, width=80, guidance_scale=1.0, prompt_embeds=tokens())


def sana_video():
    from diffusers import FlowMatchEulerDiscreteScheduler, SanaImageToVideoPipeline, SanaVideoTransformer3DModel

    transformer = SanaVideoTransformer3DModel(
        in_channels=6, out_channels=6, num_attention_heads=2, attention_head_dim=12, num_layers=1,
        num_cross_attention_heads=2, cross_attention_head_dim=12, cross_attention_dim=24, caption_channels=TEXT,
        rope_max_seq_len=32,
    )  # fmt: skip
    pipe = SanaImageToVideoPipeline(
        vae=wan_vae(), transformer=transformer, scheduler=FlowMatchEulerDiscreteScheduler(shift=8.0),
        text_encoder=None, tokenizer=None,
    )  # fmt: skip
    kwargs = dict(prompt_embeds=tokens(), prompt_attention_mask=torch.ones(1, 5, dtype=torch.long))
    return pipe, kwargs | dict(height=64, width=96, guidance_scale=1.0, use_resolution_binning=False)


PIPELINES = {
    "wan21": wan21,
    "wan22": wan22,
    "ltx": ltx,
    "cogvideox": cogvideox,
    "cogvideox15": lambda: cogvideox(version15=True),
    "hunyuan": hunyuan,
    "hunyuan_replace": lambda: hunyuan("token_replace"),
    "svd": svd,
    "ltx2": ltx2,
    "skyreels": lambda: wan21("SkyReelsV2", flow_shift=5.0),
    "cosmos2": cosmos2,
    "sana_video": sana_video,
}


def build(name: str, folder: Path):
    """Write the pipeline's folder, load it again, and say how to call it.

    Returns the pipeline, and all arguments of a call but `image` (a PIL image of the given width and height), the
    number of frames, `generator` and the callback.
    """
    torch.manual_seed(0)
    pipe, kwargs = PIPELINES[name]()
    pipe.save_pretrained(folder)
    unsaved = {part: value for part, value in pipe.components.items() if not hasattr(value, "save_pretrained")}
    pipe = type(pipe).from_pretrained(folder, **unsaved)
    pipe.set_progress_bar_config(disable=True)
    return pipe, dict(num_inference_steps=4, output_type="latent") | kwargs
