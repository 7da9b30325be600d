"""Training data: walks through procedural rooms, or cut from recordings, in safetensors shards.

A shard has its name only when it is whole, so an interrupted run continues with the first missing one.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from mirage_nb.cameras import Cameras
from mirage_nb.data.clip import Clip
from mirage_nb.data.recordings import load_recording, read_rgbd
from mirage_nb.data.rooms.room import Room
from mirage_nb.files import remove_stale
from mirage_nb.memory.io import is_whole, load_tensors, save_tensors
from mirage_nb.models.vae import as_pixels

ROOMS_PER_SHARD = 16
FORMAT = "mirage-walks"
LAYOUT = {
    "frames": "uint8 R T H W 3", "depth": "~float16 R T H W", "moving": "bool R T H W", "c2w": "float32 R T 4 4",
    "intrinsics": "float32 R T 4",
}  # fmt: skip
HELD_OUT = 900_000  # rooms with this seed or a higher one are for evaluation, never for training
USEFUL_DEPTH = 0.3  # share of a recorded frame's pixels whose depth must be measured: most of a memory's cells


def write_walks(folder: str | Path, rooms: int, num_frames: int = 25, first_seed: int = 0, size: int = 128) -> None:
    """Render a walk of T frames, `size` x `size` pixels, through each of the rooms `first_seed ... + rooms - 1`.

    Shards that exist are left alone. Rooms without a path of this length are left out.
    """
    if first_seed < HELD_OUT < first_seed + rooms:
        raise ValueError(f"rooms: seeds from {HELD_OUT} on are held out, {first_seed} + {rooms} reaches them")
    folder, end = Path(folder), first_seed + rooms
    folder.mkdir(parents=True, exist_ok=True)
    remove_stale(folder)
    for first in tqdm(range(first_seed, end, ROOMS_PER_SHARD), desc=folder.name, disable=None):
        path, walks = folder / f"walks-{first:07d}.safetensors", []
        for seed in range(first, min(first + ROOMS_PER_SHARD, end)) if not is_whole(path) else ():
            room = Room(seed)
            try:
                cameras = room.walk(num_frames, size=(size, size))
            except ValueError:  # no path of this length fits into this room
                continue
            walks.append(room.render(cameras))
        if walks:
            _write_shard(path, walks)


def import_recordings(
    sources: Sequence[str], folder: str | Path, num_frames: int = 25, size: tuple[int, int] = (128, 128)
) -> dict[str, str]:
    """Cut RGB-D recordings (`read_rgbd`) into walks of T frames, one shard per recording. Shards that exist are left
    alone. The report says "3 walks" for each source, or why it was left out.
    """
    folder, report = Path(folder), {}
    folder.mkdir(parents=True, exist_ok=True)
    remove_stale(folder)
    for source in map(str, sources):
        # The name depends on the source's path alone, so another list of sources finds the same shard.
        name = hashlib.sha256(str(Path(source).resolve()).encode()).hexdigest()[:12]
        path = folder / f"walks-{name}.safetensors"
        try:
            if not is_whole(path):
                _write_shard(path, _recorded_walks(source, num_frames, size))
            report[source] = f"{len(Walks(path))} walks"
        except (ValueError, OSError) as error:
            report[source] = f"left out: {error}"
    return report


def _recorded_walks(source: str, num_frames: int, size: tuple[int, int]) -> list[Clip]:
    """The recording in pieces of equal length, without those that have a frame with hardly any depth."""
    if not load_recording(source).depths:
        raise ValueError("it has no depth, which walks to learn from need")
    clip = read_rgbd(source, size)
    useful = (clip.depth > 0).float().mean((1, 2)) > USEFUL_DEPTH
    parts = [slice(first, first + num_frames) for first in range(0, len(useful) - num_frames + 1, num_frames)]
    walks = [Clip(clip.frames[part], clip.depth[part], clip.cameras[part]) for part in parts if useful[part].all()]
    if not walks:
        raise ValueError(f"{source}: no {num_frames} frames in a row with measured depth, of {len(useful)}")
    return walks


def _write_shard(path: Path, walks: list[Clip]) -> None:
    still = torch.zeros(walks[0].depth.shape, dtype=torch.bool)
    moving = [still if walk.moving is None else walk.moving for walk in walks]
    rows = [(w.frames, w.depth.half(), m, w.cameras.c2w, w.cameras.intrinsics) for w, m in zip(walks, moving)]
    save_tensors(path, FORMAT, dict(zip(LAYOUT, map(torch.stack, zip(*rows)))), {})


class Walks:
    """All walks of a folder, or of one shard, in memory. 25 frames of 128 x 128 pixels take 2.5 MB.

    Tensors by name: `frames` (R, T, H, W, 3) uint8, `depth` (R, T, H, W) float16 metres (0 = unknown, the sky too),
    `moving` (R, T, H, W) bool, `c2w` (R, T, 4, 4), `intrinsics` (R, T, 4) in pixels.
    """

    def __init__(self, source: str | Path) -> None:
        paths = [Path(source)] if Path(source).is_file() else sorted(Path(source).glob("walks-*.safetensors"))
        if not paths:
            raise FileNotFoundError(f"walks: no walks-*.safetensors in {source}; `mirage-nb train data` writes them")
        shards = [load_tensors(path, FORMAT, LAYOUT)[0] for path in paths if is_whole(path)]
        if len({shard["depth"].shape[1:] for shard in shards}) != 1:
            raise ValueError(f"walks: expected one length and one frame size in {source}")
        self.tensors = {name: torch.cat([shard[name] for shard in shards]) for name in LAYOUT}

    def __len__(self) -> int:
        return len(self["c2w"])

    def __getitem__(self, name: str) -> Tensor:
        return self.tensors[name]

    def cameras(self, walk: int) -> Cameras:
        """The T cameras of a walk, at pixel size."""
        return Cameras(self["c2w"][walk], self["intrinsics"][walk], tuple(self["frames"].shape[2:4]))

    def draw_frames(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Walk and frame numbers of random frames."""
        return tuple(torch.randint(n, (count,), generator=generator) for n in self["c2w"].shape[:2])

    def pixels(self, walk: Tensor | int, frame: Tensor | slice) -> Tensor:
        """(B, 3, H, W) in [-1, 1] of frame `frame[b]` of walk `walk[b]`."""
        return as_pixels(self["frames"][walk, frame])
