"""Weights of the paper's released code: the memory branch and the LoRA, safetensors in DiffSynth's names.

Prefixes that trainers leave (`pipe.`, `dit.`, `vace.`) and an adapter's name (`lora_A.default`) are removed. Names that
are ours already stay as they are.
"""

from __future__ import annotations

import re
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

PREFIX = re.compile(r"^(?:pipe\.|dit\.|vace\.|model\.|diffusion_model\.|base_model\.model\.|transformer\.)+")
# The paper's names, and ours, which are diffusers'. First within `blocks.N.` and `vace_blocks.N.`:
BLOCK_NAMES = {
    ".self_attn.": ".attn1.", ".cross_attn.": ".attn2.", ".norm3.": ".norm2.",
    ".q.": ".to_q.", ".k.": ".to_k.", ".v.": ".to_v.", ".o.": ".to_out.0.",
    ".ffn.0.": ".ffn.net.0.proj.", ".ffn.2.": ".ffn.net.2.", ".modulation": ".scale_shift_table",
    ".before_proj.": ".proj_in.", ".after_proj.": ".proj_out.",
}  # fmt: skip
TOP_NAMES = {
    "text_embedding.0.": "condition_embedder.text_embedder.linear_1.",
    "text_embedding.2.": "condition_embedder.text_embedder.linear_2.",
    "time_embedding.0.": "condition_embedder.time_embedder.linear_1.",
    "time_embedding.2.": "condition_embedder.time_embedder.linear_2.",
    "time_projection.1.": "condition_embedder.time_proj.",
    "head.head.": "proj_out.", "head.modulation": "scale_shift_table",
}  # fmt: skip


def to_ours(name: str) -> str:
    """The name of a parameter of the paper's code in our classes."""
    name = PREFIX.sub("", name).replace(".default.", ".")
    for theirs, ours in (BLOCK_NAMES if "blocks." in name else TOP_NAMES).items():
        name = name.replace(theirs, ours)
    return name


def read_names(argument: str, path: str | Path) -> dict[str, str]:
    """Our name -> the file's name for all tensors of a safetensors file. Only its header is read.

    Raises:
        FileNotFoundError, ValueError: no such file, a truncated one, or two tensors with one name.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"{argument}: no such file: {path}")
    try:
        with safe_open(path, framework="pt") as file:
            names = list(file.keys())
    except SafetensorError as error:
        raise ValueError(f"{argument}: {path} is not a whole safetensors file ({error})") from None
    found = {to_ours(name): name for name in names}
    if len(found) < len(names):
        raise ValueError(f"{argument}: {path} holds two tensors of one name")
    return found


def _read(argument: str, path: str | Path) -> dict[str, Tensor]:
    """All tensors of a safetensors file, under our names."""
    names = read_names(argument, path)
    with safe_open(path, framework="pt") as file:
        tensors = {ours: file.get_tensor(name) for ours, name in names.items()}
    if not all(tensor.isfinite().all() for tensor in tensors.values() if tensor.is_floating_point()):
        raise ValueError(f"{argument}: {path} holds numbers that are not finite")
    return tensors


def load_branch(transformer, path: str | Path) -> None:
    """Put the memory branch of a file into a `MirageTransformer3DModel`, in place (paper: stage 1's result).

    The file may hold weights of the backbone and a LoRA as well; they are loaded too.

    Raises:
        FileNotFoundError, ValueError: no such file, a part of the branch is missing, or a name or shape does not fit
            the model. The model then stays unchanged.
    """
    tensors, own = _read("branch", path), dict(transformer.named_parameters())
    lora = {name: tensors.pop(name) for name in list(tensors) if ".lora_" in name}
    if lora:
        _check_lora("branch", path, transformer, lora)
    missing = [name for name in own if name.startswith("vace_") and name not in tensors]
    unknown = [name for name in tensors if name not in own]
    if missing or unknown:
        what = f"lacks {missing[0]} (of {len(missing)})" if missing else f"holds {unknown[0]} (of {len(unknown)})"
        layers = len(transformer.config.vace_layers)
        raise ValueError(f"branch: {path} {what}; the model has a branch of {layers} blocks")
    for name, tensor in tensors.items():
        if tensor.shape != own[name].shape:
            expected, got = tuple(own[name].shape), tuple(tensor.shape)
            raise ValueError(f"branch: {path}: {name} should be {expected}, the file's is {got}")
    with torch.no_grad():
        for name, tensor in tensors.items():
            own[name].copy_(tensor)
    if lora:
        transformer.load_lora_adapter(lora, prefix=None)


def load_lora(transformer, path: str | Path) -> None:
    """Add the LoRA of a file to a `MirageTransformer3DModel` as an adapter of PEFT (paper: stage 2's result, rank 64).

    Raises:
        FileNotFoundError, ValueError: no such file, no LoRA in it, or none that fits the model.
    """
    tensors = _read("lora", path)
    _check_lora("lora", path, transformer, tensors)
    # The paper's trainer scales by alpha / rank = 1, which is PEFT's default for a file without alphas.
    transformer.load_lora_adapter(tensors, prefix=None)


def _check_lora(argument: str, path: str | Path, transformer, tensors: dict[str, Tensor]) -> None:
    pairs = {key: key.replace(".lora_A.", ".lora_B.") for key in tensors if ".lora_A." in key}
    if not pairs or {*pairs, *pairs.values()} != set(tensors):
        raise ValueError(f"{argument}: {path} should hold pairs of lora_A and lora_B, and nothing else")
    layers = {name: layer for name, layer in transformer.named_modules() if isinstance(layer, torch.nn.Linear)}
    for key, other in pairs.items():
        name = key.split(".lora_A.")[0]
        if name not in layers:
            raise ValueError(f"{argument}: {path}: the model has no layer {name}")
        expected = (layers[name].in_features, layers[name].out_features)
        down, up = tensors[key], tensors[other]  # (rank, in), (out, rank)
        if (down.shape[1], up.shape[0]) != expected or down.shape[0] != up.shape[1]:
            shapes = f"{tuple(down.shape)} and {tuple(up.shape)}"
            raise ValueError(f"{argument}: {path}: {key} has {shapes}, the layer is {expected[0]} to {expected[1]}")
