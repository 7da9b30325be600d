"""A spatial memory of latents, after *Latent Spatial Memory for Video World Models* (arXiv 2606.09828).

An image and a camera path become a video; between segments, a sparse 3D grid of the generator's own latents remembers.

The names below are loaded at first use: `import mirage_nb` itself loads no library, so that the command line answers
at once and the memory can be used where Open3D or diffusers cannot.
"""

import sys
from importlib import import_module
from typing import Any

__version__ = "0.1.0"


def lazy_names(package: str, names_of: dict[str, tuple[str, ...]]):
    """The `__all__`, `__getattr__` and `__dir__` of a package whose names, by module, are loaded at first use."""
    module_of = {name: module for module, names in names_of.items() for name in names}

    def load(name: str) -> Any:
        if name not in module_of:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = getattr(import_module(f"{package}.{module_of[name]}"), name)
        setattr(sys.modules[package], name, value)  # the next use does not come here
        return value

    return list(module_of), load, lambda: sorted({*vars(sys.modules[package]), *module_of})


_NAMES_OF = {
    "cameras": ("Cameras",), "paths": ("camera_path",), "lifting": ("lift", "Points"),
    "memory": ("Memory", "LatentGrid", "RGBPointCloud", "NoMemory"), "reprojection": ("reproject", "Readout"),
    "masking": ("writable",), "stitching": ("rollout",), "video_model": ("VideoModel",),
    "guidance": ("MemoryGuidance", "GuidanceOptions"), "generation": ("generate", "MirageOutput"),
    "pipeline": ("MiragePipeline",), "models.diffusers_model": ("DiffusersModel",),
    "models.photo_depth": ("TransformersDepth",), "data.rooms.room": ("Room",),
}  # fmt: skip
__all__, __getattr__, __dir__ = lazy_names(__name__, _NAMES_OF)
