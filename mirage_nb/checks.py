"""Checks of what comes from outside, before any heavy work: each failure is one line that names the argument."""

import difflib
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from mirage_nb.cameras import Cameras, default_intrinsics
from mirage_nb.files import regular_file
from mirage_nb.formats.agreement import ROUGHLY, Reading, agreement, check_reading
from mirage_nb.lifting import check_depth
from mirage_nb.memory import Memory
from mirage_nb.models.folders import check_model_folder as check_model_folder

WEIGHTS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)  # what is not quantised


def one_of(name: str, value: str, known: Iterable[str]) -> str:
    """The value if it is a known one; otherwise ValueError, with the nearest one offered."""
    known = list(known)
    if value not in known:
        near = difflib.get_close_matches(str(value), known, 1)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        raise ValueError(f"{name}: expected one of {', '.join(known)}, got {value!r}{hint}")
    return value


def integer(name: str, value, lowest: int) -> None:
    """Raise ValueError where a value is not an integer of at least `lowest`."""
    if isinstance(value, bool) or not isinstance(value, int) or value < lowest:
        raise ValueError(f"{name}: expected an integer of at least {lowest}, got {value!r}")


def as_image(image, multiple: int) -> Tensor:
    """The first frame, (H, W, 3) uint8, from a path, a PIL image, or an array or tensor of that shape and dtype.

    FileNotFoundError, or ValueError where its size is not a multiple of `multiple`, what the networks need.
    """
    from mirage_nb.data.images import as_rgb, open_picture  # not above: the rooms beside it need these checks

    if isinstance(image, (str, Path)):
        image = ImageOps.exif_transpose(open_picture(regular_file(image, "image")))
    if isinstance(image, Image.Image):
        image = np.array(as_rgb(image))
    image = _tensor("image", image, None, "a path, a PIL image, or (H, W, 3) uint8")
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != torch.uint8:
        raise ValueError(f"image: expected (H, W, 3) uint8, got {image.dtype} of shape {tuple(image.shape)}")
    height, width = image.shape[:2]
    if not height or not width or height % multiple or width % multiple:
        near = "x".join(str(max(multiple, round(side / multiple) * multiple)) for side in (width, height))
        raise ValueError(
            f"image: width and height must be multiples of {multiple}, got {width}x{height}; the nearest is {near} "
            "(mirage_nb.data.centre_crop_resize gets there, intrinsics included)"
        )
    return image


def as_seed(generator: torch.Generator | int | None) -> int | None:
    """A seed in [0, 2**31) drawn from a generator, or the seed itself; None stays None."""
    if isinstance(generator, torch.Generator):
        return int(torch.randint(2**31, (), generator=generator, device=generator.device))
    if generator is not None:
        integer("generator", generator, 0)
    return generator


def as_cameras(c2w, intrinsics, size: tuple[int, int]) -> Cameras:
    """T cameras from matrices (T, 4, 4) and intrinsics (4,) or (T, 4). ValueError where matrices are not rigid, or
    intrinsics are another image's."""
    c2w = _tensor("c2w", c2w)
    if c2w.ndim != 3 or tuple(c2w.shape[1:]) != (4, 4) or not len(c2w):
        raise ValueError(f"c2w: expected (T, 4, 4) camera-to-world matrices, one a frame, got shape {tuple(c2w.shape)}")
    intrinsics = default_intrinsics(size) if intrinsics is None else _tensor("intrinsics", intrinsics)
    return Cameras(c2w, intrinsics[: len(c2w)] if intrinsics.ndim == 2 else intrinsics, size)


def as_depth(depth, cameras: Cameras) -> Tensor | None:
    """z-depth (T, H, W) of all frames or (1, H, W) of the first one, float32 metres; None stays None. ValueError for
    shape, dtype, sign, unit; where nothing is known in the first frame; and for poses that it contradicts."""
    if depth is None:
        return None
    depth = _tensor("depth", depth, dtype=None)
    depth = depth[None] if depth.ndim == 2 else depth
    (height, width), frames = cameras.size, len(cameras)
    if depth.ndim != 3 or tuple(depth.shape[1:]) != (height, width) or (len(depth) != 1 and len(depth) < frames):
        expected = f"({height}, {width}) or ({frames}, {height}, {width})"
        raise ValueError(f"depth: expected {expected}, got {tuple(depth.shape)}")
    depth = depth[:frames]
    for part in (depth[:1], depth):  # the first frame's counts by itself: without it nothing can be written
        check_depth(part, cameras[: len(part)])
    depth = depth.float()
    if len(depth) > 1 and agreement(depth, cameras)[1] < ROUGHLY:  # noise and what moves are no contradiction
        check_reading(depth, cameras, Reading(depth_unit=1), where="c2w: expected c2w, OpenCV axes, metres; ")
    return depth


def as_mask(name: str, mask, cameras: Cameras) -> Tensor | None:
    """(T, H, W) bool; None stays None."""
    if mask is None:
        return None
    mask, shape = _tensor(name, mask, dtype=None), (len(cameras), *cameras.size)
    if mask.dtype != torch.bool or mask.ndim != 3 or len(mask) < shape[0] or tuple(mask.shape[1:]) != shape[1:]:
        raise ValueError(f"{name}: expected bool {shape}, got {mask.dtype} {tuple(mask.shape)}")
    return mask[: shape[0]]


def check_memory(memory, stride: int, channels: int) -> None:
    """Raise ValueError where an object is no `Memory`, or holds latents of another VAE."""
    if not isinstance(memory, Memory):
        names = ("write", "read", "delete", "save", "load", "__len__", "nbytes", "frames", "stride", "channels")
        missing = ", ".join(name for name in names if not hasattr(memory, name))
        raise ValueError(f"memory: expected a name or a Memory, got {type(memory).__name__}, which lacks {missing}")
    for name, expected in (("stride", stride), ("channels", channels)):
        if getattr(memory, name) not in (None, expected):
            raise ValueError(f"memory: holds latents of {name} {getattr(memory, name)}, this model's have {expected}")


def check_weights(components: dict) -> None:
    """Raise ValueError where a pipeline's loaded part lacks weights, or has some that are not finite."""
    for part, module in components.items():
        for name, weight in module.named_parameters() if isinstance(module, torch.nn.Module) else ():
            if weight.is_meta:
                raise ValueError(f"model: the files of {part} lack the weights {name}")
            if weight.dtype in WEIGHTS and not weight.isfinite().all():
                raise ValueError(f"model: {part} has weights that are not finite: {name}")


def _tensor(name: str, value, dtype: torch.dtype | None = torch.float32, expected="an array of numbers") -> Tensor:
    if isinstance(value, np.ndarray) and any(stride < 0 for stride in value.strides):  # as [..., ::-1] gives
        value = np.ascontiguousarray(value)
    if isinstance(value, np.ndarray) and value.dtype == np.uint16:  # what a depth PNG holds; torch can't compare it
        value = value.astype(np.int32)
    try:
        return torch.as_tensor(np.asarray(value) if isinstance(value, (list, tuple)) else value, dtype=dtype).cpu()
    except (TypeError, ValueError, RuntimeError):
        raise ValueError(f"{name}: expected {expected}, got {type(value).__name__}") from None
