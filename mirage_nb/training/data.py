"""Training data: walks through procedural rooms, or cut from recordings, in safetensors shards.

A shard is written to a temporary file and renamed, so an interrupted run continues with the first missing shard.
"""

from __future__ import annotations

import atexit
import hashlib
from collections.abc import Sequence
from pathlib import Path

import torch
from accelerate import PartialState
from torch import Tensor, nn
from tqdm.auto import tqdm

from mirage_nb.cameras import Cameras
from mirage_nb.data.clip import Clip
from mirage_nb.data.rooms.room import Room
from mirage_nb.memory.io import load_tensors, save_tensors
from mirage_nb.models.vae import as_pixels

ROOMS_PER_SHARD = 16
FORMAT, NAMES = "mirage-walks", ("frames", "depth", "writable", "c2w", "intrinsics")
HELD_OUT = 900_000  # rooms with this seed or a higher one are for evaluation, never for training
USEFUL_DEPTH = 0.3  # share of a recorded frame's pixels whose depth must be measured


def processes() -> PartialState:
    """The processes that share the work (`accelerate launch`, or `torchrun` without a GPU)."""
    atexit.unregister(_leave_group)
    atexit.register(_leave_group)  # otherwise gloo's threads may abort at the interpreter's end
    return PartialState(cpu=not torch.cuda.is_available())


def _leave_group() -> None:
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def own_share(items: Sequence, title: str):
    """This process's share of some items, with a progress bar in a terminal."""
    state = processes()
    return tqdm(items[state.process_index :: state.num_processes], desc=title, disable=None)


def device_of(model: nn.Module) -> torch.device:
    return next(model.parameters()).device


def write_walks(
    folder: str | Path, rooms: int, num_frames: int = 25, first_seed: int = 0, augmented: bool = False, size: int = 128
) -> None:
    """Render a walk of T frames through each of the rooms `first_seed ... first_seed + rooms - 1`, in shards.

    Shards that exist are left alone. Rooms without a path of this length are left out.

    Args:
        augmented: random surfaces and a handheld camera, see `Room`.
        size: height and width of a frame, in pixels.

    Raises:
        ValueError: the seeds reach into the held-out ones.
    """
    if first_seed < HELD_OUT < first_seed + rooms:
        raise ValueError(f"rooms: seeds from {HELD_OUT} on are held out, {first_seed} + {rooms} reaches them")
    folder, state, end = Path(folder), processes(), first_seed + rooms
    folder.mkdir(parents=True, exist_ok=True)
    for first in own_share(range(first_seed, end, ROOMS_PER_SHARD), folder.name):
        path, walks = folder / f"walks-{first:07d}.safetensors", []
        if path.exists():
            continue
        for seed in range(first, min(first + ROOMS_PER_SHARD, end)):
            room = Room(seed, augmented=augmented)
            try:
                cameras = room.walk(num_frames, size=(size, size))
            except ValueError:  # no path of this length fits into this room
                continue
            walks.append(room.to(state.device).render(cameras))
        _write_shard(path, walks)
    state.wait_for_everyone()


def has_depth(source: str | Path) -> bool:
    """Whether a recording has the layout of 7-Scenes with depth; anything else is read as posed video."""
    return any(Path(source).glob("*.depth.png")) and any(Path(source).glob("*.pose.txt"))


def import_recordings(
    sources: Sequence[str | Path],
    folder: str | Path,
    num_frames: int = 25,
    size: tuple[int, int] = (128, 128),
    depth_model=None,
) -> dict[str, str]:
    """Cut recordings into walks of T frames, one shard per recording. Shards that exist are left alone.

    A recording is RGB-D in the layout of 7-Scenes (`read_rgbd`) or posed video (`read_posed_video`), whose depth is
    estimated and whose poses are scaled to it (`with_estimated_depth`). Frames with hardly any depth split a recording.

    Args:
        depth_model: predicts metres, for posed video.

    Returns:
        For each source "3 walks", or why it was left out.
    """
    folder, report = Path(folder), {}
    folder.mkdir(parents=True, exist_ok=True)
    for source in tqdm(list(dict.fromkeys(map(str, sources))), desc="recordings", disable=None):
        # The name depends on the source's path alone, so another list of sources finds the same shard.
        name = hashlib.sha256(str(Path(source).resolve()).encode()).hexdigest()[:12]
        path = folder / f"walks-r{name}.safetensors"
        try:
            if path.exists():
                count, length = load_tensors(path, FORMAT, NAMES)[0]["c2w"].shape[:2]
                if length != num_frames:
                    raise ValueError(f"{path} holds walks of {length} frames already, not of {num_frames}")
                report[source] = f"{count} walks, there already"
            else:
                walks, note = _recorded_walks(source, num_frames, size, depth_model)
                _write_shard(path, walks)
                report[source] = f"{len(walks)} walks{note}"
        except (ValueError, OSError) as error:
            report[source] = f"left out: {error}"
    return report


