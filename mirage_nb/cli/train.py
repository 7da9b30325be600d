"""`mirage-nb train`: a model like the bundled one from nothing, and walks to learn from."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from mirage_nb.cli.console import load_pipeline, one_line

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
    with one_line():
        from mirage_nb.training.tiny import QUICK, Schedule, train_tiny

        if folder is None:
            raise ValueError("folder: expected a folder for all results: --folder build/train")
        made = train_tiny(folder / "quick", QUICK) if quick else train_tiny(folder, Schedule())
        typer.echo(f"the model is in {made}")


@app.command()
def data(
    folder: Annotated[Path, typer.Option(help="Gets the walks, in shards; those that exist stay.")],
    rooms: Annotated[int, typer.Option(help="Render the rooms 0 to ROOMS - 1.")] = 0,
    recordings: Annotated[list[str], typer.Option(help="RGB-D as 7-Scenes has it, or video with poses.")] = [],
    frames: Annotated[int, typer.Option(help="Frames of a walk.")] = 25,
    size: Annotated[int, typer.Option(help="Height and width of a frame, in pixels.")] = 128,
) -> None:
    """Write walks to learn from: through procedural rooms, or cut from recordings."""
    with one_line():
        from mirage_nb.training.data import import_recordings, write_walks

        if not rooms and not recordings:
            raise ValueError("rooms: nothing to write; give --rooms 720 or --recordings FOLDER")
        if rooms:
            write_walks(folder, rooms, frames, size=size)
        if recordings:
            depth_model = load_pipeline(None).depth_estimator
            for source, outcome in import_recordings(recordings, folder, depth_model, frames, (size, size)).items():
                typer.echo(f"{source}: {outcome}")
