"""Walks: rendered from rooms or cut from recordings, once; held-out rooms stay held out."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from posed_clip import write_transforms

from mirage_nb.data.clip import Clip
from mirage_nb.data.rooms.room import Room
from mirage_nb.training import data
from mirage_nb.training.data import HELD_OUT, Walks, import_recordings, write_walks
from mirage_nb.viz.video import mp4_bytes

SIZE = (48, 64)


class ExactDepth:
    """A depth model that knows the true depth of a clip, in the order of its frames."""

    def __init__(self, depth: torch.Tensor) -> None:
        self.depth, self.at = depth, 0

    def predict(self, pixels, intrinsics):
        self.at += len(pixels)
        return self.depth[self.at - len(pixels) : self.at]


@pytest.fixture(scope="module")
def clip():
    room = Room(5, moving=0)
    return room.render(room.walk(18, size=SIZE))


@pytest.fixture
def recording(clip, tmp_path):
    """The walk as a video with its poses, without depth."""
    folder = tmp_path / "clip"
    folder.mkdir()
    (folder / "video.mp4").write_bytes(mp4_bytes(clip.frames))
    write_transforms(folder / "transforms.json", clip.cameras)
    return str(folder)


def test_walks_are_what_the_rooms_show(tmp_path):
    write_walks(tmp_path, 1, num_frames=3, first_seed=7, size=64)
    walks, room = Walks(tmp_path), Room(7)
    cameras = room.walk(3, size=(64, 64))
    clip = room.render(cameras)
    assert torch.equal(walks["frames"][0], clip.frames) and torch.equal(walks["moving"][0], clip.moving)
    assert torch.equal(walks.cameras(0).c2w, cameras.c2w) and torch.equal(
        walks.cameras(0).intrinsics, cameras.intrinsics
    )
    write_walks(tmp_path, 1, num_frames=4, first_seed=20, size=64)
    with pytest.raises(ValueError, match="walks: expected one length"):
        Walks(tmp_path)


def test_held_out_rooms_are_refused(tmp_path):
    with pytest.raises(ValueError, match="rooms: seeds from 900000 on are held out"):
        write_walks(tmp_path, 5, first_seed=HELD_OUT - 2)
    with pytest.raises(FileNotFoundError, match="walks: no walks-"):
        Walks(tmp_path)


def test_posed_video_becomes_walks_once(recording, clip, tmp_path):
    sources, options = [recording, str(tmp_path / "nothing")], dict(num_frames=9, size=SIZE, scale=1.0)
    for scale, message in ((None, r"has no depth.*\(--scale\)"), (9.0, r"does not fit.* units of 9 m.*\(--scale\)")):
        refused = import_recordings([recording], tmp_path / "no", ExactDepth(clip.depth), **options | {"scale": scale})
        assert re.search(message, refused[recording]), refused
    report = import_recordings(sources, tmp_path / "walks", ExactDepth(clip.depth), **options)
    assert report[sources[0]] == "2 walks" and report[sources[1]].startswith("left out: ")
    walks = Walks(tmp_path / "walks")
    assert len(walks) == 2 and walks["frames"].shape[1:4] == (9, *SIZE) and not walks["moving"].any()
    torch.testing.assert_close(walks["depth"].flatten(0, 1).float(), clip.depth, rtol=1e-3, atol=0)
    way = (walks["c2w"][:, -1, :3, 3] - walks["c2w"][:, 0, :3, 3]).norm(dim=1)
    truth = (clip.cameras.centers[[8, 17]] - clip.cameras.centers[[0, 9]]).norm(dim=1)
    torch.testing.assert_close(way, truth, rtol=0.05, atol=0)

    (shard,) = (tmp_path / "walks").iterdir()  # a second call, with another list, leaves it alone
    before = shard.stat().st_mtime_ns
    again = import_recordings(sources[::-1], tmp_path / "walks", None, **options)
    assert again[recording] == "2 walks" and shard.stat().st_mtime_ns == before


def test_frames_with_hardly_any_depth_are_left_out(clip, tmp_path, monkeypatch):
    """A fifth of the pixels measured is too little, a half is enough."""
    for share, walks in ((0.2, 1), (0.5, 2)):
        depth = clip.depth.clamp(min=1.0)
        depth[3, :, round(share * SIZE[1]) :] = 0
        monkeypatch.setattr(data, "load_recording", lambda source: SimpleNamespace(depths=["frame.depth.png"]))
        monkeypatch.setattr(data, "read_rgbd", lambda source, size: Clip(clip.frames, depth, clip.cameras))
        report = import_recordings([str(tmp_path)], tmp_path / str(share), None, num_frames=9, size=SIZE)
        assert report == {str(tmp_path): f"{walks} walks"}
    report = import_recordings([str(tmp_path)], tmp_path / "long", None, num_frames=100, size=SIZE)
    assert "no 100 frames in a row with measured depth, of 18" in report[str(tmp_path)]
    assert not list((tmp_path / "long").iterdir())


def test_an_rgbd_recording_becomes_walks(tmp_path):
    kitchen = Path(__file__).resolve().parents[3] / "shared" / "real" / "kitchen"
    if not kitchen.exists():
        pytest.skip("no RGB-D recording at ../shared/real/kitchen")
    report = import_recordings([str(kitchen)], tmp_path, None, num_frames=5, size=(32, 32))
    walks = Walks(tmp_path)
    assert report == {str(kitchen): f"{len(walks)} walks"} and walks["frames"].shape[1:] == (5, 32, 32, 3)
