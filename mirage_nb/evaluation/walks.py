"""Walks of held-out rooms and of real recordings, with several methods from equal inputs."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import partial
from itertools import product

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from mirage_nb.cameras import Cameras
from mirage_nb.checks import one_of
from mirage_nb.data.clip import Clip
from mirage_nb.data.rooms.room import Room
from mirage_nb.depth_alignment import NO_SCALE
from mirage_nb.evaluation.metrics import as_pixel_mask, mean_psnr, measure, summaries
from mirage_nb.extras.densify import densify
from mirage_nb.memory import MEMORIES, Memory, make_memory
from mirage_nb.models.vae import as_pixels, frame_encoder, spatial_stride
from mirage_nb.stitching import SegmentResult, rollout

SCALE = 2  # the RGB memory gets the first frame at so many times its size


@dataclass(frozen=True)
class Method:
    """One thing to compare. `prepare` writes to the empty memory before the walk; it gets the memory, the given image
    (H, W, 3) uint8, its depth (H, W) in metres, and its camera."""

    make_memory: Callable[[], Memory]
    prepare: Callable[[Memory, Tensor, Tensor, Cameras], object] | None = None
    options: Mapping = field(default_factory=dict)  # of `MiragePipeline.video_model`, beside the pipeline's own


METHODS = (*MEMORIES, "finest", "average", "densified")


def methods_by_name(pipe, names: Sequence[str]) -> dict[str, Method]:
    """Methods by name, of METHODS: the memories of `make_memory`, the policies of `LatentGrid`, and "densified", the
    latent memory that begins with `densify`. The RGB memories begin with the first frame at twice its size.
    "NAME:CONDITIONING" says how the generator gets it: branch, guidance or both. ValueError for other names.
    """
    encode = frame_encoder(pipe.vae)
    prepare = {"densified": densify, "rgb": write_enlarged, "rgb_capped": write_enlarged}
    options = dict(stride=spatial_stride(pipe.vae), channels=pipe.vae.config.z_dim)

    def method(name: str) -> Method:
        name, _, conditioning = name.partition(":")
        one_of("memory", name, METHODS)
        policy = {"policy": name} if name in ("finest", "average") else {}
        memory = partial(make_memory, name if name in MEMORIES else "latent", encode, **options, **policy)
        start = partial(prepare[name], encode=encode) if name in prepare else None
        return Method(memory, start, {"conditioning": conditioning or None})

    return {name: method(name) for name in names}


def write_enlarged(memory: Memory, image: Tensor, depth: Tensor, camera: Cameras, encode: Callable) -> None:
    """Write an image (H, W, 3) and its depth (H, W) at twice their size, to have points between the pixels."""
    large = interpolate(as_pixels(image)[None], scale_factor=SCALE, mode="bicubic").clamp(-1, 1)
    depth = depth.repeat_interleave(SCALE, 0).repeat_interleave(SCALE, 1)  # nearest: no depth is mixed across an edge
    memory.write(encode(large), depth[None], camera.resize(tuple(large.shape[2:])), frames=large, time=0)


@dataclass(frozen=True)
class Walk:
    """What `walk` generated for B scenes: the memories at its end, and the results of all segments."""

    memories: list
    segments: list[SegmentResult]

    @property
    def frames(self) -> Tensor:
        """(B, T, H, W, 3) uint8"""
        return torch.cat([segment.frames for segment in self.segments], 1)

    def covered(self, scene: int) -> Tensor:
        """(T, H, W) bool: pixels of a scene that the memory showed."""
        visibility = torch.cat([segment.visibility[scene] for segment in self.segments])
        return as_pixel_mask(visibility, self.frames[scene])


@torch.no_grad()
def walk(
    pipe, method: Method, clips: Sequence[Clip], seeds: Sequence[int], *, steps: int = 2, depth: Tensor | None = None
) -> Walk:
    """Walk the paths of B clips of one length, each from the clip's first frame, with B seeds of the noise and so many
    denoising steps a segment. Depth is in metres, (B, T, H, W) of all frames or (B, 1, H, W) of the first ones; by
    default it is estimated."""
    memories = [method.make_memory() for _ in clips]
    image = torch.stack([clip.frames[0] for clip in clips])
    model = pipe.video_model(num_inference_steps=steps, **method.options)
    if method.prepare is not None:
        given, cameras = image.to(model.device), Cameras.cat([c.cameras[[0]] for c in clips]).to(model.device)
        if depth is None:  # rollout gets it as well, so that the image has one depth
            if pipe.depth_estimator.relative:
                raise ValueError(NO_SCALE)
            depth = pipe.depth_estimator.predict(as_pixels(given), cameras.intrinsics)[:, None]
        for each in zip(memories, given, depth[:, 0].to(model.device), cameras):
            method.prepare(*each)
    segments = rollout(model, memories, image, [clip.cameras for clip in clips], seeds=list(seeds), depth=depth)
    return Walk(memories, list(segments))


def there_and_back_room(seed: int, num_frames: int, size: tuple[int, int] = (128, 128)) -> Clip:
    """The true walk through a room, out and back the same way. Nothing moves, so the truth is a closed loop."""
    if num_frames % 2 == 0:
        raise ValueError(f"num_frames: a path there and back has an odd number of frames, got {num_frames}")
    room, half = Room(seed), num_frames // 2 + 1
    clip = room.render(room.walk(half, size=size), times=torch.zeros(half))
    back = [*range(half), *range(half - 2, -1, -1)]
    return Clip(*(getattr(clip, field.name)[back] for field in fields(clip)))


def evaluate_rooms(
    pipe, seeds: Sequence[int], num_frames: int = 49,
    methods: Sequence[str] | Mapping[str, Method] = ("latent", "rgb", "none"), *, num_inference_steps: int = 2,
    batch: int = 16, track: Callable[[Iterable], Iterable] = iter,
) -> tuple[dict, dict[int, dict[str, Tensor]]]:  # fmt: skip
    """Walk the same rooms, along the same paths there and back, from the same noise, with each method.

    Args:
        seeds: of the rooms and of their noise; those from 900000 on were never trained on.
        methods: names of memories (`make_memory`), or methods of one's own by name.
        batch: rooms generated at once; `track` goes through the walks, for example with a progress bar.

    Returns:
        A report, `methods.NAME.METRIC.{mean,ci95}` and `rooms.SEED.NAME.METRIC`; and the videos,
        {seed: {"truth": (T, H, W, 3), NAME: ...}}.
    """
    methods = methods if isinstance(methods, Mapping) else methods_by_name(pipe, methods)
    lag = max(40, (num_frames - 2) // 40 * 40)  # 40 frames, as the paper's chunks; 80 where the walk is long
    clips = {seed: there_and_back_room(seed, num_frames) for seed in seeds}
    videos, figures = {seed: {"truth": clip.frames} for seed, clip in clips.items()}, {seed: {} for seed in seeds}
    groups = [list(seeds[i : i + batch]) for i in range(0, len(seeds), batch)]
    for group, (name, method) in track(list(product(groups, methods.items()))):
        walked = walk(pipe, method, [clips[seed] for seed in group], group, steps=num_inference_steps)
        for scene, (seed, memory) in enumerate(zip(group, walked.memories)):
            frames = videos[seed][name] = walked.frames[scene]
            figures[seed][name] = measure(frames, clips[seed].frames, walked.covered(scene), lag) | {
                "bytes": float(memory.nbytes), "tokens": float(len(memory)),
            }  # fmt: skip
    means = {name: summaries([room[name] for room in figures.values()]) for name in methods}
    settings = dict(seeds=list(seeds), frames=num_frames, num_inference_steps=num_inference_steps, revisit_lag=lag)
    return {"settings": settings, "methods": means, "rooms": {str(s): room for s, room in figures.items()}}, videos


def evaluate_recording(
    pipe, clip: Clip, memories: Sequence[str] = ("latent", "none"), *, seeds: Sequence[int] = range(4),
    num_inference_steps: int = 2, track: Callable[[Iterable], Iterable] = iter,
) -> tuple[dict, dict[str, Tensor]]:  # fmt: skip
    """Walk the path of a recording with each memory and the recorded depth, once for each noise.

    Args:
        memories: names; `psnr_to_truth_covered` of all of them is measured at the pixels that the first one shows.
        seeds: of the noise. The report's intervals are over them, and `track` goes through them.

    Returns:
        A report, `methods.NAME.METRIC.{mean,ci95}` of `psnr_to_truth` and `psnr_to_truth_covered` in dB, and the share
        of `covered` pixels; and the videos of the first seed, {"recorded": (T, H, W, 3), NAME: ...}.
    """
    methods = methods_by_name(pipe, memories)
    figures, videos, shares = {name: [] for name in methods}, {"recorded": clip.frames}, []
    for seed in track(seeds):
        for name, method in methods.items():
            walked = walk(pipe, method, [clip], [seed], steps=num_inference_steps, depth=clip.depth[None])
            videos.setdefault(name, walked.frames[0])
            if name == memories[0]:
                covered = walked.covered(0)
                shares.append(covered[1:].float().mean().item())
            whole, part = (mean_psnr(walked.frames[0], clip.frames, where) for where in (None, covered))
            figures[name].append({"psnr_to_truth": whole, "psnr_to_truth_covered": part})
    means = {name: summaries(rows) for name, rows in figures.items()}
    settings = dict(frames=len(clip.frames), seeds=list(seeds))
    return {"settings": settings, "methods": means, "covered": sum(shares) / len(shares)}, videos
