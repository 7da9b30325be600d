"""The race from end to end on models of a few thousand parameters; its report, tables and what it resumes from."""

from __future__ import annotations

import json
import math

import pytest
import torch
from typer.testing import CliRunner

from mirage_nb.benchmarks import paper, predictions, race, report
from mirage_nb.benchmarks.measure import Peak, Results, measured, spread
from mirage_nb.benchmarks.rates import Rates
from mirage_nb.cli import app
from mirage_nb.evaluation import there_and_back_room
from mirage_nb.models.presets import build_micro
from mirage_nb.pipeline import MiragePipeline
from mirage_nb.scenes import Clock

CPU = torch.device("cpu")
FLAT = Rates({1.0: 1e11}, {1.0: 1e10}, 1e11, 1e9, 1e8, 1e6)
SMALL = paper.Scale(size=(48, 64), chunks=2, frames=9, stride=8, channels=4)


@pytest.fixture(scope="module")
def pipe():
    pipe = MiragePipeline(**build_micro())
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module")
def tiny(pipe, tmp_path_factory):
    """A report of two runs over three chunks."""
    raw = race.race(pipe, Results(tmp_path_factory.mktemp("runs"), {}), runs=2, chunks=3, size=(64, 64))
    settings = {"runs": 2, "size": [64, 64], "chunks": 3, "steps": 2, "first_room": 900000}
    made = report.build_report("tiny", raw, settings, {"name": "a machine", "threads": 1}, ["A note."], "a command")
    return made | {"costs": predictions.at_tiny_scale(pipe, made, FLAT)}


@pytest.fixture(scope="module")
def at_scale(tmp_path_factory):
    parts = build_micro(temporal=True)
    results = Results(tmp_path_factory.mktemp("runs"), {})
    raw = paper.race(SMALL, results, runs=2, vae=lambda device, decoder: parts["vae"])
    settings = {"runs": 2, "size": list(SMALL.size)}
    made = report.build_report("paper", raw, settings, {"name": "a machine", "threads": 1}, ["Scaled."], "another")
    return made | {"costs": {"end_to_end_ratio": 1.25}}


def test_every_memory_is_measured_stage_by_stage(tiny):
    assert list(tiny["memories"]) == list(race.MEMORIES)
    for name, memory in tiny["memories"].items():
        assert [c["frames"] for c in memory["chunks"]] == [3, 2, 2], "the given frame belongs to the first chunk"
        for chunk in memory["chunks"]:
            each = chunk["seconds_per_frame"]
            assert set(each) == set(race.STAGES) and all(value["runs"] == 2 for value in each.values())
            assert (each["encode"]["median"] > 0) == name.startswith("rgb"), "only RGB memories call the encoder"
            assert chunk["total"]["median"] >= each["denoise"]["median"] > 0
            assert chunk["peak_bytes"]["low"] > 1e7 and math.isfinite(chunk["psnr_to_truth"]["median"])
        assert memory["closed_loop_psnr"]["runs"] == 2
    held = {name: [c["bytes"]["median"] for c in m["chunks"]] for name, m in tiny["memories"].items()}
    assert held["rgb"][2] > held["rgb"][1] > held["append"][2] > held["latent"][2] > 0 == held["none"][2]
    assert held["rgb_capped"][2] < held["rgb"][2]
    json.dumps(tiny, allow_nan=False)


def test_the_clock_of_the_stages_is_put_back():
    before = Clock.timer
    with pytest.raises(RuntimeError):
        with race.stage_timer(CPU):
            assert Clock.timer is not before
            raise RuntimeError
    assert Clock.timer is before


def test_a_stopped_race_goes_on(pipe, tmp_path, monkeypatch):
    results, calls, walk = Results(tmp_path, {"a": 1}), [], race.walk

    def stops(pipe, name, *args):
        if len(calls) == 3:
            raise KeyboardInterrupt
        calls.append(name)
        return walk(pipe, name, *args)

    monkeypatch.setattr(race, "walk", stops)
    with pytest.raises(KeyboardInterrupt):
        race.race(pipe, results, runs=1, chunks=2, memories=("latent", "rgb", "none"), size=(32, 32))
    assert calls == ["rgb", "latent", "rgb"]  # the first one warms up
    monkeypatch.setattr(race, "walk", walk)
    kept = (tmp_path / "900000-latent.json").read_text()
    said = []
    raw = race.race(
        pipe, Results(tmp_path, {"a": 1}), 1, 2, ("latent", "rgb", "none"), size=(32, 32),
        progress=lambda done, total, what: said.append((done, total)),
    )  # fmt: skip
    assert (tmp_path / "900000-latent.json").read_text() == kept and raw["latent"] == [json.loads(kept)]
    assert said == [(0, 3), (1, 3), (2, 3), (3, 3)] and len(raw["none"]) == 1
    with pytest.raises(ValueError, match="other settings"):
        Results(tmp_path, {"a": 2})


