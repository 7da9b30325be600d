"""One training loop for every recipe: accelerate around AdamW, bf16 autocast, EMA, and checkpoints that resume.

Every batch and every noise is drawn from a generator seeded by (seed, step). So a run that was killed and resumed sees
what an uninterrupted one would have seen, and no generator state need be saved.
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

BatchLoss = Callable[[nn.Module, int, torch.Generator], tuple[Tensor, dict[str, float]]]


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
    progress: bool = True,
) -> nn.Module:
    """Train the parameters of `model` that require gradients.

    Args:
        batch_loss: (model, step, generator) -> scalar loss and figures to log.
        steps: length of the cosine schedule.
        folder: gets `checkpoint.safetensors` and `log.jsonl`. If a checkpoint lies there, training goes on from it.
        ema: decay of the moving average of the weights, 0 for none; the returned model carries the average.

    Raises:
        FloatingPointError: the loss is not finite. The last checkpoint stands.
    """
    from accelerate import Accelerator
    from tqdm.auto import tqdm

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    accelerator = Accelerator(mixed_precision="bf16", cpu=not torch.cuda.is_available())
    trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
    decay = [p for p in trained.values() if p.ndim > 1]
    plain = [p for p in trained.values() if p.ndim <= 1]
    groups = [{"params": decay, "weight_decay": weight_decay}, {"params": plain, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=lr, betas=(0.9, 0.98), fused=True)
    wrapped, optimizer = accelerator.prepare(model, optimizer)
    average = {n: p.detach().clone() for n, p in trained.items()} if ema else {}
    checkpoint = folder / "checkpoint.safetensors"
    first = _load(checkpoint, trained, average, optimizer.optimizer) if checkpoint.exists() else 0
    log, saved = (folder / "log.jsonl").open("a"), time.monotonic()

    bar = tqdm(range(first, steps), initial=first, total=steps, disable=not progress, mininterval=2, desc=folder.name)
    smooth = None
    for step in bar:
        rate = lr * min(1, (step + 1) / warmup) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * step / steps)))
        for group in optimizer.param_groups:
            group["lr"] = rate
        generator = torch.Generator().manual_seed(seed * 1_000_003 + step)
        with accelerator.autocast():
            loss, figures = batch_loss(wrapped, step, generator)
        if not torch.isfinite(loss):
            raise FloatingPointError(
                f"the loss is {loss.item()} at step {step}; {checkpoint} holds the last good state"
            )
        accelerator.backward(loss)
        accelerator.clip_grad_norm_(list(trained.values()), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if ema:
            rate = min(ema, (step + 1) / (step + 10))
            torch._foreach_lerp_(list(average.values()), [p.detach() for p in trained.values()], 1 - rate)
        smooth = loss.item() if smooth is None else 0.98 * smooth + 0.02 * loss.item()
        if step % 20 == 0:
            bar.set_postfix(loss=f"{smooth:.4f}", **{k: f"{v:.3f}" for k, v in figures.items()})
            log.write(
                json.dumps({"step": step, "loss": loss.item(), "smooth": smooth, "time": time.time(), **figures}) + "\n"
            )
            log.flush()
        if validate and (step + 1) % validate_every == 0:
            figures = validate(model)
            log.write(json.dumps({"step": step, "time": time.time(), **figures}) + "\n")
            bar.write(f"step {step + 1}: " + ", ".join(f"{k} {v:.3f}" for k, v in figures.items()))
        if time.monotonic() - saved > 60 * checkpoint_minutes or step + 1 == steps:
            _save(checkpoint, step + 1, trained, average, optimizer.optimizer)
            saved = time.monotonic()
    log.close()
    load_average(model, checkpoint)
    return model


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
                optimizer.state[trained[name]][field] = value
        return int(file.metadata()["step"])
