"""The depth network's recipe."""

from __future__ import annotations

import torch

from mirage_nb.models.presets import build_micro
from mirage_nb.training.depth import depth_absrel, depth_loss


def test_it_learns_on_a_fixed_batch(walks):
    model, loss = build_micro()["depth_estimator"], depth_loss(walks, batch=2)
    optimizer, values = torch.optim.Adam(model.parameters(), lr=3e-3), []
    for _ in range(20):
        value, figures = loss(model, torch.Generator().manual_seed(0))
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        values.append(value.item())
    assert values[-1] < 0.9 * values[0] and figures["absrel"] > 0


def test_the_error_of_exact_depth_is_zero(walks):
    class Exact(torch.nn.Linear):
        def predict(self, pixels, intrinsics):
            return walks["depth"][walks.draw_frames(8, torch.Generator().manual_seed(0))].float() * self.scale

    exact = Exact(1, 1)
    for scale in (1.0, 1.5):
        exact.scale = scale
        assert abs(depth_absrel(exact, walks, frames=8)["absrel"] - (scale - 1)) < 1e-6
