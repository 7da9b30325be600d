"""Metrics: against scikit-image, and on videos whose figures are known."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from mirage_nb.evaluation import metrics as ev


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


def test_summary_leaves_out_what_is_no_number():
    s = ev.summary([1.0, 2.0, 3.0, math.nan, math.inf])
    assert s["mean"] == 2 and s["ci95"] == pytest.approx(1.96 / math.sqrt(3))
    assert math.isnan(ev.summary([])["mean"])


def test_a_pixel_mask_follows_the_latent_frames():
    visibility = torch.zeros(3, 2, 2, dtype=torch.bool)
    visibility[1, 0, 1] = True
    mask = ev.as_pixel_mask(visibility, torch.zeros(9, 4, 4, 3))
    assert mask.shape == (9, 4, 4)
    assert mask[1:5, :2, 2:].all() and mask.sum() == 4 * 4


def test_the_covered_pixels_alone_are_compared():
    truth = noise(5, 8, 8, 3)
    frames, covered = truth.clone(), torch.zeros(5, 8, 8, dtype=torch.bool)
    frames[:, 4:] = 0
    covered[2, 5] = True
    figures = ev.measure(frames, truth, covered)
    assert figures["psnr_to_truth_covered"] == pytest.approx(ev.psnr(frames[2, 5:6], truth[2, 5:6]).item(), abs=1e-4)
    assert math.isnan(ev.measure(frames, truth, covered & False)["psnr_to_truth_covered"])
    assert figures["ssim"] < ev.measure(truth, truth, covered)["ssim"] == 1
