"""One training loop for every recipe: accelerate around Adam, bf16 autocast, averaged weights, resumable checkpoints.

Every batch and all noise come from a generator that is seeded by the step. So a run that was killed and resumed sees
the same batches as an uninterrupted one.
"""

import json
import math
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from accelerate import Accelerator
from diffusers.optimization import get_cosine_schedule_with_warmup
from diffusers.training_utils import EMAModel
from pydantic import ConfigDict, Field
from torch import Tensor, nn
from tqdm import tqdm

from mirage_nb.files import Schema, parse, remove_stale
from mirage_nb.memory.io import is_whole, load_tensors, save_tensors, write_aside

FORMAT = "mirage-training"


class Settings(Schema):
    """The header of a checkpoint: the next step."""

    step: int = Field(ge=0)


class Row(Settings):
    """A row of the log: the loss of a step, and figures."""

    model_config = ConfigDict(extra="allow")
    loss: float


BatchLoss = Callable[[nn.Module, torch.Generator], tuple[Tensor, dict[str, float]]]


def fit(
    model: nn.Module, batch_loss: BatchLoss, *, steps: int, folder: str | Path, lr: float, warmup: int = 100,
    ema: float = 0.0, seed: int = 0, checkpoint_minutes: float = 3.0, log_every: int = 20,
    on_log: Callable[[list[dict]], None] | None = None,
) -> nn.Module:  # fmt: skip
    """Train the parameters of `model` that require gradients, on a GPU if there is one; returns the averaged model.

    Args:
        batch_loss: (model, generator) -> the loss of a batch that the generator draws, and figures to log.
        steps: length of the cosine schedule.
        folder: gets `log.jsonl` and `checkpoint.safetensors`, from which a second call continues.
        ema: decay of the moving average of the weights; 0 for none.
        on_log: called with all rows of the log each time one is added; for a live plot.

    Raises:
        FloatingPointError: the loss is not finite. The last checkpoint stands.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    remove_stale(folder)
    checkpoint, log = folder / "checkpoint.safetensors", folder / "log.jsonl"
    accelerator = Accelerator(mixed_precision="bf16", cpu=not torch.cuda.is_available())
    model.to(accelerator.device)
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    average = EMAModel(trained.values(), decay=ema, foreach=True)
    optimizer = torch.optim.Adam(trained.values(), lr=lr, betas=(0.9, 0.98), fused=True)
    # All that a checkpoint holds, by name: accelerate's own would be pickled. Adam's state is made here, to be filled.
    tensors, first = {}, 0
    for (name, p), shadow in zip(trained.items(), average.shadow_params):
        moments = {"exp_avg": torch.zeros_like(p), "exp_avg_sq": torch.zeros_like(p)}
        optimizer.state[p] = moments | {"step": torch.zeros((), device=p.device)}
        parts = {"weight": p.detach(), "average": shadow, **optimizer.state[p]}
        tensors |= {f"{part}/{name}": tensor for part, tensor in parts.items()}
    if is_whole(checkpoint):
        layout = {n: " ".join(map(str, (t.dtype, *t.shape))).removeprefix("torch.") for n, t in tensors.items()}
        stored, settings = load_tensors(checkpoint, FORMAT, layout, Settings)
        first = average.optimization_step = settings.step
        for name, tensor in tensors.items():
            tensor.copy_(stored[name])
    optimizer.param_groups[0]["initial_lr"] = lr
    schedule = get_cosine_schedule_with_warmup(optimizer, warmup, steps, last_epoch=first - 1)
    rows = [row for row in read_log(log) if row["step"] < first]
    saved = time.monotonic()
    for step in tqdm(range(first, steps), initial=first, total=steps, desc=folder.name, disable=None):
        generator = torch.Generator().manual_seed(seed * 1_000_003 + step)
        with accelerator.autocast():
            loss, figures = batch_loss(model, generator)
        value = loss.item()
        if not math.isfinite(value):
            raise FloatingPointError(f"the loss is {value} at step {step}; the last checkpoint in {folder} is good")
        accelerator.backward(loss)
        accelerator.clip_grad_norm_(trained.values(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        average.step(trained.values())
        due = time.monotonic() - saved > 60 * checkpoint_minutes or step + 1 == steps
        if due:
            save_tensors(checkpoint, FORMAT, tensors, {"step": step + 1})
            saved = time.monotonic()
        if due or step % log_every == 0:
            rows.append({"step": step, "loss": value, **figures})
            write_aside(log, "".join(json.dumps(row) + "\n" for row in rows).encode())
            if on_log:
                on_log(rows)
    average.copy_to(trained.values())
    return model


def read_log(path: Path) -> list[dict]:
    """The rows of `log.jsonl`, none if there is no such file. A last one that was cut is dropped with a warning."""
    lines = path.read_text().splitlines() if path.exists() else []
    if lines and not lines[-1].endswith("}"):
        warnings.warn(f"{path}: the last row was cut off, perhaps by a full disk; it is dropped", stacklevel=2)
        lines.pop()
    return [parse(Row, line, f"{path}, row {number}").model_dump() for number, line in enumerate(lines, 1)]
