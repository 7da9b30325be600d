"""A spatial memory of latents, after *Latent Spatial Memory for Video World Models* (arXiv 2606.09828).

An image and a camera path become a video; between segments, a sparse 3D grid of the generator's own latents remembers.

The names below are loaded at first use: `import mirage_nb` itself loads no library, so that the command line answers
at once and the memory can be used where Open3D or diffusers cannot.
"""

import sys
from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_MODULE_OF = {
    "Cameras": "cameras",
    "camera_path": "paths",
    "lift": "lifting",
    "Points": "lifting",
    "Memory": "memory",
    "LatentGrid": "memory",
    "RGBPointCloud": "memory",
    "NoMemory": "memory",
    "reproject": "reprojection",
    "Readout": "reprojection",
    "writable": "masking",
    "rollout": "stitching",
    "VideoModel": "video_model",
    "MemoryGuidance": "guidance",
    "GuidanceOptions": "guidance",
    "DiffusersModel": "models.diffusers_model",
    "generate": "generation",
    "TransformersDepth": "models.photo_depth",
    "MiragePipeline": "pipeline",
    "MirageOutput": "generation",
    "Room": "data.rooms.room",
}
__all__ = list(_MODULE_OF)


def lazy_names(package: str, module_of: dict[str, str]):
    """The `__getattr__` and `__dir__` of a package whose names, by module, are loaded at first use."""

    def load(name: str) -> Any:
        if name not in module_of:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = getattr(import_module(f"{package}.{module_of[name]}"), name)
        setattr(sys.modules[package], name, value)  # the next use does not come here
        return value

    return load, lambda: sorted({*vars(sys.modules[package]), *module_of})


__getattr__, __dir__ = lazy_names(__name__, _MODULE_OF)
