"""The pipeline: repeatable, resumable, loadable; on models of a few thousand random parameters."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from micro import build_micro

from mirage_nb import Cameras, LatentGrid, MiragePipeline, files, runs
from mirage_nb.cameras import default_intrinsics
from mirage_nb.paths import camera_path

SIZE = (32, 48)


def image() -> torch.Tensor:
    return torch.randint(0, 256, (*SIZE, 3), generator=torch.Generator().manual_seed(2), dtype=torch.uint8)


def call(pipe, segments: int = 3, **options):
    frames = segments * 2 * pipe.vae.config.scale_factor_temporal + 1
    defaults = dict(generator=1, num_inference_steps=2, output_type="uint8")
    return pipe(image(), **{"c2w": camera_path("there_and_back", frames), **defaults, **options})


def test_seeds_repeat_and_differ(pipe):
    one, again, other = call(pipe), call(pipe), call(pipe, generator=2)
    assert torch.equal(one.frames, again.frames) and not torch.equal(one.frames, other.frames)
    by_generator = [call(pipe, generator=torch.Generator().manual_seed(4)) for _ in range(2)]
    assert torch.equal(by_generator[0].frames, by_generator[1].frames)
    drawn = call(pipe, generator=None)
    assert torch.equal(drawn.frames, call(pipe, generator=drawn.report["seed"]).frames), "the report tells the seed"


def test_global_random_state_is_left_alone(pipe):
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    call(pipe, segments=1, generator=None)
    assert torch.equal(torch.rand(3), expected)


def test_output_types_show_the_same_frames(pipe):
    frames = call(pipe).frames
    assert frames.shape == (7, *SIZE, 3) and frames.dtype == torch.uint8 and torch.equal(frames[0], image())
    assert np.array_equal(np.stack([np.array(f) for f in call(pipe, output_type="pil").frames]), frames.numpy())
    array, tensor = call(pipe, output_type="np").frames, call(pipe, output_type="pt").frames
    assert np.array_equal((array * 255).round().astype(np.uint8), frames.numpy())
    assert torch.equal(tensor, torch.from_numpy(array).movedim(3, 1))


def test_the_report_is_json_and_tells_of_every_segment(pipe):
    output = call(pipe)
    report = json.loads(json.dumps(output.report))
    assert len(report["segments"]) == 3
    assert set(report["segments"][0]["seconds"]) == {"read", "denoise", "decode", "depth", "write"}
    assert report["segments"][-1]["tokens"] == report["memory"]["tokens"] == len(output.memory) > 0
    assert report["memory"]["bytes"] == output.memory.nbytes and report["seed"] == 1
    assert output.c2w.shape == (7, 4, 4)


def test_an_existing_memory_is_walked_further(pipe):
    first = call(pipe)
    before = first.memory.positions.clone()
    onwards = camera_path("pan_left", 5, first.c2w[-1], degrees_per_frame=15)
    second = pipe(first.frames[-1], c2w=onwards, memory=first.memory, generator=5, num_inference_steps=2)
    assert second.memory is first.memory and len(second.memory) > len(before)
    assert torch.equal(second.memory.positions[: len(before)], before), "what was remembered stays"


def test_a_callback_may_replace_the_latents(pipe):
    steps = []

    def callback(pipe, step, timestep, given):
        steps.append(step)
        return {"latents": given["latents"] * 0}

    frames = call(pipe, segments=2, callback_on_step_end=callback).frames
    assert steps == [0, 1, 2, 3] and not torch.equal(frames, call(pipe, segments=2).frames)


both = pytest.mark.parametrize("temporal", [False, True], ids=["stride1", "stride4"], scope="module")


@both
def test_saved_and_loaded_it_makes_the_same_video(pipe, tmp_path):
    pipe.save_pretrained(tmp_path / "model")
    index = json.loads((tmp_path / "model" / "model_index.json").read_text())
    assert index["transformer"] == ["mirage_nb.models.transformer", "MirageTransformer3DModel"]
    loaded = MiragePipeline.from_pretrained(tmp_path / "model")
    loaded.set_progress_bar_config(disable=True)
    assert torch.equal(call(loaded).frames, call(pipe).frames)
    without = MiragePipeline.from_pretrained(tmp_path / "model", depth_estimator=None)
    with pytest.raises(ValueError, match="depth: this pipeline has no depth estimator"):
        call(without)
    assert not list((tmp_path / "model").rglob("*.bin"))


class Stop(Exception):
    pass


def stop_at(step: int):
    def callback(pipe, now, timestep, given):
        if now == step:
            raise Stop
        return {}

    return callback


@both
@pytest.mark.parametrize("memory", ["latent", "rgb", "none"])
def test_an_interrupted_run_resumes_to_the_same_video(pipe, memory, tmp_path):
    whole = call(pipe, memory=memory)
    with pytest.raises(Stop):
        call(pipe, memory=memory, output_dir=tmp_path, callback_on_step_end=stop_at(5))  # in the last of 3 segments
    steps = []
    count = lambda p, step, t, k: steps.append(step)  # noqa: E731
    resumed = call(pipe, memory=memory, output_dir=tmp_path, callback_on_step_end=count)
    assert steps == [4, 5], "the whole segments are not made again"
    assert torch.equal(resumed.frames, whole.frames)
    assert len(resumed.memory) == len(whole.memory) and resumed.memory.nbytes == whole.memory.nbytes
    assert [s["tokens"] for s in resumed.report["segments"]] == [s["tokens"] for s in whole.report["segments"]]
    again = call(pipe, memory=memory, output_dir=tmp_path, callback_on_step_end=stop_at(0))
    assert torch.equal(again.frames, whole.frames), "a finished run is only read"
    segments = [f"segment-00{i}.safetensors" for i in range(3)]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["memory.safetensors", *segments, "state.json"]


def test_a_crash_between_two_files_loses_one_segment_at_most(pipe, tmp_path, monkeypatch):
    whole, write, count = call(pipe), runs.Run._write_state, []

    def crash(run):
        count.append(run.segments)
        if run.segments == 2:
            raise Stop
        write(run)

    with monkeypatch.context() as patch:
        patch.setattr(runs.Run, "_write_state", crash)
        with pytest.raises(Stop):
            call(pipe, output_dir=tmp_path)
    assert count == [0, 1, 2] and json.loads((tmp_path / "state.json").read_text())["segments"] == 1
    assert torch.equal(call(pipe, output_dir=tmp_path).frames, whole.frames)


@pytest.mark.parametrize("name", ["segment-001.safetensors", "memory-002.safetensors"])
def test_a_full_disk_is_told_and_the_run_goes_on_later(pipe, name, tmp_path, monkeypatch):
    whole, replace = call(pipe), os.replace

    def full(source, target):
        if Path(target).name == name:
            raise OSError(errno.ENOSPC, "No space left on device")
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(files.os, "replace", full)
        with pytest.raises(OSError, match="the disk of .* is full; what was done is kept"):
            call(pipe, output_dir=tmp_path)
    assert json.loads((tmp_path / "state.json").read_text())["segments"] == 1
    assert torch.equal(call(pipe, output_dir=tmp_path).frames, whole.frames)


def test_a_run_without_a_seed_resumes_with_its_own(pipe, tmp_path):
    with pytest.raises(Stop):
        call(pipe, generator=None, output_dir=tmp_path, callback_on_step_end=stop_at(3))
    resumed = call(pipe, generator=None, output_dir=tmp_path)
    assert torch.equal(resumed.frames, call(pipe, generator=resumed.report["seed"]).frames)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (dict(generator=9), "seed"),
        (dict(num_inference_steps=3), "num_inference_steps"),
        (dict(segments=2), "c2w, intrinsics"),
        (dict(memory="none"), "memory"),
        (dict(intrinsics=[30, 30, 24, 16]), "intrinsics"),
        (dict(depth=torch.full(SIZE, 2.0)), "depth"),
    ],
)
def test_a_folder_of_another_run_is_refused(pipe, tmp_path, change, named):
    call(pipe, output_dir=tmp_path)
    with pytest.raises(ValueError, match=f"output_dir: .* holds a run with another {named};"):
        call(pipe, output_dir=tmp_path, **change)


def test_another_memory_of_the_same_size_is_another_run(pipe, tmp_path):
    path = camera_path("there_and_back", 3)
    first, other = LatentGrid(), LatentGrid()
    for seed, memory in enumerate((first, other)):
        latents = torch.randn(1, 4, 4, 6, generator=torch.Generator().manual_seed(seed))
        memory.write(latents.half(), torch.full((1, *SIZE), 2.0), Cameras(path[:1], default_intrinsics(SIZE), SIZE))
    assert len(first) == len(other) == 24
    call(pipe, segments=1, memory=first, output_dir=tmp_path)
    with pytest.raises(ValueError, match="another memory"):
        call(pipe, segments=1, memory=other, output_dir=tmp_path)


def test_other_weights_are_another_run(pipe, tmp_path):
    call(pipe, segments=1, output_dir=tmp_path)
    with pytest.raises(ValueError, match="another model"):
        call(MiragePipeline(**build_micro(seed=1)), segments=1, output_dir=tmp_path)


def test_the_memory_file_is_a_memory(pipe, tmp_path):
    output = call(pipe, output_dir=tmp_path)
    stored = LatentGrid.load(tmp_path / "memory.safetensors")
    assert torch.equal(stored.positions, output.memory.positions) and torch.equal(stored.tokens, output.memory.tokens)
