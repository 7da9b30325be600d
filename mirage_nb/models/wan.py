"""The full-size system: Wan2.2-TI2V-5B from diffusers, with the memory branch put on (paper: section on conditioning).

VAE (stride 16 in space and 4 in time, 48 channels), text encoder (UMT5), and sampler (UniPC) are diffusers' own.
"""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import torch
from diffusers import DiffusionPipeline, UniPCMultistepScheduler
from torch import nn

from mirage_nb import checks
from mirage_nb.models.checkpoints import load_branch, load_lora, read_names
from mirage_nb.models.full_size import GIB, HEADROOM, folder_bytes, free_memory
from mirage_nb.models.transformer import MirageTransformer3DModel

WAN = "Wan-AI/Wan2.2-TI2V-5B-Diffusers"
FLOW_SHIFT = 5.0  # paper, and the hub's scheduler for 704 x 1280
PARTS = ("vae", "transformer", "scheduler", "text_encoder", "tokenizer")


def load_wan(
    source: str | Path = WAN,
    branch: str | Path | None = None,
    lora: str | Path | None = None,
    depth_estimator=None,
    torch_dtype: torch.dtype | dict = torch.bfloat16,
    **options,
) -> dict:
    """The components of a `MiragePipeline` from a Wan2.2-TI2V model, see `MiragePipeline.from_wan`."""
    source = str(source)
    checks.check_model_folder(source)
    if "device_map" in options:  # its hooks would stay with diffusers' own classes
        raise ValueError("device_map: move the pipeline once it is loaded: to('cuda'), enable_model_cpu_offload()")
    for name, file, part in (("branch", branch, "vace_"), ("lora", lora, ".lora_A.")):
        if file is not None and not any(part in key for key in read_names(name, file)):
            raise ValueError(f"{name}: {file} holds no {name} (no name with {part})")
    _check_index(source, options)
    # Half precision in the VAE would lose what the latents hold, so it stays in float32, as in Wan's own examples.
    dtypes = torch_dtype if isinstance(torch_dtype, dict) else {"default": torch_dtype, "vae": torch.float32}
    if Path(source).is_dir():
        _check_memory(source, dtypes.get("default", torch.float32))
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "`torch_dtype` is deprecated")  # diffusers 0.41 needs the old name
            loaded = DiffusionPipeline.from_pretrained(
                source, **{"use_safetensors": True, "torch_dtype": dtypes} | options
            )
    except OSError as error:
        raise FileNotFoundError(f"model: {source} can't be loaded ({_first_line(error)})") from None
    parts = {name: loaded.components.get(name) for name in PARTS}
    parts["transformer"] = MirageTransformer3DModel.from_wan(parts["transformer"]).eval()
    parts["scheduler"] = UniPCMultistepScheduler.from_config(
        parts["scheduler"].config, prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=FLOW_SHIFT
    )
    if branch is not None:
        load_branch(parts["transformer"], branch)
    if lora is not None:
        load_lora(parts["transformer"], lora)
    return parts | {"depth_estimator": depth_estimator}


def _check_index(source: str, options: dict) -> None:
    """Raise unless the pipeline's model_index.json names the one kind of model that fits, with all its parts."""
    try:
        index = DiffusionPipeline.load_config(source)
    except OSError as error:
        reason = f"the hub gave nothing ({_first_line(error)}); mirage-nb doctor says more"
        raise FileNotFoundError(f"model: {source} is no folder here, and {reason}") from None
    if not str(index.get("_class_name", "")).startswith("Wan") or not index.get("expand_timesteps"):
        raise ValueError(
            f"model: expected a Wan2.2-TI2V model (a Wan pipeline with expand_timesteps), {source} holds "
            f"{index.get('_class_name')} with expand_timesteps={index.get('expand_timesteps', False)}"
        )
    missing = [name for name in ("text_encoder", "tokenizer") if index.get(name, [None])[0] is None]
    if missing := [name for name in missing if options.get(name) is None]:
        raise ValueError(f"model: {source} has no {' and no '.join(missing)}, and this transformer reads text")


def _check_memory(folder: str, dtype: torch.dtype) -> None:
    """Raise before the system ends the process: all weights pass through main memory."""
    need, free = folder_bytes(folder, dtype), free_memory()
    if need > free:
        raise ValueError(
            f"model: loading {folder} takes {need / GIB:.1f} GiB of main memory, {free / GIB:.1f} GiB are free; "
            "torch_dtype=torch.bfloat16 or a quantization_config takes less"
        )


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]


def is_wan_folder(folder: str | Path) -> bool:
    """Whether a local folder holds a diffusers Wan pipeline, not one of ours."""
    try:
        index = json.loads((Path(folder) / "model_index.json").read_text())
    except (OSError, ValueError):
        return False
    return isinstance(index, dict) and str(index.get("_class_name")).startswith("Wan")


def move_to_best_device(pipe) -> str:
    """Move a pipeline to where it runs best on this machine, and say where: on the GPU, part by part, or on the CPU."""
    if not torch.cuda.is_available():
        return "the CPU"
    parts = [part for part in pipe.components.values() if isinstance(part, nn.Module)]
    sizes = [sum(p.numel() * p.element_size() for p in part.parameters()) for part in parts]
    headroom = HEADROOM if pipe.transformer.config.memory_layout == "wan" else GIB
    free = torch.cuda.mem_get_info()[0] - headroom
    if sum(sizes) < free:
        pipe.to("cuda")
        return "the GPU"
    pipe.vae.enable_tiling()
    if max(sizes) < free:
        pipe.enable_model_cpu_offload()
        return "the GPU part by part (model CPU offload, VAE in tiles)"
    pipe.enable_sequential_cpu_offload()
    return "the GPU layer by layer, which is slow (sequential CPU offload, VAE in tiles)"
