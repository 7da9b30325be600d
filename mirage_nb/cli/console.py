"""What all commands share: errors in one line, and the model that `--model` names."""

from __future__ import annotations

import contextlib
import json
import math
import warnings
from pathlib import Path

import typer


@contextlib.contextmanager
def one_line():
    """Errors of the user's making in one line, without a traceback; warnings in one line, too."""
    warnings.showwarning = lambda message, *_, **__: typer.secho(f"warning: {message}", fg="yellow", err=True)
    try:
        yield
    except (ValueError, FileNotFoundError, NotADirectoryError, FloatingPointError, OSError) as error:
        typer.secho(f"error: {error}", fg="red", err=True)
        raise typer.Exit(2) from None


def load_pipeline(folder: str | None):
    from diffusers.utils import logging

    from mirage_nb.models.presets import bundled_model
    from mirage_nb.pipeline import MiragePipeline

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    return MiragePipeline.from_pretrained(str(folder or bundled_model()))


def write_json(path: Path, content: dict) -> None:
    """Write a report. JSON knows no NaN: what could not be measured is null."""
    from mirage_nb.memory.io import write_aside

    write_aside(path, (json.dumps(_plain(content), indent=2, allow_nan=False) + "\n").encode())


def _plain(content):
    if isinstance(content, dict):
        return {key: _plain(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_plain(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content
