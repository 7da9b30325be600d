"""Stage 5, segment stitching: a long video, one segment at a time, with the memory between the segments.

`rollout` is the paper's loop. For each segment it reads the memory for the segment's cameras, denoises with the first
latent frame clean (the last one of the segment before), decodes, finds the depth, masks, lifts and writes. What it
writes are the generated latents themselves. They are never rendered and encoded again, which is the paper's point.

The loop knows the generator and the memory only by their contracts, `VideoModel` and `Memory`. A class of your own can
replace either.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mirage_nb.cameras import Cameras
from mirage_nb.checks import check_memory
from mirage_nb.context import Past
from mirage_nb.depth_alignment import NO_SCALE, Fit, estimate_depth
from mirage_nb.masking import find_writable
from mirage_nb.memory import Memory
from mirage_nb.models.vae import as_pixels, as_uint8
from mirage_nb.reprojection import Readout
from mirage_nb.segments import Clock, plan_segments
from mirage_nb.video_model import SegmentInputs, VideoModel


@dataclass(frozen=True)
class SegmentResult:
    """What one segment made, for B scenes; a list has one item for each. The results of all segments, joined along
    time, are the whole video."""

    index: int  # which segment, from 0
    frames: Tensor  # (B, T, H, W, 3) uint8, the new frames; the first segment begins with the given image
    latents: Tensor  # (B, C, t, h, w) float32, the new latent frames, that of the given image first
    depth: Tensor  # (B, t, H, W) z-depth in metres of the new latent frames
    readouts: list[Readout]  # what the memory showed to the segment's latent frames, its clean first frame included
    mask: Tensor  # (B, t, h, w) bool, the cells of the new latent frames that could be written
    references: list[list[int]]  # latent frames, counted from the video's first, that the generator saw as references
    fits: list[list[Fit]]  # of the estimated depth of the new latent frames; empty where depth was given
    tokens: list[int]  # how many points each memory holds after the segment
    seconds: dict[str, float]  # by stage: read, denoise, decode, depth and write, for all scenes together

    @property
    def visibility(self) -> Tensor:
        """(B, t, h, w) bool, the cells of the new latent frames that the memory showed; none of the given image's."""
        seen = torch.stack([readout.visibility for readout in self.readouts])
        return torch.cat([torch.zeros_like(seen[:, :1]), seen[:, 1:]], 1) if self.index == 0 else seen[:, 1:]


@dataclass(frozen=True)
class Resume:
    """Where an earlier rollout stopped: with its memories, all that a new rollout needs to continue."""

    segments: int  # how many are done
    latents: Tensor  # (B, C, n, h, w), all latent frames so far
    depth: Tensor  # (B, n, H, W), their depth in metres
    fits: Sequence[Fit | None]  # the last one of each scene, None where depth was given


