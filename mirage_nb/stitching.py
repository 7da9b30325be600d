"""Stage 5, segment stitching: a long video, one segment at a time, with the memory between them.

For each segment: read the memory for its cameras, denoise with the first latent frame clean (the last one of the
segment before), decode, find the depth, mask, lift and write; then the next one. What is written are the generated
latents themselves. They are never rendered and encoded again, which is the point of the paper.

A model that was trained for it looks ahead as well: a view further along the path is made in one leap and written, and
the segments that lead there read it (`denoising.look_ahead`, no part of the paper).

The generator and the memory are known here only by what they can do, so that any of them can be swapped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mirage_nb.cameras import Cameras
from mirage_nb.denoising import denoise
from mirage_nb.depth_alignment import Fit
from mirage_nb.models.control import memory_control
from mirage_nb.models.vae import decode, encode, precision, spatial_stride, temporal_stride, visible_latents
from mirage_nb.reprojection import Readout
from mirage_nb.scenes import STAGES, Clock, Scenes, align_scale
from mirage_nb.segments import plan_segments, segment_noise

__all__ = ["STAGES", "SegmentResult", "align_scale", "as_frames", "as_pixels", "denoise", "frame_encoder", "rollout"]


NO_SCALE = (
    "depth: relative depth can't be aligned, nothing says its scale; give the first frame's depth, or take a "
    "metric model"
)


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
        written: (B, t, h, w) bool, the cells of the new latent frames that were allowed into the memory.
        references: B lists of the latent frames (counted from the video's first) that the generator was shown as they
            are, the most overlapping first.
        fits: B lists, how well the estimated depth of the new latent frames fitted the memory's, after that of a view
            ahead where one was made; empty where it was given.
    """

    index: int
    frames: Tensor
    latents: Tensor
    depth: Tensor
    readouts: list[Readout]
    seconds: dict[str, float]
    tokens: list[int]
    written: Tensor
    references: list[list[int]]
    fits: list[list[Fit]]

    @property
    def visibility(self) -> Tensor:
        """(B, t, h, w) bool: which cells of the new latent frames the memory showed. The given image counts as none."""
        seen = torch.stack([readout.visibility for readout in self.readouts])
        return torch.cat([torch.zeros_like(seen[:, :1]), seen[:, 1:]], 1) if self.index == 0 else seen[:, 1:]


def new_frames_per_segment(models) -> int:
    """Pixel frames that a segment of this model adds."""
    return (models.transformer.config.segment_latent_frames - 1) * temporal_stride(models.vae)


def as_pixels(frames: Tensor) -> Tensor:
    """uint8 (..., H, W, 3) to float (..., 3, H, W) in [-1, 1]."""
    return frames.movedim(-1, -3).float() / 127.5 - 1


def as_frames(pixels: Tensor) -> Tensor:
    """Float (..., 3, H, W) in [-1, 1] to uint8 (..., H, W, 3)."""
    return ((pixels.clamp(-1, 1) + 1) * 127.5).round().byte().movedim(-3, -1)


