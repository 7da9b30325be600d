"""The factor between the poses of a video and its depth."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from posed_clip import SIZE, UNIT, TrueDepth, rendered_clip

from mirage_nb.cameras import Cameras
from mirage_nb.data import Clip, Room, read_rgbd
from mirage_nb.data.recordings.pose_scale import pose_scale, scaled, with_estimated_depth

REAL = Path(__file__).resolve().parents[4] / "shared" / "real"


@pytest.fixture
def clip() -> Clip:
    return rendered_clip()


@pytest.mark.parametrize("unit", [0.02, 1.0, 170.0])
def test_the_factor_is_found_with_the_exact_depth(clip, unit):
    found, agreement = pose_scale(clip.frames, clip.depth, scaled(clip.cameras, unit))
    assert found is not None and agreement > 0.9
    assert found * unit == pytest.approx(1, abs=0.05)


def test_a_depth_that_flickers_and_bends_still_tells_it(clip):
    generator = torch.Generator().manual_seed(0)
    flicker = torch.exp(0.05 * torch.randn(len(clip.depth), 1, 1, generator=generator))
    bend = torch.nn.functional.interpolate(torch.randn(1, 1, 4, 4, generator=generator), SIZE, mode="bicubic")[0]
    found, agreement = pose_scale(
        clip.frames, clip.depth * flicker * torch.exp(0.05 * bend), scaled(clip.cameras, UNIT)
    )
    assert found * UNIT == pytest.approx(1, abs=0.12)


def test_noisy_pictures_still_tell_it(clip):
    noise = 10 * torch.randn(clip.frames.shape, generator=torch.Generator().manual_seed(0))
    frames = (clip.frames + noise).clamp(0, 255).to(torch.uint8)
    found, agreement = pose_scale(frames, clip.depth, scaled(clip.cameras, UNIT))
    assert found * UNIT == pytest.approx(1, abs=0.05)


def test_where_the_colours_are_alike_the_depth_helps():
    room = Room(3, moving=0)
    clip = room.render(room.walk(14, size=SIZE))
    generator = torch.Generator().manual_seed(3)
    frames = (clip.frames + 8 * torch.randn(clip.frames.shape, generator=generator)).clamp(0, 255).to(torch.uint8)
    flicker = torch.exp(0.05 * torch.randn(14, 1, 1, generator=generator))
    found, agreement = pose_scale(frames, clip.depth * flicker, scaled(clip.cameras, UNIT))
    assert found * UNIT == pytest.approx(1, abs=0.1)


def test_a_few_points_that_agree_by_chance_do_not_count():
    """A wall, 4 pixels further in each frame, between two strips of one colour: far enough apart, only these meet."""
    generator = torch.Generator().manual_seed(0)
    wall = torch.randint(0, 256, (48, 96, 3), generator=generator)
    frames = torch.stack([wall[:, 4 * k : 4 * k + 64] for k in range(8)]) + torch.randint(
        -40, 40, (8, 48, 64, 3), generator=generator
    )
    frames[:, :, :8] = frames[:, :, -8:] = 99
    c2w = torch.eye(4).repeat(8, 1, 1)
    c2w[:, 0, 3] = 4 / 64 * 2 * torch.arange(8)
    cameras = Cameras(c2w, torch.tensor([64.0, 64.0, 32.0, 24.0]), SIZE)
    found, agreement = pose_scale(frames.clamp(0, 255).to(torch.uint8), torch.full((8, *SIZE), 2.0), cameras)
    assert found == pytest.approx(1, abs=0.05)


def test_a_recorded_kitchen_tells_it():
    kitchen = REAL / "kitchen"
    if not kitchen.exists():
        pytest.skip("no RGB-D recording at ../shared/real/kitchen")
    clip = read_rgbd(kitchen, (96, 128), slice(0, 20))
    found, agreement = pose_scale(clip.frames, clip.depth, scaled(clip.cameras, UNIT))
    assert found is not None and agreement > 0.8 and found * UNIT == pytest.approx(1, abs=0.05)


def test_a_camera_that_only_turns_tells_no_scale():
    room = Room(5, moving=0)
    turning = room.walk(12, path="pan_left", size=SIZE)
    assert (turning.centers - turning.centers[0]).abs().max() < 1e-5
    clip = room.render(turning)
    found, agreement = pose_scale(clip.frames, clip.depth, turning)
    assert found is None and agreement > 0.8
    assert pose_scale(clip.frames[:1], clip.depth[:1], turning[:1]) == (None, 1.0)
    same, note = with_estimated_depth(clip.frames, turning, TrueDepth(clip.depth))
    assert torch.equal(same.cameras.c2w, turning.c2w) and "no parallax" in note


def test_a_camera_that_trembles_tells_no_scale():
    room = Room(5, moving=0)
    turning = room.walk(12, path="pan_left", size=SIZE)
    turning.c2w[:, :3, 3] += 2e-3 * torch.randn(12, 3, generator=torch.Generator().manual_seed(0))
    clip = room.render(turning)
    assert pose_scale(clip.frames, clip.depth, turning)[0] is None


@pytest.mark.parametrize("spread", [0.3, 1.0])
def test_depth_that_fits_at_no_scale_is_refused(clip, spread):
    generator = torch.Generator().manual_seed(1)
    wild = clip.depth * torch.exp(spread * torch.randn(clip.depth.shape, generator=generator))
    with pytest.raises(ValueError, match="does not fit the poses.*expected at least 50%"):
        with_estimated_depth(clip.frames, clip.cameras, TrueDepth(wild))
