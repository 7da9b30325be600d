"""Weights of the paper's released code, in and out: the branch and the LoRA, in DiffSynth's names.

| official | ours (diffusers' names) |
| --- | --- |
| blocks.N.self_attn.{q,k,v,o}, .norm_{q,k} | blocks.N.attn1.{to_q,to_k,to_v,to_out.0}, .norm_{q,k} |
| blocks.N.cross_attn.* | blocks.N.attn2.* |
| blocks.N.norm3 | blocks.N.norm2 |
| blocks.N.ffn.{0,2} | blocks.N.ffn.net.{0.proj,2} |
| blocks.N.modulation | blocks.N.scale_shift_table |
| vace_blocks.N.{before_proj,after_proj} | vace_blocks.N.{proj_in,proj_out} |
| vace_patch_embedding | vace_patch_embedding |
| text_embedding.{0,2}, time_embedding.{0,2}, time_projection.1 | condition_embedder.(...) |

The rest of a vace block is named like a block. Files are safetensors; prefixes that trainers leave (`pipe.`, `dit.`,
`vace.`, `diffusion_model.`) are taken off, and an adapter's name (`lora_A.default`) as well.
"""

from __future__ import annotations

import re
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from mirage_nb.memory.io import write_aside

_PREFIX = re.compile(r"^(?:pipe\.|dit\.|vace\.|model\.|diffusion_model\.|base_model\.model\.|transformer\.)+")
# (official, ours) of what follows `blocks.N.` or `vace_blocks.N.`
_BLOCK = (
    ("self_attn.q", "attn1.to_q"), ("self_attn.k", "attn1.to_k"), ("self_attn.v", "attn1.to_v"),
    ("self_attn.o", "attn1.to_out.0"), ("self_attn.norm_q", "attn1.norm_q"), ("self_attn.norm_k", "attn1.norm_k"),
    ("cross_attn.q", "attn2.to_q"), ("cross_attn.k", "attn2.to_k"), ("cross_attn.v", "attn2.to_v"),
    ("cross_attn.o", "attn2.to_out.0"), ("cross_attn.norm_q", "attn2.norm_q"), ("cross_attn.norm_k", "attn2.norm_k"),
    ("norm3", "norm2"), ("ffn.0", "ffn.net.0.proj"), ("ffn.2", "ffn.net.2"), ("modulation", "scale_shift_table"),
    ("before_proj", "proj_in"), ("after_proj", "proj_out"),
)  # fmt: skip
_TOP = (
    ("text_embedding.0", "condition_embedder.text_embedder.linear_1"),
    ("text_embedding.2", "condition_embedder.text_embedder.linear_2"),
    ("time_embedding.0", "condition_embedder.time_embedder.linear_1"),
    ("time_embedding.2", "condition_embedder.time_embedder.linear_2"),
    ("time_projection.1", "condition_embedder.time_proj"),
    ("head.head", "proj_out"), ("head.modulation", "scale_shift_table"),
    ("vace_patch_embedding", "vace_patch_embedding"), ("patch_embedding", "patch_embedding"),
)  # fmt: skip
_IN_BLOCK = re.compile(r"^((?:vace_)?blocks\.\d+)\.(.+)$")


def _renamed(name: str, table: tuple[tuple[str, str], ...], way: int) -> str | None:
    for pair in table:
        old, new = pair[way], pair[1 - way]
        if name == old or name.startswith(old + "."):
            return new + name[len(old) :]
    return None


def to_ours(name: str) -> str:
    """An official parameter's name in our class; a name of ours stays as it is.

    Raises:
        ValueError: it is neither.
    """
    name = _PREFIX.sub("", name).replace(".lora_A.default.", ".lora_A.").replace(".lora_B.default.", ".lora_B.")
    block = _IN_BLOCK.match(name)
    if block is None:
        found = _renamed(name, _TOP, 0) or (name if _renamed(name, _TOP, 1) else None)
    else:
        rest = _renamed(block[2], _BLOCK, 0) or (block[2] if _renamed(block[2], _BLOCK, 1) else None)
        found = None if rest is None else f"{block[1]}.{rest}"
    if found is None:
        raise ValueError(f"{name!r} is no name of the paper's code, nor of ours")
    return found


def to_official(name: str) -> str:
    """Our parameter's name in the paper's released code; the way back from `to_ours`."""
    block = _IN_BLOCK.match(name)
    rest = _renamed(name, _TOP, 1) if block is None else _renamed(block[2], _BLOCK, 1)
    if rest is None:
        raise ValueError(f"{name!r} has no name in the paper's code")
    return rest if block is None else f"{block[1]}.{rest}"


