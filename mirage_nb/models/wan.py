"""The full-size system: Wan2.2-TI2V-5B from diffusers, with the memory branch put on (paper: section on conditioning).

Everything is diffusers' own: the VAE (stride 16 in space and 4 in time, 48 channels), the UMT5 text encoder, UniPC, and
its means for little memory. Only the transformer changes its class, keeping its modules.
"""

from __future__ import annotations

import copy
import json
import warnings
from pathlib import Path

import torch
from diffusers import DiffusionPipeline
from torch import nn

from mirage_nb import checks
from mirage_nb.models.checkpoints import is_branch, load_branch, load_lora
from mirage_nb.models.transformer import (
    MirageBlock,
    MirageBranchBlock,
    MirageRotaryPosEmbed,
    MirageTransformer3DModel,
)

WAN = "Wan-AI/Wan2.2-TI2V-5B-Diffusers"
FLOW_SHIFT = 5.0  # paper: the same; the hub's own scheduler says the same for 704 x 1280
PARTS = ("vae", "transformer", "scheduler", "text_encoder", "tokenizer")
# Resident at once with nothing offloaded: weights, and this much for activations of one 704 x 1280 segment.
HEADROOM = 8 << 30


def put_branch_on(
    cls, backbone, vace_layers=None, vace_in_channels=None, memory_layout="wan", segment_latent_frames=9
) -> MirageTransformer3DModel:
    """See `MirageTransformer3DModel.from_wan`.

    The backbone's modules are shared, not copied, whatever they are: a quantised backbone stays quantised. So a branch
    of half the blocks costs half the blocks, and nothing else.
    """
    config = dict(backbone.config)
    if config["in_channels"] != config["out_channels"]:
        raise ValueError(
            f"backbone: expected as many channels in as out (Wan2.2-TI2V-5B), got {config['in_channels']} in and "
            f"{config['out_channels']} out; the image-to-video models of Wan2.1 and of the A14B pair do not fit"
        )
    config = {k: v for k, v in config.items() if k in cls._get_init_keys(cls)}
    layers = tuple(vace_layers or range(0, config["num_layers"], 2))
    channels = vace_in_channels or 2 * config["in_channels"]
    with torch.device("meta"):
        model = cls(**config, vace_layers=layers, vace_in_channels=channels, memory_layout=memory_layout,
                    segment_latent_frames=segment_latent_frames)  # fmt: skip
    for name in ("patch_embedding", "condition_embedder", "norm_out", "proj_out", "scale_shift_table"):
        setattr(model, name, getattr(backbone, name))
    model.rope = copy.copy(backbone.rope)
    model.rope.__class__ = MirageRotaryPosEmbed
    model.blocks = nn.ModuleList(_as_class(copy.copy(block), MirageBlock) for block in backbone.blocks)
    weight = backbone.patch_embedding.weight
    here = dict(device=weight.device, dtype=weight.dtype)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        dim, patch = weight.shape[0], tuple(config["patch_size"])
        model.vace_patch_embedding = nn.Conv3d(channels, dim, patch, patch, **here)
        nn.init.zeros_(model.vace_patch_embedding.bias)
        blocks = [_as_class(_copied(backbone.blocks[layer]), MirageBranchBlock) for layer in layers]
        for index, block in enumerate(blocks):
            block.proj_in = nn.Linear(dim, dim, **here) if index == 0 else None
            block.proj_out = nn.Linear(dim, dim, **here)
            nn.init.zeros_(block.proj_out.weight)
            nn.init.zeros_(block.proj_out.bias)
    model.vace_blocks = nn.ModuleList(blocks)
    if getattr(backbone, "hf_quantizer", None) is not None:
        model.hf_quantizer = backbone.hf_quantizer
    return model.train(backbone.training)


def _copied(block: nn.Module) -> nn.Module:
    """A deep copy. Quantised weights of a kind that can't be copied (quanto's) are shared: nothing trains them."""
    try:
        return copy.deepcopy(block)
    except RuntimeError:
        return copy.deepcopy(block, {id(p): p for p in block.parameters() if not _is_plain(p)})


def _is_plain(parameter: nn.Parameter) -> bool:
    return type(parameter) is nn.Parameter and type(parameter.data) is torch.Tensor and parameter.is_floating_point()


def _as_class(block: nn.Module, cls: type) -> nn.Module:
    """The block as one of ours. Cross-attention to a CLIP image, which some configs name, is never fed: it goes."""
    block.__class__ = cls
    if getattr(block.attn2, "add_k_proj", None) is not None:
        block._modules = dict(block._modules)
        block.attn2 = copy.copy(block.attn2)
        block.attn2._modules = dict(block.attn2._modules) | {"add_k_proj": None, "add_v_proj": None}
    return block


