"""The transformer's loss: what is rehearsed, what is learnt, and that it can be learnt."""

from __future__ import annotations

import pytest
import torch
from micro import build_micro

from mirage_nb.models.presets import build_scheduler
from mirage_nb.training.memory import MemoryLoss, shifted, velocity_error


class Watched(torch.nn.Module):
    """A model that keeps what it was given and what it said."""

    def __init__(self, model) -> None:
        super().__init__()
        self.model, self.device, self.calls = model, model.device, []

    def forward(self, noisy, timestep, control, *_, **__):
        out = self.model(noisy, timestep, control)
        self.calls.append((noisy, timestep, control, out.sample))
        return out


@pytest.mark.parametrize("rehearse", [0.0, 1.0])
def test_a_rehearsed_batch_sees_what_the_model_generated(data, rehearse):
    model = Watched(build_micro()["transformer"])
    MemoryLoss(data, batch=2, drop=0.0, rehearse=rehearse)(model, torch.Generator().manual_seed(1))
    assert len(model.calls) == (3 if rehearse else 1)
    noisy, timestep, control, learnt = model.calls[-1]
    assert learnt.requires_grad and not timestep[:, 0].any() and (timestep[:, 1:] > 0).all()
    if rehearse:
        (_, first, _, _), (halfway, second, _, last), _ = model.calls
        assert not last.requires_grad and not first[:, 0].any() and not second[:, 0].any()
        generated = (halfway - second[:, None, :, None, None] / 1000 * last)[:, :, -1]
        assert (noisy[:, :, 0] - generated).abs().max() < 0.6, "the next segment begins with the generated frame"
        assert control[:, data.latents.shape[2]].mean() > 0.2, "and sees a memory"


def test_a_perfect_model_rehearses_the_truth_and_has_no_error(data):
    batch = MemoryLoss(data, batch=2).sample(torch.Generator().manual_seed(0))
    truth = batch.noise - batch.clean
    perfect = lambda *_, **__: type("Output", (), {"sample": truth})  # noqa: E731
    torch.testing.assert_close(batch.generate(perfect), batch.clean[:, :, 1:], atol=2e-3, rtol=0)
    assert batch.error(perfect).max() == 0


def test_noise_levels_are_those_of_the_sampler():
    scheduler = build_scheduler()
    scheduler.set_timesteps(10)
    steps = torch.linspace(1, 0.1, 10)
    torch.testing.assert_close(shifted(steps), scheduler.sigmas[:-1].float(), atol=0.01, rtol=0)


def test_some_samples_have_no_memory(data):
    seen = [MemoryLoss(data, drop=drop).sample(torch.Generator().manual_seed(0)).control[:, 4] for drop in (0, 0.5, 1)]
    empty = [(visibility.flatten(1).sum(1) == 0).sum().item() for visibility in seen]
    assert empty[0] == 0 < empty[1] < empty[2] == 8


def test_half_of_the_batches_have_context(data):
    loss = MemoryLoss(data, batch=1, length=3, references=2, preceding=2)
    contexts = [loss.sample(torch.Generator().manual_seed(seed)).context for seed in range(60)]
    counts = [(c.references.shape[2], c.preceding.shape[2]) for c in contexts]
    assert {r for r, _ in counts} == {0, 1, 2} == {p for _, p in counts}
    assert 30 <= counts.count((0, 0)) <= 48  # one in two, and by chance one in nine of the others


def test_short_walks_are_refused(data):
    with pytest.raises(ValueError, match="data: expected walks of at least 11"):
        MemoryLoss(data, length=9, preceding=2)


def test_transformer_and_prior_learn_on_a_fixed_batch(data, descends):
    model = build_micro(prior_width=8)["transformer"]
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    assert descends(MemoryLoss(data, batch=2, rehearse=0.0), model)
    moved = {name.split(".")[0] for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert {"prior", "blocks", "vace_blocks"} <= moved


def test_the_velocity_error_of_a_model_is_the_same_every_time(data):
    model = build_micro()["transformer"]
    one, two = (velocity_error(model, data, 0.9, batches=1) for _ in range(2))
    assert one == two != velocity_error(model, data, 0.9, memory=False, batches=1)
