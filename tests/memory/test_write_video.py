"""A video is written at the poses of its latent frames."""

from __future__ import annotations

import pytest
import torch
from scenes import box_depth

from mirage_nb import Cameras, LatentGrid, RGBPointCloud, camera_path
from mirage_nb.cameras import default_intrinsics
from mirage_nb.models.vae import as_pixels

SIZE = (32, 48)
CAMERAS = Cameras(camera_path("pan_left", 9), default_intrinsics(SIZE), SIZE)
DEPTH = box_depth(CAMERAS)


def video(frames: int) -> torch.Tensor:
    return torch.randn(4, frames, 4, 6, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("latent_frames", [3, 9])
def test_latent_frames_have_the_poses_of_every_kth_frame(latent_frames):
    latents, step = video(latent_frames), 8 // (latent_frames - 1)
    one, other, batch = LatentGrid(), LatentGrid(), LatentGrid()
    mask = torch.ones(9, *SIZE, dtype=torch.bool)
    mask[:, :, :16] = False
    added = one.write_video(latents, DEPTH, CAMERAS, mask)
    other.write(latents.transpose(0, 1), DEPTH[::step], CAMERAS[::step], mask[::step])
    batch.write_video(latents[None], DEPTH, CAMERAS, mask)
    for memory in (other, batch):
        assert torch.equal(one.positions, memory.positions) and torch.equal(one.tokens, memory.tokens)
    assert added == len(one) > 0


def test_frames_are_encoded_one_by_one():
    frames = torch.randint(0, 256, (9, *SIZE, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    encode = lambda pixels: torch.nn.functional.avg_pool2d(pixels, 8)  # noqa: E731
    one, other, rgb = LatentGrid(), LatentGrid(), RGBPointCloud(encode)
    one.write_video(frames, DEPTH, CAMERAS, encode=encode)
    other.write(encode(as_pixels(frames)), DEPTH, CAMERAS)
    assert torch.equal(one.tokens, other.tokens)
    assert rgb.write_video(frames, DEPTH, CAMERAS, encode=encode) == len(rgb) > len(one)


@pytest.mark.parametrize(
    ("latents", "depth"),
    [(video(4), DEPTH), (video(1), DEPTH), (video(3), DEPTH[:3]), (torch.zeros(9, *SIZE, 3, dtype=torch.uint8), DEPTH)],
)
def test_what_does_not_fit_is_refused(latents, depth):
    with pytest.raises(ValueError, match="^(video|depth): "):
        LatentGrid().write_video(latents, depth, CAMERAS)
