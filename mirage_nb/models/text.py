"""Prompts, for a model that reads text: UMT5 as in Wan's pipelines, and classifier-free guidance."""

from __future__ import annotations

import html
import math
import warnings
from types import SimpleNamespace

import torch
from torch import Tensor

MAX_TOKENS = 512  # Wan's context length


def check_prompt(pipe, prompt: str | None, negative_prompt: str | None, guidance_scale: float) -> None:
    """Raise ValueError where a prompt can't be read; warn where it would be ignored."""
    reads_text = pipe.transformer.config.text_dim is not None
    if reads_text and (pipe.text_encoder is None or pipe.tokenizer is None):
        raise ValueError("prompt: this transformer needs text, and the pipeline has no text encoder and tokenizer")
    for name, value in (("prompt", prompt), ("negative_prompt", negative_prompt)):
        if value is not None and not isinstance(value, str):
            raise ValueError(f"{name}: expected a string, got {type(value).__name__}")
    check_guidance(guidance_scale)
    if not reads_text and guidance_scale != 1:
        raise ValueError("guidance_scale: this model reads no text, so there is nothing to guide it by")
    if not reads_text and (prompt or negative_prompt):
        warnings.warn("prompt: this model reads no text; the prompt is ignored", stacklevel=3)
    elif negative_prompt and guidance_scale == 1:
        warnings.warn("negative_prompt: it only counts with a guidance_scale above 1", stacklevel=3)


def check_guidance(scale: float) -> None:
    """Raise ValueError where it is no number of at least 1."""
    if not isinstance(scale, (int, float)) or not math.isfinite(scale) or scale < 1:
        raise ValueError(f"guidance_scale: expected a number of at least 1 (no guidance), got {scale!r}")


def clean(prompt: str) -> str:
    """As in Wan's pipelines, which need ftfy for it: mended, HTML's entities resolved, spaces single."""
    try:
        from ftfy import fix_text
    except ImportError:  # only broken encodings would differ
        fix_text = str
    return " ".join(html.unescape(html.unescape(fix_text(prompt))).split())


def encode_prompt(pipe, prompt: str | None) -> Tensor | None:
    """(1, 512, text_dim) as Wan's pipelines make it: UMT5, padded with zeros; None for a model without text."""
    if pipe.transformer.config.text_dim is None:
        return None
    tokens = pipe.tokenizer(
        [clean(prompt or "")], padding="max_length", max_length=MAX_TOKENS, truncation=True, return_tensors="pt"
    ).to(pipe._execution_device)
    states = pipe.text_encoder(tokens.input_ids, tokens.attention_mask).last_hidden_state
    return torch.where(tokens.attention_mask[..., None].bool(), states, 0).to(pipe.transformer.dtype)


def guided(pipe, negative_prompt: str | None, scale: float) -> SimpleNamespace:
    """The pipeline's models, the transformer with guidance."""
    negative = encode_prompt(pipe, negative_prompt)
    replaced = {"transformer": Guided(pipe.transformer, negative, scale), "mask_estimator": pipe.mask_estimator}
    return SimpleNamespace(**pipe.components | replaced)


class Guided:
    """A transformer with classifier-free guidance: the prediction is pushed away from the negative prompt's.

    Args:
        transformer: `MirageTransformer3DModel`.
        negative: (1, L, text_dim) embeddings of the negative prompt.
        scale: of the difference; 1 leaves the prediction as it is.
    """

    def __init__(self, transformer, negative: Tensor, scale: float) -> None:
        self.transformer, self.negative, self.scale = transformer, negative, scale

    def __getattr__(self, name: str):
        return getattr(self.transformer, name)

    def __call__(self, hidden_states: Tensor, timestep: Tensor, control: Tensor, encoder_hidden_states=None, **options):
        """As the transformer's, at twice the cost."""
        wanted = self.transformer(
            hidden_states, timestep, control, encoder_hidden_states=encoder_hidden_states, **options
        ).sample
        negative = self.negative.expand(len(hidden_states), -1, -1)
        other = self.transformer(hidden_states, timestep, control, encoder_hidden_states=negative, **options).sample
        return SimpleNamespace(sample=other + self.scale * (wanted - other))
