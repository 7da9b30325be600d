"""Walks: rendered from rooms or cut from recordings, once; held-out rooms stay held out."""

from __future__ import annotations

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


def test_video_without_depth_is_left_out(recording, tmp_path):
    report = import_recordings([recording, str(tmp_path / "nothing")], tmp_path / "walks", num_frames=9, size=SIZE)
    assert "it has no depth" in report[recording] and report[str(tmp_path / "nothing")].startswith("left out: ")


def test_frames_with_hardly_any_depth_are_left_out(clip, tmp_path, monkeypatch):
    """A fifth of the pixels measured is too little, a half is enough."""
    for share, walks in ((0.2, 1), (0.5, 2)):
        depth = clip.depth.clamp(min=1.0)
        depth[3, :, round(share * SIZE[1]) :] = 0
        monkeypatch.setattr(data, "load_recording", lambda source: SimpleNamespace(depths=["frame.depth.png"]))
        monkeypatch.setattr(data, "read_rgbd", lambda source, size: Clip(clip.frames, depth, clip.cameras))
        report = import_recordings([str(tmp_path)], tmp_path / str(share), num_frames=9, size=SIZE)
        assert report == {str(tmp_path): f"{walks} walks"}
        (shard,) = (tmp_path / str(share)).iterdir()  # a second call leaves it alone
        before = shard.stat().st_mtime_ns
        assert import_recordings([str(tmp_path)], tmp_path / str(share), num_frames=9, size=SIZE) == report
        assert shard.stat().st_mtime_ns == before
    report = import_recordings([str(tmp_path)], tmp_path / "long", num_frames=100, size=SIZE)
    assert "no 100 frames in a row with measured depth, of 18" in report[str(tmp_path)]
    assert not list((tmp_path / "long").iterdir())


def test_an_rgbd_recording_becomes_walks(tmp_path):
    kitchen = Path(__file__).resolve().parents[3] / "shared" / "real" / "kitchen"
    if not kitchen.exists():
        pytest.skip("no RGB-D recording at ../shared/real/kitchen")
    report = import_recordings([str(kitchen)], tmp_path, num_frames=5, size=(32, 32))
    walks = Walks(tmp_path)
    assert report == {str(kitchen): f"{len(walks)} walks"} and walks["frames"].shape[1:] == (5, 32, 32, 3)
