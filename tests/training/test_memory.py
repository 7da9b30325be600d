"""The transformer's recipe: what a sample holds and how wrong it is, and that it can be learnt."""

from __future__ import annotations

import pytest
import torch
from micro import build_micro

from mirage_nb.models.presets import build_scheduler
from mirage_nb.training.memory import (
    MemoryLoss,
    draw_sample,
    read_memory,
    shifted,
    show_context,
    velocity_error,
)  # fmt: skip


def test_on_the_way_out_the_memory_holds_no_later_frame(data):
    g, later = torch.Generator().manual_seed(0), 0
    for _ in range(200):
        sample = draw_sample(data, 4, 2, g)
        walked, past = torch.cat([sample.preceding, sample.segment]), sample.past
        step = int(sample.segment[1] - sample.segment[0])
        assert abs(step) == 1 and len(walked) == 6 and (walked.diff() == step).all()
        assert 0 <= min(walked.min(), past.min()) and max(walked.max(), past.max()) < 9
        assert torch.equal(sample.latents, data.latents[sample.walk].float())
        later += bool(((past - sample.segment[0]) * step > 0).any())
    assert 60 < later < 120, "half are on the way back"


def test_context_shows_what_overlaps_and_what_precedes(data):
    g = torch.Generator().manual_seed(0)
    for _ in range(20):
        sample = draw_sample(data, 4, 2, g)
        shown = show_context(data, sample, 4, g)
        assert shown.references.shape[2] == 4 and shown.preceding.shape[2] == 2
        truth = data.latents[sample.walk].float()
        distance = (truth[:, None] - shown.preceding[0].transpose(0, 1)[None]).square().mean((2, 3, 4))
        assert distance.argmin(0).tolist() == sample.preceding.tolist()  # noisy, yet nearest to itself
        nearest = (truth - shown.references[0, :, 0]).square().mean((1, 2, 3)).argmin().item()
        assert nearest in sample.past.tolist()
        if set(sample.past.tolist()) & set(sample.segment[1:].tolist()):
            assert abs(nearest - sample.segment[1]) <= 2, "a view of the segment overlaps it more than any other"
        assert show_context(data, sample, 0, g).references.shape[2] == 0


def test_most_skies_are_written(data):
    """The exact depth of a sky is unknown, its estimate isn't: a share of memories has windows, others have holes."""
    data.depth[:], data.estimate[:], data.writable[:] = 3.0, 3.0, True
    data.depth[:, :, 4:8, 4:8] = 0.0
    written = []
    for seed in range(60):
        g = torch.Generator().manual_seed(seed)
        sample = draw_sample(data, 4, 0, g)
        only = sample.segment[:1]
        readout = read_memory(data, sample._replace(past=only), data.cameras(sample.walk, only), g)
        written.append(readout.visibility[0, 4:8, 4:8].float().mean() > 0.8)
    assert 0.6 < sum(written) / len(written) < 0.88


def test_what_is_shown_is_a_little_wrong(data):
    """Exact pasts would be too easy; larger errors than the model's own would teach it to ignore what it is shown."""
    data.depth[:], data.estimate[:], data.writable[:] = 3.0, 3.0, True
    tokens, context, firsts = [], [], []
    bent = []  # relative errors of depth
    for seed in range(40):
        g = torch.Generator().manual_seed(seed)
        sample = draw_sample(data, 4, 2, g)
        only = sample.segment[:1]
        sample = sample._replace(past=only)
        readout = read_memory(data, sample, data.cameras(sample.walk, only), g)
        seen = readout.visibility[0]
        tokens.append((readout.latents[0] - sample.latents[only[0]])[:, seen].square().mean().sqrt())
        bent.append((readout.depth[0, seen] / 3 - 1).abs().mean())
        shown = show_context(data, sample, 0, g).preceding[0].transpose(0, 1)
        context.append((shown - sample.latents[sample.preceding]).square().mean().sqrt())
        first = MemoryLoss(data, batch=1, length=4).sample(g).clean[0, :, 0]
        firsts.append((data.latents.float() - first).square().mean((2, 3, 4)).amin().sqrt())
    for most, found in ((0.15, tokens), (0.1, context), (0.1, firsts)):
        assert 0.6 * most < max(found) < 1.1 * most and min(found) < 0.3 * most
    bent = torch.stack(bent)
    assert 0.3 < (bent > 1e-4).float().mean() < 0.7, "half of the memories"
    assert 0.015 < bent[bent > 1e-4].mean() < 0.04, "by a few per cent, as estimated depth errs"


def test_a_perfect_model_has_no_error(data):
    batch = MemoryLoss(data, batch=2).sample(torch.Generator().manual_seed(0))
    perfect = lambda *_, **__: type("Output", (), {"sample": batch.noise - batch.clean})  # noqa: E731
    assert batch.error(perfect).max() == 0 and not batch.sigma[:, 0].any() and (batch.sigma[:, 1:] > 0).all()


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
    assert descends(MemoryLoss(data, batch=2), model)
    moved = {name.split(".")[0] for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert {"prior", "blocks", "vace_blocks"} <= moved


def test_the_velocity_error_of_a_model_is_the_same_every_time(data):
    model = build_micro()["transformer"]
    one, two = (velocity_error(model, data, 0.9, batches=1) for _ in range(2))
    assert one == two != velocity_error(model, data, 0.9, memory=False, batches=1)
