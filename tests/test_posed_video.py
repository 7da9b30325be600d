"""Video with poses and without depth: read in several layouts, brought to scale, and cut into walks to train on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mirage_nb.cameras import Cameras
from mirage_nb.data.clip import Clip
from mirage_nb.data.recordings.pose_scale import pose_scale, scaled, with_estimated_depth
from mirage_nb.data.recordings.posed_video import read_posed_video
from mirage_nb.data.recordings.rgbd import read_rgbd
from mirage_nb.data.rooms.room import Room
from mirage_nb.formats.exports import export_run
from mirage_nb.formats.trajectory_files import save_trajectory
from mirage_nb.training.data import Walks, import_recordings
from mirage_nb.viz.video import mp4_bytes

ROOT = Path(__file__).resolve().parents[1]
SIZE = (48, 64)
UNIT = 3.7  # units of the written poses in a metre


class Told:
    """A depth model that knows the truth, by the frames' order."""

    def __init__(self, depth: torch.Tensor) -> None:
        self.depth, self.at = depth, 0

    def predict(self, pixels, intrinsics):
        assert pixels.shape[1] == 3 and pixels.min() >= -1 and len(intrinsics) == len(pixels)
        self.at += len(pixels)
        return self.depth[self.at - len(pixels) : self.at]


@pytest.fixture(scope="module")
def clip() -> Clip:
    room = Room(5, moving=0)
    return room.render(room.walk(18, size=SIZE))


@pytest.fixture
def recording(clip, tmp_path):
    """The walk as a video, with transforms.json beside it in another unit."""
    folder = tmp_path / "clip"
    folder.mkdir()
    (folder / "video.mp4").write_bytes(mp4_bytes(clip.frames))
    save_trajectory(folder / "transforms.json", scaled(clip.cameras, UNIT))
    return folder


def close(frames: torch.Tensor, truth: torch.Tensor) -> float:
    return (frames.float() - truth.float()).abs().mean().item()


# ---------------------------------------------------------------------------------------------------------- the reader


def test_a_video_and_its_poses(recording, clip):
    frames, cameras = read_posed_video(recording, SIZE)
    assert frames.shape == clip.frames.shape and close(frames, clip.frames) < 4 < close(frames.flip(0), clip.frames)
    torch.testing.assert_close(cameras.c2w, scaled(clip.cameras, UNIT).c2w, atol=1e-5, rtol=0)
    torch.testing.assert_close(cameras.intrinsics, clip.cameras.intrinsics)
    frames, cameras = read_posed_video(recording, (24, 24), slice(1, None, 3))
    assert frames.shape == (6, 24, 24, 3) and cameras.size == (24, 24)
    torch.testing.assert_close(cameras.centers, UNIT * clip.cameras.centers[1::3], atol=1e-5, rtol=0)
    torch.testing.assert_close(cameras.intrinsics[0, 0], clip.cameras.intrinsics[0, 0] / 2)
    assert close(read_posed_video(recording, SIZE, [3, 1])[0], clip.frames[[3, 1]]) < 4


@pytest.mark.parametrize("layout", ["nerfstudio", "colmap", "shuffled", "realestate10k", "7-scenes", "geometry"])
def test_layouts(clip, tmp_path, layout):
    part = Clip(clip.frames[:12], clip.depth[:12], clip.cameras[:12])
    expected, source = part, tmp_path
    if layout in ("nerfstudio", "colmap", "shuffled"):
        (source,) = export_run(
            tmp_path, part.frames, part.cameras, part.depth, (layout.replace("shuffled", "nerfstudio"),)
        )
    if layout == "shuffled":  # poses stay with the pictures that the file names, in the order of the names
        content = json.loads((source / "transforms.json").read_text())
        content["frames"] = content["frames"][5:] + content["frames"][:5]
        (source / "transforms.json").write_text(json.dumps(content))
    if layout == "colmap":  # a picture without a pose
        Image.new("RGB", SIZE[::-1]).save(source / "images" / "frame_00003_5.png")
    if layout == "realestate10k":  # of two videos in a folder, the one whose name is given
        for name, frames in (("one", part.frames), ("two", part.frames.flip(0))):
            (tmp_path / f"{name}.mp4").write_bytes(mp4_bytes(frames))
            save_trajectory(tmp_path / f"{name}.txt", part.cameras, "realestate10k")
        source = tmp_path / "one.mp4"
    if layout == "7-scenes":  # colour and pose, no depth; tracking was lost once
        for i, (frame, pose) in enumerate(zip(part.frames, part.cameras.c2w)):
            Image.fromarray(frame.numpy()).save(tmp_path / f"frame-{i:06d}.color.png")
            np.savetxt(tmp_path / f"frame-{i:06d}.pose.txt", pose * (np.nan if i == 4 else 1))
        fx, fy, cx, cy = part.cameras.intrinsics[0].tolist()
        np.savetxt(tmp_path / "camera-intrinsics.txt", [[fx, 0, cx - 0.5], [0, fy, cy - 0.5], [0, 0, 1]])
        kept = [i for i in range(12) if i != 4]
        expected = Clip(part.frames[kept], part.depth[kept], part.cameras[kept])
    if layout == "geometry":  # pictures that nothing names: in the order of their numbers
        for i, frame in enumerate(part.frames):
            Image.fromarray(frame.numpy()).save(tmp_path / f"{i}.png")
        np.savez(tmp_path / "path.npz", c2w=part.cameras.c2w, intrinsics=_normalised(part.cameras))
    if layout == "7-scenes":
        with pytest.warns(UserWarning, match="tracking was lost"):
            frames, cameras = read_posed_video(source, SIZE)
    else:
        frames, cameras = read_posed_video(source, SIZE)
    assert close(frames, expected.frames) < 4 < close(frames.flip(0), expected.frames)
    torch.testing.assert_close(cameras.c2w, expected.cameras.c2w, atol=1e-4, rtol=0)
    torch.testing.assert_close(cameras.intrinsics, expected.cameras.intrinsics, atol=1e-3, rtol=0)


