"""The contract of every video model: what stage 5 asks of it, and nothing else.

`MirageModel` (our transformer, which hears the memory through its branch) and `DiffusersModel` (any image-to-video
pipeline of diffusers, which is shown the memory while it samples) fulfil it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from mirage_nb.cameras import Cameras
from mirage_nb.context import Past
from mirage_nb.depth_alignment import DepthEstimator
from mirage_nb.reprojection import Readout


@dataclass(frozen=True)
class SegmentInputs:
    """What a model gets to make one segment of t latent frames from, for B scenes; a sequence has one item for each."""

    index: int  # which segment, from 0
    image: Tensor  # (B, H, W, 3) uint8, the segment's first frame
    first_latent: Tensor  # (B, C, h, w), the latent frame of that image, which the segment's first one equals
    cameras: Sequence[Cameras]  # of all pixel frames, at the image's size; every latent_step-th is a latent frame's
    readouts: Sequence[Readout]  # of the memories, of the t latent frames
    seeds: Sequence[int]  # of the whole video; `segment_noise` makes a segment's noise of one
    past: Sequence[Past]  # the last frame of each is the segment's first one
    read: Callable[[list[int]], list[Readout]]  # from the numbers of past latent frames to readouts at their cameras


@dataclass(frozen=True)
class Sample:
    """What a model made of `SegmentInputs`."""

    latents: Tensor  # (B, C, t, h, w) float32, the first latent frame included
    video: Tensor  # (B, T, 3, H, W) in [-1, 1], the frames after the first one, (t - 1) * latent_step of them
    seconds: dict[str, float]  # of the stages "denoise" and "decode"
    references: list[list[int]]  # for each scene, the past latent frames that the model saw as references


class VideoModel(Protocol):
    """A generator of video segments.

    Attributes:
        stride: pixels along the edge of a latent cell.
        latent_step: pixel frames per latent frame.
        channels: channels of a latent.
        size_multiple: what height and width of a video must be a multiple of, in pixels.
        new_frames: pixel frames that a segment adds, a multiple of latent_step.
        device: where it computes.
        depth_estimator: a `DepthEstimator`, or None: then depth must be given for every frame.
        mask_estimator: anything with `predict(pixels (N, 3, H, W) in [-1, 1]) -> moving, sky`, (N, H, W) bool each; or
            None.
    """

    stride: int
    latent_step: int
    channels: int
    size_multiple: int
    new_frames: int
    device: torch.device
    depth_estimator: DepthEstimator | None
    mask_estimator: object | None

    def encode(self, pixels: Tensor) -> Tensor:
        """Single frames (N, 3, H, W) in [-1, 1] to the generator's own latents (N, C, h, w), float32."""

    def sample(self, inputs: SegmentInputs) -> Sample:
        """Make one segment."""

    def fingerprint(self) -> dict[str, str]:
        """Hashes by name of what decides the video; a run that is resumed must bring the same."""
