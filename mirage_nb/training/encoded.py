"""Walks as the transformer's recipe needs them: latents, depth and cameras at latent resolution, encoded once."""

from __future__ import annotations

from dataclasses import dataclass, fields
from itertools import product
from pathlib import Path

import torch
from torch import Tensor

from mirage_nb.cameras import Cameras
from mirage_nb.lifting import depth_to_latent
from mirage_nb.masking import writable
from mirage_nb.memory.io import load_tensors, save_tensors
from mirage_nb.models.vae import frame_encoder, spatial_stride
from mirage_nb.training.data import Walks, device_of, own_share, processes

FORMAT = "mirage-encoded-walks"


@dataclass
class EncodedWalks:
    """R walks of T frames on a latent grid of h x w cells."""

    latents: Tensor  # (R, T, C, h, w) float16
    depth: Tensor  # (R, T, h, w) float16, exact z-depth in metres, 0 = unknown (sky)
    estimate: Tensor  # (R, T, h, w) float16, the depth network's; without one the exact depth again
    writable: Tensor  # (R, T, h, w) bool
    c2w: Tensor  # (R, T, 4, 4)
    intrinsics: Tensor  # (R, 4) in cells

    def __len__(self) -> int:
        return len(self.latents)

    @property
    def size(self) -> tuple[int, int]:
        """(h, w) in cells."""
        return tuple(self.latents.shape[-2:])

    def cameras(self, walk: int, frames: Tensor) -> Cameras:
        """Cameras at latent size of some frames of a walk."""
        return Cameras(self.c2w[walk, frames], self.intrinsics[walk], self.size)

    @staticmethod
    @torch.no_grad()
    def encode(walks: Walks, vae, depth_model=None, mirror: bool = True) -> EncodedWalks:
        """Encode all frames. With `mirror`, every walk appears a second time in a mirror, which is another room."""
        stride, device, rows = spatial_stride(vae), device_of(vae), []
        for walk, flip in product(range(len(walks)), (False, True) if mirror else (False,)):
            cameras = walks.cameras(walk)
            images = (walks.pixels(walk, slice(None)), walks["depth"][walk].float(), ~walks["writable"][walk])
            if flip:
                cameras, images = cameras.mirror(), [image.flip(-1) for image in images]
            pixels, depth, moving = (image.to(device) for image in images)
            exact = estimate = depth_to_latent(depth, stride)
            if depth_model is not None:
                estimate = depth_to_latent(depth_model.predict(pixels, cameras.intrinsics), stride)
            allowed = writable(depth, moving=moving, stride=stride)
            latents, grid = frame_encoder(vae)(pixels), cameras.downscale(stride)
            row = (latents.half(), exact.half(), estimate.half(), allowed, grid.c2w, grid.intrinsics[0])
            rows.append([tensor.cpu() for tensor in row])
        return EncodedWalks(*map(torch.stack, zip(*rows)))

    def save(self, path: Path) -> None:
        save_tensors(path, FORMAT, {f.name: getattr(self, f.name) for f in fields(self)}, {})

    @staticmethod
    def load(*folders: str | Path) -> EncodedWalks:
        """All shards of some folders, joined.

        Raises:
            FileNotFoundError: a folder has none.
            ValueError: the shards have several frame sizes.
        """
        shards = []
        for folder in folders:
            paths = sorted(Path(folder).glob("encoded-*.safetensors"))
            if not paths:
                raise FileNotFoundError(f"data: no encoded-*.safetensors in {folder}")
            names = tuple(f.name for f in fields(EncodedWalks))
            shards += [load_tensors(path, FORMAT, names)[0] for path in paths]
        if len({shard["depth"].shape[1:] for shard in shards}) > 1:
            raise ValueError("data: expected walks of one length and one frame size")
        return EncodedWalks(**{name: torch.cat([shard[name] for shard in shards]) for name in shards[0]})


def encode_walks(walks: str | Path, folder: str | Path, vae, depth_model=None) -> None:
    """Encode each shard of walks into a shard of latents. Shards that exist are left alone.

    Args:
        walks: folder of `walks-*.safetensors`. folder: gets `encoded-*.safetensors`.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for shard in own_share(sorted(Path(walks).glob("walks-*.safetensors")), folder.name):
        target = folder / shard.name.replace("walks-", "encoded-")
        if not target.exists():
            EncodedWalks.encode(Walks([shard]), vae, depth_model).save(target)
    processes().wait_for_everyone()
