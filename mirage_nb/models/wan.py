"""The full-size system: Wan2.2-TI2V-5B from diffusers, with the memory branch put on (paper: conditioning)."""

import warnings
from pathlib import Path

import psutil
import torch
from diffusers import DiffusionPipeline
from torch import nn

from mirage_nb import checks
from mirage_nb.models.checkpoints import load_weights, read_names
from mirage_nb.models.full_size import GIB, HEADROOM
from mirage_nb.models.presets import build_scheduler
from mirage_nb.models.transformer import MirageTransformer3DModel

WAN = "Wan-AI/Wan2.2-TI2V-5B-Diffusers"
FLOW_SHIFT = 5.0  # paper, and the hub's scheduler for 704 x 1280


def load_wan(
    source: str | Path = WAN, branch: str | Path | None = None, lora: str | Path | None = None, depth_estimator=None,
    torch_dtype: torch.dtype | dict = torch.bfloat16, **options,
) -> dict:  # fmt: skip
    """The components of a `MiragePipeline` from a Wan2.2-TI2V model, see `MiragePipeline.from_wan`."""
    source, files = str(source), {kind: file for kind, file in (("branch", branch), ("lora", lora)) if file is not None}
    checks.check_model_folder(source)
    if "device_map" in options:  # its hooks would stay with diffusers' own classes
        raise ValueError("device_map: move the pipeline once it is loaded: to('cuda'), enable_model_cpu_offload()")
    for kind, file in files.items():
        read_names(kind, file)
    # Half precision in the VAE would lose what the latents hold, so it stays in float32, as in Wan's own examples.
    dtypes = torch_dtype if isinstance(torch_dtype, dict) else {"default": torch_dtype, "vae": torch.float32}
    options = {"use_safetensors": True, "torch_dtype": dtypes} | options | {"trust_remote_code": False}
    try:
        _check_index(source, DiffusionPipeline.load_config(source), options)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "`torch_dtype` is deprecated")  # diffusers 0.41 needs the old name
            loaded = DiffusionPipeline.from_pretrained(source, **options).components
    except OSError as error:
        reason = str(error).strip().splitlines()[0]
        raise FileNotFoundError(f"model: {source} can't be loaded ({reason}); mirage-nb doctor says more") from None
    transformer = MirageTransformer3DModel.from_wan(loaded["transformer"]).eval()
    for kind, file in files.items():
        load_weights(transformer, kind, file)
    own = dict(transformer=transformer, scheduler=build_scheduler(FLOW_SHIFT), depth_estimator=depth_estimator)
    return {name: loaded[name] for name in ("vae", "text_encoder", "tokenizer")} | own


def _check_index(source: str, index: dict, options: dict) -> None:
    """Raise unless a model_index.json names the one kind of model that fits, with all its parts; warn of its size."""
    kind, expanded = index.get("_class_name"), index.get("expand_timesteps", False)
    if not str(kind).startswith("Wan") or not expanded:
        expected = "a Wan2.2-TI2V model (a Wan pipeline with expand_timesteps)"
        raise ValueError(f"model: expected {expected}, {source} holds {kind} with expand_timesteps={expanded}")
    for name in ("text_encoder", "tokenizer"):
        if index.get(name, [None])[0] is None and options.get(name) is None:
            raise ValueError(f"model: {source} has no {name}, and this transformer reads text")
    size = sum(file.stat().st_size for file in Path(source).rglob("*.safetensors"))
    if size > (free := psutil.virtual_memory().available):
        words = f"{size / GIB:.1f} GiB of weights, {free / GIB:.1f} GiB of main memory are free; quantise it"
        warnings.warn(f"model: {words}", stacklevel=3)


def move_to_best_device(pipe) -> str:
    """Move a pipeline to where it runs best on this machine, and say where: on the GPU, part by part, or on the CPU."""
    if torch.backends.mps.is_available():
        pipe.to("mps")
        return "Apple's GPU"
    if not torch.cuda.is_available():
        return "the CPU"
    parts = [part for part in pipe.components.values() if isinstance(part, nn.Module)]
    sizes = [sum(p.numel() * p.element_size() for p in part.parameters()) for part in parts]
    free = torch.cuda.mem_get_info()[0] - (HEADROOM if pipe.transformer.config.memory_layout == "wan" else GIB)
    if sum(sizes) < free:
        pipe.to("cuda")
        return "the GPU"
    pipe.vae.enable_tiling()
    if max(sizes) < free:
        pipe.enable_model_cpu_offload()
        return "the GPU, part by part"
    pipe.enable_sequential_cpu_offload()
    return "the GPU, layer by layer (slow)"
