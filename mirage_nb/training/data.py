"""Training data: walks through procedural rooms, or parts of recordings, once into safetensors shards.

A shard holds a few rooms, one walk of T frames each, with depth, masks and cameras; or the walks of one recording.
Shards are written aside and renamed, so an interrupted run goes on with the first one that is missing.
"""

from __future__ import annotations

import atexit
import hashlib
import multiprocessing
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from mirage_nb.cameras import Cameras
from mirage_nb.data.clip import Clip
from mirage_nb.data.rooms.room import Room
from mirage_nb.stitching import as_pixels

ROOMS_PER_SHARD = 16
HELD_OUT = 900_000  # seeds from here on are never trained on


def processes() -> PartialState:
    """The processes that share the work. Without a GPU accelerate must be told so, or each takes itself to be alone."""
    atexit.unregister(_leave)  # once is enough
    atexit.register(_leave)
    return PartialState(cpu=not torch.cuda.is_available())


def _leave() -> None:
    """Leave the group of processes: threads of gloo that are left to the interpreter's end may abort it."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def device_of(model: nn.Module) -> torch.device:
    """Where a model's weights are."""
    return next(model.parameters()).device


def do_all(work: Callable, tasks: Sequence[tuple], progress: Callable[[], None] = lambda: None) -> None:
    """Call `work(*task)` for every task, and `progress` after each.

    One after another on processors, which share tasks beforehand (`torchrun`). A GPU waits for its processor most of
    the time that such work takes, so there a process for each core does it.
    """
    if not torch.cuda.is_available() or len(tasks) < 2:
        for task in tasks:
            work(*task)
            progress()
        return
    workers = min(len(tasks), os.cpu_count())
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), torch.set_num_threads, (1,)) as pool:
        for done in as_completed([pool.submit(work, *task) for task in tasks]):
            done.result()
            progress()


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


def write_walks(
    folder: str | Path, rooms: int, num_frames: int = 25, first_seed: int = 0, wild: bool = False, every: int = 1,
    size: int = 128, progress=None,
) -> None:  # fmt: skip
    """Render the rooms `first_seed ... first_seed + rooms - 1` into shards in `folder`, leaving out what is there.

    Of several processes (`accelerate launch`, `torchrun`), each takes its share of the shards.

    Args:
        wild: rooms with the surfaces and the motion of recordings, see `Room`.
        every: keep one frame of so many; `num_frames` are kept. Neighbours then show less of the same.
        size: height and width of a frame, in pixels.
        progress: called with the number of rooms after each shard.

    Raises:
        ValueError: the seeds reach into the held-out ones.
    """
    if first_seed < HELD_OUT and first_seed + rooms > HELD_OUT:
        raise ValueError(f"rooms: seeds from {HELD_OUT} on are held out, {first_seed} + {rooms} reaches them")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    state, tasks, done = processes(), [], 0
    for index, first in enumerate(range(first_seed, first_seed + rooms, ROOMS_PER_SHARD)):
        path, seeds = folder / f"walks-{first:07d}.safetensors", range(first, first + ROOMS_PER_SHARD)
        if index % state.num_processes == state.process_index and not path.exists():
            tasks.append((path, seeds[: first_seed + rooms - first], num_frames, wild, every, size))

    def written() -> None:
        nonlocal done
        done += ROOMS_PER_SHARD * state.num_processes
        progress(min(done, rooms))

    if progress:
        done = rooms - ROOMS_PER_SHARD * len(tasks) * state.num_processes
    do_all(_render_shard, tasks, written if progress else lambda: None)
    state.wait_for_everyone()


def _render_shard(path: Path, seeds: Sequence[int], num_frames: int, wild: bool, every: int, size: int) -> None:
    walks, gpu = [], torch.cuda.is_available()
    for seed in seeds:
        room = Room(seed, wild=wild)
        try:
            cameras = room.walk((num_frames - 1) * every + 1, size=(size, size))
        except ValueError:  # a room so full that no path of this length fits into it
            continue
        kept = torch.arange(0, len(cameras), every)
        if gpu:
            walks.append(as_walk(room.to("cuda").render(cameras[kept], kept, chunk=num_frames)))
        else:
            walks.append(as_walk(room.render(cameras[kept], kept)))
    _write_shard(path, walks)


def has_depth(source: str | Path) -> bool:
    """Whether a recording is in the layout of 7-Scenes with depth; what isn't is taken for posed video."""
    return any(Path(source).glob("*.depth.png")) and any(Path(source).glob("*.pose.txt"))


def import_recordings(
    sources: Sequence[str | Path],
    folder: str | Path,
    num_frames: int = 25,
    size: tuple[int, int] = (128, 128),
    depth_model=None,
    progress: Callable[[int], None] | None = None,
) -> dict[str, str]:
    """Cut recordings into walks of T frames, a shard a recording, leaving alone the shards that are there.

    A recording is RGB-D in the layout of 7-Scenes (`read_rgbd`), or posed video (`read_posed_video`), whose depth is
    estimated and whose poses are brought to it (`with_estimated_depth`). Frames whose depth is unknown almost
    everywhere split a recording. What does not fit is left out. Of several processes (`accelerate launch`, `torchrun`),
    each takes its share of the recordings.

    Args:
        depth_model: a metric one, for video; see `with_estimated_depth`.
        progress: called with the number of recordings after each.

    Returns:
        What became of each source: "3 walks", or why there are none. All processes get the whole.
    """
    folder, state, report = Path(folder), processes(), {}
    folder.mkdir(parents=True, exist_ok=True)
    sources = list(dict.fromkeys(map(str, sources)))
    for index, source in enumerate(sources):
        if index % state.num_processes == state.process_index:
            # Named after the place, so that another list of sources finds it again.
            place = hashlib.sha256(str(Path(source).resolve()).encode()).hexdigest()[:12]
            path = folder / f"walks-r{place}.safetensors"
            try:
                if path.exists():
                    with safe_open(path, "pt") as file:
                        count, length = file.get_slice("c2w").get_shape()[:2]
                    if length != num_frames:
                        raise ValueError(f"{path} holds walks of {length} frames already, not of {num_frames}")
                    report[source] = f"{count} walks, there already"
                else:
                    walks, note = _recorded_walks(source, num_frames, size, depth_model)
                    _write_shard(path, walks)
                    report[source] = f"{len(walks)} walks{note}"
            except (ValueError, OSError) as error:
                report[source] = f"left out: {error}"
        if progress:
            progress(index + 1)
    whole = {source: told for source, told in gather_object(list(report.items()))}
    return {source: whole[source] for source in sources}


def _recorded_walks(source: str, num_frames: int, size, depth_model) -> tuple[list[dict[str, Tensor]], str]:
    """The walks of a recording, and what to note of them.

    Raises:
        ValueError, OSError: why there are none.
    """
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
    if ((lens / lens[0] - 1).abs() > 0.01).any():  # a walk has one
        raise ValueError(f"{source}: expected one lens for all frames, the focal length or principal point changes")
    useful = (clip.depth > 0).float().mean((1, 2)) > 0.3
    walks, first = [], 0
    while first + num_frames <= len(clip.frames):
        if useful[first : first + num_frames].all():
            part = slice(first, first + num_frames)
            walks.append(as_walk(Clip(clip.frames[part], clip.depth[part], clip.cameras[part])))
            first += num_frames
        else:
            first += 1
    if not walks:
        raise ValueError(f"no {num_frames} frames in a row with known depth, of {len(clip.frames)}")
    return walks, note


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
