"""What all commands share: errors in one line, quiet libraries, and the model that `--model` names."""

from __future__ import annotations

import contextlib
import json
import math
import warnings
from pathlib import Path

import typer


@contextlib.contextmanager
def one_line():
    """Print errors that the user can mend, and warnings, in one line without a traceback."""
    warnings.showwarning = lambda message, *_, **__: typer.secho(f"warning: {message}", fg="yellow", err=True)
    try:
        yield
    except (ValueError, FloatingPointError, OSError) as error:
        typer.secho(f"error: {error}", fg="red", err=True)
        raise typer.Exit(2) from None


def quiet() -> None:
    """Stop the notes and progress bars of diffusers and transformers."""
    from diffusers.utils import logging
    from transformers.utils import logging as transformers_logging

    for library in (logging, transformers_logging):
        library.set_verbosity_error()
        library.disable_progress_bar()


def load_pipeline(folder: str | None):
    """The pipeline of a folder, by default the bundled one."""
    from mirage_nb.models.presets import bundled_model
    from mirage_nb.pipeline import MiragePipeline

    quiet()
    return MiragePipeline.from_pretrained(str(folder or bundled_model()))


def write_json(path: Path, content: dict) -> None:
    """Write a report. NaN, which JSON does not have, becomes null."""
    from mirage_nb.memory.io import write_aside

    write_aside(path, (json.dumps(_plain(content), indent=2, allow_nan=False) + "\n").encode())


def _plain(content):
    if isinstance(content, dict):
        return {key: _plain(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_plain(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content
