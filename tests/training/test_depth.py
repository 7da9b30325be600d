"""The depth network's recipe."""

from __future__ import annotations

import torch
from micro import build_micro

from mirage_nb.training.depth import depth_loss


def test_it_learns_on_a_fixed_batch(walks, descends):
    assert descends(depth_loss(walks, batch=2), build_micro()["depth_estimator"], steps=25)


def test_exact_depth_costs_nothing_and_an_error_is_relative(walks):
    class Off(torch.nn.Module):
        device = torch.device("cpu")

        def forward(self, pixels, intrinsics):
            same = walks["frames"].movedim(-1, -3).flatten(0, 1).float() / 127.5 - 1
            frame = (pixels[:, None] - same).abs().flatten(2).amax(2).argmin(1)
            return walks["depth"].flatten(0, 1)[frame].float().clamp(min=1e-2).log() + self.error

    model, loss = Off(), depth_loss(walks, batch=4)
    rows = 0.1 * (-1.0) ** torch.arange(128)[:, None].expand(128, 128)
    for error, cost in ((torch.tensor(0.0), 0.0), (torch.tensor(0.1), 0.1), (rows, 0.2), (rows.T, 0.2)):
        model.error = error
        value, figures = loss(model, torch.Generator().manual_seed(0))
        assert abs(value - cost) < 2e-3, "an error at every edge costs twice as much as a constant one"
        assert abs(figures["absrel"] - (error.exp() - 1).abs().mean()) < 1e-3
