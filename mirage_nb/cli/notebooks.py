"""`mirage-nb notebooks`: run the notebooks and refresh what they show, compare their values, make the book of them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mirage_nb.cli.console import one_line

app = typer.Typer(no_args_is_help=True, help="Run the notebooks, compare their values, make a book of them.")
Only = Annotated[str | None, typer.Option(help="Only the notebook whose name begins so, as 03.")]


@app.command()
def run(
    only: Only = None,
    fast: Annotated[
        bool, typer.Option("--fast", help="Small, and only to compare: notebooks stay as they are.")
    ] = False,
    update: Annotated[
        bool, typer.Option("--update", help="Refresh data/regression, after showing what moved.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask before --update writes.")] = False,
) -> None:
    """Execute the notebooks and refresh them in place; with --fast, compare their values with the known ones.

    The known values are those of the fast run, so --update makes that run, too.
    """
    with one_line():
        from mirage_nb.cli.notebook_runs import find_notebooks

        paths = find_notebooks(only)
        if not fast:
            for path in paths:
                _refresh(path)
        if fast or update:
            held = [_compare(path, update, yes) for path in paths]
            if not all(held):
                raise typer.Exit(1)


def _executed(path: Path, fast: bool):
    import nbformat
    from papermill import PapermillExecutionError

    from mirage_nb.cli.notebook_runs import FAST, execute

    words = f"{path.stem}, fast" if fast else path.stem
    try:
        return execute(nbformat.read(path, as_version=4), FAST if fast else {}, progress=words, seconds=1800)
    except PapermillExecutionError as error:
        typer.secho(f"{path.name}, cell {error.cell_index}: {error.ename}: {error.evalue}", fg="red", err=True)
        typer.echo("\n".join(error.traceback[-3:]), err=True)
        raise typer.Exit(1) from None


def _refresh(path: Path) -> None:
    from mirage_nb.cli.notebook_runs import cleaned, recorded, save_notebook

    done = cleaned(_executed(path, fast=False))
    save_notebook(path, done)
    for name, value in recorded(done).items():
        typer.echo(f"  {name}: {value['value']:.5g} {value['unit']}")


def _compare(path: Path, update: bool, yes: bool) -> bool:
    """Whether the values of a fast run hold, or were refreshed."""
    from rich.console import Console

    from mirage_nb.cli.notebook_runs import TIMES, compare, known_values, recorded, save_values, table, updated

    known = known_values(path.stem)
    found = recorded(_executed(path, fast=True))
    rows, new = compare(known, found), updated(known, found)
    if not update:
        Console().print(table(path.stem, rows))
        return all(row.holds for row in rows)
    changed = [
        row for row in rows if row.unit not in TIMES and known["values"].get(row.name) != new["values"].get(row.name)
    ]
    if not changed:
        typer.echo(f"{path.stem}: as before")
        return True
    Console().print(table(path.stem, changed))
    if not yes and not typer.confirm(f"Write data/regression/{path.stem}.json?"):
        return all(row.holds for row in rows)
    save_values(path.stem, new)
    return True


@app.command()
def book(out: Annotated[Path, typer.Option(help="Folder for the pages.")] = Path("build/book")) -> None:
    """Render the notebooks as they are to a static site that opens from disk."""
    with one_line():
        from mirage_nb.book import build_book

        typer.echo(f"open {build_book(out)}")
