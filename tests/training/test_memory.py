"""The transformer's loss: what is rehearsed, what is learnt, and that it can be learnt."""

from __future__ import annotations

import pytest
import torch

from mirage_nb.models.presets import build_micro
from mirage_nb.training.memory import MemoryLoss, prior_loss, velocity_error


@pytest.mark.parametrize("rehearse", [0.0, 1.0])
def test_a_rehearsed_batch_sees_what_the_model_generated(data, rehearse):
    parts, calls = build_micro(), []
    model = torch.nn.Sequential(parts["transformer"])

    def watched(noisy, timestep, control):
        out = parts["transformer"](noisy, timestep, control)
        calls.append((noisy, timestep, out.sample, control))
        return out

    model.forward = watched
    loss = MemoryLoss(data, batch=2, drop=0.0, rehearse=rehearse)
    loss(model, torch.Generator().manual_seed(1))
    assert len(calls) == (3 if rehearse else 1)
    if not rehearse:
        return

    def begins_with_pure_noise(seed: int) -> bool:
        calls.clear()
        loss(model, torch.Generator().manual_seed(seed))
        return bool((calls[0][1][:, 1:] == 1000).all())

    next(seed for seed in range(99) if begins_with_pure_noise(seed))
    (noise, timestep, first, _), (halfway, later, second, _), (noisy, _, learnt, control) = calls
    assert not first.requires_grad and not second.requires_grad and learnt.requires_grad
    assert not timestep[:, 0].any() and not later[:, 0].any() and (later[:, 1:] == 750).all()
    torch.testing.assert_close(halfway[:, :, 1:], (noise - 0.25 * first)[:, :, 1:])  # a step from sigma 1 to 0.75
    generated = (halfway - 0.75 * second)[:, :, -1]
    assert (noisy[:, :, 0] - generated).abs().max() < 0.6, "the next segment begins with the generated frame"
    assert control[:, data.latents.shape[2]].mean() > 0.2, "and sees a memory"


def test_a_rehearsal_from_the_noisy_truth_keeps_its_shapes(data):
    batch = MemoryLoss(data, batch=2).sample(torch.Generator().manual_seed(0))
    truth = batch.noise - batch.clean

    class Perfect:
        """Its velocity is the true one, and off by a little."""

        def __call__(self, noisy, timestep, control, **_):
            return type("Output", (), {"sample": truth + 0.1})

    for start in (1.0, 0.5):
        generated = batch.generate(Perfect(), torch.tensor([start, start]))
        first, second = 3 * start / (1 + 2 * start), 3 * start / (2 + 2 * start)  # the levels of the two steps, shifted
        error = 0.1 * ((1 - second) * first + second)
        torch.testing.assert_close(generated, batch.clean[:, :, 1:] - error, atol=1e-4, rtol=0)


def test_a_part_of_a_batch_is_that_part(data):
    loss = MemoryLoss(data, batch=4, references=2, preceding=1, corrupt=0.5)
    for seed in range(4):
        whole = loss.sample(torch.Generator().manual_seed(seed))
        part = loss.sample(torch.Generator().manual_seed(seed), slice(1, None, 2))
        for one, other in zip((*whole[:4], whole.context.preceding), (*part[:4], part.context.preceding)):
            assert torch.equal(one[1::2], other)


def test_short_walks_are_refused(data):
    with pytest.raises(ValueError, match="data: expected walks of at least 9"):
        MemoryLoss(data, length=7, preceding=2)


@pytest.mark.parametrize("what", ["transformer", "prior"])
def test_it_learns_on_a_fixed_batch(data, what):
    model = build_micro(memory_prior=True, prior_width=8)["transformer"]
    loss = MemoryLoss(data, batch=2, rehearse=0.0)
    model, loss = (model, loss) if what == "transformer" else (model.prior, prior_loss(loss))
    optimizer, values = torch.optim.Adam(model.parameters(), lr=3e-3), []
    for _ in range(20):
        value, _ = loss(model, torch.Generator().manual_seed(0))
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        values.append(value.item())
    assert values[-1] < values[0] - 0.1 * abs(values[0]), values


def test_the_velocity_error_of_a_model_is_the_same_every_time(data):
    model = build_micro()["transformer"]
    one, two = (velocity_error(model, data, 0.9, batches=1) for _ in range(2))
    assert one == two != velocity_error(model, data, 0.9, memory=False, batches=1)