def _normalised(cameras: Cameras) -> np.ndarray:
    (height, width), (fx, fy, cx, cy) = cameras.size, cameras.intrinsics[0].tolist()
    return np.array([[fx / width, 0, cx / width], [0, fy / height, cy / height], [0, 0, 1]])


# ----------------------------------------------------------------------------------------------------------- the scale


@pytest.mark.parametrize("unit", [0.02, 1.0, 170.0])
def test_the_factor_is_found_with_the_exact_depth(clip, unit):
    found = pose_scale(clip.frames, clip.depth, scaled(clip.cameras, unit))
    assert found.parallax and found.agreement > 0.9
    assert found.factor * unit == pytest.approx(1, abs=0.05)


def test_a_depth_that_flickers_and_bends_still_tells_it(clip):
    generator = torch.Generator().manual_seed(0)
    flicker = torch.exp(0.05 * torch.randn(len(clip.depth), 1, 1, generator=generator))
    bend = torch.nn.functional.interpolate(torch.randn(1, 1, 4, 4, generator=generator), SIZE, mode="bicubic")[0]
    found = pose_scale(clip.frames, clip.depth * flicker * torch.exp(0.05 * bend), scaled(clip.cameras, UNIT))
    assert found.parallax and found.factor * UNIT == pytest.approx(1, abs=0.12)


def test_a_recorded_kitchen_tells_it():
    kitchen = ROOT.parent / "shared" / "real" / "kitchen"
    if not kitchen.exists():
        pytest.skip("no RGB-D recording at ../shared/real/kitchen")
    clip = read_rgbd(kitchen, (96, 128), slice(0, 20))
    found = pose_scale(clip.frames, clip.depth, scaled(clip.cameras, UNIT))
    assert found.parallax and found.agreement > 0.8 and found.factor * UNIT == pytest.approx(1, abs=0.05)


def test_a_camera_that_only_turns_tells_no_scale():
    room = Room(5, moving=0)
    turning = room.walk(12, path="pan_left", size=SIZE)
    assert (turning.centers - turning.centers[0]).abs().max() < 1e-5
    clip = room.render(turning)
    found = pose_scale(clip.frames, clip.depth, turning)
    assert not found.parallax and found.factor == 1 and found.agreement > 0.8 and "no parallax" in str(found)
    assert not pose_scale(clip.frames[:1], clip.depth[:1], turning[:1]).parallax


def test_depth_that_fits_at_no_scale_is_refused(clip):
    generator = torch.Generator().manual_seed(1)
    wild = clip.depth * torch.exp(torch.randn(clip.depth.shape, generator=generator))
    with pytest.raises(ValueError, match="does not fit the poses.*expected at least 50%"):
        with_estimated_depth(clip.frames, clip.cameras, Told(wild))
    relative = Told(clip.depth)
    relative.relative = True
    with pytest.raises(ValueError, match="depth_model: expected one that predicts metres"):
        with_estimated_depth(clip.frames, clip.cameras, relative)


# ----------------------------------------------------------------------------------------------------------- the walks


