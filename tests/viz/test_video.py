"""Videos, contact sheets and the colours of tokens, as a stranger opens them."""

from __future__ import annotations

import io

import av
import numpy as np
import pytest
import torch

from mirage_nb.viz import video


def gradient_frames(count=5, height=40, width=56) -> torch.Tensor:
    """Smooth frames, each a little brighter than the one before."""
    x = torch.linspace(20, 120, width).expand(height, width)
    y = torch.linspace(20, 120, height)[:, None].expand(height, width)
    frame = torch.stack([x, y, 140 - x], -1)
    return torch.stack([frame + 20 * i for i in range(count)]).clamp(0, 255).byte()


def decode(data: bytes) -> np.ndarray:
    with av.open(io.BytesIO(data)) as container:
        return np.stack([f.to_ndarray(format="rgb24") for f in container.decode(video=0)])


def test_an_mp4_plays_back_what_was_written() -> None:
    frames = gradient_frames()
    played = decode(video.mp4_bytes(frames))
    assert played.shape == frames.shape
    assert np.abs(played.astype(int) - frames.numpy()).mean() < 4  # 4:2:0 and H.264 lose a little
    assert np.all(np.diff(played.mean((1, 2, 3))) > 10)  # in order


def test_an_odd_size_is_padded_and_a_small_one_enlarged(tmp_path) -> None:
    assert decode(video.mp4_bytes(gradient_frames(2, 35, 41))).shape == (2, 36, 42, 3)
    path = video.write_mp4(tmp_path / "v.mp4", gradient_frames(2), min_side=80)
    assert decode(path.read_bytes()).shape == (2, 80, 112, 3)
    assert [p.name for p in tmp_path.iterdir()] == ["v.mp4"]  # nothing is left aside


@pytest.mark.parametrize("bad", [torch.zeros(2, 4, 4, 3), torch.zeros(4, 4, 3).byte(), torch.zeros(0, 4, 4, 3).byte()])
def test_what_is_no_video_is_refused(bad: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="frames: expected"):
        video.mp4_bytes(bad)


def test_a_contact_sheet_shows_the_frames_it_names() -> None:
    frames = torch.stack([torch.full((16, 16, 3), 10 * i, dtype=torch.uint8) for i in range(9)])
    page = video.contact_sheet({"truth": frames, "none": 255 - frames}, columns=3, tile=32)
    sheet = np.asarray(page.convert("RGB")).astype(int)
    for value in (40, 80, 215, 175):  # the middle and the last frame of each row
        assert (abs(sheet - value) < 2).all(-1).sum() >= 32 * 32
    assert (abs(sheet - 50) < 2).all(-1).sum() < 32 * 32  # frame 5 was not asked for
    assert video.contact_sheet({"truth": frames[:2]}, columns=9, tile=32).width < page.width  # all there are


def test_side_by_side_keeps_the_videos_in_step() -> None:
    a = torch.stack([torch.full((16, 16, 3), 20 * i, dtype=torch.uint8) for i in range(3)])
    whole = video.side_by_side({"truth": a, "none": 200 - a}, min_side=32)
    for i, frame in enumerate(whole):
        row = frame[frame.shape[0] // 2]
        assert tuple(row[12]) == (20 * i,) * 3 and (row == 200 - 20 * i).all(-1).sum() >= 32


def test_videos_of_different_length_are_refused() -> None:
    with pytest.raises(ValueError, match="one length and size"):
        video.side_by_side({"a": gradient_frames(2), "b": gradient_frames(3)})