def frame_encoder(vae) -> Callable[[Tensor], Tensor]:
    """The VAE as single frames see it: (N, 3, H, W) in [-1, 1] to latents (N, C, h, w). What `RGBPointCloud` needs."""

    def encode_frames(pixels: Tensor) -> Tensor:
        with precision(vae, pixels.device):
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
    past: tuple[Tensor, Tensor] | None = None,
    references: int = 0,
    preceding: int = 0,
    overlap: bool = True,
    lookahead: int = 0,
    takes: int = 1,
    image_shifts: int = 1,
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
        moving: (B, T, H, W) bool, what must not be written: moving things (and sky, where the depth is estimated); all
            False writes everything. By default it is found: by the models' `mask_estimator`, if they have one, and by
            consistency with the frames before and with the memory (`scenes.find_moving`).
        encoder_hidden_states: (B, L, text_dim) for a model with text.
        on_step: called after each step with segment, step, timestep and latents (B, C, t, h, w); returns the latents.
        done: how many segments the memories hold from an earlier, interrupted run; `image` is their last frame, then.
        latents: (B, C, h, w) of the image; by default it is encoded.
        past: latents (B, C, n, h, w) and depth (B, n, H, W) of all latent frames of the `done` segments.
        references, preceding: how many clean past latent frames the generator is shown beside the memory, at most: such
            as overlap with the segment's voxels, and the last ones before it (paper: 4 and 2). For models that were
            trained with them; the bundled one was, and is best with 4 and 0.
        overlap: show the generator the last frame of the segment before, clean, as the first of the next one. Without
            it (to see what it is worth) that frame is made again, and thrown away.
        lookahead: every so many frames, first imagine the view as many frames ahead (or at the path's end) in one leap,
            and write it to the memory, if it shows much that is new; 0 never does. What a long way out invents then
            hangs on a chain of few links, not of one a segment. And what is new, there and in the segments, is made of
            what the first frame shows (`drawing`). A multiple of a segment's new frames; for models that were trained
            to leap, without temporal compression.
        takes: how many versions of each view ahead to make; the one that `denoising.best_take` says is kept.
        image_shifts: at how many places along a cell's edge the given images are remembered, a divisor of the VAE's
            stride: 4 encodes them 16 times, a quarter of a cell apart (`Scenes.remember_between`), so that a camera
            whose cells end up between those of the image finds tokens that fit.
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
    if getattr(models.depth_estimator, "relative", False) and depth is None and not all(map(len, memories)):
        raise ValueError(NO_SCALE)
    each = new_frames_per_segment(models)
    if lookahead and (lookahead < 0 or lookahead % each or temporal_stride(models.vae) > 1):
        rule = f"a multiple of {each}" if temporal_stride(models.vae) == 1 else "0, this VAE compresses time"
        raise ValueError(f"lookahead: expected {rule}, got {lookahead}")
    if takes < 1:
        raise ValueError(f"takes: expected at least 1, got {takes}")
    if image_shifts < 1 or spatial_stride(models.vae) % image_shifts:
        raise ValueError(f"image_shifts: expected a divisor of {spatial_stride(models.vae)}, got {image_shifts}")
    if lookahead and done and past is None:
        raise ValueError("past: expected, views ahead are held against the first frame of the run that is taken up")
    segments = plan_segments(num_frames, each, temporal_stride(models.vae))
    device = torch.device(device or next(models.transformer.parameters()).device)
    scenes = Scenes(models, list(memories), [c.to(device) for c in cameras], depth, moving, device)
    if past is not None:
        scenes.recall(*past, at=list(range(0, num_frames, temporal_stride(models.vae)))[: past[0].shape[2]])
    text, steps = encoder_hidden_states, num_inference_steps
    beside = references, preceding, overlap, lookahead, takes, image_shifts
    return _roll(scenes, segments[done:], image.to(device), latents, seeds, steps, text, on_step, beside)


@torch.no_grad()
def _roll(scenes: Scenes, segments, image, latents, seeds, steps, text, on_step, beside) -> Iterator[SegmentResult]:
    vae, device = scenes.models.vae, scenes.device
    most_references, most_preceding, keep_overlap, lookahead, takes, image_shifts = beside
    stride = temporal_stride(vae)
    overlap = frame_encoder(vae)(as_pixels(image)) if latents is None else latents.to(device)
    layout, constant = scenes.models.transformer.config.memory_layout, None
    if layout == "wan" and segments:  # once for all segments: none is longer than the first
        constant = visible_latents(vae, len(segments[0].latent_frames) + most_preceding, image.shape[1:3], device)
    for segment in segments:
        clock, at = Clock(device), segment.latent_frames
        fitted = [len(fits) for fits in scenes.fits]
        parts = []
        if segment.index == 0:
            first = overlap[:, :, None]
            parts.append(
                (image[:, None], first, *scenes.remember(as_pixels(image)[:, :, None], first, [0], None, clock))
            )
            scenes.remember_between(as_pixels(image), image_shifts, *parts[0][2:], frame_encoder(vae), clock)
        if lookahead and segment.start % lookahead == 0:
            look_ahead(scenes, segment, lookahead, takes, overlap, seeds, steps, text, clock)
        with clock("read"):
            readouts = [scenes.read(scene, at) for scene in range(len(seeds))]
            context, references, preceding = scenes.context(readouts, at, most_references, most_preceding)
            # The branch sees the frames that precede as well, after the target.
            whole = at + [stride * frame for frame in preceding]
            shown = [scenes.read(scene, whole) for scene in range(len(seeds))] if preceding else readouts
        with clock("denoise"):
            views = [c[whole].downscale(spatial_stride(vae)) for c in scenes.cameras]
            control = memory_control(shown, views, layout, None if constant is None else constant[:, : len(whole)])
            shape = (overlap.shape[1], len(at), *overlap.shape[2:])
            noise = torch.stack([segment_noise(seed, segment.index, shape) for seed in seeds]).to(device)
            report = None if on_step is None else lambda *args, index=segment.index: on_step(index, *args)
            clean = overlap if keep_overlap or segment.index == 0 else None
            # Looking ahead, what no memory shows is made of what the first frame shows; but a memory that never holds
            # anything is there to see what is made without.
            world = scenes.first() if lookahead and any(map(len, scenes.memories)) else None
            given = scenes.given(readouts) if world is not None else None
            latents = denoise(scenes.models, clean, noise, control, steps, text, report, context, world, given)
        with clock("decode"), precision(vae, device):
            # Without temporal compression frames are decoded one by one: the overlap need not come along.
            video = decode(vae, latents[:, :, 1:]) if stride == 1 else decode(vae, latents)[:, :, 1:]
        new = latents[:, :, 1:]
        known = [readout[1:] for readout in readouts]
        kept = scenes.remember(video[:, :, stride - 1 :: stride], new, at[1:], known, clock)
        parts.append((as_frames(video.transpose(1, 2)), new, *kept))
        frames, made, depths, written = zip(*parts)
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
            written=torch.cat(written, 1),
            references=references,
            fits=[fits[n:] for fits, n in zip(scenes.fits, fitted)],
        )