def test_the_walk_is_that_of_the_pipeline(pipe):
    """Measuring changes nothing: the same video quality as the pipeline gives for the same room, path and noise."""
    clip = there_and_back_room(900001, 5, (32, 32))
    measured_walk = race.walk(pipe, "latent", clip, 7)
    out = pipe(clip.frames[0], c2w=clip.cameras.c2w, intrinsics=clip.cameras.intrinsics, seed=7, output_type="uint8")
    from mirage_nb.evaluation import closed_loop_psnr

    assert measured_walk["closed_loop_psnr"] == pytest.approx(closed_loop_psnr(out.frames), abs=1e-4)
    assert measured_walk["chunks"][-1]["tokens"] == len(out.memory)


def test_paper_scale_times_both_paths(at_scale):
    for name, memory in at_scale["memories"].items():
        for chunk in memory["chunks"]:
            each = chunk["seconds_per_frame"]
            assert each["read"]["runs"] == each["write"]["runs"] == 2
            assert (each["encode"] is not None) == name.startswith("rgb")
            assert each["denoise"] is each["decode"] is each["depth"] is None, "left out on a processor"
            if each["encode"]:
                assert each["encode"]["runs"] == 1, "encoded once, and said so"
                assert chunk["total"]["median"] > each["encode"]["median"]
    last = {name: m["chunks"][-1]["bytes"]["median"] for name, m in at_scale["memories"].items()}
    assert last["rgb"] > 20 * last["append"] >= 20 * last["latent"] > 0
    assert at_scale["ratios"]["2"]["conditioning"]["rgb"]["time"] > 1


def test_key_frames_and_reads_of_the_turn():
    cameras, keys = paper.cameras_around(paper.Scale(), torch.eye(4))
    assert len(cameras) == 8 * 32 + 33 and keys[0] == [16, 32] and keys[7] == [240, 256]
    torch.testing.assert_close(cameras.c2w[256], cameras.c2w[0], atol=1e-5, rtol=0)  # once around
    assert paper.Scale().grid == (44, 80) and paper.Scale().latent_frames == 9


def test_a_whole_chunk_can_be_generated():
    parts = build_micro(temporal=True)
    figures = paper.measure_generation(parts["vae"], parts["transformer"], SMALL, steps=2)
    assert set(figures) == {"denoise", "decode"} and all(f["seconds"] > 0 for f in figures.values())


def test_encoding_is_the_real_vae():
    vae = build_micro(temporal=True)["vae"]
    figures = paper.measure_encode(vae, torch.rand(1, 3, 9, 32, 48) * 2 - 1)
    assert figures["finite"] and figures["frames"] == 9 and figures["seconds"] > 0
    assert not vae.encoder._forward_hooks


def test_once_measured_enters_every_total():
    runs = [{"chunks": [{"frames": 2, "seconds": {"read": r, **({"encode": 10.0} if i == 0 else {})}, "bytes": 4}]}
            for i, r in enumerate((1.0, 3.0, 2.0))]  # fmt: skip
    chunk = race.summarise({"rgb": runs})["rgb"]["chunks"][0]
    assert chunk["seconds_per_frame"]["encode"] == {"median": 5.0, "low": 5.0, "high": 5.0, "runs": 1}
    assert chunk["total"] == {"median": 6.0, "low": 5.5, "high": 6.5, "runs": 3}
    assert chunk["psnr_to_truth"] is None


