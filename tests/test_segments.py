"""The plan of a video's segments, and the noise that each one starts from."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mirage_nb.segments import plan_segments, segment_noise


@given(stride=st.integers(1, 5), latent=st.integers(1, 9), count=st.integers(1, 60))
def test_the_plan_covers_every_frame_once_with_one_frame_of_overlap(stride, latent, count):
    frames, new = stride * count + 1, latent * stride
    plan = plan_segments(frames, new, stride)
    assert [frame for segment in plan for frame in range(segment.start + (segment.index > 0), segment.stop)] == list(
        range(frames)
    )
    assert [segment.index for segment in plan] == list(range(len(plan)))
    for before, after in zip(plan, plan[1:]):
        assert before.stop - 1 == after.start, "the overlap is the last frame of the segment before"
        assert before.stop - before.start == new + 1, "only the last segment may be shorter"
    latents = sorted({frame for segment in plan for frame in segment.latent_frames})
    assert latents == list(range(0, frames, stride)), "latent frame k has the pose of pixel frame k * stride"


@pytest.mark.parametrize(
    ("count", "stride", "offered"),
    [
        (48, 4, "45 or 49"),
        (50, 4, "49 or 53"),
        (4, 4, "is 5"),
        (1, 4, "is 5"),
        (1, 1, "is 2"),
        (0, 1, "is 2"),
        (-3, 4, "is 5"),
    ],
)
def test_a_frame_count_that_does_not_fit_offers_the_nearest(count, stride, offered):
    with pytest.raises(ValueError, match=f"num_frames: .*{offered}$"):
        plan_segments(count, 4 * stride, stride)


def test_noise_depends_on_seed_and_segment_alone():
    shape = (4, 3, 4, 6)
    one = segment_noise(7, 2, shape)
    torch.randn(3)
    assert torch.equal(one, segment_noise(7, 2, shape))
    others = [segment_noise(seed, index, shape) for seed in (0, 1, 2, 2**32) for index in range(4)]
    assert len({tuple(noise.flatten().tolist()) for noise in others}) == len(others)
