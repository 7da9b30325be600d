"""What a memory is worth, in figures: PSNR, SSIM, closed loops, and the held-out rooms walked with and without it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor

from mirage_nb.cameras import Cameras
from mirage_nb.data.clip import Clip
from mirage_nb.data.rooms.room import Room
from mirage_nb.lifting import cells
from mirage_nb.memory.baselines import make_memory
from mirage_nb.models.vae import as_pixels, as_uint8, decode, encode, frame_encoder, precision, spatial_stride
from mirage_nb.stitching import new_frames_per_segment, plan_segments, rollout

METRICS = (
    "closed_loop_psnr", "revisit_psnr", "psnr_to_truth", "psnr_to_truth_covered", "ssim", "gradient_energy",
    "colour_drift",
)  # fmt: skip


def psnr(a: Tensor, b: Tensor, where: Tensor | None = None) -> Tensor:
    """PSNR in dB of pictures (..., H, W, 3) uint8, one a picture; infinite where they are equal.

    Args:
        where: (..., H, W) bool, the pixels that count; NaN for a picture in which none does.
    """
    error = ((a.float() - b.float()) / 255).square().mean(-1)
    where = torch.ones_like(error, dtype=torch.bool) if where is None else where
    return -10 * torch.log10((error * where).sum((-1, -2)) / where.sum((-1, -2)))


def ssim(a: Tensor, b: Tensor) -> float:
    """Mean SSIM (scikit-image, its defaults) of frames (T, H, W, 3) uint8."""
    from skimage.metrics import structural_similarity

    return float(np.mean([structural_similarity(x, y, channel_axis=-1) for x, y in zip(a.numpy(), b.numpy())]))


def closed_loop_psnr(frames: Tensor) -> float:
    """PSNR in dB of the last frame of (T, H, W, 3) against the first: how well a room is still the same."""
    return psnr(frames[-1], frames[0]).item()


def revisit_psnr(frames: Tensor, lag: int = 40) -> float:
    """PSNR in dB of a *generated* view against the same view `lag` frames later, on a path there and back.

    Of T frames, frame i and frame T - 1 - i have the same camera; those compared are the ones just `lag` frames apart.
    NaN where the video is too short for it.
    """
    first = (len(frames) - 1 - lag) // 2
    return psnr(frames[first], frames[len(frames) - 1 - first]).item() if first >= 1 else math.nan


def gradient_energy(frames: Tensor, truth: Tensor) -> float:
    """Mean absolute difference of neighbouring pixels in the generated frames over that in the true ones: 1 is as
    sharp as the truth, and fog is far below. The first frame, which was given, does not count."""

    def energy(x: Tensor) -> float:
        x = x[1:].float()
        return (x.diff(dim=1).abs().mean() + x.diff(dim=2).abs().mean()).item()

    return energy(frames) / max(energy(truth), 1e-9)


def colour_drift(frames: Tensor) -> float:
    """Largest relative change of a channel's mean from the first frame to the last."""
    first, last = (f.float().mean((0, 1)) for f in (frames[0], frames[-1]))
    return ((last - first).abs() / first.clamp(min=1)).max().item()


def measure(frames: Tensor, truth: Tensor, covered: Tensor | None = None, lag: int = 40) -> dict[str, float]:
    """All figures of one video (T, H, W, 3) on a path there and back; `covered` (T, H, W): what memory showed."""
    to_truth = psnr(frames[1:], truth[1:])
    figures = {
        "closed_loop_psnr": closed_loop_psnr(frames),
        "revisit_psnr": revisit_psnr(frames, lag),
        "psnr_to_truth": to_truth.mean().item(),
        "ssim": ssim(frames[1:], truth[1:]),
        "gradient_energy": gradient_energy(frames, truth),
        "colour_drift": colour_drift(frames),
    }
    figures["psnr_to_truth_covered"] = (
        psnr(frames[1:], truth[1:], covered[1:]).nanmean().item() if covered is not None else math.nan
    )
    return figures


def summary(values: Iterable[float]) -> dict[str, float]:
    """Mean and half width of its 95% interval (normal approximation), leaving out what is not a number."""
    x = np.array([v for v in values if math.isfinite(v)], dtype=float)
    if not len(x):
        return {"mean": math.nan, "ci95": math.nan}
    half = 1.96 * x.std(ddof=1) / math.sqrt(len(x)) if len(x) > 1 else math.nan
    return {"mean": float(x.mean()), "ci95": float(half)}


def there_and_back_room(seed: int, num_frames: int, size: tuple[int, int] = (128, 128)) -> Clip:
    """A room's walk out and the same way back, with the truth. Time stands still: the truth is a closed loop."""
    if num_frames % 2 == 0:
        raise ValueError(f"num_frames: a path there and back has an odd number of frames, got {num_frames}")
    room, half = Room(seed), num_frames // 2 + 1
    out = room.walk(half, size=size)
    clip = room.render(out, times=torch.zeros(half))
    back = list(range(half)) + list(range(half - 2, -1, -1))
    return Clip(clip.frames[back], clip.depth[back], out[back], clip.moving[back], clip.sky[back])


