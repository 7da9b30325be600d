"""Recordings cut into walks to train on."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from posed_clip import SIZE, TrueDepth, rendered_clip, write_recording

from mirage_nb.cameras import Cameras
from mirage_nb.data import Clip
from mirage_nb.formats import save_trajectory
from mirage_nb.training.data import Walks, import_recordings

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def recording(tmp_path):
    return write_recording(tmp_path / "clip")


@pytest.fixture
def clip() -> Clip:
    return rendered_clip()


def test_walks_come_out_in_the_depth_s_metres_and_can_be_learnt_from(recording, clip, tmp_path):
    from mirage_nb.models.presets import build_micro
    from mirage_nb.training.encoded import EncodedWalks, encode_walks
    from mirage_nb.training.stages import train_transformer

    done = []
    options = dict(num_frames=9, size=SIZE, progress=done.append)
    sources = [recording, tmp_path / "nothing"]
    report = import_recordings(sources, tmp_path / "walks", depth_model=TrueDepth(clip.depth), **options)
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
    def outcome(num_frames=9, depth_model=None):
        told = import_recordings([recording], tmp_path / "walks", num_frames, SIZE, depth_model)[str(recording)]
        assert told.startswith("left out: ") and "\n" not in told
        return told

    assert "no depth_model" in outcome()
    assert "expected 100 frames at least, got 18" in outcome(100)
    assert "does not fit the poses" in outcome(depth_model=TrueDepth(clip.depth.flip(0).flip(1)))
    lenses = clip.cameras.intrinsics * torch.linspace(1, 1.2, 18)[:, None] ** torch.tensor([1, 1, 0, 0])
    save_trajectory(recording / "transforms.json", Cameras(clip.cameras.c2w, lenses, SIZE))
    assert "one lens" in outcome(depth_model=TrueDepth(clip.depth))
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