def make_branch_plain(model: MirageTransformer3DModel) -> None:
    """Give a quantised backbone's branch plain layers, empty, for trained weights that are about to be loaded."""
    with torch.device("meta"):
        plain = MirageTransformer3DModel.from_config(model.config).vace_blocks
    own = dict(model.vace_blocks.named_parameters())
    if dict(plain.named_parameters()).keys() == own.keys() and all(map(_is_plain, own.values())):
        return  # torchao and bitsandbytes keep the names, so the kinds are looked at, too
    weight = model.patch_embedding.weight
    plain = plain.to_empty(device=weight.device).to(weight.dtype)
    for name, parameter in plain.named_parameters():
        if any(kept in name for kept in model._keep_in_fp32_modules):
            parameter.data = parameter.data.float()
    model.vace_blocks = plain.train(model.training)


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
        raise ValueError("device_map: place the pipeline once it is loaded: to('cuda'), enable_model_cpu_offload()")
    for name, file in (("branch", branch), ("lora", lora)):
        if file is not None and not Path(file).is_file():
            raise FileNotFoundError(f"{name}: no such file: {file}")
    if branch is not None and not is_branch(branch):
        raise ValueError(f"branch: {branch} holds no branch (no key begins with vace_)")
    index = _index(source)
    if Path(source).is_dir():
        _check_memory(Path(source), torch_dtype)
    # The VAE loses what the latents know in half precision, so it stays in float32, as in Wan's own examples.
    dtype = torch_dtype if isinstance(torch_dtype, dict) else {"default": torch_dtype, "vae": torch.float32}
    missing = [name for name in ("text_encoder", "tokenizer") if index.get(name, [None])[0] is None]
    if lacking := [name for name in missing if options.get(name) is None]:
        raise ValueError(f"model: {source} has no {' and no '.join(lacking)}, and this transformer reads text")
    options = {"use_safetensors": True, "torch_dtype": dtype} | options
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "`torch_dtype` is deprecated")  # its new name is too new for 0.41
            loaded = DiffusionPipeline.from_pretrained(source, **options)
    except OSError as error:
        reason = str(error).strip().splitlines()[0]
        raise FileNotFoundError(f"model: {source} can't be loaded ({reason})") from None
    parts = {name: getattr(loaded, name, None) for name in PARTS}
    parts["transformer"] = MirageTransformer3DModel.from_wan(parts["transformer"]).eval()
    parts["scheduler"] = _scheduler(parts["scheduler"])
    if branch is not None:
        make_branch_plain(parts["transformer"])
        load_branch(parts["transformer"], branch)
    if lora is not None:
        load_lora(parts["transformer"], lora)
    return parts | {"depth_estimator": depth_estimator}


def _scheduler(scheduler):
    from diffusers import UniPCMultistepScheduler

    settings = dict(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=FLOW_SHIFT)
    return UniPCMultistepScheduler.from_config(scheduler.config, **settings)


def _index(source: str) -> dict:
    """The pipeline's model_index.json, checked to be of the one kind that fits."""
    try:
        index = DiffusionPipeline.load_config(source)
    except OSError as error:
        reason = str(error).strip().splitlines()[0]
        message = f"model: {source} is no folder here, and the hub gave nothing ({reason}); mirage-nb doctor says more"
        raise FileNotFoundError(message) from None
    if not str(index.get("_class_name", "")).startswith("Wan") or not index.get("expand_timesteps"):
        raise ValueError(
            f"model: expected a Wan2.2-TI2V model (a Wan pipeline with expand_timesteps), {source} holds "
            f"{index.get('_class_name')} with expand_timesteps={index.get('expand_timesteps', False)}"
        )
    return index


def _check_memory(folder: Path, torch_dtype: torch.dtype | dict) -> None:
    """Raise before the kernel ends the process: all weights pass through main memory."""
    from mirage_nb.models.weights import folder_bytes, free_memory

    dtype = torch_dtype.get("default", torch.float32) if isinstance(torch_dtype, dict) else torch_dtype
    need, free = folder_bytes(folder, dtype), free_memory()
    if need > free:
        raise ValueError(
            f"model: loading {folder} takes {need / 2**30:.1f} GiB of main memory, {free / 2**30:.1f} GiB are free; "
            "torch_dtype=torch.bfloat16 or a quantization_config takes less"
        )


def is_wan_folder(folder: str | Path) -> bool:
    """Whether a local folder holds a diffusers Wan pipeline (and not one of ours)."""
    try:
        name = json.loads((Path(folder) / "model_index.json").read_text()).get("_class_name", "")
    except (OSError, ValueError, AttributeError):
        return False
    return str(name).startswith("Wan")


def place(pipe) -> str:
    """Put a pipeline where it runs best on this machine, and say where: all on the GPU, part by part, or on the CPU."""
    if not torch.cuda.is_available():
        return "the CPU"
    parts = [part for part in pipe.components.values() if isinstance(part, nn.Module)]
    sizes = [sum(p.numel() * p.element_size() for p in part.parameters()) for part in parts]
    full = pipe.transformer.config.memory_layout == "wan"
    free = torch.cuda.mem_get_info()[0] - (HEADROOM if full else 1 << 30)
    if sum(sizes) < free:
        pipe.to("cuda")
        return "the GPU"
    pipe.vae.enable_tiling()
    if max(sizes) < free:
        pipe.enable_model_cpu_offload()
        return "the GPU part by part (model CPU offload, VAE in tiles)"
    pipe.enable_sequential_cpu_offload()
    return "the GPU layer by layer, which is slow (sequential CPU offload, VAE in tiles)"
