"""`mirage-nb`: generate a walk, evaluate the memory, train the bundled model."""

from __future__ import annotations

import contextlib
import json
import math
import shlex
import sys
import warnings
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, help=__doc__)
evaluate = typer.Typer(no_args_is_help=True, help="Measure what the memory is worth.")
app.add_typer(evaluate, name="evaluate")


class Memory(str, Enum):
    """The memories by name."""

    latent, append, rgb, none = "latent", "append", "rgb", "none"


Model = Annotated[str | None, typer.Option(help="Folder of a model; by default the bundled one.")]
Steps = Annotated[int, typer.Option(help="Denoising steps a segment.")]
Out = Annotated[Path, typer.Option(help="Folder for the results.")]


@contextlib.contextmanager
def _one_line():
    """Errors of the user's making in one line, without a traceback; warnings in one line, too."""
    warnings.showwarning = lambda message, *_, **__: typer.secho(f"warning: {message}", fg="yellow", err=True)
    try:
        yield
    except (ValueError, FileNotFoundError, NotADirectoryError, FloatingPointError, OSError) as error:
        typer.secho(f"error: {error}", fg="red", err=True)
        raise typer.Exit(2) from None


def _pipeline(folder: str | None):
    from diffusers.utils import logging

    from mirage_nb.models.presets import bundled_model
    from mirage_nb.pipeline import MiragePipeline

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    return MiragePipeline.from_pretrained(str(folder or bundled_model()))


def _number(x: float) -> float | None:
    return round(x, 3) if math.isfinite(x) else None


def _write_json(path: Path, content: dict) -> None:
    from mirage_nb.grid_io import write_aside

    write_aside(path, (json.dumps(content, indent=2) + "\n").encode())


@app.command()
def generate(
    source: Annotated[
        str, typer.Argument(metavar="INPUT", help="room:17, an RGB-D folder, a posed photo's folder, or a photo.")
    ],
    out: Out,
    path: Annotated[str | None, typer.Option(help="A named path, as there_and_back:pan_left+push_in.")] = None,
    action: Annotated[str | None, typer.Option(help="Keystrokes, as 'w-32,j-48,l-48': wasd move, ijkl turn.")] = None,
    trajectory: Annotated[
        str | None, typer.Option(help="A trajectory file (RealEstate10K, TUM, Spatia, transforms.json).")
    ] = None,
    frames: Annotated[int, typer.Option(help="Frames of the video.")] = 49,
    memory: Annotated[Memory, typer.Option(help="What remembers between segments.")] = Memory.latent,
    seed: Annotated[int, typer.Option(help="Of the noise.")] = 0,
    steps: Steps = 2,
    model: Model = None,
    given_depth: Annotated[bool, typer.Option(help="Use a recording's depth of every frame.")] = False,
) -> None:
    """Walk through the world of an image: video, contact sheet, memory, and report."""
    with _one_line():
        from mirage_nb.inputs import read_input

        scene = read_input(
            source, frames=frames, path=path, action=action, trajectory=trajectory, given_depth=given_depth
        )
        if scene.note:
            typer.echo(f"note: {scene.note}")
        pipe = _pipeline(model)
        result = pipe(
            scene.image, scene.prompt if pipe.transformer.config.text_dim else None, c2w=scene.cameras.c2w,
            intrinsics=scene.cameras.intrinsics, depth=scene.depth, memory=memory.value, seed=seed,
            num_inference_steps=steps, output_type="uint8", output_dir=out / "run",
        )  # fmt: skip
        report = _save_walk(out, scene, result, memory.value)
        report |= {"input": source, "command": shlex.join(["mirage-nb", *sys.argv[1:]])}
        _write_json(out / "report.json", report)
        for name in ("closed_loop_psnr", "psnr_to_truth"):
            if name in report:
                value = report[name]["mean"] if isinstance(report[name], dict) else report[name]
                typer.echo(f"{name.replace('_', ' ')}: {value:.1f} dB")
        typer.echo(f"{report['memory']['tokens']} tokens, {report['memory']['bytes'] / 1024:.0f} KiB of memory")
        typer.echo(f"see {out / 'video.mp4'}, {out / 'contact.png'}, {out / 'memory.ply'}, {out / 'report.json'}")


