"""Prompts, for a model that reads text: UMT5 as in Wan's pipelines, and classifier-free guidance."""

import math
import warnings
from types import SimpleNamespace

import torch
from diffusers.pipelines.wan.pipeline_wan import prompt_clean
from torch import Tensor


def check_prompt(pipe, prompt: str | None, negative_prompt: str | None, guidance_scale: float) -> None:
    """Raise ValueError if a prompt can't be read; warn if it would be ignored."""
    for name, value in (("prompt", prompt), ("negative_prompt", negative_prompt)):
        if value is not None and not isinstance(value, str):
            raise ValueError(f"{name}: expected a string, got {type(value).__name__}")
    if not isinstance(guidance_scale, (int, float)) or not math.isfinite(guidance_scale) or guidance_scale < 1:
        raise ValueError(f"guidance_scale: expected a number of at least 1 (no guidance), got {guidance_scale!r}")
    if pipe.transformer.config.text_dim is None:
        if guidance_scale != 1:
            raise ValueError("guidance_scale: this model reads no text, so there is nothing to guide it by")
        if prompt or negative_prompt:
            warnings.warn("prompt: this model reads no text; the prompt is ignored", stacklevel=3)
    elif pipe.text_encoder is None or pipe.tokenizer is None:
        raise ValueError("prompt: this transformer needs text, and the pipeline has no text encoder and tokenizer")
    elif negative_prompt and guidance_scale == 1:
        warnings.warn("negative_prompt: it only counts with a guidance_scale above 1", stacklevel=3)


def encode_prompt(pipe, prompt: str | None) -> Tensor | None:
    """(1, 512, text_dim) as Wan's pipelines make it: UMT5, padded with zeros; None for a model without text."""
    if pipe.transformer.config.text_dim is None:
        return None
    options = dict(padding="max_length", max_length=512, truncation=True, return_tensors="pt")  # Wan's context length
    tokens = pipe.tokenizer([prompt_clean(prompt or "")], **options).to(pipe._execution_device)
    states = pipe.text_encoder(tokens.input_ids, tokens.attention_mask).last_hidden_state  # (1, 512, text_dim)
    return torch.where(tokens.attention_mask[..., None].bool(), states, 0).to(pipe.transformer.dtype)


class GuidedTransformer:
    """Calls a transformer twice and moves its prediction away from that of the negative prompt, by `scale`; 1 changes
    nothing. `negative_embeds` are (1, L, text_dim)."""

    def __init__(self, transformer, negative_embeds: Tensor, scale: float) -> None:
        self.transformer, self.negative_embeds, self.scale = transformer, negative_embeds, scale
        self.config, self.autocast = transformer.config, transformer.autocast

    def __call__(self, latents: Tensor, timestep: Tensor, control: Tensor, text: Tensor, **options) -> SimpleNamespace:
        wanted = self.transformer(latents, timestep, control, text, **options).sample
        negative = self.negative_embeds.expand(len(latents), -1, -1)
        unwanted = self.transformer(latents, timestep, control, negative, **options).sample
        return SimpleNamespace(sample=unwanted + self.scale * (wanted - unwanted))
