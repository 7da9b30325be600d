"""Stage 5, segment stitching: a long video, one segment at a time, with the memory between the segments.

`rollout` is the paper's loop. For each segment it reads the memory for the segment's cameras, denoises with the first
latent frame clean (the last one of the segment before), decodes, finds the depth, masks, lifts and writes. What it
writes are the generated latents themselves. They are never rendered and encoded again, which is the paper's point.

The loop only calls a few methods of the generator and of the memory. A class of your own can replace either.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mirage_nb.cameras import Cameras
from mirage_nb.checks import check_memory
from mirage_nb.context import Past, find_context
from mirage_nb.denoising import denoise
from mirage_nb.depth_alignment import NO_SCALE, Fit, estimate_depth
from mirage_nb.masking import find_writable
from mirage_nb.memory import Memory
from mirage_nb.models.control import memory_control
from mirage_nb.models.vae import (
    as_pixels,
    as_uint8,
    decode,
    frame_encoder,
    precision,
    spatial_stride,
    temporal_stride,
    visible_latents,
)
from mirage_nb.reprojection import Readout
from mirage_nb.segments import Clock, new_frames_per_segment, plan_segments, segment_noise


@dataclass(frozen=True)
class SegmentResult:
    """What one segment made, for B scenes. The results of all segments, joined along time, are the whole video.

    Attributes:
        index: which segment, from 0.
        frames: (B, T, H, W, 3) uint8, the new frames. The first segment begins with the given image.
        latents: (B, C, t, h, w) float32, the new latent frames, that of the given image first.
        depth: (B, t, H, W) z-depth in metres of the new latent frames.
        readouts: B readouts, what the memory showed to the segment's latent frames, its clean first frame included.
        mask: (B, t, h, w) bool, the cells of the new latent frames that could be written.
        references: B lists of the latent frames (counted from the video's first) that the generator saw as references.
        fits: B lists, how well the estimated depth of the new latent frames fitted the memory's; empty where depth was
            given.
        tokens: B counts, how many points each memory holds after the segment.
        seconds: by stage: read, denoise, decode, depth and write, for all scenes together.
    """

    index: int
    frames: Tensor
    latents: Tensor
    depth: Tensor
    readouts: list[Readout]
    mask: Tensor
    references: list[list[int]]
    fits: list[list[Fit]]
    tokens: list[int]
    seconds: dict[str, float]

    @property
    def visibility(self) -> Tensor:
        """(B, t, h, w) bool, the cells of the new latent frames that the memory showed; none of the given image's."""
        seen = torch.stack([readout.visibility for readout in self.readouts])
        return torch.cat([torch.zeros_like(seen[:, :1]), seen[:, 1:]], 1) if self.index == 0 else seen[:, 1:]


@dataclass(frozen=True)
class Resume:
    """Where an earlier rollout stopped: with its memories, all that a new rollout needs to continue.

    Attributes:
        segments: how many are done.
        latents: (B, C, n, h, w), all latent frames so far.
        depth: (B, n, H, W) their depth.
    """

    segments: int
    latents: Tensor
    depth: Tensor


def rollout(
    models, memories: Sequence[Memory], image: Tensor, cameras: Sequence[Cameras], *, seeds: Sequence[int],
    num_inference_steps: int = 2, depth: Tensor | None = None, moving: Tensor | None = None,
    prompt_embeds: Tensor | None = None, on_step: Callable[[int, int, Tensor, Tensor], Tensor] | None = None,
    references: int = 0, preceding: int = 0, resume: Resume | None = None, device: torch.device | str | None = None,
) -> Iterator[SegmentResult]:  # fmt: skip
    """Generate B videos of equal length at once, segment by segment (paper: segment stitching).

    Args:
        models: anything with `vae`, `transformer`, `scheduler`, `depth_estimator` and `mask_estimator` (the last two
            may be None), such as a `MiragePipeline`.
        memories: B memories, written as the videos grow. What they hold already is read, too.
        image: (B, H, W, 3) uint8, the first frames; when resuming, the last frames so far.
        cameras: B times T cameras of the whole videos, one a pixel frame, of the image's size.
        seeds: B of them; a scene's noise depends on its seed alone.
        num_inference_steps: denoising steps a segment.
        depth: z-depth in metres where it is given: (B, T, H, W) of all frames, or (B, H, W) of the first ones. The rest
            is estimated, in the scale of the memory's depth.
        moving: (B, T, H, W) bool, what must not be written: moving things (and sky, where depth is estimated). By
            default the mask estimator and geometry find it (`masking.find_writable`).
        prompt_embeds: (B, L, text_dim) for a model that reads text.
        on_step: called after each denoising step with segment, step, timestep and latents (B, C, t, h, w); returns the
            latents to go on with.
        references, preceding: how many clean past latent frames of each kind the generator sees, at most (paper: 4 and
            2; see `context`). The bundled pipeline uses 4 and 0.
        resume: where an earlier rollout stopped.
        device: where to compute; by default where the transformer is.

    Yields:
        A `SegmentResult` after each segment.

    Raises:
        ValueError: the inputs do not fit together (the call itself raises it); or, during the walk, the generator made
            NaN, or relative depth overlaps with nothing.
    """
    stride, latent_step = spatial_stride(models.vae), temporal_stride(models.vae)  # pixels; frames a latent frame
    depth = depth[:, None] if depth is not None and depth.ndim == 3 else depth
    _check_rollout(models, memories, image, cameras, seeds, depth, moving)
    segments = plan_segments(len(cameras[0]), new_frames_per_segment(models), latent_step)
    device = torch.device(device or next(models.transformer.parameters()).device)
    cameras, image = [views.to(device) for views in cameras], image.to(device)
    past, last_fit = [Past() for _ in memories], [None for _ in memories]
    if moving is not None:  # a latent frame stands for all pixel frames since the one before
        later = moving[:, 1:].unflatten(1, (-1, latent_step)).any(2)
        moving = torch.cat([moving[:, :1], later], 1).to(device)  # (B, latent frames, H, W)

    def read(at: list[int]) -> list[Readout]:
        """What each memory shows at the poses of pixel frames."""
        views, channels = [c[at] for c in cameras], int(models.vae.config.z_dim)
        return [
            memory.read(v).to(device) if len(memory) else Readout.empty(v.downscale(stride), channels)
            for memory, v in zip(memories, views)
        ]

    def find_depth(pixels: Tensor, at: list[int], readouts: list[Readout]) -> tuple[Tensor, list[list[Fit]]]:
        """Depth (B, t, H, W) of pixels (B, t, 3, H, W), given or estimated, and the fits of what was estimated."""
        if depth is not None and at[-1] < depth.shape[1]:
            return depth[:, at].to(device, torch.float32), [[] for _ in memories]
        found, fits = estimate_depth(models.depth_estimator, pixels, [c[at] for c in cameras], readouts, last_fit)
        last_fit[:] = [own[-1] for own in fits]
        return found, fits

    def mask_and_write(
        pixels: Tensor, latents: Tensor, depth: Tensor, at: list[int], readouts: list[Readout]
    ) -> Tensor:
        """Write latents (B, C, t, h, w) where they may be written (B, t, h, w); delete what has moved away."""
        masks = []
        for b, memory in enumerate(memories):
            tokens, views = latents[b].transpose(0, 1), cameras[b][at]  # (t, C, h, w)
            past[b].add(tokens, depth[b], views)
            moves = None if moving is None else moving[b, [frame // latent_step for frame in at]]
            mask, gone = find_writable(past[b], readouts[b], depth[b], pixels[b], moves, models.mask_estimator)
            if len(gone):
                memory.delete(torch.zeros(len(memory), dtype=torch.bool).index_fill_(0, gone.cpu(), True))
            if (depth[b].isfinite() & (depth[b] > 0)).any():  # else all is sky, and there is nothing to write
                # Half precision is far finer than what the VAE tells apart, and takes half the memory.
                memory.write(tokens.half(), depth[b], views, mask, frames=pixels[b])  # it lifts, then writes
            masks.append(mask)
        return torch.stack(masks)

    @torch.no_grad()
    def loop() -> Iterator[SegmentResult]:
        encode_frames = frame_encoder(models.vae)
        layout, constant = models.transformer.config.memory_layout, None
        if layout == "wan":  # made once: no segment is longer than the first
            latent_frames = len(segments[0].latent_frames) + preceding
            constant = visible_latents(models.vae, latent_frames, image.shape[1:3], device)
        if resume is None:
            first, done = encode_frames(as_pixels(image)), 0  # (B, C, h, w), the clean first frame of a segment
        else:
            frames = list(range(0, len(cameras[0]), latent_step))[: resume.latents.shape[2]]
            for b, own in enumerate(past):
                own.add(resume.latents[b].transpose(0, 1).to(device), resume.depth[b].to(device), cameras[b][frames])
            first, done = begin_next(resume.latents.to(device), image), resume.segments
        for segment in segments[done:]:
            clock, at, parts = Clock(device), segment.latent_frames, []
            if segment.index == 0:  # the given image is written before anything is generated
                pixels = as_pixels(image)[:, None]  # (B, 1, 3, H, W)
                readouts = read([0])
                with clock("depth"):
                    found, fits = find_depth(pixels, [0], readouts)
                with clock("write"):
                    mask = mask_and_write(pixels, first[:, :, None], found, [0], readouts)
                parts.append((image[:, None], first[:, :, None], found, mask, fits))
            with clock("read"):
                readouts = read(at)
                views = [c[at].downscale(stride) for c in cameras]
                context, chosen, precede = find_context(past, readouts, views, references, preceding)
                branch_at = at + [latent_step * frame for frame in precede]  # the branch sees preceding frames, too
                branch = read(branch_at) if precede else readouts
            with clock("denoise"):
                views = [c[branch_at].downscale(stride) for c in cameras]
                control = memory_control(branch, views, layout, constant)
                shape = (first.shape[1], len(at), *first.shape[2:])  # (C, t, h, w)
                noise = torch.stack([segment_noise(seed, segment.index, shape) for seed in seeds]).to(device)
                step = None if on_step is None else lambda *args, index=segment.index: on_step(index, *args)
                latents = denoise(
                    models, first, noise, control, num_inference_steps,
                    prompt_embeds=prompt_embeds, context=context, on_step=step,
                )  # fmt: skip
            if not latents.isfinite().all():
                raise ValueError(f"latents: the generator made NaN or infinity in segment {segment.index}")
            new, new_at = latents[:, :, 1:], at[1:]
            with clock("decode"), precision(models.vae, device):
                # Without temporal compression frames are decoded one by one: the first one need not come along.
                video = decode(models.vae, new) if latent_step == 1 else decode(models.vae, latents)[:, :, 1:]
                video = video.transpose(1, 2)  # (B, T, 3, H, W)
            pixels, new_readouts = video[:, latent_step - 1 :: latent_step], [readout[1:] for readout in readouts]
            with clock("depth"):
                found, fits = find_depth(pixels, new_at, new_readouts)
            with clock("write"):
                mask = mask_and_write(pixels, new, found, new_at, new_readouts)
            parts.append((as_uint8(video), new, found, mask, fits))
            frames, made, depths, masks, fits = zip(*parts)
            first = begin_next(latents, frames[-1][:, -1])
            yield SegmentResult(
                index=segment.index,
                frames=torch.cat(frames, 1).cpu(),
                latents=torch.cat(made, 2),
                depth=torch.cat(depths, 1),
                readouts=readouts,
                mask=torch.cat(masks, 1),
                references=chosen,
                fits=[sum(own, []) for own in zip(*fits)],
                tokens=[len(memory) for memory in memories],
                seconds=clock.seconds,
            )

    def begin_next(latents: Tensor, last_frame: Tensor) -> Tensor:
        """The next segment's first latent frame (B, C, h, w). A video VAE encodes its first frame alone, and its last
        latent frame stands for several frames: then the last frame (B, H, W, 3) is encoded anew."""
        return latents[:, :, -1] if latent_step == 1 else frame_encoder(models.vae)(as_pixels(last_frame))

    return loop()


def _check_rollout(models, memories, image, cameras, seeds, depth, moving) -> None:
    """Raise ValueError where the inputs of `rollout` do not fit together."""
    if image.ndim != 4 or image.shape[3] != 3 or image.dtype != torch.uint8:
        raise ValueError(f"image: expected (B, H, W, 3) uint8, got {image.dtype} {tuple(image.shape)}")
    for memory in memories:
        check_memory(memory, spatial_stride(models.vae), int(models.vae.config.z_dim))
    batch, height, width, _ = image.shape
    counts = {len(c) for c in cameras}
    if not batch == len(memories) == len(cameras) == len(seeds) or len(counts) != 1:
        raise ValueError(f"cameras: expected {batch} scenes of one length, with a memory and a seed for each")
    if any(c.size != (height, width) for c in cameras):
        raise ValueError(f"cameras: expected the image's size {height}x{width}, got {cameras[0].size}")
    num_frames = counts.pop()
    for name, value, lengths in (("depth", depth, (1, num_frames)), ("moving", moving, (num_frames,))):
        if value is not None and tuple(value.shape) not in [(batch, n, height, width) for n in lengths]:
            raise ValueError(f"{name}: expected {(batch, num_frames, height, width)}, got {tuple(value.shape)}")
    if models.depth_estimator is None and (depth is None or depth.shape[1] == 1):
        raise ValueError("depth: there is no depth estimator, so the depth (T, H, W) of every frame is needed")
    if models.depth_estimator is not None and models.depth_estimator.relative:
        if depth is None and not all(map(len, memories)):
            raise ValueError(NO_SCALE)
