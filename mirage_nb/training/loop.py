"""One training loop for every recipe: accelerate around AdamW, bf16 autocast, averaged weights, resumable checkpoints.

Every batch and all noise come from a generator that is seeded by (seed, step). So a run that was killed and resumed
sees the same batches as an uninterrupted one. Of several processes (`accelerate launch`; `torchrun` on CPUs), each
draws the whole batch and computes its part: together they take the step that one process would take.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from mirage_nb.memory.io import load_tensors, save_tensors, write_aside
from mirage_nb.training.data import processes

FORMAT = "mirage-training"
BatchLoss = Callable[[nn.Module, torch.Generator, slice], tuple[Tensor, dict[str, float]]]


class Objective(nn.Module):
    """A model and its loss as one module, so that several processes synchronise gradients whatever the loss calls."""

    def __init__(self, model: nn.Module, batch_loss: BatchLoss) -> None:
        super().__init__()
        self.model, self.batch_loss = model, batch_loss

    def forward(self, generator: torch.Generator, part: slice) -> tuple[Tensor, dict[str, float]]:
        return self.batch_loss(self.model, generator, part)


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
    log_every: int = 20,
    validate: Callable[[nn.Module], dict[str, float]] | None = None,
    on_log: Callable[[list[dict]], None] | None = None,
) -> nn.Module:
    """Train the parameters of `model` that require gradients; returns it with the averaged weights.

    Args:
        batch_loss: (model, generator, part) -> scalar loss and figures to log. It draws a whole batch from the
            generator and takes the mean over its `part`, a slice.
        steps: length of the cosine schedule.
        folder: gets `log.jsonl` and the last checkpoint, from which a second call continues. A checkpoint holds the
            optimizer as accelerate saves it, with pickle (read with torch's `weights_only`): continue your own only.
        ema: decay of the moving average of the weights; 0 for none.
        log_every: steps between two rows of the log.
        validate: figures to log at every checkpoint.
        on_log: called with all rows of the log each time one is added; for a live plot.

    Raises:
        FloatingPointError: the loss is not finite. The last checkpoint stands.
    """
    from accelerate import Accelerator
    from diffusers.optimization import get_cosine_schedule_with_warmup
    from diffusers.training_utils import EMAModel
    from tqdm.auto import tqdm

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    processes()
    accelerator = Accelerator(
        mixed_precision="bf16", cpu=not torch.cuda.is_available(), step_scheduler_with_optimizer=False
    )
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    matrices = [p for p in trained.values() if p.ndim > 1]
    vectors = [p for p in trained.values() if p.ndim <= 1]  # norms and biases do not decay
    groups = [{"params": matrices, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=lr, betas=(0.9, 0.98), fused=True)
    schedule = get_cosine_schedule_with_warmup(optimizer, warmup, steps)
    objective, optimizer, schedule = accelerator.prepare(Objective(model, batch_loss), optimizer, schedule)
    average = EMAModel(trained.values(), decay=ema, foreach=True)
    # As in diffusers' training scripts: the weights go to a file of ours (trained and averaged, no frozen ones).
    accelerator.register_save_state_pre_hook(lambda models, weights, folder: weights.clear())
    accelerator.register_load_state_pre_hook(lambda models, folder: models.clear())

    first = _load(accelerator, folder, trained, average)
    main = accelerator.is_main_process
    rows = _resume_log(folder / "log.jsonl", first) if main else []
    saved, smooth = time.monotonic(), rows[-1]["smooth"] if rows else None
    part = slice(accelerator.process_index, None, accelerator.num_processes)
    for step in tqdm(range(first, steps), initial=first, total=steps, desc=folder.name, disable=None if main else True):
        with accelerator.autocast():
            loss, figures = objective(torch.Generator().manual_seed(seed * 1_000_003 + step), part)
        value = accelerator.reduce(loss.detach(), "mean").item()
        if not math.isfinite(value):
            raise FloatingPointError(f"the loss is {value} at step {step}; the last checkpoint in {folder} is good")
        accelerator.backward(loss)
        accelerator.clip_grad_norm_(trained.values(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        average.step(trained.values())
        smooth = value if smooth is None else 0.98 * smooth + 0.02 * value
        if not main:
            continue
        row = {"step": step, "loss": value, "smooth": smooth, **figures} if step % log_every == 0 else {}
        if time.monotonic() - saved > 60 * checkpoint_minutes or step + 1 == steps:
            _save(accelerator, folder, step + 1, trained, average)
            checked = validate(model) if validate else {}
            row = {"step": step, "loss": value, "smooth": smooth, **figures, **checked}
            saved = time.monotonic()
        if row:
            rows.append(row)
            with (folder / "log.jsonl").open("a") as file:
                file.write(json.dumps(row) + "\n")
            if on_log:
                on_log(rows)
    accelerator.wait_for_everyone()
    average.copy_to(trained.values())
    return model


def _names(trained: dict[str, nn.Parameter]) -> tuple[str, ...]:
    """Names in a checkpoint's file of the weights, and of their averages."""
    return tuple(f"{kind}/{name}" for kind in ("model", "average") for name in trained)


def _save(accelerator, folder: Path, step: int, trained: dict[str, nn.Parameter], average) -> None:
    """Write a checkpoint under a temporary name, rename it, then delete the older ones."""
    partial, older = folder / "partial-checkpoint", list(folder.glob("checkpoint-*"))
    shutil.rmtree(partial, ignore_errors=True)
    accelerator.save_state(str(partial))
    tensors = dict(zip(_names(trained), [*trained.values(), *average.shadow_params]))
    save_tensors(partial / "weights.safetensors", FORMAT, tensors, {})
    os.replace(partial, folder / f"checkpoint-{step:08d}")
    for checkpoint in older:
        shutil.rmtree(checkpoint)


@torch.no_grad()
def _load(accelerator, folder: Path, trained: dict[str, nn.Parameter], average) -> int:
    """Continue from the last checkpoint; returns the number of steps done."""
    checkpoint = max(folder.glob("checkpoint-*"), default=None)
    if checkpoint is None:
        return 0
    tensors, _ = load_tensors(checkpoint / "weights.safetensors", FORMAT, _names(trained))
    step = int(checkpoint.name.removeprefix("checkpoint-"))
    for name, parameter in trained.items():
        parameter.copy_(tensors[f"model/{name}"])
    shadow = [tensors[f"average/{name}"].to(p.device) for name, p in trained.items()]
    average.load_state_dict({"shadow_params": shadow, "optimization_step": step})
    accelerator.load_state(str(checkpoint))
    return step


def read_log(path: Path) -> list[dict]:
    """The rows of `log.jsonl`; a last row that was cut off is dropped."""
    rows = []
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows


def _resume_log(path: Path, first_step: int) -> list[dict]:
    """The rows of the steps before `first_step`; the others are removed from the file, since they come again."""
    rows = [row for row in read_log(path) if row["step"] < first_step]
    write_aside(path, "".join(json.dumps(row) + "\n" for row in rows).encode())
    return rows