def _save_walk(out: Path, scene, result, name: str) -> dict:
    """Write what a walk made into its folder; returns the report with the figures that can be known."""
    import torch

    from mirage_nb import evaluation as ev
    from mirage_nb.video import contact_sheet, latent_colours, side_by_side, token_colours, write_mp4, write_png

    report, frames = dict(result.report), result.frames
    videos = {"truth": scene.truth[: len(frames)]} if scene.truth is not None else {}
    videos[name] = frames
    write_mp4(out / "video.mp4", side_by_side(videos) if len(videos) > 1 else frames)
    write_png(out / "contact.png", contact_sheet(videos))
    result.memory.save(out / "memory.safetensors")
    if name in ("latent", "append") and len(result.memory):
        every = max(1, (len(frames) - 1) // max(1, len(result.latents) - 1))  # pixel frames per latent frame
        colours = latent_colours(result.latents, frames[::every])
        result.memory.save_ply(out / "memory.ply", token_colours(result.memory.tokens, colours))
    if torch.allclose(result.c2w[0], result.c2w[-1], atol=1e-5) and len(frames) > 1:
        report["closed_loop_psnr"] = ev.closed_loop_psnr(frames)
    if scene.truth is not None and len(frames) > 1:
        each = ev.psnr(frames[1:], videos["truth"][1:])
        covered = ev.psnr(frames[1:], videos["truth"][1:], ev.as_pixel_mask(result.visibility, frames)[1:])
        report["psnr_to_truth"] = {
            "mean": each.mean().item(),
            "per_frame": [round(x, 3) for x in each.tolist()],
            # None where the memory showed nothing of a frame
            "covered": {"mean": _number(covered.nanmean().item()), "per_frame": [_number(x) for x in covered.tolist()]},
        }
    return report


@evaluate.command()
def rooms(
    out: Out,
    seeds: Annotated[
        str, typer.Option(help="First and last seed; those from 900000 on were never trained on.")
    ] = "900000-900031",
    frames: Annotated[int, typer.Option(help="Frames there and back, an odd number.")] = 49,
    memory: Annotated[str, typer.Option(help="Memories to compare, separated by commas.")] = "latent,rgb,none",
    steps: Steps = 2,
    true_depth: Annotated[bool, typer.Option(help="Give the exact depth of every frame.")] = False,
    batch: Annotated[int, typer.Option(help="Rooms generated at once.")] = 16,
    model: Model = None,
) -> None:
    """Walk held-out rooms there and back: the same rooms, paths and noise for every memory."""
    with _one_line():
        from tqdm.auto import tqdm

        from mirage_nb.checks import one_of
        from mirage_nb.evaluation import best_median_worst, evaluate_rooms
        from mirage_nb.video import contact_sheet, stack_sheets, write_png

        first, _, last = seeds.partition("-")
        if not first.isdigit() or not (last or first).isdigit() or int(last or first) < int(first):
            raise ValueError(f"seeds: expected FIRST-LAST, as 900000-900031, got {seeds!r}")
        names = [one_of("memory", name.strip(), [m.value for m in Memory]) for name in memory.split(",")]
        pipe = _pipeline(model)
        with tqdm(desc="segments", unit="segment") as bar:

            def progress(count: int, total: int) -> None:
                bar.total = total
                bar.update(count - bar.n)

            report, videos = evaluate_rooms(
                pipe, range(int(first), int(last or first) + 1), frames, names, num_inference_steps=steps,
                true_depth=true_depth, batch=batch, progress=progress,
            )  # fmt: skip
        report["command"] = shlex.join(["mirage-nb", *sys.argv[1:]])
        (out / "rooms").mkdir(parents=True, exist_ok=True)
        _write_json(out / "report.json", report)
        chosen = best_median_worst(report, names[0])
        sheets = [contact_sheet(videos[seed], title=f"{rank} room, {seed}") for rank, seed in chosen.items()]
        write_png(out / "contact.png", stack_sheets(sheets))
        for seed, rows in videos.items():
            write_png(out / "rooms" / f"{seed}.png", contact_sheet(rows, title=f"room {seed}"))
        _print_table(report)
        typer.echo(f"see {out / 'report.json'}, {out / 'contact.png'} and {out / 'rooms'}")


def _print_table(report: dict) -> None:
    from rich.console import Console
    from rich.table import Table

    settings = report["settings"]
    table = Table(
        title=f"{len(settings['seeds'])} held-out rooms, {settings['frames']} frames there and back, mean ± 95%"
    )
    table.add_column("")
    names = list(report["methods"])
    for name in names:
        table.add_column(name, justify="right")
    for metric in report["methods"][names[0]]:
        cells = []
        for name in names:
            value = report["methods"][name][metric]
            digits = 0 if metric in ("bytes", "tokens") else 1 if "psnr" in metric else 3
            cells.append(
                "–" if value["mean"] != value["mean"] else f"{value['mean']:.{digits}f} ± {value['ci95']:.{digits}f}"
            )
        table.add_row(metric.replace("_", " "), *cells)
    Console().print(table)


@app.command()
def train(
    folder: Annotated[
        Path, typer.Option(help="Where rooms, checkpoints and the model are kept; a stopped run goes on from it.")
    ],
    preset: Annotated[str, typer.Option(help="What to train: tiny.")] = "tiny",
    seed: Annotated[int, typer.Option(help="Of weights, batches and noise.")] = 0,
    quick: Annotated[bool, typer.Option(help="A few steps of every stage, to see that all works.")] = False,
    compile: Annotated[bool, typer.Option(help="Compile the transformer's blocks.")] = True,
) -> None:
    """Train the bundled model from nothing."""
    with _one_line():
        from mirage_nb.checks import one_of
        from mirage_nb.training.tiny import Schedule, train_tiny

        one_of("preset", preset, ["tiny"])
        target = train_tiny(folder, Schedule.quick() if quick else None, seed=seed, compile=compile and not quick)
        typer.echo(f"the model is in {target}")


if __name__ == "__main__":
    app()
