"""`mirage-nb train`: the bundled model from nothing, or one recipe of it on data of one's own."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mirage_nb.cli.console import load_pipeline, one_line

app = typer.Typer(help=__doc__, invoke_without_command=True)

Walks = Annotated[Path, typer.Option(help="Folder of walks, from `mirage-nb train data`.")]
Start = Annotated[str | None, typer.Option("--model", help="Pipeline folder to start from, else the bundled one.")]
Folder = Annotated[Path, typer.Option(help="Gets checkpoints, log and result; a stopped run goes on from it.")]
Seed = Annotated[int, typer.Option(help="Of weights, batches and noise.")]


@app.callback()
def tiny(
    context: typer.Context,
    folder: Annotated[
        Path | None,
        typer.Option(help="Keeps rooms, checkpoints and the model; a stopped run goes on from it."),
    ] = None,
    preset: Annotated[str, typer.Option(help="What to train from nothing: tiny.")] = "tiny",
    seed: Seed = 0,
    quick: Annotated[bool, typer.Option(help="A few steps of every stage, to see that all works.")] = False,
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
    folder: Annotated[Path, typer.Option(help="Gets the walks, in shards; those that are there stay.")],
    rooms: Annotated[int, typer.Option(help="Render the rooms 0 to ROOMS - 1.")] = 0,
    recordings: Annotated[
        list[Path], typer.Option(help="RGB-D in the layout of 7-Scenes, or video with poses, by folder or file.")
    ] = [],  # noqa: B006
    frames: Annotated[int, typer.Option(help="Frames of a walk.")] = 25,
    every: Annotated[int, typer.Option(help="Of a room's walk, keep one frame of so many.")] = 1,
    size: Annotated[int, typer.Option(help="Height and width of a frame, in pixels.")] = 128,
    wild: Annotated[bool, typer.Option(help="Rooms with surfaces and motion as recordings have them.")] = False,
    depth_model: Annotated[
        str | None, typer.Option(help="A metric depth model of transformers for video, else the bundled one.")
    ] = None,
) -> None:
    """Write walks to learn from: through procedural rooms, or cut from recordings."""
    with one_line():
        from tqdm.auto import tqdm

        from mirage_nb.training.data import has_depth, import_recordings
        from mirage_nb.training.tiny import render_rooms

        if not rooms and not recordings:
            raise ValueError("rooms: nothing to write; give --rooms 528 or --recordings FOLDER")
        depth = None
        if not all(map(has_depth, recordings)):
            depth = _depth_for_video(depth_model)
        if rooms:
            render_rooms(folder, rooms, 0, frames, wild, every, size)
        if recordings:
            with tqdm(total=len(recordings), desc="recordings") as bar:
                report = import_recordings(
                    recordings, folder, frames, (size, size), depth, progress=lambda done: bar.update(done - bar.n)
                )
            for source, outcome in report.items():
                typer.echo(f"{source}: {outcome}")


def _depth_for_video(name: str | None):
    """A metric depth model, where this process computes."""
    from mirage_nb.models.photo_depth import TransformersDepth
    from mirage_nb.training.data import processes

    model = TransformersDepth.from_transformers(name) if name else load_pipeline(None).depth_estimator
    if getattr(model, "relative", False):
        raise ValueError(f"depth_model: expected one that predicts metres, {name} predicts inverse depth")
    return model.to(processes().device)


@app.command()
def vae(walks: Walks, folder: Folder, model: Start = None, steps: int = 7000, lr: float = 4e-4, seed: Seed = 0) -> None:
    """Train the VAE of a model further, on single frames."""
    with one_line():
        from mirage_nb.training.data import Walks as Data
        from mirage_nb.training.loop import fit
        from mirage_nb.training.vae import vae_loss

        network = load_pipeline(model).vae.float()
        fit(network, vae_loss(Data(walks)), steps=steps, folder=folder, lr=lr, seed=seed, weight_decay=0.0)
        network.save_pretrained(folder / "vae")
        typer.echo(f"the VAE is in {folder / 'vae'}; its latents are new: a transformer must be trained on them")


def _transformer(recipe: str, walks: Path, folder: Path, model: str | None, **options) -> None:
    with one_line():
        from mirage_nb.models.presets import bundled_model
        from mirage_nb.training.encoded import EncodedWalks
        from mirage_nb.training.stages import train_transformer
        from mirage_nb.training.tiny import encode_with_bar

        pipe = load_pipeline(model)
        encode_with_bar(walks, folder / "encoded", pipe.vae, pipe.depth_estimator)
        start = Path(model or bundled_model()) / "transformer"
        target = train_transformer(recipe, start, EncodedWalks.load(folder / "encoded"), folder, **options)
        typer.echo(f"the transformer is in {target}, the loss in {folder / 'loss.png'}")


Steps = Annotated[int, typer.Option(help="Length of the schedule.")]
Checkpointing = Annotated[bool, typer.Option(help="Less memory, a third more time.")]
Tracker = Annotated[str | None, typer.Option(help="Log to a tracker of accelerate's, too: tensorboard.")]


@app.command()
def backbone(
    walks: Walks, folder: Folder, model: Start = None, steps: Steps = 6000, lr: float = 4e-4, batch: int = 8,
    seed: Seed = 0, gradient_checkpointing: Checkpointing = False, tracker: Tracker = None,
) -> None:  # fmt: skip
    """Image to video without a memory."""
    _transformer("backbone", walks, folder, model, steps=steps, lr=lr, batch=batch, seed=seed,
                 gradient_checkpointing=gradient_checkpointing, tracker=tracker)  # fmt: skip


@app.command()
def memory(
    walks: Walks, folder: Folder, model: Start = None, steps: Steps = 6000,
    stage: Annotated[str, typer.Option(help="1: the branch; 2: LoRA on the backbone, too; joint: all.")] = "joint",
    rank: Annotated[int, typer.Option(help="Of the LoRA, stage 2.")] = 64, lr: float = 4e-4, batch: int = 8,
    leap: Annotated[int, typer.Option(help="Every second batch: views up to so many frames ahead; 1 for none.")] = 1,
    seed: Seed = 0, gradient_checkpointing: Checkpointing = False, tracker: Tracker = None,
) -> None:  # fmt: skip
    """The transformer with its memory, in the paper's stages."""
    _transformer("memory", walks, folder, model, steps=steps, stage=stage, rank=rank, lr=lr, batch=batch, leap=leap,
                 seed=seed, gradient_checkpointing=gradient_checkpointing, tracker=tracker)  # fmt: skip
