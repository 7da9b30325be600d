"""The loop: a run that was killed and resumed equals one that was not."""

from __future__ import annotations

import os

import pytest
import torch
from safetensors.torch import load_file

from mirage_nb.training.loop import fit, read_log


def quadratic(model, generator):
    x = torch.randn(8, 4, generator=generator)
    return (model(x) - x.sum(1, keepdim=True)).square().mean(), {}


def line(seed=0):
    torch.manual_seed(seed)
    return torch.nn.Linear(4, 1)


def broken_at(step, break_down):
    """`quadratic`, with `break_down(loss)` in place of the loss of one step."""
    calls = iter(range(1000))

    def batch_loss(model, generator):
        loss, figures = quadratic(model, generator)
        return (break_down(loss) if next(calls) == step else loss), figures

    return batch_loss


def kill(loss):
    raise KeyboardInterrupt


def test_killed_and_resumed_equals_uninterrupted(tmp_path):
    options = dict(steps=60, lr=1e-2, warmup=5, ema=0.9, checkpoint_minutes=0, log_every=1)
    whole = fit(line(), quadratic, folder=tmp_path / "whole", **options)
    with pytest.raises(KeyboardInterrupt):
        fit(line(), broken_at(37, kill), folder=tmp_path / "parts", **options)
    other = line(seed=9)  # the checkpoint's weights count, not these
    resumed = fit(other, quadratic, folder=tmp_path / "parts", **options)
    assert torch.equal(whole.weight, resumed.weight) and torch.equal(whole.bias, resumed.bias)
    rows = read_log(tmp_path / "parts" / "log.jsonl")
    assert rows == read_log(tmp_path / "whole" / "log.jsonl") and [row["step"] for row in rows] == list(range(60))
    again = fit(line(seed=3), quadratic, folder=tmp_path / "parts", **options)  # nothing is left to do
    assert torch.equal(again.weight, whole.weight)


def test_it_learns_and_the_weights_are_averaged(tmp_path):
    last = fit(line(), quadratic, folder=tmp_path / "last", steps=200, lr=5e-2, warmup=1)
    assert (last.weight - 1).abs().max() < 0.1, "the mean of a sum has weight 1"
    last, average = (
        fit(line(), quadratic, folder=tmp_path / str(ema), ema=ema, steps=20, lr=1e-2, warmup=1) for ema in (0.0, 0.99)
    )
    moved = [(model.weight - line().weight).norm().item() for model in (last, average)]
    assert 0.05 < moved[1] < 0.99 * moved[0], "the average lags behind"


def test_the_rate_rises_and_falls(tmp_path):
    """Far from the aim Adam moves a weight by the learning rate, or less."""
    weights = [line().weight[0, 0].item()]

    def far(model, generator):
        weights.append(model.weight[0, 0].item())
        return 1e3 * model.weight[0, 0] + 0 * model(torch.zeros(1, 4)).sum(), {}

    fit(line(), far, folder=tmp_path, steps=40, lr=1e-2, warmup=10)
    moves = -torch.tensor(weights[1:]).diff()
    assert moves.argmax() in range(8, 14) and moves.max() < 1.01e-2 and moves[0] < 2e-3 and moves[-1] < 1e-3


def test_frozen_weights_are_neither_trained_nor_saved(tmp_path):
    model = torch.nn.Sequential(torch.nn.Linear(4, 4), line())
    model[0].requires_grad_(False)
    before = model[0].weight.clone()
    fit(model, quadratic, steps=3, folder=tmp_path, lr=1e-1, warmup=1)
    assert torch.equal(model[0].weight, before)
    names = load_file(tmp_path / "checkpoint.safetensors").keys()
    assert {name.split("/")[1] for name in names} == {"1.weight", "1.bias"}


def test_a_nan_stops_the_run_and_keeps_the_checkpoint(tmp_path):
    with pytest.raises(FloatingPointError, match="step 5"):
        fit(line(), broken_at(5, lambda loss: loss * float("nan")), steps=9, folder=tmp_path, lr=1e-2,
            checkpoint_minutes=0)  # fmt: skip
    assert (tmp_path / "checkpoint.safetensors").is_file()


def test_every_row_is_told(tmp_path):
    seen = []
    fit(line(), quadratic, steps=4, folder=tmp_path, lr=1e-2, log_every=2, on_log=lambda rows: seen.append(len(rows)))
    assert [row["step"] for row in read_log(tmp_path / "log.jsonl")] == [0, 2, 3] and seen == [1, 2, 3]


def test_after_a_full_disk_training_goes_on(tmp_path):
    """A cut checkpoint and a cut last row are dropped, with a word; a row that is none is refused by its number."""
    options = dict(steps=6, lr=1e-2, warmup=1, checkpoint_minutes=0, log_every=1)
    whole = fit(line(), quadratic, folder=tmp_path, **options)
    log, checkpoint = tmp_path / "log.jsonl", tmp_path / "checkpoint.safetensors"
    log.write_text(log.read_text()[:-9])
    checkpoint.write_bytes(checkpoint.read_bytes()[:-9])
    (tmp_path / f".log.jsonl.{os.getpid()}-abc.mirage-tmp").write_text("of a killed process")
    with pytest.warns(UserWarning, match="log.jsonl: the last row was cut off") as said:
        again = fit(line(), quadratic, folder=tmp_path, **options)
    assert any("checkpoint.safetensors: cut off" in str(each.message) for each in said)
    assert torch.equal(whole.weight, again.weight) and len(read_log(log)) == 6 and not list(tmp_path.glob(".*"))
    log.write_text('{"step": 0, "loss": 1.0}\n{"step": "a"}\n')
    with pytest.raises(ValueError, match="log.jsonl, row 2: step"):
        read_log(log)
