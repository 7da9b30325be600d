"""The race at the paper's scale, on a small scale and small models."""

from __future__ import annotations

import torch
from micro import build_micro

from mirage_nb.benchmarks import paper

SMALL = paper.Scale(size=(48, 64), chunks=2, frames=9, stride=8, channels=4)


def test_both_paths_are_timed():
    report = paper.race(SMALL, runs=2, vae=build_micro(temporal=True)["vae"])
    for name, memory in report["memories"].items():
        for chunk in memory["chunks"]:
            each = chunk["seconds_per_frame"]
            assert each["read"]["runs"] == each["write"]["runs"] == 2
            assert (each["encode"] is not None) == name.startswith("rgb")
            assert each["denoise"] is each["decode"] is each["depth"] is None, "left out on the CPU"
            if each["encode"]:
                assert each["encode"]["runs"] == 1 and chunk["total"]["median"] > each["encode"]["median"]
    last = {name: m["chunks"][-1]["bytes"]["median"] for name, m in report["memories"].items()}
    assert last["rgb"] > 20 * last["append"] >= 20 * last["latent"] > 0 == last["none"]


def test_the_camera_turns_once_around():
    cameras, clips = paper.once_around(SMALL)
    total = SMALL.chunks * SMALL.new_frames
    assert len(cameras) == total + SMALL.frames and [len(c.frames) for c in clips] == [SMALL.keys] * SMALL.chunks
    torch.testing.assert_close(cameras.c2w[total], cameras.c2w[0], atol=1e-5, rtol=0)
    torch.testing.assert_close(clips[1].cameras.c2w[0], cameras.c2w[SMALL.new_frames + SMALL.new_frames // SMALL.keys])
    assert paper.Scale().latent_shape == (48, 9, 44, 80)
