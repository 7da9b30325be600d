"""Training data: walks through procedural rooms, or parts of recordings, once into safetensors shards.

A shard holds a few rooms, one walk of T frames each, with exact depth, masks and cameras. Shards are written aside and
renamed, so an interrupted run goes on with the first one that is missing.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import torch
from accelerate import PartialState
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from mirage_nb.cameras import Cameras
from mirage_nb.stitching import as_pixels
from mirage_nb.worlds.clip import Clip
from mirage_nb.worlds.rooms import Room

ROOMS_PER_SHARD = 16
HELD_OUT = 900_000  # seeds from here on are never trained on


def as_walk(clip: Clip) -> dict[str, Tensor]:
    """A clip as plain tensors."""
    known = torch.ones_like(clip.depth, dtype=torch.bool)
    for mask in (clip.moving, clip.sky):
        known = known if mask is None else known & ~mask
    return {
        "frames": clip.frames,
        "depth": clip.depth.half(),
        "writable": known,
        "c2w": clip.cameras.c2w,
        "intrinsics": clip.cameras.intrinsics[0],
    }


def write_walks(folder: str | Path, rooms: int, num_frames: int = 25, first_seed: int = 0, progress=None) -> None:
    """Render the rooms `first_seed ... first_seed + rooms - 1` into shards in `folder`, leaving out what is there.

    Under `accelerate launch` with several processes, each takes its share of the shards.

    Args:
        progress: called with the number of rooms after each shard.

    Raises:
        ValueError: the seeds reach into the held-out ones.
    """
    if first_seed < HELD_OUT and first_seed + rooms > HELD_OUT:
        raise ValueError(f"rooms: seeds from {HELD_OUT} on are held out, {first_seed} + {rooms} reaches them")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    state = PartialState()
    for index, first in enumerate(range(first_seed, first_seed + rooms, ROOMS_PER_SHARD)):
        path = folder / f"walks-{first:07d}.safetensors"
        if index % state.num_processes == state.process_index and not path.exists():
            walks = []
            for seed in range(first, min(first + ROOMS_PER_SHARD, first_seed + rooms)):
                room = Room(seed)
                try:
                    walks.append(as_walk(room.render(room.walk(num_frames, size=(128, 128)))))
                except ValueError:  # a room so full that no path of this length fits into it
                    continue
            _write_shard(path, walks)
        if progress:
            progress(first + ROOMS_PER_SHARD - first_seed)
    state.wait_for_everyone()


def import_recordings(
    sources: Sequence[str | Path], folder: str | Path, num_frames: int = 25, size: tuple[int, int] = (128, 128)
) -> dict[str, str]:
    """Cut RGB-D recordings in the layout of 7-Scenes (`read_rgbd`) into walks of T frames, a shard a recording.

    Frames whose depth is unknown almost everywhere split a recording. What does not fit is left out.

    Returns:
        What became of each source: "3 walks", or why there are none.
    """
    from mirage_nb.worlds.real import read_rgbd

    folder, report = Path(folder), {}
    folder.mkdir(parents=True, exist_ok=True)
    for number, source in enumerate(sources):
        try:
            clip = read_rgbd(source, size)
        except (ValueError, FileNotFoundError) as error:
            report[str(source)] = f"left out: {error}"
            continue
        useful = (clip.depth > 0).float().mean((1, 2)) > 0.3
        walks, first = [], 0
        while first + num_frames <= len(clip.frames):
            if useful[first : first + num_frames].all():
                part = slice(first, first + num_frames)
                walks.append(as_walk(Clip(clip.frames[part], clip.depth[part], clip.cameras[part])))
                first += num_frames
            else:
                first += 1
        if walks:
            _write_shard(folder / f"walks-r{number:06d}.safetensors", walks)
            report[str(source)] = f"{len(walks)} walks"
        else:
            report[str(source)] = f"left out: no {num_frames} frames in a row with known depth, of {len(clip.frames)}"
    return report


def _write_shard(path: Path, walks: list[dict[str, Tensor]]) -> None:
    partial = path.with_suffix(f".partial{os.getpid()}")
    save_file({k: torch.stack([walk[k] for walk in walks]) for k in walks[0]}, partial, {"format": "mirage-walks"})
    os.replace(partial, path)


class Walks:
    """All walks of a folder (or of some shards) in memory: (R, T, ...) tensors by name. A walk of 25 frames at 128x128
    takes about 1.5 MB."""

    def __init__(self, folder: str | Path | list[Path]) -> None:
        paths = folder if isinstance(folder, list) else sorted(Path(folder).glob("walks-*.safetensors"))
        if not paths:
            raise FileNotFoundError(f"folder: no walks-*.safetensors in {folder}; `mirage-nb train data` writes them")
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
