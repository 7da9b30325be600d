"""`mirage-nb benchmark`: what the memory costs, measured. Each command prints its figures and saves a JSON file."""

from __future__ import annotations

import shlex
import sys
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from mirage_nb.cli.console import load_pipeline, one_line, write_json

app = typer.Typer(no_args_is_help=True, help="Measure the memory's speed and size.")

Out = Annotated[Path, typer.Option(help="Folder for the results.")]
Model = Annotated[str | None, typer.Option(help="Folder of a model; by default the bundled one.")]


def _save(path: Path, report: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, {"command": shlex.join(["mirage-nb", *sys.argv[1:]])} | report)
    typer.echo(f"see {path}")


@app.command()
def readout(out: Out, seed: Annotated[int, typer.Option(help="Of the written views.")] = 0) -> None:
    """Time the readout against gathering, sorting and scattering all tokens, and in growing scenes."""
    from mirage_nb.benchmarks.readout import measure_readout

    with one_line():
        report = measure_readout(seed, lambda line: typer.echo(line, err=True))
        for row in report["readout"]:
            typer.echo(
                f"{row['tokens']:>10,} tokens, {row['scene']}: gather, sort, scatter {row['plain_ms']:.0f} ms; the "
                f"memory, the same {row['points_ms']:.0f} ms, with splats {row['splats_ms']:.0f} ms"
            )
        for row in report["growing"]:
            typer.echo(
                f"{row['tokens']:>10,} tokens, one room of them in view: {row['ms']:.0f} ms; through all tokens "
                f"{row['all_ms']:.0f} ms"
            )
        _save(out / "readout.json", report)


@app.command()
def growth(
    out: Out,
    seeds: Annotated[str, typer.Option(help="Rooms, separated by commas.")] = "900000,900001",
    laps: Annotated[int, typer.Option(help="How often the same loop is walked.")] = 10,
    frames: Annotated[int, typer.Option(help="Frames of a lap, an odd number.")] = 17,
    model: Model = None,
) -> None:
    """Walk the same loop again and again: does the memory grow, and does the loop still close?"""
    from mirage_nb.benchmarks.growth import measure_growth

    with one_line():
        report = measure_growth(load_pipeline(model), [int(seed) for seed in seeds.split(",")], laps, frames)
        for name, row in report["memories"].items():
            typer.echo(
                f"{name}: {row['tokens'][0]:.0f} tokens after a lap, {row['tokens'][-1]:.0f} after {laps} "
                f"({row['growth']:.2f} times); closed loop {row['closed_loop_psnr']:.2f} dB"
            )
        _save(out / "growth.json", report)


class Scale(str, Enum):
    """Where the race is run."""

    tiny, paper = "tiny", "paper"


@app.command()
def race(
    out: Out,
    scale: Annotated[Scale, typer.Option(help="tiny: the bundled model. paper: Wan2.2's VAE.")] = Scale.tiny,
    runs: Annotated[int, typer.Option(min=1, help="Of every memory.")] = 5,
    chunks: Annotated[int | None, typer.Option(min=2, help="Of a walk; 12 for tiny, 8 for paper.")] = None,
    model: Annotated[str | None, typer.Option(help="Folder of a model, for tiny; by default the bundled one.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu or cuda; by default a GPU, if there is one.")] = None,
) -> None:
    """Race the memories against each other, stage by stage."""
    import torch
    from rich.console import Console
    from rich.table import Table
    from tqdm.auto import tqdm

    from mirage_nb.benchmarks import paper
    from mirage_nb.benchmarks.race import race as race_rooms
    from mirage_nb.benchmarks.report import CHUNK, PUBLISHED, memory_rows, stage_rows

    with one_line():
        on = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        if scale is Scale.tiny:
            report = race_rooms(load_pipeline(model).to(on), runs, chunks or 12, track=tqdm)
        else:
            report = paper.race(paper.Scale(chunks=chunks or 8), runs, device=on, track=tqdm)
        last = len(report["memories"]["latent"]["chunks"])
        for head, *rows in (memory_rows(report, min(CHUNK, last)), stage_rows(report), PUBLISHED):
            table = Table(*head)
            for row in rows:
                table.add_row(*row)
            Console().print(table)
        for note in report["notes"]:
            typer.echo(note)
        _save(out / f"race-{scale.value}.json", report)
