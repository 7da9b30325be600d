"""A Wan2.2-TI2V folder with random weights: the hub's classes and configuration keys, a few thousand parameters."""

from __future__ import annotations

from pathlib import Path

import torch

WORDS = ["▁a", "▁room", "▁kitchen", "▁with", "▁red", "▁chairs", "▁blurry", "▁", "s", "e", "t", "o"]
TEXT_DIM = 16


def write_tokenizer(folder: Path) -> None:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    vocabulary = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", -9.0)] + [(word, -2.0) for word in WORDS]
    tokenizer = Tokenizer(models.Unigram(vocabulary, unk_id=2))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    ).save_pretrained(folder)


def wan_backbone(layers: int = 4, seed: int = 0, **options):
    from diffusers import WanTransformer3DModel

    torch.manual_seed(seed)
    return WanTransformer3DModel(
        patch_size=(1, 2, 2), num_attention_heads=2, attention_head_dim=12, in_channels=6, out_channels=6,
        text_dim=TEXT_DIM, freq_dim=16, ffn_dim=48, num_layers=layers, cross_attn_norm=True,
        qk_norm="rms_norm_across_heads", eps=1e-6, **options,
    ).eval()  # fmt: skip


def write_wan(folder: Path, text: bool = True):
    """Write the folder, and return diffusers' own pipeline of the same parts."""
    from diffusers import AutoencoderKLWan, UniPCMultistepScheduler, WanImageToVideoPipeline, WanPipeline
    from transformers import AutoTokenizer, UMT5Config, UMT5EncoderModel

    transformer = wan_backbone()
    torch.manual_seed(1)
    vae = AutoencoderKLWan(
        base_dim=4, decoder_base_dim=4, z_dim=6, dim_mult=[1, 1, 1, 1], num_res_blocks=1, is_residual=True,
        in_channels=12, out_channels=12, patch_size=2, temperal_downsample=[False, True, True],
        scale_factor_temporal=4, scale_factor_spatial=16,
        latents_mean=[0.1, -0.2, 0.0, 0.3, 0.1, -0.1], latents_std=[0.5, 0.8, 1.1, 0.6, 0.9, 0.7],
    ).eval()  # fmt: skip
    scheduler = UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=5.0)
    parts = dict(vae=vae, transformer=transformer, scheduler=scheduler, text_encoder=None, tokenizer=None)
    if text:
        write_tokenizer(folder / "tokenizer")
        config = UMT5Config(
            vocab_size=len(WORDS) + 3, d_model=TEXT_DIM, d_kv=8, d_ff=32, num_layers=2, num_heads=2,
            feed_forward_proj="gated-gelu", tie_word_embeddings=False,
        )  # fmt: skip
        parts["text_encoder"] = UMT5EncoderModel(config).eval()
        parts["tokenizer"] = AutoTokenizer.from_pretrained(folder / "tokenizer")
    WanPipeline(**parts, expand_timesteps=True).save_pretrained(folder)  # the class that the hub's index names
    return WanImageToVideoPipeline(**parts, expand_timesteps=True)


def write_depth(folder: Path, kind: str = "metric") -> None:
    """A Depth Anything V2 with random weights, as the hub keeps it."""
    from transformers import DepthAnythingConfig, DepthAnythingForDepthEstimation, Dinov2Config, DPTImageProcessorPil

    torch.manual_seed(3)
    backbone = Dinov2Config(
        hidden_size=12, num_hidden_layers=4, num_attention_heads=2, mlp_ratio=2, image_size=56, patch_size=14,
        out_indices=[1, 2, 3, 4], reshape_hidden_states=False, apply_layernorm=True,
    )  # fmt: skip
    config = DepthAnythingConfig(
        backbone_config=backbone, reassemble_hidden_size=12, patch_size=14, neck_hidden_sizes=[4, 6, 8, 8],
        fusion_hidden_size=6, head_hidden_size=4, depth_estimation_type=kind,
        max_depth=20 if kind == "metric" else 1, initializer_range=0.1,
    )  # fmt: skip
    model = DepthAnythingForDepthEstimation(config).eval()
    torch.nn.init.constant_(model.head.conv3.bias, -1.0 if kind == "metric" else 2.0)
    model.head.conv3.weight.data *= 30  # so that the picture matters, and is no cliff
    model.save_pretrained(folder)
    DPTImageProcessorPil(
        do_resize=True, size={"height": 56, "width": 56}, keep_aspect_ratio=True, ensure_multiple_of=14, resample=3,
        do_rescale=True, rescale_factor=1 / 255, do_normalize=True, image_mean=[0.485, 0.456, 0.406],
        image_std=[0.229, 0.224, 0.225],
    ).save_pretrained(folder)  # fmt: skip


class Int8Linear(torch.nn.Module):
    """A quantised layer as libraries put them in place of the linear ones: no parameter of a floating type."""

    def __init__(self, linear):
        super().__init__()
        self.scale = linear.weight.abs().amax().item() / 127
        self.register_buffer("weight", (linear.weight / self.scale).round().to(torch.int8))
        self.register_buffer("bias", linear.bias)

    def forward(self, x):
        return torch.nn.functional.linear(x, self.weight.to(x.dtype) * self.scale, self.bias)


# The paper's names, at the sizes of `wan_backbone`.
DIM, FFN, CONTROL = 24, 48, 12


def official_block(first: bool) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a block in DiffSynth's VACE, written down from its layers."""
    shapes = {"modulation": (1, 6, DIM), "norm3.weight": (DIM,), "norm3.bias": (DIM,)}
    for attention in ("self_attn", "cross_attn"):
        for layer in "qkvo":
            shapes |= {f"{attention}.{layer}.weight": (DIM, DIM), f"{attention}.{layer}.bias": (DIM,)}
        shapes |= {f"{attention}.norm_q.weight": (DIM,), f"{attention}.norm_k.weight": (DIM,)}
    shapes |= {"ffn.0.weight": (FFN, DIM), "ffn.0.bias": (FFN,), "ffn.2.weight": (DIM, FFN), "ffn.2.bias": (DIM,)}
    for layer in ["before_proj"] * first + ["after_proj"]:
        shapes |= {f"{layer}.weight": (DIM, DIM), f"{layer}.bias": (DIM,)}
    return shapes


def official_branch(blocks: int = 2, seed: int = 0) -> dict[str, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    shapes = {"vace_patch_embedding.weight": (DIM, CONTROL, 1, 2, 2), "vace_patch_embedding.bias": (DIM,)}
    for n in range(blocks):
        shapes |= {f"vace_blocks.{n}.{name}": shape for name, shape in official_block(n == 0).items()}
    return {name: torch.randn(shape, generator=g) * 0.1 for name, shape in shapes.items()}


def official_lora(rank: int = 4, layers: int = 4, seed: int = 1, adapter: str = "") -> dict[str, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    sizes = {f"self_attn.{x}": (DIM, DIM) for x in "qkvo"} | {f"cross_attn.{x}": (DIM, DIM) for x in "qkvo"}
    sizes |= {"ffn.0": (DIM, FFN), "ffn.2": (FFN, DIM)}
    tensors = {}
    for n in range(layers):
        for name, (inputs, outputs) in sizes.items():
            tensors[f"blocks.{n}.{name}.lora_A{adapter}.weight"] = torch.randn(rank, inputs, generator=g)
            tensors[f"blocks.{n}.{name}.lora_B{adapter}.weight"] = torch.randn(outputs, rank, generator=g)
    return tensors
