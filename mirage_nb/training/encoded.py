"""Walks as the memory recipe needs them: latents, depth and cameras at latent resolution, encoded once into shards."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, fields
from itertools import product
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from mirage_nb.cameras import Cameras
from mirage_nb.lifting import depth_to_latent
from mirage_nb.masking import writable
from mirage_nb.models.vae import encode, spatial_stride
from mirage_nb.training.data import Walks, device_of, processes


@dataclass
class EncodedWalks:
    """What the memory recipe needs of R walks of T frames, at latent resolution.

    latents (R, T, C, h, w) and depths (a list of (R, T, h, w): the exact one, and the depth network's) in float16,
    cells (R, T, h, w) bool: what may be written; c2w (R, T, 4, 4); intrinsics (R, 4) at pixel size; size in pixels.
    """

    latents: Tensor
    depths: list[Tensor]
    cells: Tensor
    c2w: Tensor
    intrinsics: Tensor
    size: tuple[int, int]

    @staticmethod
    @torch.no_grad()
    def encode(walks: Walks, vae, depth_model=None, mirror: bool = True) -> EncodedWalks:
        """Encode all frames; with a depth network, also note the depth that it would have given.

        With `mirror` every walk comes a second time as in a mirror, which is another room.
        """
        stride, size, device = spatial_stride(vae), tuple(walks["frames"].shape[2:4]), device_of(vae)
        latents, depths, cells, c2w, intrinsics = [], [[], []], [], [], []
        for room, flip in product(range(len(walks)), (False, True) if mirror else (False,)):
            cameras = walks.cameras(room, slice(None))
            cameras = cameras.mirror() if flip else cameras
            pixels, depth, moving = walks.pixels(room, slice(None)), walks["depth"][room], ~walks["writable"][room]
            pixels, depth, moving = (x.flip(-1).to(device) if flip else x.to(device) for x in (pixels, depth, moving))
            with torch.autocast(device.type, torch.bfloat16):
                latents.append(encode(vae, pixels.transpose(0, 1)[None])[0].transpose(0, 1).half().cpu())
            depths[0].append(depth_to_latent(depth.float(), stride).half().cpu())
            if depth_model is not None:
                guess = depth_model.predict(pixels, cameras.intrinsics)
                depths[1].append(depth_to_latent(guess, stride).half().cpu())
            cells.append(writable(depth.float(), moving=moving, stride=stride, edge_threshold=None).cpu())
            c2w.append(cameras.c2w)
            intrinsics.append(cameras.intrinsics[0])
        stacked = [torch.stack(d) for d in depths if d]
        rest = (torch.stack(x) for x in (cells, c2w, intrinsics))
        return EncodedWalks(torch.stack(latents), stacked, *rest, size)

    def cameras(self, room: int, frames: Tensor) -> Cameras:
        return Cameras(self.c2w[room, frames], self.intrinsics[room], self.size)

    def save(self, path: Path) -> None:
        """Write aside, then rename: a shard is whole or not there."""
        tensors = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("depths", "size")}
        tensors |= {f"depth{i}": depth for i, depth in enumerate(self.depths)} | {"size": torch.tensor(self.size)}
        partial = path.with_suffix(f".partial{os.getpid()}")
        save_file({k: v.contiguous() for k, v in tensors.items()}, partial, {"format": "mirage-encoded-walks"})
        os.replace(partial, path)

    @staticmethod
    def load(*folders: str | Path) -> EncodedWalks:
        """All shards of some folders, joined. Where one lacks the estimated depth of another, the exact one stands in.

        Raises:
            FileNotFoundError: a folder has none.
            ValueError: the frames are of several sizes.
        """
        shards = []
        for folder in folders:
            paths = sorted(Path(folder).glob("encoded-*.safetensors"))
            if not paths:
                raise FileNotFoundError(f"data: no encoded-*.safetensors in {folder}")
            shards += map(load_file, paths)
        sizes = {tuple(shard.pop("size").tolist()) for shard in shards}
        if len(sizes) > 1:
            raise ValueError(f"data: expected frames of one size, got {sorted(sizes)}")
        depths = sorted({name for shard in shards for name in shard if name.startswith("depth")})
        joined = {n: torch.cat([shard[n] for shard in shards]) for n in shards[0] if n not in depths}
        depths = [torch.cat([shard.get(name, shard["depth0"]) for shard in shards]) for name in depths]
        return EncodedWalks(depths=depths, size=sizes.pop(), **joined)


def encode_walks(
    walks: str | Path, folder: str | Path, vae, depth_model=None, progress: Callable[[int, int], None] | None = None
) -> None:
    """Encode each shard of walks into one of latents, leaving out what is there: an interrupted run goes on.

    Of several processes (`accelerate launch`, `torchrun`), each takes its share of the shards.

    Args:
        walks: folder of `walks-*.safetensors`. folder: gets `encoded-*.safetensors`.
        progress: called with the shards done and those in all.
    """
    folder, state = Path(folder), processes()
    folder.mkdir(parents=True, exist_ok=True)
    shards = sorted(Path(walks).glob("walks-*.safetensors"))
    for index, shard in enumerate(shards):
        target = folder / shard.name.replace("walks-", "encoded-")
        if index % state.num_processes == state.process_index and not target.exists():
            EncodedWalks.encode(Walks([shard]), vae, depth_model).save(target)
        if progress:
            progress(index + 1, len(shards))
    state.wait_for_everyone()
