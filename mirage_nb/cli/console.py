"""What all commands share: errors in one line, quiet libraries, and reports."""

from __future__ import annotations

import contextlib
import json
import shlex
import sys
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


def load_pipeline(folder: str | None, **options):
    """The pipeline of a folder, by default the bundled one; `options` of `MiragePipeline.from_pretrained`."""
    from mirage_nb.models.presets import bundled_model
    from mirage_nb.pipeline import MiragePipeline

    quiet()
    return MiragePipeline.from_pretrained(str(folder or bundled_model()), **options)


def write_json(path: Path, content: dict) -> None:
    """Write a report. NaN and infinity, which JSON does not have, become null."""
    from mirage_nb.memory.io import write_aside

    content = json.loads(json.dumps(content), parse_constant=lambda name: None)
    write_aside(path, (json.dumps(content, indent=2) + "\n").encode())


def save_report(path: Path, report: dict) -> None:
    """Write a report with the command that made it, and say where it is."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, {"command": shlex.join(["mirage-nb", *sys.argv[1:]])} | report)
    typer.echo(f"see {path}")


def print_table(rows: list[list[str]], title: str | None = None) -> None:
    """Print rows of words, the first row the head."""
    from rich.console import Console
    from rich.table import Table

    table = Table(*rows[0], title=title)
    for row in rows[1:]:
        table.add_row(*row)
    Console().print(table)
