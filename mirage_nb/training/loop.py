"""One training loop for every recipe: accelerate around AdamW, bf16 autocast, EMA, and checkpoints that resume.

Every batch and every noise is drawn from a generator seeded by (seed, step). So a run that was killed and resumed sees
what an uninterrupted one would have seen, and no generator state need be saved. Of several processes (`accelerate
launch`; on processors `torchrun`), each draws the whole batch and computes its part: together they take the step that
one alone would take.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from mirage_nb.training.data import processes

BatchLoss = Callable[[nn.Module, int, torch.Generator, slice], tuple[Tensor, dict[str, float]]]


class Objective(nn.Module):
    """A model and its loss as one module. So processes that share a batch see every way in which the loss uses the
    model, not its forward alone (the VAE's recipe never calls that)."""

    def __init__(self, model: nn.Module, batch_loss: BatchLoss) -> None:
        super().__init__()
        self.model, self.batch_loss = model, batch_loss

    def forward(self, *batch) -> tuple[Tensor, dict[str, float]]:
        return self.batch_loss(self.model, *batch)


def fit(
    model: nn.Module,
    batch_loss: BatchLoss,
    *,
    steps: int,
    folder: str | Path,
    lr: float,
    warmup: int = 100,
    weight_decay: float = 0.01,
    ema: float = 0.0,
    seed: int = 0,
    checkpoint_minutes: float = 3.0,
    validate: Callable[[nn.Module], dict[str, float]] | None = None,
    validate_every: int = 500,
    log_every: int = 20,
    tracker: str | None = None,
    on_log: Callable[[list[dict]], None] | None = None,
    progress: bool = True,
) -> nn.Module:
    """Train the parameters of `model` that require gradients.

    Args:
        batch_loss: (model, step, generator, part) -> scalar loss and figures to log. It draws a whole batch from the
            generator and takes the mean over its `part`, a slice.
        steps: length of the cosine schedule.
        folder: gets `checkpoint.safetensors`, `log.jsonl` and, at each checkpoint, `loss.png`. If a checkpoint lies
            there, training goes on from it.
        ema: decay of the moving average of the weights, 0 for none; the returned model carries the average.
        tracker: also log to one of accelerate's trackers, as "tensorboard".
        log_every: steps between two rows of the log.
        on_log: called with all rows of the log each time one is added; for a live plot.

    Raises:
        FloatingPointError: the loss is not finite. The last checkpoint stands, and `bad_batch.json` tells which batch
            it was.
    """
    from accelerate import Accelerator
    from tqdm.auto import tqdm

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    processes()
    accelerator = Accelerator(
        mixed_precision="bf16", cpu=not torch.cuda.is_available(), log_with=tracker, project_dir=folder
    )
    if tracker:
        accelerator.init_trackers("mirage")
    main = accelerator.is_main_process
    part = slice(accelerator.process_index, None, accelerator.num_processes)
    trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
    decay = [p for p in trained.values() if p.ndim > 1]
    plain = [p for p in trained.values() if p.ndim <= 1]
    groups = [{"params": decay, "weight_decay": weight_decay}, {"params": plain, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=lr, betas=(0.9, 0.98), fused=True)
    objective, optimizer = accelerator.prepare(Objective(model, batch_loss), optimizer)
    average = {n: p.detach().clone() for n, p in trained.items()} if ema else {}
    checkpoint = folder / "checkpoint.safetensors"
    first = _load(checkpoint, trained, average, optimizer.optimizer) if checkpoint.exists() else 0
    log = Log(folder / "log.jsonl", first) if main else None
    saved = time.monotonic()

    bar = tqdm(
        range(first, steps), initial=first, total=steps, disable=not (progress and main), mininterval=2,
        desc=folder.name,
    )  # fmt: skip
    smooth = None
    for step in bar:
        rate = lr * min(1, (step + 1) / warmup) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * step / steps)))
        for group in optimizer.param_groups:
            group["lr"] = rate
        number = seed * 1_000_003 + step
        with accelerator.autocast():
            loss, figures = objective(step, torch.Generator().manual_seed(number), part)
        value = accelerator.reduce(loss.detach(), "mean").item()
        if not math.isfinite(value):
            (folder / "bad_batch.json").write_text(
                json.dumps({"step": step, "generator_seed": number, "loss": str(value)})
            )
            raise FloatingPointError(
                f"the loss is {value} at step {step}; {checkpoint} holds the last good state, bad_batch.json the batch"
            )
        accelerator.backward(loss)
        accelerator.clip_grad_norm_(list(trained.values()), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if ema:
            rate = min(ema, (step + 1) / (step + 10))
            torch._foreach_lerp_(list(average.values()), [p.detach() for p in trained.values()], 1 - rate)
        smooth = value if smooth is None else 0.98 * smooth + 0.02 * value
        figures = {"loss": value, "smooth": smooth, **figures} if step % log_every == 0 else {}
        if figures:
            bar.set_postfix(**{k: f"{v:.3f}" for k, v in figures.items() if k != "loss"})
        if validate and (step + 1) % validate_every == 0:
            checked = validate(model)
            bar.write(f"step {step + 1}: " + ", ".join(f"{k} {v:.3f}" for k, v in checked.items()))
            figures |= checked
        if figures and main:
            log.add({"step": step, "time": time.time(), **figures})
            accelerator.log(figures, step=step)
            if on_log:
                on_log(log.rows)
        if time.monotonic() - saved > 60 * checkpoint_minutes or step + 1 == steps:
            if main:
                _save(checkpoint, step + 1, trained, average, optimizer.optimizer)
                if checkpoint_minutes or step + 1 == steps:  # 0 is for tests: a picture takes longer than a step
                    log.picture(folder / "loss.png")
            saved = time.monotonic()
    accelerator.wait_for_everyone()
    for open_tracker in accelerator.trackers:
        # Not `end_training`, which leaves the group of processes, too, and other stages may follow.
        open_tracker.finish()
    load_average(model, checkpoint)
    return model


class Log:
    """Rows of figures, one JSON object a line; a resumed run drops the rows that it is about to do again."""

    def __init__(self, path: Path, first_step: int = 0) -> None:
        lines = path.read_text().splitlines() if path.exists() else []
        self.path, self.rows = path, [row for row in map(json.loads, lines) if row["step"] < first_step]
        path.write_text("".join(json.dumps(row) + "\n" for row in self.rows))

    def add(self, row: dict) -> None:
        self.rows.append(row)
        with self.path.open("a") as file:
            file.write(json.dumps(row) + "\n")

    def picture(self, path: Path) -> None:
        """`loss_curve` of the rows as a PNG."""
        partial = path.with_suffix(".partial.png")
        loss_curve(self.rows).savefig(partial, dpi=90)
        os.replace(partial, path)


def loss_curve(rows: list[dict]):
    """A matplotlib figure of the loss, batch by batch and smoothed, from rows of the log."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 3), layout="constrained")
    axis, rows = figure.subplots(), [row for row in rows if "loss" in row]
    steps = [row["step"] for row in rows]
    axis.plot(steps, [row["loss"] for row in rows], color="#c3c8d1", linewidth=1, label="batches")
    axis.plot(steps, [row["smooth"] for row in rows], color="#009e73", linewidth=2, label="smoothed")
    axis.set(xlabel="step", ylabel="loss")
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False)
    return figure


def load_average(model: nn.Module, checkpoint: str | Path) -> int:
    """Load a checkpoint's averaged weights (or the plain ones, where none were kept); returns its step."""
    with safe_open(str(checkpoint), "pt") as file:
        keys = set(file.keys())
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                key = next((k for k in (f"ema/{name}", f"model/{name}") if k in keys), None)
                if key:
                    parameter.copy_(file.get_tensor(key))
        return int(file.metadata()["step"])


def _save(path: Path, step: int, trained: dict, average: dict, optimizer: torch.optim.Optimizer) -> None:
    tensors = {f"model/{n}": p.detach() for n, p in trained.items()} | {f"ema/{n}": p for n, p in average.items()}
    for name, parameter in trained.items():
        for key, value in optimizer.state[parameter].items():
            tensors[f"optimizer/{key}/{name}"] = value
    temporary = path.with_suffix(".partial")
    save_file(
        {k: v.contiguous() for k, v in tensors.items()}, temporary, {"format": "mirage-training", "step": str(step)}
    )
    os.replace(temporary, path)


def _load(path: Path, trained: dict, average: dict, optimizer: torch.optim.Optimizer) -> int:
    with safe_open(str(path), "pt") as file:
        for key in file.keys():
            kind, _, name = key.partition("/")
            value = file.get_tensor(key)
            if kind == "model":
                trained[name].data.copy_(value)
            elif kind == "ema" and name in average:
                average[name].copy_(value)
            elif kind == "optimizer":
                field, _, name = name.partition("/")
                optimizer.state[trained[name]][field] = value.to(trained[name].device)
        return int(file.metadata()["step"])
