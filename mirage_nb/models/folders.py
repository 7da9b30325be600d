"""A pipeline's folder, looked through before anything is loaded: a strange value in a configuration, which diffusers
takes as it is, would end deep in a network, take all memory, or place the pictures wrongly."""

import re
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, model_validator
from safetensors import SafetensorError, safe_open

from mirage_nb.files import Schema, read_json

BUNDLED = Path(__file__).resolve().parents[2] / "data" / "mirage-tiny"
LIBRARY = re.compile(r"(diffusers|transformers|mirage_nb(\.\w+)*)")  # what an index may load classes from
QUANTISERS = {"quanto": "optimum", "gptq": "gptqmodel"}  # by the method's name, where the library has another

Few = Annotated[int, Field(ge=1, le=256)]
Size = Annotated[int, Field(ge=1, le=2**17)]
Positive = Annotated[float, Field(gt=0, le=1e4)]


class Index(Schema):
    """model_index.json: the pipeline's class, and a library and a class for each part."""

    model_config = ConfigDict(extra="allow")
    class_name: str = Field(alias="_class_name")

    @property
    def parts(self) -> dict[str, list]:
        """Library and class by the part's name, without parts that are left out."""
        return {n: entry for n, entry in self.model_extra.items() if isinstance(entry, list) and entry[:1] != [None]}


class Quantised(Schema):
    quant_method: str = Field("bitsandbytes", pattern=r"^[\w-]+$")


class Config(Schema):
    """config.json of any part."""

    quantization_config: Quantised | None = None


class Transformer(Config):
    """What decides the size of Wan's transformer, with and without a branch; the defaults are those of the classes."""

    patch_size: list[Few] = Field([1, 2, 2], min_length=3, max_length=3)
    num_attention_heads: Few = 24
    attention_head_dim: Size = 128
    in_channels: Size = 48
    ffn_dim: Size = 14336
    num_layers: Few = 30
    memory_layout: Literal["mirage", "wan"] = "wan"
    segment_latent_frames: int = Field(9, ge=2, le=1024)


class Vae(Config):
    """Of `AutoencoderKLWan`, whose strides are written down twice: by themselves, and by the layers that make them."""

    base_dim: Size = 96
    z_dim: Size = 16
    dim_mult: list[Few] = Field([1, 2, 4, 4], min_length=1, max_length=8)
    temperal_downsample: list[bool] = Field([False, True, True], max_length=8)
    patch_size: Few | None = None
    scale_factor_temporal: Few = 4
    scale_factor_spatial: Few = 8
    latents_mean: list[float] = [0.0] * 16
    latents_std: list[Positive] = [1.0] * 16

    @model_validator(mode="after")
    def _agree(self):
        strides = (self.scale_factor_temporal, self.scale_factor_spatial)
        layers = (2 ** sum(self.temperal_downsample), (self.patch_size or 1) * 2 ** (len(self.dim_mult) - 1))
        if strides != layers:
            raise ValueError(f"scale_factor_temporal, scale_factor_spatial: the layers have {layers}, not {strides}")
        if not len(self.latents_mean) == len(self.latents_std) == self.z_dim:
            raise ValueError(f"latents_mean, latents_std: expected z_dim = {self.z_dim} numbers each")
        return self


class Scheduler(Config):
    num_train_timesteps: int = Field(1000, ge=1, le=10**5)
    flow_shift: Positive = 1.0


CONFIGS = {"MirageTransformer3DModel": Transformer, "WanTransformer3DModel": Transformer, "AutoencoderKLWan": Vae}


def check_model_folder(folder: str | Path | None) -> str:
    """Look for missing, truncated and strange files of a pipeline's folder before anything is loaded.

    A name that is no local path is left to diffusers: it may be one of the hub. None is the bundled model. Returns the
    folder, or the name.

    Raises:
        FileNotFoundError: the folder, its index or a component's weights are missing.
        ValueError: a weights file is truncated, a configuration out of its range, or a library is missing.
    """
    name, folder = str(BUNDLED if folder is None else folder), Path(BUNDLED if folder is None else folder)
    if not name.strip():
        raise ValueError("model: expected a folder or a name on the hub, got an empty name")
    if not folder.is_dir():
        if folder.is_absolute() or len(folder.parts) != 2 or folder.parent.is_dir():
            raise FileNotFoundError(f"model: no such folder: {folder}")
        return name
    index = folder / "model_index.json"
    if not index.exists():
        raise FileNotFoundError(f"model: {folder} has no model_index.json")
    for part, entry in read_index(folder).parts.items():
        named = len(entry) == 2 and all(isinstance(word, str) for word in entry)
        if not named or not part.isidentifier() or not LIBRARY.fullmatch(entry[0]):
            raise ValueError(f"model: {index} names {part} of {entry!r:.80}, no library it may use")
        if not (folder / part).is_dir():
            raise FileNotFoundError(f"model: {folder} lacks the folder {part}")
        _check_part(folder / part, entry[1])
    return name


def read_index(folder: Path) -> Index:
    return read_json(folder / "model_index.json", Index, "model")


def read_config(part: Path, kind: str) -> Any:
    """The checked configuration of a part of class `kind`."""
    config = read_json(part / "config.json", CONFIGS.get(kind, Config), "model")
    method = config.quantization_config and config.quantization_config.quant_method.replace("-", "_")
    if method and find_spec(QUANTISERS.get(method, method)) is None:
        raise ValueError(f"model: {part} is quantised: install {QUANTISERS.get(method, method)}, which reads it")
    return config


def _check_part(part: Path, kind: str) -> None:
    weights = list(part.glob("*.safetensors"))
    if (part / "scheduler_config.json").exists():
        read_json(part / "scheduler_config.json", Scheduler, "model")
    if (part / "config.json").exists():
        read_config(part, kind)
        if not weights:
            raise FileNotFoundError(f"model: {part} has no weights (*.safetensors)")
    for file in weights:
        try:
            safe_open(file, framework="numpy").keys()  # torch stays unloaded
        except SafetensorError as error:
            raise ValueError(f"model: {file} is not a whole safetensors file, perhaps truncated ({error})") from None
