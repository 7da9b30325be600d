"""`mirage-nb train`: the bundled model from nothing, or its transformer further on data of one's own."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mirage_nb.cli.console import load_pipeline, one_line

app = typer.Typer(help=__doc__, invoke_without_command=True)

Seed = Annotated[int, typer.Option(help="Of weights, batches and noise.")]


@app.callback()
def tiny(
    context: typer.Context,
    folder: Annotated[
        Path | None, typer.Option(help="Gets rooms, checkpoints and the model; a stopped run continues from it.")
    ] = None,
    preset: Annotated[str, typer.Option(help="What to train from nothing: tiny.")] = "tiny",
    seed: Seed = 0,
    quick: Annotated[bool, typer.Option(help="A few steps of everything, to see that all works.")] = False,
    compile: Annotated[bool, typer.Option(help="Compile the VAE's blocks.")] = True,
) -> None:
    if context.invoked_subcommand:
        return
    with one_line():
        from mirage_nb.checks import one_of
        from mirage_nb.training.tiny import Schedule, train_tiny

        if folder is None:
            raise ValueError("folder: expected a folder for rooms, checkpoints and the model: --folder build/train")
        one_of("preset", preset, ["tiny"])
        target = train_tiny(folder, Schedule.quick() if quick else None, seed, compile and not quick)
        typer.echo(f"the model is in {target}")


@app.command()
def data(
    folder: Annotated[Path, typer.Option(help="Gets the walks, in shards; those that exist stay.")],
    rooms: Annotated[int, typer.Option(help="Render the rooms 0 to ROOMS - 1.")] = 0,
    recordings: Annotated[
        list[Path], typer.Option(help="RGB-D in the layout of 7-Scenes, or video with poses, by folder or file.")
    ] = [],  # noqa: B006
    frames: Annotated[int, typer.Option(help="Frames of a walk.")] = 25,
    size: Annotated[int, typer.Option(help="Height and width of a frame, in pixels.")] = 128,
    augmented: Annotated[bool, typer.Option(help="Rooms with random surfaces and a handheld camera.")] = False,
    depth_model: Annotated[
        str | None, typer.Option(help="A metric depth model of transformers for video, else the bundled one.")
    ] = None,
) -> None:
    """Write walks to learn from: through procedural rooms, or cut from recordings."""
    with one_line():
        from mirage_nb.models.photo_depth import TransformersDepth
        from mirage_nb.training.data import has_depth, import_recordings, processes, write_walks

        if not rooms and not recordings:
            raise ValueError("rooms: nothing to write; give --rooms 528 or --recordings FOLDER")
        depth = None
        if not all(map(has_depth, recordings)):
            estimator = TransformersDepth.from_transformers(depth_model) if depth_model else None
            depth = (estimator or load_pipeline(None).depth_estimator).to(processes().device)
            if getattr(depth, "relative", False):
                raise ValueError(f"depth_model: expected one that predicts metres, {depth_model} does not")
        if rooms:
            write_walks(folder, rooms, frames, augmented=augmented, size=size)
        for source, outcome in import_recordings(recordings, folder, frames, (size, size), depth).items():
            typer.echo(f"{source}: {outcome}")


@app.command()
def transformer(
    walks: Annotated[Path, typer.Option(help="Folder of walks, from `mirage-nb train data`.")],
    folder: Annotated[Path, typer.Option(help="Gets checkpoints, log and result; a stopped run continues from it.")],
    stage: Annotated[
        str, typer.Option(help="backbone: no memory; branch: stage 1; lora: stage 2, LoRA and branch; joint: all.")
    ] = "joint",
    model: Annotated[str | None, typer.Option(help="Pipeline folder to start from, else the bundled one.")] = None,
    steps: Annotated[int, typer.Option(help="Length of the schedule.")] = 6000,
    rank: Annotated[int, typer.Option(help="Of the LoRA.")] = 64,
    lr: Annotated[float, typer.Option(help="Highest learning rate.")] = 4e-4,
    batch: Annotated[int, typer.Option(help="Samples a step, over all processes.")] = 8,
    seed: Seed = 0,
    gradient_checkpointing: Annotated[bool, typer.Option(help="Less memory, a third more time.")] = False,
) -> None:
    """Train a model's transformer further, in one of the paper's stages."""
    with one_line():
        from mirage_nb.models.presets import bundled_model
        from mirage_nb.training.encoded import EncodedWalks, encode_walks
        from mirage_nb.training.stages import train_transformer

        pipe = load_pipeline(model)
        encode_walks(walks, folder / "encoded", pipe.vae, pipe.depth_estimator)
        start, encoded = Path(model or bundled_model()) / "transformer", EncodedWalks.load(folder / "encoded")
        options = dict(rank=rank, lr=lr, batch=batch, seed=seed, gradient_checkpointing=gradient_checkpointing)
        target = train_transformer(stage, start, encoded, folder, steps=steps, **options)
        typer.echo(f"the transformer is in {target}, the losses in {folder / 'log.jsonl'}")
