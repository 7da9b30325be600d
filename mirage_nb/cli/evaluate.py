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
SHOWN = ("closed_loop_psnr", "revisit_psnr", "psnr_to_truth", "psnr_to_truth_covered", "gradient_energy", "bytes")
Memories = Annotated[str, typer.Option(help="Memories to compare, separated by commas.")]


@app.command()
def rooms(
    out: Out,
    seeds: Rooms = "900000-900031",
    frames: Frames = 49,
    memory: Memories = "latent,rgb,none",
    steps: Steps = 2,
    true_depth: Annotated[bool, typer.Option(help="Give the exact depth of every frame.")] = False,
    batch: Batch = 16,
    model: Model = None,
) -> None:
    """Walk held-out rooms there and back: the same rooms, paths and noise for every memory."""
    with one_line():
        from mirage_nb.evaluation.rooms import best_median_worst, evaluate_rooms
        from mirage_nb.viz.space import board
        from mirage_nb.viz.video import contact_sheet, write_png

        names, pipe = _names(memory), load_pipeline(model)
        with _progress() as progress:
            report, videos = evaluate_rooms(
                pipe, _seeds(seeds), frames, names, num_inference_steps=steps, true_depth=true_depth, batch=batch,
                progress=progress,
            )  # fmt: skip
        _save(out / "report.json", report)
        (out / "rooms").mkdir(exist_ok=True)
        chosen = best_median_worst(report, names[0])
        sheets = {f"{rank} room, {seed}": contact_sheet(videos[seed]) for rank, seed in chosen.items()}
        write_png(out / "contact.png", board(sheets, columns=1))
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
        from mirage_nb.evaluation import evaluate_rooms
        from mirage_nb.evaluation.ablations import variants

        pipe = load_pipeline(model)
        with _progress() as progress:
            report, _ = evaluate_rooms(
                pipe, _seeds(seeds), frames, variants(pipe), num_inference_steps=steps, batch=batch, progress=progress
            )
        del report["rooms"]
        _save(out / "ablations.json", report)
        _print_table(report)
        typer.echo(f"see {out / 'ablations.json'}")


@app.command()
def recording(
    folder: Annotated[Path, typer.Argument(help="An RGB-D recording in the layout of 7-Scenes.")],
    out: Out,
    frames: Annotated[int, typer.Option(help="How many frames of it, from the first.")] = 49,
    memory: Memories = "latent,none",
    own_depth: Annotated[bool, typer.Option(help="Estimate the depth of all frames but the first.")] = False,
    size: Annotated[int, typer.Option(help="Edge of the square pictures in pixels, a multiple of 16.")] = 128,
    noises: Annotated[int, typer.Option(help="How many times, each from other noise.")] = 4,
    steps: Steps = 2,
    model: Model = None,
) -> None:
    """Walk the path of a real recording from its first frame, and compare with what was recorded."""
    with one_line():
        from mirage_nb.data.recordings.rgbd import read_rgbd
        from mirage_nb.evaluation import evaluate_recording
        from mirage_nb.viz.video import contact_sheet, write_png

        names = _names(memory)
        if size < 16 or size % 16:
            raise ValueError(f"size: expected a multiple of 16, got {size}")
        pipe, clip = load_pipeline(model), read_rgbd(folder, (size, size), slice(frames))
        if len(clip.frames) < frames:
            raise ValueError(f"frames: expected at most the {len(clip.frames)} of {folder}, got {frames}")
        with _progress() as progress:
            report, videos = evaluate_recording(
                pipe, clip, names, seeds=range(noises), num_inference_steps=steps, given_depth=not own_depth,
                progress=progress,
            )  # fmt: skip
        _save(out / "report.json", report)
        write_png(out / "contact.png", contact_sheet(videos, title=f"{folder.name}, {frames} frames", tile=size))
        _print_table(report)
        typer.echo(f"the first memory covers {report['covered']:.0%} of the pixels; see {out}")


def _names(memory: str) -> list[str]:
    from mirage_nb.checks import one_of
    from mirage_nb.memory.baselines import MEMORIES

    return [one_of("memory", name.strip(), list(MEMORIES)) for name in memory.split(",")]


def _seeds(text: str) -> range:
    first, _, last = text.partition("-")
    if not first.isdigit() or not (last or first).isdigit() or int(last or first) < int(first):
        raise ValueError(f"seeds: expected FIRST-LAST, as 900000-900031, got {text!r}")
    return range(int(first), int(last or first) + 1)


def _save(path: Path, report: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, {"command": shlex.join(["mirage-nb", *sys.argv[1:]])} | report)


@contextlib.contextmanager
def _progress():
    """A progress bar, as the function that an evaluation calls."""
    from tqdm.auto import tqdm

    with tqdm(unit="step") as bar:

        def progress(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield progress


def _print_table(report: dict) -> None:
    """Print a row for each method: mean ± 95% interval of the main metrics."""
    from rich.console import Console
    from rich.table import Table

    def words(metric: str, value: dict[str, float]) -> str:
        if math.isnan(value["mean"]):
            return "–"
        digits = 0 if metric == "bytes" else 1 if "psnr" in metric else 2
        interval = "" if math.isnan(value["ci95"]) else f" ± {value['ci95']:.{digits}f}"
        return f"{value['mean']:.{digits}f}{interval}"

    methods = report["methods"]
    metrics = [metric for metric in SHOWN if metric in next(iter(methods.values()))]
    title = f"{len(report['settings']['seeds'])} x {report['settings']['frames']} frames"
    table = Table("", *(metric.replace("_", " ") for metric in metrics), title=title)
    for name, values in methods.items():
        table.add_row(name, *(words(metric, values[metric]) for metric in metrics))
    Console().print(table)