def rollout(
    model: VideoModel, memories: Sequence[Memory], image: Tensor, cameras: Sequence[Cameras], *, seeds: Sequence[int],
    depth: Tensor | None = None, moving: Tensor | None = None, resume: Resume | None = None,
) -> Iterator[SegmentResult]:  # fmt: skip
    """Generate B videos of equal length at once, segment by segment (paper: segment stitching).

    Args:
        model: what makes the segments, such as `MiragePipeline.video_model()` or a `DiffusersModel`.
        memories: B memories, written as the videos grow. What they hold already is read, too.
        image: (B, H, W, 3) uint8, the first frames; when resuming, the last frames so far.
        cameras: B times T cameras of the whole videos, one a pixel frame, of the image's size.
        seeds: B of them; a scene's noise depends on its seed alone.
        depth: z-depth in metres where it is given: (B, T, H, W) of all frames, or (B, H, W) of the first ones. The rest
            is estimated, in the scale of the memory's depth.
        moving: (B, T, H, W) bool, what must not be written: moving things (and sky, where depth is estimated). By
            default the mask estimator and geometry find it (`masking.find_writable`).
        resume: where an earlier rollout stopped.

    Yields:
        A `SegmentResult` after each segment.

    Raises:
        ValueError: the inputs do not fit together (the call itself raises it); or, during the walk, the generator made
            NaN, or relative depth overlaps with nothing.
    """
    latent_step, device = model.latent_step, model.device
    depth = depth[:, None] if depth is not None and depth.ndim == 3 else depth
    _check_rollout(model, memories, image, cameras, seeds, depth, moving)
    segments = plan_segments(len(cameras[0]), model.new_frames, latent_step)
    cameras, image = [views.to(device) for views in cameras], image.to(device)
    past, last_fit = [Past() for _ in memories], list(resume.fits) if resume else [None for _ in memories]
    if moving is not None:  # a latent frame stands for all pixel frames since the one before
        later = moving[:, 1:].unflatten(1, (-1, latent_step)).any(2)
        moving = torch.cat([moving[:, :1], later], 1).to(device)  # (B, latent frames, H, W)

    def read(at: list[int]) -> list[Readout]:
        """What each memory shows at the poses of pixel frames."""
        views = [c[at] for c in cameras]
        return [
            memory.read(v).to(device) if len(memory) else Readout.empty(v.downscale(model.stride), model.channels)
            for memory, v in zip(memories, views)
        ]

    def find_depth(pixels: Tensor, at: list[int], readouts: list[Readout]) -> tuple[Tensor, list[list[Fit]]]:
        """Depth (B, t, H, W) of pixels (B, t, 3, H, W), given or estimated, and the fits of what was estimated."""
        if depth is not None and at[-1] < depth.shape[1]:
            return depth[:, at].to(device, torch.float32), [[] for _ in memories]
        estimated, fits = estimate_depth(model.depth_estimator, pixels, [c[at] for c in cameras], readouts, last_fit)
        last_fit[:] = [of_scene[-1] for of_scene in fits]
        return estimated, fits

    def mask_and_write(
        pixels: Tensor, latents: Tensor, depth: Tensor, at: list[int], readouts: list[Readout]
    ) -> Tensor:
        """Write latents (B, C, t, h, w) where they may be written (B, t, h, w); delete what has moved away."""
        masks = []
        for b, memory in enumerate(memories):
            tokens, views = latents[b].transpose(0, 1), cameras[b][at]  # (t, C, h, w)
            past[b].add(tokens, depth[b], views)
            moves = None if moving is None else moving[b, [frame // latent_step for frame in at]]
            mask, gone = find_writable(past[b], readouts[b], depth[b], pixels[b], moves, model.mask_estimator)
            if len(gone):
                memory.delete(torch.zeros(len(memory), dtype=torch.bool).index_fill_(0, gone.cpu(), True))
            if (depth[b].isfinite() & (depth[b] > 0)).any():  # else all is sky, and there is nothing to write
                # Half precision is far finer than what the VAE tells apart, and takes half the memory.
                memory.write(tokens.half(), depth[b], views, mask, frames=pixels[b])  # it lifts, then writes
            masks.append(mask)
        return torch.stack(masks)

    @torch.no_grad()
    def loop() -> Iterator[SegmentResult]:
        if resume is None:
            frame, latent, done = image, model.encode(as_pixels(image)), 0  # (B, H, W, 3), (B, C, h, w)
        else:
            known = list(range(0, len(cameras[0]), latent_step))[: resume.latents.shape[2]]
            for b, frames in enumerate(past):
                frames.add(resume.latents[b].transpose(0, 1).to(device), resume.depth[b].to(device), cameras[b][known])
            frame, latent, done = image, begin_next(resume.latents.to(device), image), resume.segments
        for segment in segments[done:]:
            clock, at, pieces = Clock(device), segment.latent_frames, []
            if segment.index == 0:  # the given image is written before anything is generated
                pixels = as_pixels(frame)[:, None]  # (B, 1, 3, H, W)
                readouts = read([0])
                with clock("depth"):
                    metres, fits = find_depth(pixels, [0], readouts)
                with clock("write"):
                    mask = mask_and_write(pixels, latent[:, :, None], metres, [0], readouts)
                pieces.append((frame[:, None], latent[:, :, None], metres, mask, fits))
            with clock("read"):
                readouts = read(at)
            inputs = SegmentInputs(
                segment.index, frame, latent, [c[segment.start : segment.stop] for c in cameras], readouts, seeds, past,
                read=lambda numbers: read([latent_step * number for number in numbers]),
            )  # fmt: skip
            made = model.sample(inputs)  # denoise, then decode
            if not made.latents.isfinite().all():
                raise ValueError(f"latents: the generator made NaN or infinity in segment {segment.index}")
            new, new_at, new_readouts = made.latents[:, :, 1:], at[1:], [readout[1:] for readout in readouts]
            pixels = made.video[:, latent_step - 1 :: latent_step]  # those at the poses of the latent frames
            with clock("depth"):
                metres, fits = find_depth(pixels, new_at, new_readouts)
            with clock("write"):
                mask = mask_and_write(pixels, new, metres, new_at, new_readouts)
            pieces.append((as_uint8(made.video), new, metres, mask, fits))
            frames, latents, depths, masks, fits = zip(*pieces)
            frame = frames[-1][:, -1]
            latent = begin_next(made.latents, frame)
            yield SegmentResult(
                segment.index, torch.cat(frames, 1).cpu(), torch.cat(latents, 2), torch.cat(depths, 1), readouts,
                torch.cat(masks, 1), made.references, fits=[sum(of_scene, []) for of_scene in zip(*fits)],
                tokens=[len(memory) for memory in memories], seconds=clock.seconds | made.seconds,
            )  # fmt: skip

    def begin_next(latents: Tensor, last_frame: Tensor) -> Tensor:
        """The next segment's first latent frame (B, C, h, w). A video VAE encodes its first frame alone, and its last
        latent frame stands for several frames: then the last frame (B, H, W, 3) is encoded anew."""
        return latents[:, :, -1] if latent_step == 1 else model.encode(as_pixels(last_frame))

    return loop()


def _check_rollout(model, memories, image, cameras, seeds, depth, moving) -> None:
    """Raise ValueError where the inputs of `rollout` do not fit together."""
    if image.ndim != 4 or image.shape[3] != 3 or image.dtype != torch.uint8:
        raise ValueError(f"image: expected (B, H, W, 3) uint8, got {image.dtype} {tuple(image.shape)}")
    for memory in memories:
        check_memory(memory, model.stride, model.channels)
    batch, height, width, _ = image.shape
    if not batch == len(memories) == len(cameras) == len(seeds) or len({len(c) for c in cameras}) != 1:
        raise ValueError(f"cameras: expected {batch} scenes of one length, with a memory and a seed for each")
    if any(c.size != (height, width) for c in cameras):
        raise ValueError(f"cameras: expected the image's size {height}x{width}, got {cameras[0].size}")
    num_frames = len(cameras[0])
    for name, value, lengths in (("depth", depth, (1, num_frames)), ("moving", moving, (num_frames,))):
        if value is not None and tuple(value.shape) not in [(batch, n, height, width) for n in lengths]:
            raise ValueError(f"{name}: expected {(batch, num_frames, height, width)}, got {tuple(value.shape)}")
    if model.depth_estimator is None and (depth is None or depth.shape[1] == 1):
        raise ValueError("depth: there is no depth estimator, so the depth (T, H, W) of every frame is needed")
    if depth is None and model.depth_estimator.relative and not all(map(len, memories)):
        raise ValueError(NO_SCALE)
