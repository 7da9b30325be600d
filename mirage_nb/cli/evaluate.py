"""`mirage-nb evaluate`: what the memory is worth, in figures and contact sheets."""

from __future__ import annotations

import contextlib
import math
import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from mirage_nb.cli.console import load_pipeline, one_line, write_json

app = typer.Typer(no_args_is_help=True, help="Measure what the memory is worth.")

Model = Annotated[str | None, typer.Option(help="Folder of a model; by default the bundled one.")]
Steps = Annotated[int, typer.Option(help="Denoising steps a segment.")]
Out = Annotated[Path, typer.Option(help="Folder for the results.")]
Rooms = Annotated[str, typer.Option(help="First and last seed; those from 900000 on were never trained on.")]
Frames = Annotated[int, typer.Option(help="Frames there and back, an odd number.")]
Batch = Annotated[int, typer.Option(help="Rooms generated at once.")]
Lookahead = Annotated[int | None, typer.Option(help="Frames to look ahead; by default as the model was trained.")]
Takes = Annotated[int | None, typer.Option(help="Versions of each view ahead; by default the model's own number.")]
Shifts = Annotated[
    int | None, typer.Option(help="Places along a cell's edge that the first frame is encoded at, likewise.")
]


@app.command()
def rooms(
    out: Out,
    seeds: Rooms = "900000-900031",
    frames: Frames = 49,
    memory: Annotated[str, typer.Option(help="Memories to compare, separated by commas.")] = "latent,rgb,none",
    steps: Steps = 2,
    true_depth: Annotated[bool, typer.Option(help="Give the exact depth of every frame.")] = False,
    batch: Batch = 16,
    lookahead: Lookahead = None,
    takes: Takes = None,
    image_shifts: Shifts = None,
    model: Model = None,
) -> None:
    """Walk held-out rooms there and back: the same rooms, paths and noise for every memory."""
    with one_line():
        from mirage_nb.checks import one_of
        from mirage_nb.evaluation import best_median_worst, evaluate_rooms
        from mirage_nb.memory.baselines import MEMORIES
        from mirage_nb.viz.video import contact_sheet, stack_sheets, write_png

        names = [one_of("memory", name.strip(), list(MEMORIES)) for name in memory.split(",")]
        pipe = _looking(load_pipeline(model), lookahead=lookahead, takes=takes, image_shifts=image_shifts)
        with _segments_bar() as progress:
            report, videos = evaluate_rooms(
                pipe, _seeds(seeds), frames, names, num_inference_steps=steps, true_depth=true_depth, batch=batch,
                progress=progress,
            )  # fmt: skip
        report["command"] = shlex.join(["mirage-nb", *sys.argv[1:]])
        (out / "rooms").mkdir(parents=True, exist_ok=True)
        write_json(out / "report.json", report)
        chosen = best_median_worst(report, names[0])
        sheets = [contact_sheet(videos[seed], title=f"{rank} room, {seed}") for rank, seed in chosen.items()]
        write_png(out / "contact.png", stack_sheets(sheets))
        for seed, rows in videos.items():
            write_png(out / "rooms" / f"{seed}.png", contact_sheet(rows, title=f"room {seed}"))
        _print_table(report)
        typer.echo(f"see {out / 'report.json'}, {out / 'contact.png'} and {out / 'rooms'}")


@app.command()
def ablations(
    out: Out,
    seeds: Rooms = "900000-900015",
    frames: Frames = 49,
    steps: Steps = 2,
    batch: Batch = 16,
    model: Model = None,
) -> None:
    """What each ingredient of the memory is worth, one thing changed at a time."""
    with one_line():
        from mirage_nb.benchmarks.moving import moving_things
        from mirage_nb.evaluation import evaluate_rooms
        from mirage_nb.evaluation.ablations import variants
        from mirage_nb.models.vae import spatial_stride
        from mirage_nb.stitching import frame_encoder

        pipe = load_pipeline(model)
        memories = variants(frame_encoder(pipe.vae), spatial_stride(pipe.vae), int(pipe.vae.config.z_dim))
        with _segments_bar() as progress:
            report, _ = evaluate_rooms(
                pipe, _seeds(seeds), frames, memories, num_inference_steps=steps, batch=batch, progress=progress
            )
        as_is = pipe.beside
        if as_is["references"] or as_is["preceding"]:
            changed = {"ours, no past frames beside": {"references": 0, "preceding": 0}}
        else:
            changed = {"ours, past frames beside": {"references": 4, "preceding": 2}}
        if as_is["lookahead"]:
            changed["ours, not looking ahead"] = {"lookahead": 0}
        if as_is["takes"] > 1:
            changed["ours, one take of what is ahead"] = {"takes": 1}
        if as_is["image_shifts"] > 1:
            changed["ours, the image encoded once"] = {"image_shifts": 1}
        for name, change in changed.items():
            pipe.register_to_config(**as_is | change)
            with _segments_bar() as progress:
                other, _ = evaluate_rooms(
                    pipe, _seeds(seeds), frames, {name: memories["ours"]}, num_inference_steps=steps, batch=batch,
                    progress=progress,
                )  # fmt: skip
            report["methods"] |= other["methods"]
        pipe.register_to_config(**as_is)
        with _segments_bar() as progress:
            moving = moving_things(pipe, _seeds(seeds), progress=progress)
        command, kept = shlex.join(["mirage-nb", *sys.argv[1:]]), ("settings", "methods", "parts")
        out.mkdir(parents=True, exist_ok=True)
        write_json(out / "ablations.json", {"command": command} | {k: report[k] for k in kept} | {"moving": moving})
        _print_table(report)
        typer.echo(f"see {out / 'ablations.json'}")


