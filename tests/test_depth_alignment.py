"""Estimated depth is brought to the scale of the memory's."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from micro import build_micro

from mirage_nb import MiragePipeline
from mirage_nb.depth_alignment import Fit, align_depth, fit_report, robust_line


def pixels(n=2, size=(40, 60)):
    return torch.rand(n, 3, *size, generator=torch.Generator().manual_seed(0)) * 2 - 1


@settings(max_examples=30, deadline=None)
@given(
    scale=st.floats(0.05, 20), shift=st.floats(-0.5, 1.0), seed=st.integers(0, 99), wild=st.sampled_from([0, 0.15, 0.3])
)
def test_a_line_is_found_among_wild_values(scale, shift, seed, wild):
    g = torch.Generator().manual_seed(seed)
    x = torch.rand(300, generator=g)
    y = scale * x + shift + 1e-4 * torch.randn(300, generator=g)
    bad = torch.rand(300, generator=g) < wild
    y = torch.where(bad, y + 10 * scale * torch.rand(300, generator=g), y)
    a, b = robust_line(x, y)
    assert a == pytest.approx(scale, rel=0.02, abs=2e-3) and b == pytest.approx(shift, abs=0.02 * scale + 2e-3)


def known(n=1, h=12, w=16, seed=0):
    return 1 + 5 * torch.rand(n, h, w, generator=torch.Generator().manual_seed(seed))


def test_relative_depth_gets_scale_and_shift_from_what_is_known():
    truth, seen = known(), torch.zeros(1, 12, 16, dtype=torch.bool)
    seen[:, :, :6] = True
    estimate = (1 / truth - 0.1) / 0.02  # inverse depth in units of its own
    remembered = torch.where(seen, truth, 0.0)
    remembered[0, 0, :4] = 0.3  # something stands before it in the memory
    aligned, fits = align_depth(estimate, remembered, seen, relative=True)
    torch.testing.assert_close(aligned, truth, rtol=1e-3, atol=1e-3)
    assert fits[0].scale == pytest.approx(0.02, rel=0.01) and fits[0].shift == pytest.approx(0.1, abs=0.01)
    assert fits[0].overlap == pytest.approx(6 / 16, abs=0.01) and fits[0].error < 1e-3
    report = fit_report(fits)
    assert report["frames"] == report["fitted"] == 1 and report["relative_error"] < 1e-3


def test_metric_depth_gets_a_scale_and_the_report_says_how_well_it_fits():
    truth = known()
    aligned, fits = align_depth(truth * 1.6, truth, torch.ones_like(truth).bool())
    torch.testing.assert_close(aligned, truth)
    assert fits[0].scale == pytest.approx(1 / 1.6) and fits[0].error < 1e-5
    _, bad = align_depth(known(seed=1), truth, torch.ones_like(truth).bool())
    assert bad[0].error > 0.2, "another scene does not fit, and the report says so"
    nothing, fits = align_depth(truth, torch.zeros_like(truth), torch.zeros_like(truth).bool())
    assert torch.equal(nothing, truth) and fits[0].overlap == 0 and fit_report(fits) == {"frames": 1, "fitted": 0}


@pytest.mark.parametrize(("cells", "fitted"), [(3, False), (6, True)])
def test_a_few_cells_say_nothing_about_scale(cells, fitted):
    truth, seen = known(), torch.zeros(1, 12, 16, dtype=torch.bool)
    seen[0, 5, :cells] = True  # of 192
    _, fits = align_depth(truth * 2, truth, seen)
    assert (fits[0].scale, fits[0].overlap > 0) == ((0.5, True) if fitted else (1.0, False))


def test_far_away_is_not_yet_the_sky():
    far = torch.tensor([20.0, 500.0, 3000.0]).repeat_interleave(4).expand(1, 8, 12)
    nothing = torch.zeros(1, 8, 12)
    aligned, _ = align_depth(1 / far, nothing, nothing.bool(), True, before=Fit(1.0, 0.0, 0.5, 0.0))
    torch.testing.assert_close(aligned[..., :8], far[..., :8])
    assert not aligned[..., 8:].any()


def test_frames_without_overlap_take_the_last_fit_and_sky_stays_unknown():
    truth, nothing = known(), torch.zeros(1, 12, 16)
    estimate = 1 / truth
    estimate[0, 0] = 0
    aligned, fits = align_depth(estimate, nothing, nothing.bool(), True, before=Fit(1.0, 0.0, 0.5, 0.0))
    torch.testing.assert_close(aligned[0, 1:], truth[0, 1:])
    assert not aligned[0, 0].any() and fits[0].overlap == 0
    assert not align_depth(estimate, nothing, nothing.bool(), True, Fit(1.0, -5.0, 0.5, 0.0))[0].any(), "behind the sky"


def test_relative_depth_that_cannot_be_aligned():
    truth, all_seen = known(), torch.ones(1, 12, 16, dtype=torch.bool)
    with pytest.raises(ValueError, match="depth: relative depth can't be aligned, 0% of the frame"):
        align_depth(truth, torch.zeros_like(truth), ~all_seen, relative=True)
    with pytest.raises(ValueError, match="runs against it"):
        align_depth(truth, truth, all_seen, relative=True)  # depth, not its inverse


class Relative:
    """A relative model that is right: inverse depth of a slanted wall, in units of its own."""

    relative, wall = True, torch.linspace(2.0, 4.0, 48).expand(32, 48)

    def predict(self, pixels, intrinsics):
        return ((1 / self.wall - 0.05) / 0.03).expand(len(pixels), -1, -1).clone()


def test_a_walk_with_relative_depth():
    """It needs the first frame's depth, or a memory; the report says how well the rest fits."""
    pipe = MiragePipeline(**build_micro() | {"depth_estimator": None})
    pipe.depth_estimator = Relative()
    pipe.set_progress_bar_config(disable=True)
    image = np.full((32, 48, 3), 99, dtype=np.uint8)
    call = dict(c2w=torch.eye(4).repeat(5, 1, 1), num_inference_steps=1, generator=0, output_type="uint8")
    with pytest.raises(ValueError, match="depth: relative depth can't be aligned, nothing says its scale"):
        pipe(image, **call)
    made = pipe(image, depth=Relative.wall, **call)
    fit = made.report["depth_fit"]
    assert fit["frames"] == fit["fitted"] == 4 and fit["relative_error"] < 0.02
    assert fit["scale"] == pytest.approx(0.03, rel=0.15) and fit["shift"] == pytest.approx(0.05, rel=0.3)
    torch.testing.assert_close(made.depth, Relative.wall.expand(5, -1, -1), rtol=0.05, atol=0)
    assert pipe(image, depth=Relative.wall.expand(5, -1, -1), **call).report["depth_fit"] is None, "given, not fitted"
    assert pipe(image, memory=made.memory, **call).report["depth_fit"]["fitted"] == 5, "or a memory that knows"
