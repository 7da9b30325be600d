"""What the full-size system takes: its shapes on PyTorch's `meta` device, its bytes, and the memory to run it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import psutil
import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from mirage_nb.models.presets import WAN22_TEXT_ENCODER, WAN22_TRANSFORMER, WAN22_VAE
from mirage_nb.models.transformer import MirageTransformer3DModel

GIB = 1 << 30
HEADROOM = 8 * GIB  # GPU memory for the activations of one segment of 704 x 1280 pixels, an estimate
HOW = {  # ways to run the model, the one that needs most GPU memory first
    "all at once": "everything fits on the GPU",
    "part by part": "pipe.enable_model_cpu_offload(); pipe.vae.enable_tiling()",
    "block by block": "pipe.transformer.enable_group_offload(...), text encoder on the CPU, VAE in tiles",
}


@lru_cache(1)
def full_size_parts() -> dict[str, nn.Module]:
    """Text encoder, VAE, and transformer with its branch at full size, on the `meta` device: no memory, no weights."""
    from diffusers import AutoencoderKLWan, WanTransformer3DModel
    from transformers import UMT5Config, UMT5EncoderModel

    with torch.device("meta"):
        text_encoder, vae = UMT5EncoderModel(UMT5Config(**WAN22_TEXT_ENCODER)), AutoencoderKLWan(**WAN22_VAE)
        transformer = MirageTransformer3DModel.from_wan(WanTransformer3DModel(**WAN22_TRANSFORMER))
    return dict(text_encoder=text_encoder.eval(), vae=vae.eval(), transformer=transformer.eval())


def count(module: nn.Module, prefix: str = "") -> int:
    """The number of parameters whose names begin with `prefix`."""
    return sum(p.numel() for name, p in module.named_parameters() if name.startswith(prefix))


@dataclass(frozen=True)
class Plan:
    """Memory that the full-size model needs, in bytes.

    Attributes:
        parts: the weights of each part. All pass through main memory.
        ways: GPU memory for each way of `HOW`.
    """

    parts: dict[str, int]
    ways: dict[str, int]

    def advice(self, gpu: int, main: int) -> str:
        """How to run the model with so many bytes of GPU and main memory, in one sentence."""
        if main < sum(self.parts.values()):
            return "main memory does not hold the weights: quantise the backbone and the text encoder as they load"
        fitting = [f"{way}: {HOW[way]}" for way, need in self.ways.items() if gpu >= need]
        return fitting[0] if fitting else "the GPU is too small for this resolution"


def memory_plan(dtype: torch.dtype = torch.bfloat16) -> Plan:
    """The plan for weights in `dtype`, the VAE's in float32."""
    text_encoder, vae, transformer = full_size_parts().values()
    branch = count(transformer, "vace_")
    sizes = {"text_encoder": count(text_encoder), "backbone": count(transformer) - branch, "branch": branch}
    parts = {name: size * dtype.itemsize for name, size in sizes.items()} | {"vae": 4 * count(vae)}
    blocks = 2 * parts["backbone"] // WAN22_TRANSFORMER["num_layers"]  # one computes while the next one is loaded
    largest = max(parts["backbone"] + parts["branch"], parts["text_encoder"], parts["vae"])
    needs = (sum(parts.values()), largest, parts["vae"] + blocks)
    return Plan(parts, {way: need + HEADROOM for way, need in zip(HOW, needs)})


def folder_parts(folder: str | Path) -> dict[str, int]:
    """The number of weights in each component of a pipeline's folder. Only the files' headers are read.

    Raises:
        ValueError: a file is not a whole safetensors file.
    """
    counts = {}
    for path in sorted(Path(folder).glob("*/*.safetensors")):
        try:
            with safe_open(path, framework="pt") as file:
                size = sum(math.prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118
        except SafetensorError as error:
            raise ValueError(f"{path}: not a whole safetensors file, perhaps truncated ({error})") from None
        counts[path.parent.name] = counts.get(path.parent.name, 0) + size
    return counts


def folder_bytes(folder: str | Path, dtype: torch.dtype) -> int:
    """The bytes of a Wan pipeline's folder once it is loaded, with a memory branch (half the transformer again)."""
    counts = folder_parts(folder)
    sizes = {name: count * (4 if name == "vae" else dtype.itemsize) for name, count in counts.items()}
    return sum(sizes.values()) + sizes.get("transformer", 0) // 2


def free_memory() -> int:
    """The bytes of main memory that are free, within the limit of a container."""
    free = psutil.virtual_memory().available
    try:
        limit, used = (int(Path(f"/sys/fs/cgroup/memory.{name}").read_text()) for name in ("max", "current"))
        return min(free, max(0, limit - used))
    except (OSError, ValueError):  # no container, or no limit ("max")
        return free