def test_walks_come_out_in_the_depth_s_metres_and_can_be_learnt_from(recording, clip, tmp_path):
    from mirage_nb.models.presets import build_micro
    from mirage_nb.training.encoded import EncodedWalks, encode_walks
    from mirage_nb.training.stages import train_transformer

    done = []
    options = dict(num_frames=9, size=SIZE, progress=done.append)
    sources = [recording, tmp_path / "nothing"]
    report = import_recordings(sources, tmp_path / "walks", depth_model=Told(clip.depth), **options)
    assert done == [1, 2] and report[str(recording)].startswith("2 walks, poses x 0.2")
    assert report[str(tmp_path / "nothing")].startswith("left out: input: no such")
    walks = Walks(tmp_path / "walks")
    assert len(walks) == 2 and walks.num_frames == 9
    way = (walks["c2w"][:, -1, :3, 3] - walks["c2w"][:, 0, :3, 3]).norm(dim=1)
    truth = (clip.cameras.centers[[8, 17]] - clip.cameras.centers[[0, 9]]).norm(dim=1)
    torch.testing.assert_close(way, truth, rtol=0.05, atol=0)
    torch.testing.assert_close(walks["depth"].flatten(0, 1).float(), clip.depth, rtol=1e-3, atol=0)

    (shard,) = (tmp_path / "walks").iterdir()  # a second call, with another list, leaves it alone
    before = shard.stat().st_mtime_ns
    again = import_recordings(sources[::-1], tmp_path / "walks", depth_model=None, **options)
    assert again[str(recording)] == "2 walks, there already" and shard.stat().st_mtime_ns == before

    other = import_recordings([recording], tmp_path / "walks", num_frames=7, size=SIZE)
    assert "walks of 9 frames already" in other[str(recording)]

    parts = build_micro()
    encode_walks(tmp_path / "walks", tmp_path / "encoded", parts["vae"])
    parts["transformer"].save_pretrained(tmp_path / "start")
    data = EncodedWalks.load(tmp_path / "encoded")
    options = dict(steps=2, lr=1e-3, batch=2, warmup=1, rank=2, progress=False)
    assert train_transformer("memory", tmp_path / "start", data, tmp_path / "out", **options).exists()


def test_what_does_not_fit_is_told_in_one_line(recording, clip, tmp_path):
    def outcome(num_frames=9, depth_model=None, source=recording):
        told = import_recordings([source], tmp_path / "walks", num_frames, SIZE, depth_model)[str(source)]
        assert told.startswith("left out: ") and "\n" not in told
        return told

    assert "no depth_model" in outcome()
    assert "expected 100 frames at least, got 18" in outcome(100)
    assert "does not fit the poses" in outcome(depth_model=Told(clip.depth.flip(0).flip(1)))
    save_trajectory(recording / "transforms.json", clip.cameras[:11])
    assert "got 18 frames and 11 poses" in outcome()
    (recording / "transforms.json").unlink()
    assert "no poses" in outcome()
    save_trajectory(recording / "path.txt", clip.cameras, "tum")
    assert "no intrinsics" in outcome()
    save_trajectory(recording / "path.txt", clip.cameras, "realestate10k")
    assert "no depth_model" in outcome()
    lenses = clip.cameras.intrinsics * torch.linspace(1, 1.2, 18)[:, None] ** torch.tensor([1, 1, 0, 0])
    save_trajectory(recording / "path.txt", Cameras(clip.cameras.c2w, lenses, SIZE), "realestate10k")
    assert "one lens" in outcome(depth_model=Told(clip.depth))
    (recording / "video.mp4").write_bytes(b"no video at all")
    assert "can't be read as a video" in outcome()
    (recording / "video.mp4").unlink()
    assert "no frames" in outcome()
    assert "expected a folder or a video" in outcome(source=recording / "path.txt")
    (exported,) = export_run(tmp_path, clip.frames, clip.cameras, clip.depth, ("nerfstudio",))
    (exported / "images" / "frame_00007.png").unlink()
    assert "frame_00007.png: missing" in outcome(source=exported)
    assert not list((tmp_path / "walks").iterdir())


def test_the_command_takes_video(recording, tmp_path):
    from typer.testing import CliRunner

    from mirage_nb.cli import app

    command = ["train", "data", "--folder", str(tmp_path / "walks"), "--frames", "100"]
    done = CliRunner().invoke(app, [*command, "--recordings", str(recording)])
    assert done.exit_code == 0, done.output
    assert "left out" in done.output and "expected 100 frames at least, got 18" in done.output


SCRIPT = """
import sys
from mirage_nb.training.data import import_recordings, processes
report = import_recordings(sys.argv[2:], sys.argv[1])
assert processes().num_processes == 2
open(f"{sys.argv[1]}/{processes().process_index}.txt", "w").write("\\n".join(report.values()))
"""


def test_two_processes_share_the_recordings_and_both_tell_of_all(recording, tmp_path):
    script, sources = tmp_path / "run.py", [str(recording), str(tmp_path / "one"), str(tmp_path / "two")]
    script.write_text(SCRIPT)
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    # Not `accelerate launch --cpu`, which starts one process whatever it is told.
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", str(script)]
    done = subprocess.run([*launch, str(tmp_path / "walks"), *sources], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    first, second = ((tmp_path / "walks" / f"{i}.txt").read_text().splitlines() for i in range(2))
    assert first == second and len(first) == 3 and "got 18" in first[0]
    assert first[1].endswith("one") and first[2].endswith("two")