def _read(argument: str, path: str | Path) -> dict[str, Tensor]:
    """All tensors of a safetensors file, under our names."""
    path, tensors = Path(path), {}
    if not path.is_file():
        raise FileNotFoundError(f"{argument}: no such file: {path}")
    try:
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118, it is no dict
                key = to_ours(name)
                if key in tensors:
                    raise ValueError(f"two tensors would be called {key}")
                tensors[key] = file.get_tensor(name)
    except (SafetensorError, ValueError) as error:
        raise ValueError(f"{argument}: {path}: {error}") from None
    if not all(tensor.isfinite().all() for tensor in tensors.values() if tensor.is_floating_point()):
        raise ValueError(f"{argument}: {path} holds numbers that are not finite")
    return tensors


def is_branch(path: str | Path) -> bool:
    """Whether a safetensors file has a branch in it, by its names alone."""
    try:
        with safe_open(path, framework="pt") as file:
            return any(_PREFIX.sub("", name).startswith("vace_") for name in file.keys())  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"branch: {path} is not a whole safetensors file ({error})") from None


def load_branch(transformer, path: str | Path) -> None:
    """Put the memory branch of a file into a `MirageTransformer3DModel`, in place (paper: stage 1's result).

    What a file holds of the backbone beside the branch is put there, too; pairs of LoRA are added as by `load_lora`.

    Raises:
        FileNotFoundError, ValueError: no such file; it lacks a part of the branch, holds what the model has no place
            for, or the shapes differ. The model stays as it was.
    """
    whole = _read("branch", path)
    lora = {name: whole.pop(name) for name in list(whole) if ".lora_" in name}
    tensors, own = whole, dict(transformer.named_parameters())
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


def save_branch(transformer, path: str | Path) -> Path:
    """Write a model's memory branch in the paper's names."""
    branch = {name: p for name, p in transformer.named_parameters() if name.startswith("vace_")}
    return _write(path, {to_official(name): p.detach() for name, p in branch.items() if "lora_" not in name})


def load_lora(transformer, path: str | Path, name: str = "default") -> None:
    """Add the LoRA of a file to a `MirageTransformer3DModel` as an adapter of PEFT (paper: stage 2's result, rank 64).

    Raises:
        FileNotFoundError, ValueError: no such file, no LoRA in it, or none that fits the model.
    """
    tensors = _read("lora", path)
    _check_lora("lora", path, transformer, tensors)
    # The paper's trainer scales by alpha / rank = 1, which is PEFT's default for a file without alphas.
    transformer.load_lora_adapter(tensors, prefix=None, adapter_name=name)


def _check_lora(argument: str, path: str | Path, transformer, tensors: dict[str, Tensor]) -> None:
    pairs = {key for key in tensors if ".lora_A." in key}
    if not pairs or {key.replace(".lora_A.", ".lora_B.") for key in pairs} != set(tensors) - pairs:
        raise ValueError(f"{argument}: {path} should hold pairs of lora_A and lora_B, and nothing else")
    own = dict(transformer.named_modules())
    for key in pairs:
        module = own.get(key.split(".lora_A.")[0])
        if not hasattr(module, "in_features"):
            raise ValueError(f"{argument}: {path}: the model has no layer {key.split('.lora_A.')[0]}")
        down, up = tensors[key], tensors[key.replace(".lora_A.", ".lora_B.")]
        expected = (module.in_features, module.out_features)
        if (down.shape[1], up.shape[0]) != expected or down.shape[0] != up.shape[1]:
            shapes = f"{tuple(down.shape)} and {tuple(up.shape)}"
            raise ValueError(f"{argument}: {path}: {key} has {shapes}, the layer is {expected[0]} to {expected[1]}")


def save_lora(transformer, path: str | Path, name: str = "default") -> Path:
    """Write a model's LoRA in the paper's names."""
    from peft import get_peft_model_state_dict

    tensors = get_peft_model_state_dict(transformer, adapter_name=name)
    return _write(path, {to_official(key): tensor.detach() for key, tensor in tensors.items()})


def _write(path: str | Path, tensors: dict[str, Tensor]) -> Path:
    path = Path(path)
    write_aside(path, save({name: tensor.contiguous().cpu() for name, tensor in tensors.items()}))
    return path