@app.command()
def recording(
    folder: Annotated[Path, typer.Argument(help="An RGB-D recording in the layout of 7-Scenes.")],
    out: Out,
    frames: Annotated[int, typer.Option(help="How many frames of it, from the first.")] = 49,
    memory: Annotated[str, typer.Option(help="Memories; the first says what is remembered.")] = "latent,none",
    own_depth: Annotated[bool, typer.Option(help="Estimate the depth of all frames but the first.")] = False,
    size: Annotated[int, typer.Option(help="Edge of the square pictures in pixels, a multiple of 16.")] = 128,
    noises: Annotated[int, typer.Option(help="How many times, each from other noise.")] = 4,
    steps: Steps = 2,
    lookahead: Annotated[int, typer.Option(help="Frames to look ahead, and invent what will be there.")] = 0,
    takes: Takes = None,
    image_shifts: Shifts = None,
    model: Model = None,
) -> None:
    """Walk the path of a real recording from its first frame, and compare with what was recorded."""
    with one_line():
        from mirage_nb.checks import one_of
        from mirage_nb.data.recordings.rgbd import read_rgbd
        from mirage_nb.evaluation import evaluate_recording
        from mirage_nb.memory.baselines import MEMORIES
        from mirage_nb.viz.video import contact_sheet, write_png

        names = [one_of("memory", name.strip(), list(MEMORIES)) for name in memory.split(",")]
        if size < 16 or size % 16:
            raise ValueError(f"size: expected a multiple of 16, got {size}")
        pipe = _looking(load_pipeline(model), lookahead=lookahead, takes=takes, image_shifts=image_shifts)
        clip = read_rgbd(folder, (size, size), slice(frames))
        if len(clip.frames) < frames:
            raise ValueError(f"frames: {folder} has {len(clip.frames)}, and {frames} are wanted")
        with _segments_bar() as progress:
            report, videos = evaluate_recording(
                pipe, clip, names, seeds=range(noises), num_inference_steps=steps, given_depth=not own_depth,
                progress=progress,
            )  # fmt: skip
        out.mkdir(parents=True, exist_ok=True)
        write_json(out / "report.json", {"command": shlex.join(["mirage-nb", *sys.argv[1:]])} | report)
        write_png(out / "contact.png", contact_sheet(videos, title=f"{folder.name}, {frames} frames", tile=size))
        for name, row in report["methods"].items():
            words = (f"{k.replace('_', ' ')} {_in_words(value, 2)} dB" for k, value in row.items())
            typer.echo(f"{name}: " + ", ".join(words))
        typer.echo(f"remembered: {report['remembered']:.0%} of the pixels; see {out / 'report.json'} and contact.png")


def _looking(pipe, **asked: int | None):
    """The pipeline, looking ahead and remembering as asked for."""
    pipe.register_to_config(**{name: value for name, value in asked.items() if value is not None})
    return pipe


def _seeds(text: str) -> range:
    first, _, last = text.partition("-")
    if not first.isdigit() or not (last or first).isdigit() or int(last or first) < int(first):
        raise ValueError(f"seeds: expected FIRST-LAST, as 900000-900031, got {text!r}")
    return range(int(first), int(last or first) + 1)


@contextlib.contextmanager
def _segments_bar():
    """A progress bar as the function that `evaluate_rooms` calls."""
    from tqdm.auto import tqdm

    with tqdm(desc="segments", unit="segment") as bar:

        def progress(count: int, total: int) -> None:
            bar.total = total
            bar.update(count - bar.n)

        yield progress


def _in_words(value: dict[str, float], digits: int) -> str:
    """A `summary`, with no interval where there was one room only."""
    if math.isnan(value["mean"]):
        return "–"
    interval = "" if math.isnan(value["ci95"]) else f" ± {value['ci95']:.{digits}f}"
    return f"{value['mean']:.{digits}f}{interval}"


def _print_table(report: dict) -> None:
    """A column for each memory; of many memories, a row for each and the main figures."""
    from rich.console import Console
    from rich.table import Table

    settings, methods = report["settings"], report["methods"]
    table = Table(
        title=f"{len(settings['seeds'])} held-out rooms, {settings['frames']} frames there and back, mean ± 95%"
    )

    def cell(name: str, metric: str) -> str:
        value = methods[name][metric]
        digits = 0 if metric in ("bytes", "tokens") else 1 if "psnr" in metric else 3
        return _in_words(value, digits)

    few, metrics = len(methods) <= 4, list(next(iter(methods.values())))
    if not few:
        metrics = ["closed_loop_psnr", "revisit_psnr", "psnr_to_truth", "gradient_energy", "tokens"]
    table.add_column("")
    for column in methods if few else metrics:
        table.add_column(column.replace("_", " "), justify="right")
    for row in metrics if few else methods:
        cells = [cell(name, row) for name in methods] if few else [cell(row, metric) for metric in metrics]
        table.add_row(row.replace("_", " "), *cells)
    Console().print(table)
    parts = {name: value for name, value in report.get("parts", {}).items() if value["mean"] == value["mean"]}
    if not parts:
        return
    words = (f"{name.replace('_', ' ')} {_in_words(value, 3)}" for name, value in parts.items())
    typer.echo("the parts alone, on true frames: " + ", ".join(words))
