"""A recording's path, walked with several memories."""

from __future__ import annotations

import math

import pytest
import torch
from micro import build_micro

from mirage_nb.evaluation import evaluate_recording, psnr, there_and_back_room
from mirage_nb.pipeline import MiragePipeline


def test_a_recording_is_compared_where_the_first_memory_shows_something():
    clip = there_and_back_room(900003, 5)
    pipe = MiragePipeline(**build_micro())
    report, videos = evaluate_recording(pipe, clip, seeds=(0, 1), num_inference_steps=1)
    assert list(videos) == ["recorded", "latent", "none"] and torch.equal(videos["recorded"], clip.frames)
    assert 0.3 < report["covered"] < 1
    for name in ("latent", "none"):
        row = report["methods"][name]
        assert row["psnr_to_truth_covered"]["mean"] != row["psnr_to_truth"]["mean"] and row["psnr_to_truth"]["ci95"] > 0
    two = [evaluate_recording(pipe, clip, ("none",), seeds=(s,), num_inference_steps=1) for s in (0, 1)]
    each = [psnr(videos["none"][1:], clip.frames[1:]).mean().item() for _, videos in two]
    assert report["methods"]["none"]["psnr_to_truth"]["mean"] == pytest.approx(sum(each) / 2, abs=1e-4)
    assert math.isnan(two[0][0]["methods"]["none"]["psnr_to_truth_covered"]["mean"]), "it shows nothing"
