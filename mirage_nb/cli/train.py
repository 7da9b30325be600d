"""`mirage-nb train`: a model like the bundled one from nothing, and walks to learn from."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from mirage_nb.cli.console import check_files

app = typer.Typer(help=__doc__, invoke_without_command=True)


@app.callback()
def tiny(
    context: typer.Context,
    folder: Annotated[Path | None, typer.Option(help="Gets all results; a stopped run continues from it.")] = None,
    preset: Annotated[Literal["tiny"], typer.Option(help="What to train from nothing.")] = "tiny",
    quick: Annotated[bool, typer.Option(help="A few steps of everything, to see that all works.")] = False,
) -> None:
    if context.invoked_subcommand:
        return
    if folder is None:
        raise ValueError("folder: expected a folder for all results: --folder build/train")
    from mirage_nb.training.tiny import QUICK, Schedule, train_tiny

    made = train_tiny(folder / "quick", QUICK) if quick else train_tiny(folder, Schedule())
    typer.echo(f"the model is in {made}")


@app.command()
def data(
    folder: Annotated[Path, typer.Option(help="Gets the walks, in shards; those that exist stay.")],
    rooms: Annotated[int, typer.Option(min=0, max=900_000, help="Render the rooms 0 to ROOMS - 1.")] = 0,
    recordings: Annotated[list[str], typer.Option(help="RGB-D folders, see docs/formats.md.")] = [],
    frames: Annotated[int, typer.Option(min=2, max=1000, help="Frames of a walk.")] = 25,
    size: Annotated[int, typer.Option(min=16, max=1024, help="Height and width of a frame, in pixels.")] = 128,
) -> None:
    """Write walks to learn from: through procedural rooms, or cut from recordings."""
    if not rooms and not recordings:
        raise ValueError("rooms: nothing to write; give --rooms 720 or --recordings FOLDER")
    for recording in recordings:
        check_files(folders=True, recordings=recording)
    from mirage_nb.training.data import import_recordings, write_walks

    if rooms:
        write_walks(folder, rooms, frames, size=size)
    if recordings:
        report = import_recordings(recordings, folder, frames, (size, size))
        for source, outcome in report.items():
            typer.echo(f"{source}: {outcome}")
        if not rooms and all(outcome.startswith("left out") for outcome in report.values()):
            raise ValueError("recordings: none could be used")
