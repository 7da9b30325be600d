"""The full-size system on PyTorch's `meta` device: its shapes, and the GPU memory to run it."""

from functools import lru_cache

import torch
from torch import nn

from mirage_nb.models.presets import WAN22_TEXT_ENCODER, WAN22_TRANSFORMER, WAN22_VAE
from mirage_nb.models.transformer import MirageTransformer3DModel

GIB = 1 << 30
HEADROOM = 8 * GIB  # GPU memory for the activations of one segment of 704 x 1280 pixels, an estimate
HOW = {  # ways to run the model, the one that needs most GPU memory first
    "all at once": "pipe.to('cuda')",
    "part by part": "pipe.enable_model_cpu_offload(); pipe.vae.enable_tiling()",
    "layer by layer": "pipe.enable_sequential_cpu_offload(); pipe.vae.enable_tiling(); slow",
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


def memory_plan(dtype: torch.dtype = torch.bfloat16) -> dict[str, int]:
    """GPU memory in bytes for each way of `HOW`, with weights in `dtype` and the VAE's in float32."""
    sizes = [count(part) * (4 if name == "vae" else dtype.itemsize) for name, part in full_size_parts().items()]
    needs = (sum(sizes), max(sizes), 4 * GIB)  # layer by layer: more than the largest layer, an estimate
    return {way: need + HEADROOM for way, need in zip(HOW, needs)}
