"""Training data: walks through procedural rooms, rendered once into safetensors shards.

A shard holds a few rooms, one walk of T frames each, with exact depth, masks and cameras. Shards are written aside and
renamed, so an interrupted run goes on with the first one that is missing.
"""

from __future__ import annotations

import os
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from mirage_nb.cameras import Cameras
from mirage_nb.stitching import as_pixels
from mirage_nb.worlds.rooms import Room

ROOMS_PER_SHARD = 16
HELD_OUT = 900_000  # seeds from here on are never trained on


def render_walk(seed: int, num_frames: int, size: tuple[int, int] = (128, 128)) -> dict[str, Tensor]:
    """One walk out through the room of this seed, as plain tensors."""
    room = Room(seed)
    clip = room.render(room.walk(num_frames, size=size))
    return {
        "frames": clip.frames,
        "depth": clip.depth.half(),
        "writable": ~(clip.moving | clip.sky),
        "c2w": clip.cameras.c2w,
        "intrinsics": clip.cameras.intrinsics[0],
    }


def write_walks(folder: str | Path, rooms: int, num_frames: int = 25, first_seed: int = 0, progress=None) -> None:
    """Render the rooms `first_seed ... first_seed + rooms - 1` into shards in `folder`, leaving out what is there.

    Args:
        progress: called with the number of rooms after each shard.

    Raises:
        ValueError: the seeds reach into the held-out ones.
    """
    if first_seed < HELD_OUT and first_seed + rooms > HELD_OUT:
        raise ValueError(f"rooms: seeds from {HELD_OUT} on are held out, {first_seed} + {rooms} reaches them")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for first in range(first_seed, first_seed + rooms, ROOMS_PER_SHARD):
        path = folder / f"walks-{first:07d}.safetensors"
        if not path.exists():
            seeds = []
            for seed in range(first, min(first + ROOMS_PER_SHARD, first_seed + rooms)):
                try:
                    seeds.append(render_walk(seed, num_frames))
                except ValueError:  # a room so full that no path of this length fits into it
                    continue
            temporary = path.with_suffix(".partial")
            save_file({k: torch.stack([s[k] for s in seeds]) for k in seeds[0]}, temporary, {"format": "mirage-walks"})
            os.replace(temporary, path)
        if progress:
            progress(first + ROOMS_PER_SHARD - first_seed)


class Walks:
    """All walks of a folder in memory: (R, T, ...) tensors by name. About 1.5 MB a walk of 25 frames at 128x128."""

    def __init__(self, folder: str | Path, limit: int | None = None) -> None:
        paths = sorted(Path(folder).glob("walks-*.safetensors"))[:limit]
        if not paths:
            raise FileNotFoundError(
                f"folder: no walks-*.safetensors in {folder}; write them with `mirage-nb train data`"
            )
        parts: dict[str, list[Tensor]] = {}
        for path in paths:
            with safe_open(path, "pt") as file:
                for key in file.keys():
                    parts.setdefault(key, []).append(file.get_tensor(key))
        self.tensors = {k: torch.cat(v) for k, v in parts.items()}

    def __len__(self) -> int:
        return len(self.tensors["c2w"])

    def __getitem__(self, name: str) -> Tensor:
        return self.tensors[name]

    @property
    def num_frames(self) -> int:
        return self.tensors["c2w"].shape[1]

    def cameras(self, room: int, frames) -> Cameras:
        """Cameras, at pixel size, of some frames of a walk."""
        size = tuple(self.tensors["frames"].shape[2:4])
        return Cameras(self.tensors["c2w"][room, frames], self.tensors["intrinsics"][room], size)

    def pixels(self, room: Tensor, frame: Tensor) -> Tensor:
        """(B, 3, H, W) in [-1, 1] of frame `frame[b]` of walk `room[b]`."""
        return as_pixels(self.tensors["frames"][room, frame])