def as_pixel_mask(visibility: Tensor, frames: Tensor) -> Tensor:
    """What the memory showed, (t, h, w) a latent frame, as (T, H, W) bool for frames (T, H, W, 3).

    A latent frame stands for all pixel frames since the one before it.
    """
    each = (len(frames) - 1) // max(1, len(visibility) - 1)
    seen = torch.cat([visibility[:1], visibility[1:].repeat_interleave(each, 0)])
    cell = frames.shape[1] // visibility.shape[1]
    return seen.repeat_interleave(cell, 1).repeat_interleave(cell, 2)


def ghosts(memory, cameras: Cameras, moving: Tensor) -> Tensor:
    """Which tokens show something that moved: (P,) bool. Such a token stays where the thing no longer is.

    A token counts if most of the cell that it was lifted from was moving, in the frame that wrote it.

    Args:
        memory: a `LatentGrid` that wrote the T frames in order, one a write or more.
        cameras: T, at pixel size. moving: (T, H, W) bool, the truth.
    """
    share = cells(moving, memory.stride).float().mean(-1)
    found = torch.zeros(len(memory), dtype=torch.bool)
    for frame in memory.written.unique().tolist():
        mine = (memory.written == frame).cpu()
        uv, _ = cameras[frame].project(memory.positions[mine].cpu())
        column, row = (uv[0] / memory.stride).floor().long().unbind(1)
        h, w = share.shape[1:]
        found[mine] = share[frame, row.clamp(0, h - 1), column.clamp(0, w - 1)] > 0.5
    return found


@torch.no_grad()
def measure_parts(pipe, clip: Clip, every: int = 8) -> dict[str, float]:
    """What the VAE and the depth network are worth alone, on some true frames of a clip.

    Returns:
        `vae_psnr`: dB of frames encoded and decoded. `depth_absrel`: mean |estimated - true| / true where known;
        NaN where the pipeline has no depth network.
    """
    frames, depth = clip.frames[::every], clip.depth[::every]
    pixels = as_pixels(frames)
    with precision(pipe.vae, pixels.device):
        again = decode(pipe.vae, encode(pipe.vae, pixels[:, :, None]))[:, :, 0]
    figures = {"vae_psnr": psnr(as_uint8(again), frames).mean().item(), "depth_absrel": math.nan}
    if pipe.depth_estimator is not None:
        error = (pipe.depth_estimator.predict(pixels, clip.cameras.intrinsics[::every]) - depth).abs() / depth
        figures["depth_absrel"] = error[depth > 0].mean().item()
    return figures


