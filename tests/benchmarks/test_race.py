"""The race on models of a few thousand parameters, and its tables."""

from __future__ import annotations

import json
import math

import pytest

from mirage_nb.benchmarks import race
from mirage_nb.benchmarks.report import BYTES, PUBLISHED, SECONDS, in_units, markdown, stage_rows, times
from mirage_nb.evaluation import closed_loop_psnr, there_and_back_room
from mirage_nb.viz.race import growth, split


@pytest.fixture(scope="module")
def report(pipe):
    """Two runs over three chunks."""
    return race.race(pipe, runs=2, chunks=3, size=(64, 64))


def test_every_memory_is_measured_stage_by_stage(report):
    assert list(report["memories"]) == list(race.MEMORIES)
    for name, memory in report["memories"].items():
        assert [c["frames"] for c in memory["chunks"]] == [3, 2, 2], "the given frame belongs to the first chunk"
        for chunk in memory["chunks"]:
            each = chunk["seconds_per_frame"]
            assert set(each) == set(race.STAGES) and all(value["runs"] == 2 for value in each.values())
            assert (each["encode"]["median"] > 0) == name.startswith("rgb"), "only RGB memories call the encoder"
            assert all(value["low"] >= 0 for value in each.values()), "the encode is a part of the read"
            assert math.isfinite(chunk["psnr_to_truth"]["median"])
        assert memory["closed_loop_psnr"]["runs"] == 2
    held = {name: [c["bytes"]["median"] for c in m["chunks"]] for name, m in report["memories"].items()}
    assert held["rgb"][2] > held["rgb"][1] > held["append"][2] > held["latent"][2] > 0 == held["none"][2]
    assert held["rgb_capped"][2] < held["rgb"][2]
    json.dumps(report, allow_nan=False)


def test_measuring_does_not_change_the_walk(pipe):
    clip = there_and_back_room(900001, 5, (32, 32))
    measured = race.walk(pipe, "latent", clip, 7)
    out = pipe(
        clip.frames[0], c2w=clip.cameras.c2w, intrinsics=clip.cameras.intrinsics, generator=7, output_type="uint8"
    )
    assert measured["closed_loop_psnr"] == pytest.approx(closed_loop_psnr(out.frames), abs=1e-4)
    assert measured["chunks"][-1]["tokens"] == len(out.memory)


def test_ratios_count_only_their_stages():
    def memory(read: float, write: float, held: float) -> dict:
        each = {stage: {"median": 0.0} for stage in race.STAGES} | {
            "read": {"median": read},
            "write": {"median": write},
        }
        return {"chunks": [{"seconds_per_frame": each, "bytes": {"median": held}}]}

    memories = {"latent": memory(1.0, 4.0, 10.0), "rgb": memory(8.0, 12.0, 50.0)}
    assert race.ratios(memories, 1)["rgb"] == {"time": 4.0, "bytes": 5.0}
    assert race.ratios(memories, 1, stages=("read",))["rgb"]["time"] == 8.0
    assert "write" in race.MEMORY_STAGES, "what a memory takes includes the write"


def test_tables_have_a_row_for_every_memory(report):
    rows = stage_rows(report)
    assert len(rows) == 1 + len(race.MEMORIES) and rows[0][1:7] == list(race.STAGES)
    own = stage_rows(report, 2, race.MEMORY_STAGES)
    assert own[0][0].startswith("chunk 2") and own[0][1:4] == list(race.MEMORY_STAGES)
    for table in (rows, own, PUBLISHED):
        assert len({len(row) for row in table}) == 1
        assert len(markdown(table).splitlines()) == len(table) + 1


def test_figures_as_words():
    sizes = {1536: "1.50 KiB", 2.5 * 2**30: "2.50 GiB", 1010 * 2**10: "1,010 KiB", 0: "–"}
    assert {x: in_units(x, BYTES) for x in sizes} == sizes
    seconds = {0.0123: "12.3 ms", 15.0: "15.0 s", 0.25: "250 ms", 0: "–"}
    assert {x: in_units(x, SECONDS) for x in seconds} == seconds
    assert times(10.57) == "10.6 x" and times(53586) == "53,586 x"


def test_pictures(report):
    assert growth(report).width > 600 and split(report).width > 600
    assert split(report, 1).tobytes() != split(report, 3).tobytes()
