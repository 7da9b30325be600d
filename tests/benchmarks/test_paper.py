"""The race at the paper's scale, on a small scale and small models."""

from __future__ import annotations

import torch
from micro import build_micro

from mirage_nb.benchmarks import paper


def test_both_paths_are_timed():
    vae = build_micro(temporal=True)["vae"]
    report = paper.race(runs=2, chunks=2, vae=vae, frames=9, size=(48, 64))
    for name, memory in report["memories"].items():
        for chunk in memory["chunks"]:
            each = chunk["seconds_per_frame"]
            assert each["read"]["runs"] == each["write"]["runs"] == 2
            assert (each["encode"] is not None) == name.startswith("rgb")
            assert each["denoise"] is each["decode"] is each["depth"] is None, "left out"
            if each["encode"]:
                assert each["encode"]["runs"] == 1 and chunk["total"]["median"] > each["encode"]["median"]
    last = {name: m["chunks"][-1]["bytes"]["median"] for name, m in report["memories"].items()}
    assert last["rgb"] > 20 * last["append"] >= 20 * last["latent"] > 0 == last["none"]
    assert "read 3 latent frames" in report["notes"][0]


def test_the_camera_turns_once_around():
    cameras, clips = paper.once_around(2, 9, (48, 64))
    assert len(cameras) == 2 * 8 + 9 and [len(c.frames) for c in clips] == [paper.KEYS] * 2
    torch.testing.assert_close(cameras.c2w[16], cameras.c2w[0], atol=1e-5, rtol=0)
    torch.testing.assert_close(clips[1].cameras.c2w[0], cameras.c2w[8 + 8 // paper.KEYS])
