"""Weights of the paper's released code: the memory branch and the LoRA, safetensors in DiffSynth's names.

Prefixes that trainers leave and an adapter's name (`lora_A.default`) are removed. Our own names stay unchanged.
"""

import re
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

PREFIX = re.compile(r"^(?:pipe\.|dit\.|vace\.|model\.|diffusion_model\.|base_model\.model\.|transformer\.)+")
# The paper's names within `blocks.N.` and `vace_blocks.N.`, and ours, which are diffusers'.
NAMES = {
    ".self_attn.": ".attn1.", ".cross_attn.": ".attn2.", ".norm3.": ".norm2.",
    ".q.": ".to_q.", ".k.": ".to_k.", ".v.": ".to_v.", ".o.": ".to_out.0.",
    ".ffn.0.": ".ffn.net.0.proj.", ".ffn.2.": ".ffn.net.2.", ".modulation": ".scale_shift_table",
    ".before_proj.": ".proj_in.", ".after_proj.": ".proj_out.",
}  # fmt: skip
KINDS = {"branch": "vace_", "lora": ".lora_A."}  # what names in a file of each kind hold


def to_ours(name: str) -> str:
    """The name of a parameter of the paper's code in our classes."""
    name = PREFIX.sub("", name).replace(".default.", ".")
    for theirs, ours in NAMES.items():
        name = name.replace(theirs, ours)
    return name


def read_names(kind: str, path: str | Path) -> dict[str, str]:
    """Our name -> the file's name for all tensors of a file of one of the `KINDS`. Only its header is read.
    FileNotFoundError or ValueError: no such file, a truncated one, or one of another kind."""
    if not Path(path).is_file():
        raise FileNotFoundError(f"{kind}: no such file: {path}")
    try:
        with safe_open(path, framework="pt") as file:
            names = {to_ours(name): name for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"{kind}: {path} is not a whole safetensors file ({error})") from None
    if not any(KINDS[kind] in name for name in names):
        raise ValueError(f"{kind}: {path} holds no {kind} (no name with {KINDS[kind]})")
    return names


def load_weights(transformer, kind: str, path: str | Path) -> None:
    """Load a file into a `MirageTransformer3DModel`, in place: what it holds of a branch, of a LoRA, or of both.

    Args:
        kind: `branch`, which must be whole (paper: stage 1's result), or `lora` (stage 2's, rank 64), which becomes an
            adapter of PEFT.

    Raises:
        FileNotFoundError, ValueError: no such file, or it does not fit the model, which then stays unchanged.
    """
    names = read_names(kind, path)
    with safe_open(path, framework="pt") as file:
        tensors = {ours: file.get_tensor(name) for ours, name in names.items()}
    lora = {name: tensors.pop(name) for name in names if ".lora_" in name}
    own = dict(transformer.named_parameters())
    layers = {name: layer for name, layer in transformer.named_modules() if isinstance(layer, nn.Linear)}
    needed = [name for name in own if kind == "branch" and name.startswith("vace_")]
    problems = [f"lacks {name}" for name in needed if name not in tensors]
    misfits = {name: t for name, t in tensors.items() if name not in own or t.shape != own[name].shape}
    problems += [f"holds {n} {tuple(t.shape)}, which fits no parameter of the model" for n, t in misfits.items()]
    for name in {key.partition(".lora_")[0] for key in lora}:
        down, up = (lora.get(f"{name}.lora_{letter}.weight") for letter in "AB")  # (rank, in), (out, rank)
        fits = down is not None and up is not None and name in layers
        sizes = (layers[name].in_features, layers[name].out_features) if fits else ()
        if not fits or (*down.shape, *up.shape) != (len(down), *sizes, len(down)):
            problems.append(f"holds no pair of lora_A and lora_B that fits the layer {name}")
    problems += [f"holds {n}, which is not finite" for n, t in (tensors | lora).items() if not t.isfinite().all()]
    if problems:
        raise ValueError(f"{kind}: {path} {problems[0]} (problems: {len(problems)})")
    with torch.no_grad():
        for name, tensor in tensors.items():
            own[name].copy_(tensor)
    if lora:  # the paper's trainer scales by alpha / rank = 1, which is PEFT's default for a file without alphas
        transformer.load_lora_adapter(lora, prefix=None)