def _recorded_walks(source: str, num_frames: int, size: tuple[int, int], depth_model) -> tuple[list[Clip], str]:
    """The walks of a recording and a note on their scale; ValueError or OSError says why there are none."""
    from mirage_nb.data.recordings.pose_scale import with_estimated_depth
    from mirage_nb.data.recordings.posed_video import read_posed_video
    from mirage_nb.data.recordings.rgbd import read_rgbd

    note = ""
    if has_depth(source):
        clip = read_rgbd(source, size)
    else:
        frames, cameras = read_posed_video(source, size)
        if len(frames) < num_frames:
            raise ValueError(f"{source}: expected {num_frames} frames at least, got {len(frames)}")
        if depth_model is None:
            raise ValueError(f"{source}: it has no depth, and there is no depth_model to estimate it")
        clip, scale = with_estimated_depth(frames, cameras, depth_model)
        note = f", {scale}"
    lens = clip.cameras.intrinsics
    if ((lens / lens[0] - 1).abs() > 0.01).any():
        raise ValueError(f"{source}: expected one lens for all frames, the focal length or principal point changes")
    useful = (clip.depth > 0).float().mean((1, 2)) > USEFUL_DEPTH
    walks, first = [], 0
    while first + num_frames <= len(clip.frames):
        part = slice(first, first + num_frames)
        if useful[part].all():
            walks.append(Clip(clip.frames[part], clip.depth[part], clip.cameras[part]))
        first += num_frames if useful[part].all() else 1
    if not walks:
        raise ValueError(f"no {num_frames} frames in a row with measured depth, of {len(clip.frames)}")
    return walks, note


def _write_shard(path: Path, walks: list[Clip]) -> None:
    if not walks:
        return
    masks = [[mask for mask in (walk.moving, walk.sky) if mask is not None] for walk in walks]
    nothing = torch.zeros(walks[0].depth.shape, dtype=torch.bool)
    tensors = {
        "frames": torch.stack([walk.frames for walk in walks]),
        "depth": torch.stack([walk.depth for walk in walks]).half(),
        "writable": torch.stack([~sum(m, nothing) for m in masks]),
        "c2w": torch.stack([walk.cameras.c2w for walk in walks]),
        "intrinsics": torch.stack([walk.cameras.intrinsics[0] for walk in walks]),
    }
    save_tensors(path, FORMAT, tensors, {})


class Walks:
    """All walks of a folder, or of some shards, in memory: (R, T, ...) tensors by name. 25 frames of 128x128 pixels
    take about 1.5 MB.

    `frames` (R, T, H, W, 3) uint8, `depth` (R, T, H, W) float16 metres, `writable` (R, T, H, W) bool (neither moving
    nor sky), `c2w` (R, T, 4, 4), `intrinsics` (R, 4) in pixels.
    """

    def __init__(self, source: str | Path | list[Path]) -> None:
        paths = source if isinstance(source, list) else sorted(Path(source).glob("walks-*.safetensors"))
        if not paths:
            raise FileNotFoundError(f"walks: no walks-*.safetensors in {source}; `mirage-nb train data` writes them")
        shards = [load_tensors(path, FORMAT, NAMES)[0] for path in paths]
        self.tensors = {name: torch.cat([shard[name] for shard in shards]) for name in NAMES}

    def __len__(self) -> int:
        return len(self.tensors["c2w"])

    def __getitem__(self, name: str) -> Tensor:
        return self.tensors[name]

    @property
    def num_frames(self) -> int:
        return self.tensors["c2w"].shape[1]

    def cameras(self, walk: int) -> Cameras:
        """The T cameras of a walk, at pixel size."""
        size = tuple(self.tensors["frames"].shape[2:4])
        return Cameras(self.tensors["c2w"][walk], self.tensors["intrinsics"][walk], size)

    def draw_frames(self, count: int, generator: torch.Generator, part: slice = slice(None)) -> tuple[Tensor, Tensor]:
        """Walk and frame numbers of random frames: this process's part of `count`."""
        walks, frames = (torch.randint(n, (count,), generator=generator) for n in (len(self), self.num_frames))
        return walks[part], frames[part]

    def pixels(self, walk: Tensor, frame: Tensor) -> Tensor:
        """(B, 3, H, W) in [-1, 1] of frame `frame[b]` of walk `walk[b]`."""
        return as_pixels(self.tensors["frames"][walk, frame])
