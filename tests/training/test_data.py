"""Walks: rendered from rooms or cut from recordings, once; held-out rooms stay held out."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from mirage_nb.cameras import Cameras
from mirage_nb.data.rooms.room import Room
from mirage_nb.formats import save_trajectory
from mirage_nb.training.data import HELD_OUT, Walks, import_recordings, write_walks
from mirage_nb.viz.video import mp4_bytes

ROOT = Path(__file__).resolve().parents[2]
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
    save_trajectory(folder / "transforms.json", clip.cameras)
    return folder


def test_walks_are_what_the_rooms_show(tmp_path):
    write_walks(tmp_path, 1, num_frames=3, first_seed=7, augmented=True, size=64)
    walks, room = Walks(tmp_path), Room(7, augmented=True)
    cameras = room.walk(3, size=(64, 64))
    clip = room.render(cameras)
    assert torch.equal(walks["frames"][0], clip.frames) and torch.equal(walks["c2w"][0], cameras.c2w)
    assert torch.equal(walks["writable"][0], ~(clip.moving | clip.sky)) and walks.num_frames == 3


def test_held_out_rooms_are_refused(tmp_path):
    with pytest.raises(ValueError, match="rooms: seeds from 900000 on are held out"):
        write_walks(tmp_path, 5, first_seed=HELD_OUT - 2)
    with pytest.raises(FileNotFoundError, match="walks: no walks-"):
        Walks(tmp_path)


def test_posed_video_becomes_walks_once(recording, clip, tmp_path):
    sources, options = [recording, tmp_path / "nothing"], dict(num_frames=9, size=SIZE)
    report = import_recordings(sources, tmp_path / "walks", depth_model=ExactDepth(clip.depth), **options)
    assert report[str(recording)].startswith("2 walks")
    assert report[str(tmp_path / "nothing")].startswith("left out: ")
    walks = Walks(tmp_path / "walks")
    assert len(walks) == 2 and walks.num_frames == 9 and walks["writable"].all()
    torch.testing.assert_close(walks["depth"].flatten(0, 1).float(), clip.depth, rtol=1e-3, atol=0)
    way = (walks["c2w"][:, -1, :3, 3] - walks["c2w"][:, 0, :3, 3]).norm(dim=1)
    truth = (clip.cameras.centers[[8, 17]] - clip.cameras.centers[[0, 9]]).norm(dim=1)
    torch.testing.assert_close(way, truth, rtol=0.05, atol=0)

    (shard,) = (tmp_path / "walks").iterdir()  # a second call, with another list, leaves it alone
    before = shard.stat().st_mtime_ns
    again = import_recordings(sources[::-1], tmp_path / "walks", **options)
    assert again[str(recording)] == "2 walks, there already" and shard.stat().st_mtime_ns == before
    other = import_recordings([recording], tmp_path / "walks", num_frames=7, size=SIZE)
    assert "walks of 9 frames already" in other[str(recording)]


def test_what_does_not_fit_is_left_out_with_a_reason(recording, clip, tmp_path):
    def outcome(num_frames=9, depth_model=None):
        report = import_recordings([recording], tmp_path / "walks", num_frames, SIZE, depth_model)
        assert "\n" not in report[str(recording)]
        return report[str(recording)].removeprefix("left out: ")

    assert "no depth_model" in outcome()
    assert "expected 100 frames at least, got 18" in outcome(100)
    lenses = clip.cameras.intrinsics * torch.linspace(1, 1.2, 18)[:, None] ** torch.tensor([1, 1, 0, 0])
    (recording / "transforms.json").unlink()
    save_trajectory(recording / "path.txt", Cameras(clip.cameras.c2w, lenses, SIZE), "realestate10k")
    assert "one lens" in outcome(depth_model=ExactDepth(clip.depth))
    assert not list((tmp_path / "walks").iterdir())


def test_an_rgbd_recording_becomes_walks(tmp_path):
    kitchen = ROOT.parent / "shared" / "real" / "kitchen"
    if not kitchen.exists():
        pytest.skip("no RGB-D recording at ../shared/real/kitchen")
    report = import_recordings([kitchen], tmp_path / "walks", num_frames=5, size=(32, 32))
    walks = Walks(tmp_path / "walks")
    assert len(walks) == int(report[str(kitchen)].split()[0]) and walks["frames"].shape[1:] == (5, 32, 32, 3)
    report = import_recordings([kitchen], tmp_path / "long", num_frames=10_000)
    assert "10000 frames in a row" in report[str(kitchen)]
