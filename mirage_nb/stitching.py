"""Stage 5, segment stitching: a long video, one segment at a time, with the memory between them.

For each segment: read the memory for its cameras, denoise with the first latent frame clean (the last one of the
segment before), decode, find the depth, mask, lift and write; then the next one. What is written are the generated
latents themselves. They are never rendered and encoded again, which is the point of the paper.

The generator and the memory are known here only by what they can do, so that any of them can be swapped.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from mirage_nb.cameras import Cameras
from mirage_nb.lifting import depth_to_latent
from mirage_nb.masking import writable
from mirage_nb.models.control import memory_control
from mirage_nb.models.vae import decode, encode, spatial_stride, temporal_stride
from mirage_nb.reprojection import Readout
from mirage_nb.segments import plan_segments, segment_noise

STAGES = ("read", "denoise", "decode", "depth", "write")
MIN_OVERLAP = 0.02  # share of a frame's cells that the memory must show before their depth says anything of scale


@dataclass(frozen=True)
class SegmentResult:
    """What one segment made, for B scenes. Joined along their time, the results of all segments are the whole video.

    Attributes:
        index: which segment, from 0.
        frames: (B, T, H, W, 3) uint8, the new frames. The first segment begins with the given image.
        latents: (B, C, t, h, w) float32, the new latents, those of the given image first.
        depth: (B, t, H, W) z-depth in metres of the new latent frames, as it was written.
        readouts: B of them, what the memory showed for this segment's latent frames, the overlap included.
        seconds: of read, denoise, decode, depth and write, for all scenes together.
        tokens: B counts, how many tokens each memory holds after this segment.
    """

    index: int
    frames: Tensor
    latents: Tensor
    depth: Tensor
    readouts: list[Readout]
    seconds: dict[str, float]
    tokens: list[int]

    @property
    def visibility(self) -> Tensor:
        """(B, t, h, w) bool: which cells of the new latent frames the memory showed. The given image counts as none."""
        seen = torch.stack([readout.visibility for readout in self.readouts])
        return torch.cat([torch.zeros_like(seen[:, :1]), seen[:, 1:]], 1) if self.index == 0 else seen[:, 1:]


def new_frames_per_segment(models) -> int:
    """Pixel frames that a segment of this model adds."""
    return (models.transformer.config.segment_latent_frames - 1) * temporal_stride(models.vae)


def align_scale(depth: Tensor, readout_depth: Tensor, visible: Tensor) -> Tensor:
    """The factor (N,) by which an estimated depth fits the memory's: the median of their ratios, in the logarithm.

    A network knows the shape of what it sees better than its scale. Where the memory shows too little, it is 1.

    Args:
        depth: (N, H, W) per pixel or (N, h, w) per cell, estimated.
        readout_depth, visible: (N, h, w), what the memory shows to the same cameras.
    """
    depth = depth_to_latent(depth, depth.shape[1] // readout_depth.shape[1])
    scales = torch.ones(len(depth), device=depth.device)
    for index, (estimated, remembered, seen) in enumerate(zip(depth, readout_depth, visible)):
        both = seen & (estimated > 0) & (remembered > 0)
        if both.sum() >= max(1, MIN_OVERLAP * both.numel()):
            scales[index] = (remembered[both].log() - estimated[both].log()).median().exp()
    return scales


def as_pixels(frames: Tensor) -> Tensor:
    """uint8 (..., H, W, 3) to float (..., 3, H, W) in [-1, 1]."""
    return frames.movedim(-1, -3).float() / 127.5 - 1


def as_frames(pixels: Tensor) -> Tensor:
    """Float (..., 3, H, W) in [-1, 1] to uint8 (..., H, W, 3)."""
    return ((pixels.clamp(-1, 1) + 1) * 127.5).round().byte().movedim(-3, -1)


def frame_encoder(vae) -> Callable[[Tensor], Tensor]:
    """The VAE as single frames see it: (N, 3, H, W) in [-1, 1] to latents (N, C, h, w). What `RGBPointCloud` needs."""

    def encode_frames(pixels: Tensor) -> Tensor:
        with torch.autocast(pixels.device.type, torch.bfloat16):
            return encode(vae, pixels[:, :, None])[:, :, 0].float()

    return encode_frames


def rollout(
    models,
    memories: Sequence,
    image: Tensor,
    cameras: Sequence[Cameras],
    *,
    seeds: Sequence[int],
    num_inference_steps: int = 2,
    depth: Tensor | None = None,
    moving: Tensor | None = None,
    encoder_hidden_states: Tensor | None = None,
    on_step: Callable[[int, int, Tensor, Tensor], Tensor] | None = None,
    done: int = 0,
    latents: Tensor | None = None,
    device: torch.device | str | None = None,
) -> Iterator[SegmentResult]:
    """Generate B videos of equal length at once, segment by segment (paper: segment stitching).

    Args:
        models: anything with `vae`, `transformer`, `scheduler` and `depth_estimator` (a `MiragePipeline`, say).
        memories: B memories, written as the videos grow. What they hold already is remembered.
        image: (B, H, W, 3) uint8, the first frames.
        cameras: B times T cameras, one a pixel frame, of the image's size.
        seeds: B of them; a scene's noise depends on its seed alone.
        depth: z-depth in metres where it is known: (B, T, H, W) of all frames, or (B, H, W) of the first ones. The rest
            is estimated, and its scale aligned to the memory's depth.
        moving: (B, T, H, W) bool, what must not be written: moving things (and sky, where the depth is estimated).
        encoder_hidden_states: (B, L, text_dim) for a model with text.
        on_step: called after each step with segment, step, timestep and latents (B, C, t, h, w); returns the latents.
        done: how many segments the memories hold from an earlier, interrupted run; `image` is their last frame, then.
        latents: (B, C, h, w) of the image; by default it is encoded.
        device: where to compute; by default where the transformer is.

    Yields:
        A `SegmentResult` after each segment.

    Raises:
        ValueError: the inputs do not fit together. Raised by the call itself.
    """
    batch, height, width, _ = image.shape
    counts = {len(c) for c in cameras}
    if not batch == len(memories) == len(cameras) == len(seeds) or len(counts) != 1:
        raise ValueError(f"cameras: expected {batch} scenes of one length, with a memory and a seed for each")
    if any(c.size != (height, width) for c in cameras):
        raise ValueError(f"cameras: expected the image's size {height}x{width}, got {cameras[0].size}")
    num_frames = counts.pop()
    depth = depth[:, None] if depth is not None and depth.ndim == 3 else depth
    for name, value, lengths in (("depth", depth, (1, num_frames)), ("moving", moving, (num_frames,))):
        if value is not None and tuple(value.shape) not in [(batch, n, height, width) for n in lengths]:
            raise ValueError(f"{name}: expected {(batch, num_frames, height, width)}, got {tuple(value.shape)}")
    if models.depth_estimator is None and (depth is None or depth.shape[1] == 1):
        raise ValueError("depth: there is no depth estimator, so the depth (T, H, W) of every frame is needed")
    segments = plan_segments(num_frames, new_frames_per_segment(models), temporal_stride(models.vae))
    device = torch.device(device or next(models.transformer.parameters()).device)
    scenes = _Scenes(models, list(memories), [c.to(device) for c in cameras], depth, moving, device)
    text, steps = encoder_hidden_states, num_inference_steps
    return _roll(scenes, segments[done:], image.to(device), latents, seeds, steps, text, on_step)


@torch.no_grad()
def _roll(scenes: _Scenes, segments, image, latents, seeds, steps, text, on_step) -> Iterator[SegmentResult]:
    vae, device = scenes.models.vae, scenes.device
    stride = temporal_stride(vae)
    overlap = frame_encoder(vae)(as_pixels(image)) if latents is None else latents.to(device)
    for segment in segments:
        clock, at = Clock(device), segment.latent_frames
        parts = []
        if segment.index == 0:
            first = overlap[:, :, None]
            parts.append(
                (image[:, None], first, scenes.remember(as_pixels(image)[:, :, None], first, [0], None, clock))
            )
        with clock("read"):
            readouts = [scenes.read(scene, at) for scene in range(len(seeds))]
        with clock("denoise"):
            views = [c[at].downscale(spatial_stride(vae)) for c in scenes.cameras]
            control = memory_control(readouts, views, scenes.models.transformer.config.memory_layout)
            shape = (overlap.shape[1], len(at), *overlap.shape[2:])
            noise = torch.stack([segment_noise(seed, segment.index, shape) for seed in seeds]).to(device)
            report = None if on_step is None else lambda *args, index=segment.index: on_step(index, *args)
            latents = denoise(scenes.models, overlap, noise, control, steps, text, report)
        with clock("decode"), torch.autocast(device.type, torch.bfloat16):
            # Without temporal compression frames are decoded one by one: the overlap need not come along.
            video = decode(vae, latents[:, :, 1:]) if stride == 1 else decode(vae, latents)[:, :, 1:]
        new = latents[:, :, 1:]
        known = [readout[1:] for readout in readouts]
        depth = scenes.remember(video[:, :, stride - 1 :: stride], new, at[1:], known, clock)
        parts.append((as_frames(video.transpose(1, 2)), new, depth))
        frames, made, depths = zip(*parts)
        # A video VAE codes its first frame by itself. So the last latent of a segment, which stands for several frames,
        # can't be the first of the next one: that is the last frame, encoded alone.
        overlap = latents[:, :, -1] if stride == 1 else frame_encoder(vae)(as_pixels(frames[-1][:, -1]))
        yield SegmentResult(
            index=segment.index,
            frames=torch.cat(frames, 1).cpu(),
            latents=torch.cat(made, 2),
            depth=torch.cat(depths, 1),
            readouts=readouts,
            seconds=clock.seconds,
            tokens=[len(memory) for memory in scenes.memories],
        )


def denoise(models, clean: Tensor, noise: Tensor, control: Tensor, steps: int, text=None, on_step=None) -> Tensor:
    """Latents (B, C, t, h, w) from noise of that shape, the first frame being `clean` (B, C, h, w), at timestep 0."""
    scheduler, device = models.scheduler, noise.device.type
    scheduler.set_timesteps(steps, device=noise.device)
    latents = noise.clone()
    latents[:, :, 0] = clean
    with torch.autocast(device, torch.bfloat16):  # around all steps: the weights are cast once
        for step, timestep in enumerate(scheduler.timesteps):
            timesteps = timestep.float().repeat(len(latents), latents.shape[2])
            timesteps[:, 0] = 0
            velocity = models.transformer(latents, timesteps, control, encoder_hidden_states=text).sample
            with torch.autocast(device, enabled=False):  # the scheduler stays in float32
                latents = scheduler.step(velocity.float(), timestep, latents, return_dict=False)[0]
                latents[:, :, 0] = clean
                if on_step is not None:
                    latents = on_step(step, timestep, latents)
    return latents


@dataclass
class _Scenes:
    """B scenes with what is known of them."""

    models: object
    memories: list
    cameras: list[Cameras]
    depth: Tensor | None
    moving: Tensor | None
    device: torch.device

    def read(self, scene: int, at: list[int]) -> Readout:
        memory, cameras = self.memories[scene], self.cameras[scene][at]
        if not len(memory):
            vae = self.models.vae
            return Readout.empty(cameras.downscale(spatial_stride(vae)), int(vae.config.z_dim))
        return memory.read(cameras.to(getattr(memory, "device", None) or self.device)).to(self.device)

    def remember(
        self, pixels: Tensor, latents: Tensor, at: list[int], known: list[Readout] | None, clock: Clock
    ) -> Tensor:
        """Find the depth of latent frames, write them, and return it: (B, t, H, W).

        `pixels` (B, 3, t, H, W) and `latents` (B, C, t, h, w) have the poses of the pixel frames `at`; `known` is what
        the memories show there.
        """
        pixels = pixels.transpose(1, 2)
        with clock("depth"):
            depth = self._depth(pixels, at, known)
        with clock("write"):
            stride = spatial_stride(self.models.vae)
            moving = None if self.moving is None else self._moving(at)
            for scene, memory in enumerate(self.memories):
                if not (depth[scene].isfinite() & (depth[scene] > 0)).any():
                    continue  # all sky: there is nothing to write
                mask = writable(depth[scene], None if moving is None else moving[scene], stride=stride)
                # Half precision is far finer than what the VAE tells apart, and half the memory.
                tokens = latents[scene].transpose(0, 1).half()
                memory.write(tokens, depth[scene], self.cameras[scene][at], mask, frames=pixels[scene])
        return depth

    def _depth(self, pixels: Tensor, at: list[int], known: list[Readout] | None) -> Tensor:
        if self.depth is not None and at[-1] < self.depth.shape[1]:
            return self.depth[:, at].to(self.device, torch.float32)
        intrinsics = torch.cat([cameras.intrinsics[at] for cameras in self.cameras])
        depth = self.models.depth_estimator.predict(pixels.flatten(0, 1), intrinsics).unflatten(0, pixels.shape[:2])
        for scene, memory in enumerate(self.memories):
            if known is not None or len(memory):
                readout = self.read(scene, at) if known is None else known[scene]
                depth[scene] *= align_scale(depth[scene], readout.depth, readout.visibility)[:, None, None]
        return depth

    def _moving(self, at: list[int]) -> Tensor:
        """(B, t, H, W) bool: a latent frame stands for all pixel frames since the one before."""
        stride = temporal_stride(self.models.vae)
        spans = [self.moving[:, max(0, frame - stride + 1) : frame + 1].any(1) for frame in at]
        return torch.stack(spans, 1).to(self.device)


class Clock:
    """Seconds by stage, with the work of an accelerator waited for: `with clock("read"): ...`."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.seconds = device, dict.fromkeys(STAGES, 0.0)

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    @contextmanager
    def __call__(self, stage: str):
        start = self._now()
        try:
            yield
        finally:
            self.seconds[stage] += self._now() - start
