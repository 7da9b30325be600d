"""What all commands share: errors in one line, quiet libraries, checked paths, and reports."""

import contextlib
import json
import shlex
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated

import typer
from pydantic import Field, ValidationError
from typer.core import TyperGroup

from mirage_nb.files import Schema, read_json, regular_file, remove_stale, to_one_line, write_aside
from mirage_nb.models.folders import check_model_folder

OURS = "mirage-nb"  # a report's command begins so
Overwrite = Annotated[bool, typer.Option(help="Write over files that mirage-nb did not make.")]


class OneLine(TyperGroup):
    """A command line whose errors are one line each; `--debug`, anywhere in it, shows them whole."""

    debug = False

    def parse_args(self, ctx, args: list[str]) -> list[str]:
        OneLine.debug = "--debug" in args
        return super().parse_args(ctx, [arg for arg in args if arg != "--debug"])

    def invoke(self, ctx):
        with one_line():
            return super().invoke(ctx)


@contextlib.contextmanager
def one_line(kept: Callable[[], str] = lambda: "files that are whole are kept") -> Iterator[None]:
    """Print warnings and errors in one line: status 2 for what the user can mend, 1 for what nobody foresaw, whose
    traceback goes to a file, and 130 for Ctrl-C, with what `kept` says."""
    warnings.showwarning = lambda message, *_, **__: _say(f"warning: {message}", "yellow")
    try:
        yield
    except KeyboardInterrupt:
        _say(f"stopped: {kept()}", "yellow")
        raise typer.Exit(130) from None
    except Exception as error:
        misused = hasattr(error, "format_message")  # click's, not exported
        if OneLine.debug or type(error).__name__ in ("Exit", "Abort", "NoArgsIsHelpError"):
            raise  # typer's own ways to end
        if misused or isinstance(error, (ValueError, FloatingPointError, OSError)):
            words = error.format_message() if misused else str(error)
            if isinstance(error.__cause__, ValidationError):  # of a number out of its range
                words += f", got {error.__cause__.errors()[0]['input']}"
            _say(f"error: {words}", "red")
            raise typer.Exit(2) from None
        with tempfile.NamedTemporaryFile("w", prefix="mirage-nb-error-", suffix=".txt", delete=False) as file:
            traceback.print_exc(file=file)
        words = f"unforeseen {type(error).__name__}: {to_one_line(error):.200}"
        _say(f"error: {words}; the whole of it is in {file.name}, or add --debug", "red")
        raise typer.Exit(1) from None


def _say(words: str, colour: str) -> None:
    typer.secho(to_one_line(words), fg=colour, err=True)


def check_files(folders: bool = False, **paths: str | Path | None) -> None:
    """Raise FileNotFoundError or ValueError where a path, by its option's name, is no file; `folders` may stand too."""
    for name, path in paths.items():
        if path is not None and not (folders and Path(path).is_dir()):
            regular_file(path, name)


class Report(Schema):
    """What every report begins with."""

    command: str = Field(pattern=f"^{OURS}( |$)")


def claim(folder: Path, names: tuple[str, ...], overwrite: bool = False) -> None:
    """Take a folder for results of these names: remove what a killed command left there, and raise FileExistsError
    where they exist, and no report or run of ours says that they are ours."""
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(f"out: {folder} is a file, expected a folder")
    theirs = [name for name in names if (folder / name).exists()]
    if theirs and not overwrite and not (folder / "run" / "state.json").exists():
        try:
            read_json(next(folder / name for name in names if name.endswith(".json")), Report)
        except (ValueError, OSError):
            words = f"holds {theirs[0]}, which {OURS} did not make; choose another folder, or add --overwrite"
            raise FileExistsError(f"out: {folder} {words}") from None
    if folder.exists():
        remove_stale(folder)


def quiet() -> None:
    """Stop the notes and progress bars of diffusers and transformers."""
    from diffusers.utils import logging
    from transformers.utils import logging as transformers_logging

    for library in (logging, transformers_logging):
        library.set_verbosity_error()
        library.disable_progress_bar()


def load_pipeline(folder: str | None, **options):
    """The pipeline of a folder, by default the bundled one; `options` of `MiragePipeline.from_pretrained`."""
    source = check_model_folder(folder)  # before the libraries, which take seconds
    from mirage_nb.pipeline import MiragePipeline

    quiet()
    return MiragePipeline.from_pretrained(source, **options)


def write_json(path: Path, content: dict) -> None:
    """Write a report. NaN and infinity, which JSON does not have, become null."""
    content = json.loads(json.dumps(content), parse_constant=lambda name: None)
    write_aside(path, (json.dumps(content, indent=2) + "\n").encode())


def save_report(path: Path, report: dict) -> None:
    """Write a report with the command that made it, and say where it is."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, {"command": shlex.join([OURS, *sys.argv[1:]])} | report)
    typer.echo(f"see {path}")


def print_table(rows: list[list[str]], title: str | None = None) -> None:
    """Print rows of words, the first row the head."""
    from rich.console import Console
    from rich.table import Column, Table

    table = Table(Column(rows[0][0], no_wrap=True), *rows[0][1:], title=title)  # names stay whole
    for row in rows[1:]:
        table.add_row(*row)
    Console().print(table)
