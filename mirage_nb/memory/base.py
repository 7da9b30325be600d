"""The contract of every memory: what stage 5 asks of it, and nothing else."""

from collections.abc import Callable
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from mirage_nb.cameras import Cameras
from mirage_nb.reprojection import Readout


@runtime_checkable
class Memory(Protocol):
    """Latents with positions, written from some cameras and read from others.

    `LatentGrid`, `RGBPointCloud` and `NoMemory` fulfil it. A class of your own can take their place in `rollout` and in
    `MiragePipeline`.

    Attributes:
        stride: pixels per latent cell, None until it is known.
        channels: channels of a latent, None until they are known.
        frames: how many frames were written so far.
        nbytes: bytes that the memory takes.
    """

    stride: int | None
    channels: int | None
    frames: int

    @property
    def nbytes(self) -> int: ...

    def __len__(self) -> int:
        """How many points the memory holds."""

    def write(
        self, latents: Tensor, depth: Tensor, cameras: Cameras, mask: Tensor | None = None, *,
        frames: Tensor | None = None, time: int | None = None,
    ) -> int:  # fmt: skip
        """Add what N views show, and return how many points were added.

        Args:
            latents: (N, C, h, w), one latent frame a camera.
            depth: (N, H, W) z-depth in metres; 0 or non-finite where unknown.
            cameras: N cameras at the size of the image, (H, W) pixels.
            mask: bool, (N, H, W) or (N, h, w), True where it may be written; by default everywhere.
            frames: (N, 3, H, W) in [-1, 1], the decoded pixels. A memory of latents does not need them.
            time: number of the first of the N frames; by default numbering continues from the last write.
        """

    def read(self, cameras: Cameras) -> Readout:
        """What N cameras, given at the size of the image, see of the memory, on their latent grids."""

    def delete(self, where: Tensor) -> int:
        """Delete the points in a box (2, 3), or those where a mask (P,) is True; return how many."""

    def save(self, path: str | Path) -> None:
        """Write the memory to a safetensors file."""

    def load(self, path: str | Path) -> "Memory":
        """The memory in a file that `save` wrote. May be a class method."""


def write_video(
    memory: Memory, video: Tensor, depth: Tensor, cameras: Cameras, mask: Tensor | None = None,
    encode: Callable[[Tensor], Tensor] | None = None,
) -> int:  # fmt: skip
    """Write a video as a pipeline makes it: its latent frame k has the pose of pixel frame k * temporal stride.

    Args:
        video: latents (C, t, h, w), or (1, C, t, h, w), such as `MemoryGuidance.latents`; the temporal stride is
            (T - 1) / (t - 1). Or frames (T, H, W, 3) uint8, each of which is encoded by itself.
        depth: (T, H, W) z-depth in metres; 0 or non-finite where unknown.
        cameras: T cameras, one a pixel frame, at its size.
        mask: (T, H, W) bool, True where it may be written; by default everywhere.
        encode: for frames: (N, 3, H, W) in [-1, 1] to latents (N, C, h, w), such as `DiffusersModel.encode`.

    Returns how many points were added; ValueError where shapes do not fit together.
    """
    count, pixels = len(cameras), None
    if video.dtype == torch.uint8:
        if encode is None or tuple(video.shape) != (count, *cameras.size, 3):
            raise ValueError(f"video: frames need `encode` and shape {(count, *cameras.size, 3)}, got {video.shape}")
        pixels = video.movedim(3, 1).float() / 127.5 - 1
        latents, step = encode(pixels), 1
    else:
        latents = (video[0] if video.ndim == 5 else video).transpose(0, 1)  # (t, C, h, w)
        step, rest = divmod(count - 1, max(1, len(latents) - 1))
        if latents.ndim != 4 or rest or (video.ndim == 5 and len(video) > 1) or (len(latents) == 1 and count > 1):
            raise ValueError(f"video: expected (C, t, h, w) of {count} frames, one camera each, got {video.shape}")
    if len(depth) != count or (mask is not None and len(mask) != count):
        raise ValueError(f"depth: expected one map (and mask) for each of {count} cameras, got {len(depth)}")
    at = slice(None, None, max(1, step))
    return memory.write(latents, depth[at], cameras[at], None if mask is None else mask[at], frames=pixels)