def evaluate_rooms(
    pipe,
    seeds: Sequence[int],
    num_frames: int = 49,
    memories: Sequence[str] | Mapping[str, Callable[[], object]] = ("latent", "rgb", "none"),
    *,
    num_inference_steps: int = 2,
    true_depth: bool = False,
    batch: int = 16,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[dict, dict[int, dict[str, Tensor]]]:
    """Walk the same rooms, along the same paths there and back, from the same noise, with each memory.

    Args:
        pipe: a `MiragePipeline`.
        seeds: of rooms; use held-out ones.
        memories: names that `make_memory` knows; or names of one's own, each with what makes an empty memory.
        true_depth: give the exact depth of every frame instead of asking the depth network. The truth's depth fits the
            generated picture only where that is right, so this is an upper bound for the geometry, not a fair rival.
        batch: rooms generated at once.
        progress: called with segments done and segments in all.

    Returns:
        A report, `methods.NAME.METRIC.{mean,ci95}`, `parts.NAME.{mean,ci95}` (`measure_parts`) and
        `rooms.SEED.NAME.METRIC`, and the videos,
        {seed: {"truth": (T, H, W, 3), NAME: ...}}.
    """
    stride, lag = spatial_stride(pipe.vae), max(40, (num_frames - 2) // 40 * 40)  # 80 frames where the walk is long
    segments = len(plan_segments(num_frames, new_frames_per_segment(pipe), 1))
    groups = [list(seeds[i : i + batch]) for i in range(0, len(seeds), batch)]
    total, count = segments * len(groups) * len(memories), 0
    figures: dict[str, dict[int, dict[str, float]]] = {name: {} for name in memories}
    videos: dict[int, dict[str, Tensor]] = {}
    parts: list[dict[str, float]] = []
    for group in groups:
        clips = [there_and_back_room(seed, num_frames) for seed in group]
        for seed, clip in zip(group, clips):
            videos[seed] = {"truth": clip.frames}
            parts.append(measure_parts(pipe, clip))
        for name in memories:
            options = dict(stride=stride, channels=int(pipe.vae.config.z_dim))
            named = partial(make_memory, name, frame_encoder(pipe.vae), **options)
            make = memories[name] if isinstance(memories, Mapping) else named
            stores = [make() for _ in group]
            depth = torch.stack([c.depth for c in clips]) if true_depth else None
            results = []
            for result in rollout(
                pipe, stores, torch.stack([c.frames[0] for c in clips]), [c.cameras for c in clips], seeds=group,
                num_inference_steps=num_inference_steps, depth=depth, **pipe.beside,
            ):  # fmt: skip
                results.append(result)
                count += 1
                if progress:
                    progress(count, total)
            frames = torch.cat([r.frames for r in results], 1)
            seconds = np.mean([sum(r.seconds.values()) for r in results]) / len(group)
            for scene, (seed, clip) in enumerate(zip(group, clips)):
                seen = torch.cat([r.visibility[scene] for r in results])
                covered = as_pixel_mask(seen, frames[scene])
                videos[seed][name] = frames[scene]
                costs = {"seconds_per_segment": seconds, "bytes": stores[scene].nbytes, "tokens": len(stores[scene])}
                costs = {key: float(value) for key, value in costs.items()}
                figures[name][seed] = measure(frames[scene], clip.frames, covered, lag) | costs
    columns = (*METRICS, "seconds_per_segment", "bytes", "tokens")
    methods = {name: {m: summary(f[m] for f in rooms.values()) for m in columns} for name, rooms in figures.items()}
    settings = dict(
        seeds=list(seeds),
        frames=num_frames,
        num_inference_steps=num_inference_steps,
        true_depth=true_depth,
        revisit_lag=lag,
    )
    rooms = {str(seed): {name: figures[name][seed] for name in memories} for seed in videos}
    alone = {name: summary(part[name] for part in parts) for name in parts[0]}
    return {"settings": settings, "methods": methods, "parts": alone, "rooms": rooms}, videos


def evaluate_recording(
    pipe,
    clip: Clip,
    memories: Sequence[str] = ("latent", "none"),
    *,
    seeds: Sequence[int] = range(4),
    num_inference_steps: int = 2,
    given_depth: bool = True,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[dict, dict[str, Tensor]]:
    """Walk the path of a real recording from its first frame, with each memory, and compare with what was recorded.

    Args:
        memories: the first one says which cells are remembered; all are compared there, too.
        seeds: of the noise; the figures' intervals are over them.
        given_depth: use the recorded depth of every frame, else that of the first one alone.

    Returns:
        A report, `methods.NAME.{psnr_to_truth,psnr_remembered}.{mean,ci95}` in dB, the share of pixels `remembered`,
        and the videos of the first seed, {"recorded": (T, H, W, 3), NAME: ...}.
    """
    options = dict(stride=spatial_stride(pipe.vae), channels=int(pipe.vae.config.z_dim))
    depth, videos = clip.depth if given_depth else clip.depth[:1], {"recorded": clip.frames}
    figures: dict[str, list[dict[str, float]]] = {name: [] for name in memories}
    shares, count = [], 0
    for seed in seeds:
        for name in memories:
            store = make_memory(name, frame_encoder(pipe.vae), **options)
            results = list(rollout(
                pipe, [store], clip.frames[:1], [clip.cameras], seeds=[seed], depth=depth[None],
                num_inference_steps=num_inference_steps, **pipe.beside,
            ))  # fmt: skip
            frames = torch.cat([r.frames for r in results], 1)[0]
            if name == memories[0]:
                remembered = as_pixel_mask(torch.cat([r.visibility[0] for r in results]), frames)
                shares.append(remembered[1:].float().mean().item())
            videos.setdefault(name, frames)
            each = (psnr(frames[1:], clip.frames[1:], where) for where in (None, remembered[1:]))
            figures[name].append(dict(zip(("psnr_to_truth", "psnr_remembered"), (e.nanmean().item() for e in each))))
            count += 1
            if progress:
                progress(count, len(seeds) * len(memories))
    methods = {name: {key: summary(row[key] for row in rows) for key in rows[0]} for name, rows in figures.items()}
    settings = dict(frames=len(clip.frames), seeds=list(seeds), given_depth=given_depth)
    return {"settings": settings, "methods": methods, "remembered": sum(shares) / len(shares)}, videos


def best_median_worst(report: dict, name: str) -> dict[str, int]:
    """Seeds of the rooms whose loop closes best, middling and worst with one memory."""
    order = sorted(report["rooms"], key=lambda seed: report["rooms"][seed][name]["closed_loop_psnr"])
    return {"best": int(order[-1]), "median": int(order[len(order) // 2]), "worst": int(order[0])}