def test_spread_and_measured():
    assert spread([3.0, 1.0, 2.0, None, math.nan]) == {"median": 2.0, "low": 1.0, "high": 3.0, "runs": 3}
    assert spread([None]) is None
    figures, result = measured(lambda: torch.zeros(1 << 22).add_(1).sum().item(), CPU)
    assert result == 1 << 22 and figures["peak_bytes"] > 1 << 24 and figures["seconds"] >= 0
    peak = Peak(CPU)
    peak.reset()
    before = peak.bytes()
    block = torch.ones(1 << 25)  # 128 MiB
    assert peak.bytes() >= before and len(block)


def test_tables_name_every_memory_and_the_csv_every_figure(tiny, at_scale):
    rows = report.split_rows(tiny)
    assert [row[0] for row in rows[1:]] == [
        "latent memory", "append-only memory", "RGB, last two chunks", "RGB point cloud", "no memory",
    ]  # fmt: skip
    assert len({len(row) for row in rows}) == 1 and rows[0][1:7] == list(race.STAGES)
    assert rows[1][8] == "1 x" and rows[1][10].endswith(")")
    conditioning = report.conditioning_rows(at_scale, 2)
    assert len(conditioning) == 5 and conditioning[1][2] == "none needed" and " x" in conditioning[4][3]
    lines = report.to_csv(tiny).splitlines()
    assert lines[0] == "memory,chunk,quantity,median,low,high,runs"
    assert len(lines) == 1 + 5 * (3 * (6 + 1 + 4) + 1)


def test_figures_as_people_read_them():
    assert report.size(1536) == "1.50 KiB" and report.size(2.5 * 2**30) == "2.50 GiB" and report.size(0) == "0"
    assert report.seconds({"median": 0.0123, "low": 0.012, "high": 0.013, "runs": 5}) == "12.3 ms (12.0 to 13.0)"
    assert report.seconds({"median": 15.0, "low": 15.0, "high": 15.0, "runs": 1}) == "15.0 s"
    assert report.times(10.57) == "10.6 x" and report.times(53586) == "53,586 x" and report.times(None) == "–"


def test_the_readme_is_made_anew_once(tiny, at_scale, tmp_path):
    tiny, at_scale = dict(tiny, scale="tiny"), dict(at_scale, scale="paper")
    for made in (tiny, at_scale):
        report.save_report(tmp_path, made)
    assert (tmp_path / "race-tiny.png").stat().st_size > 5000 and (tmp_path / "race-paper.csv").exists()
    readme = tmp_path / "README.md"
    readme.write_text("above\n<!-- race -->\nold\n<!-- end of race -->\nbelow\n")
    arguments = ["benchmark", "table", "--readme", str(readme), "--data", str(tmp_path)]
    first = CliRunner().invoke(app, arguments)
    assert first.exit_code == 0 and "made anew" in first.output, first.output
    text = readme.read_text()
    assert text.startswith("above\n<!-- race -->\n") and text.endswith("<!-- end of race -->\nbelow\n")
    assert "old" not in text.split() and "RGB point cloud" in text and "published" in text and "A note." in text
    again = CliRunner().invoke(app, arguments)
    assert "nothing has changed" in again.output and readme.read_text() == text
    readme.write_text("no markers")
    assert "expected the markers" in CliRunner().invoke(app, arguments).output
    (tmp_path / "race-paper.json").unlink()
    missing = CliRunner().invoke(app, arguments)
    assert missing.exit_code == 2 and "benchmark race --scale paper" in missing.output
    (tmp_path / "race-paper.json").write_text("{}")
    assert "not the report of a race" in CliRunner().invoke(app, arguments).output


def test_the_command_races_and_says_what_is_wrong(pipe, tmp_path, monkeypatch):
    from mirage_nb.benchmarks import runner

    pipe.save_pretrained(tmp_path / "model")
    monkeypatch.setattr(runner, "calibrate", lambda place: FLAT)
    arguments = [
        "benchmark",
        "race",
        "--runs",
        "1",
        "--chunks",
        "2",
        "--model",
        str(tmp_path / "model"),
        "--device",
        "cpu",
    ]
    done = CliRunner().invoke(app, [*arguments, "--out", str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    made = report.read_report(tmp_path / "out" / "race-tiny.json")
    assert made["settings"]["runs"] == 1 and made["costs"]["rows"] and made["machine"]["device"] == "cpu"
    bad = CliRunner().invoke(app, ["benchmark", "race", "--runs", "0", "--out", str(tmp_path / "out")])
    assert bad.exit_code == 2 and "runs" in bad.output
