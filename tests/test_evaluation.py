"""The figures: against scikit-image, on videos whose figures are known, and on a whole small evaluation."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from mirage_nb import evaluation as ev
from mirage_nb.models.presets import build_micro
from mirage_nb.pipeline import MiragePipeline


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def test_psnr_is_scikit_images():
    from skimage.metrics import peak_signal_noise_ratio

    a, b = noise(3, 20, 30, 3), noise(3, 20, 30, 3, seed=1)
    expected = [peak_signal_noise_ratio(x.numpy(), y.numpy(), data_range=255) for x, y in zip(a, b)]
    np.testing.assert_allclose(ev.psnr(a, b).numpy(), expected, rtol=1e-5)
    assert math.isinf(ev.psnr(a, a)[0].item())


def test_psnr_of_a_part_looks_at_that_part_alone():
    a = noise(1, 20, 30, 3)
    b = a.clone()
    b[:, :10] = 0
    lower = torch.zeros(1, 20, 30, dtype=torch.bool)
    lower[:, 10:] = True
    assert math.isinf(ev.psnr(a, b, lower).item()) and ev.psnr(a, b, ~lower).item() < 10
    assert math.isnan(ev.psnr(a, b, torch.zeros_like(lower)).item())


def test_revisits_are_the_right_lag_apart():
    frames = torch.zeros(49, 8, 8, 3, dtype=torch.uint8)
    frames[4], frames[44] = 100, 103  # view 4 is seen again as view 44, 40 frames later
    assert ev.revisit_psnr(frames) == pytest.approx(-20 * math.log10(3 / 255), abs=1e-3)
    assert math.isnan(ev.revisit_psnr(frames[:41]))


def test_fog_has_little_gradient_energy():
    truth = noise(5, 32, 32, 3)
    fog = torch.nn.functional.avg_pool2d(truth.permute(0, 3, 1, 2).float(), 9, 1, 4).permute(0, 2, 3, 1).byte()
    assert ev.gradient_energy(truth, truth) == pytest.approx(1)
    assert ev.gradient_energy(fog, truth) < 0.3


def test_drift_of_one_channel_is_found():
    frames = torch.full((3, 4, 4, 3), 100, dtype=torch.uint8)
    frames[-1, ..., 1] = 105
    assert ev.colour_drift(frames) == pytest.approx(0.05)


def test_summary_leaves_out_what_is_no_number():
    s = ev.summary([1.0, 2.0, 3.0, math.nan, math.inf])
    assert s["mean"] == 2 and s["ci95"] == pytest.approx(1.96 / math.sqrt(3))
    assert math.isnan(ev.summary([])["mean"])


def test_a_room_there_and_back_is_a_closed_loop():
    clip = ev.there_and_back_room(900_003, 9, (32, 32))
    assert torch.equal(clip.frames, clip.frames.flip(0)) and torch.equal(clip.cameras.c2w, clip.cameras.c2w.flip(0))
    assert not torch.equal(clip.frames[0], clip.frames[4])
    with pytest.raises(ValueError, match="num_frames"):
        ev.there_and_back_room(1, 8)


def test_a_pixel_mask_follows_the_latent_frames():
    visibility = torch.zeros(3, 2, 2, dtype=torch.bool)
    visibility[1, 0, 1] = True
    mask = ev.as_pixel_mask(visibility, torch.zeros(9, 4, 4, 3))
    assert mask.shape == (9, 4, 4)
    assert mask[1:5, :2, 2:].all() and mask.sum() == 4 * 4


def test_the_whole_evaluation_gives_every_figure_to_every_method():
    pipe = MiragePipeline(**build_micro())
    seen = []
    report, videos = ev.evaluate_rooms(
        pipe,
        [900_000, 900_001],
        5,
        ("latent", "none"),
        num_inference_steps=1,
        batch=2,
        progress=lambda a, b: seen.append((a, b)),
    )
    assert seen[-1][0] == seen[-1][1] == len(seen)
    assert set(videos) == {900_000, 900_001} and set(videos[900_000]) == {"truth", "latent", "none"}
    for name in ("latent", "none"):
        figures = report["methods"][name]
        assert set(ev.METRICS) <= set(figures) and math.isfinite(figures["closed_loop_psnr"]["mean"])
    assert report["methods"]["none"]["bytes"]["mean"] == 0 < report["methods"]["latent"]["bytes"]["mean"]
    assert torch.equal(videos[900_000]["truth"][0], videos[900_000]["latent"][0]), "the first frame is the given one"
    assert set(ev.best_median_worst(report, "latent").values()) <= {900_000, 900_001}


def test_a_recording_is_compared_where_the_first_memory_remembers():
    clip = ev.there_and_back_room(900003, 5)
    pipe = MiragePipeline(**build_micro())
    report, videos = ev.evaluate_recording(pipe, clip, seeds=(0, 1), num_inference_steps=1)
    assert list(videos) == ["recorded", "latent", "none"] and torch.equal(videos["recorded"], clip.frames)
    assert 0.3 < report["remembered"] < 1
    truth = clip.frames[1:]
    for name in ("latent", "none"):
        row = report["methods"][name]
        assert row["psnr_remembered"]["mean"] != row["psnr_to_truth"]["mean"] and row["psnr_to_truth"]["ci95"] > 0
    two = [ev.evaluate_recording(pipe, clip, ("none",), seeds=(s,), num_inference_steps=1) for s in (0, 1)]
    each = [ev.psnr(videos["none"][1:], truth).mean().item() for _, videos in two]
    assert report["methods"]["none"]["psnr_to_truth"]["mean"] == pytest.approx(sum(each) / 2, abs=1e-4)
    assert math.isnan(two[0][0]["methods"]["none"]["psnr_remembered"]["mean"]), "nothing remembers"
