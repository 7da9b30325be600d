"""The loop: a run that was killed and resumed equals one that was not, whatever was being written."""

from __future__ import annotations

import json

import pytest
import torch

from mirage_nb.training.loop import fit, read_log


def quadratic(model, generator, part=slice(None)):
    x = torch.randn(8, 4, generator=generator)[part]
    return (model(x) - x.sum(1, keepdim=True)).square().mean(), {}


def line(seed=0):
    torch.manual_seed(seed)
    return torch.nn.Linear(4, 1)


def broken_at(step, break_down):
    """`quadratic`, with `break_down(loss)` in place of the loss of one step."""
    calls = iter(range(1000))

    def batch_loss(model, generator, part):
        loss, figures = quadratic(model, generator, part)
        return (break_down(loss) if next(calls) == step else loss), figures

    return batch_loss


def kill(loss):
    raise KeyboardInterrupt


def test_killed_and_resumed_equals_uninterrupted(tmp_path):
    options = dict(steps=60, lr=1e-2, warmup=5, ema=0.9, checkpoint_minutes=0, log_every=1)
    whole = fit(line(), quadratic, folder=tmp_path / "whole", **options)
    with pytest.raises(KeyboardInterrupt):
        fit(line(), broken_at(37, kill), folder=tmp_path / "parts", **options)
    log = tmp_path / "parts" / "log.jsonl"
    log.write_text(log.read_text() + '{"step": 37, "lo')  # the last row was cut off
    (tmp_path / "parts" / "partial-checkpoint").mkdir()  # and so was the last checkpoint
    other = line(seed=9)  # the checkpoint's weights count, not these
    resumed = fit(other, quadratic, folder=tmp_path / "parts", **options)
    assert torch.equal(whole.weight, resumed.weight) and torch.equal(whole.bias, resumed.bias)
    rows = read_log(log)
    assert rows == read_log(tmp_path / "whole" / "log.jsonl") and [row["step"] for row in rows] == list(range(60))
    assert [path.name for path in (tmp_path / "parts").glob("*checkpoint*")] == ["checkpoint-00000060"]
    again = fit(line(seed=3), quadratic, folder=tmp_path / "parts", **options)  # nothing is left to do
    assert torch.equal(again.weight, whole.weight)


def test_weights_are_averaged(tmp_path):
    options = dict(steps=20, lr=1e-2, warmup=1)
    last, average = (fit(line(), quadratic, folder=tmp_path / str(ema), ema=ema, **options) for ema in (0.0, 0.99))
    start = line().weight
    assert not torch.allclose(last.weight, average.weight)
    assert (average.weight - start).norm() < (last.weight - start).norm()


def test_frozen_weights_are_neither_trained_nor_saved(tmp_path):
    model = torch.nn.Sequential(torch.nn.Linear(4, 4), line())
    model[0].requires_grad_(False)
    before = model[0].weight.clone()
    fit(model, quadratic, steps=3, folder=tmp_path, lr=1e-1, warmup=1)
    assert torch.equal(model[0].weight, before)
    from safetensors.torch import load_file

    names = load_file(tmp_path / "checkpoint-00000003" / "weights.safetensors").keys()
    assert names == {f"{kind}/1.{name}" for kind in ("model", "average") for name in ("weight", "bias")}
    assert not (tmp_path / "checkpoint-00000003" / "model.safetensors").exists()


def test_a_nan_stops_the_run_and_keeps_the_checkpoint(tmp_path):
    with pytest.raises(FloatingPointError, match="step 5"):
        fit(line(), broken_at(5, lambda loss: loss * float("nan")), steps=9, folder=tmp_path, lr=1e-2,
            checkpoint_minutes=0)  # fmt: skip
    assert (tmp_path / "checkpoint-00000005").is_dir()


def test_figures_and_validation_are_logged(tmp_path):
    seen = []
    fit(line(), quadratic, steps=4, folder=tmp_path, lr=1e-2, log_every=2, validate=lambda model: {"checked": 1.5},
        on_log=lambda rows: seen.append(len(rows)))  # fmt: skip
    rows = [json.loads(text) for text in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [0, 2, 3] and rows[-1]["checked"] == 1.5 and seen == [1, 2, 3]
