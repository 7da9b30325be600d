"""`mirage-nb benchmark`: the memory at scale, measured. Each command saves a JSON file and pictures into a folder."""

from __future__ import annotations

import json
import shlex
import sys
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from mirage_nb.cli.console import load_pipeline, one_line

app = typer.Typer(no_args_is_help=True, help="Measure the memory's speed and size.")

Out = Annotated[Path, typer.Option(help="Folder for the results.")]


def _save(path: Path, report: dict) -> None:
    from mirage_nb.memory.io import write_aside

    report = report | {"command": shlex.join(["mirage-nb", *sys.argv[1:]])}
    write_aside(path, (json.dumps(report, indent=2) + "\n").encode())


@app.command()
def readout(out: Out, seed: Annotated[int, typer.Option(help="Of the clouds.")] = 0) -> None:
    """Time the readout against gather, sort and scatter, culling, and writing."""
    from mirage_nb.benchmarks.readout import measure_readout
    from mirage_nb.viz.scale import scale_figure

    with one_line():
        out.mkdir(parents=True, exist_ok=True)
        report = measure_readout(seed, lambda line: typer.echo(line, err=True))
        _save(out / "readout.json", report)
        scale_figure(report).save(out / "readout.png")
        for row in report["readout"] + report["room"]:
            ours, plain, splats, least = (row[f"{name}ms"] for name in ("", "baseline_", "splats_", "limit_"))
            typer.echo(f"{row['tokens']:>9,} tokens, {row['scene']}: {ours:.1f} ms, {row['speedup']:.1f} times faster")
            typer.echo(f"          than {plain:.0f} ms; with splats {splats:.1f} ms; at the limit {least:.1f} ms")
        last = report["culling"][-1]
        typer.echo(
            f"{last['tokens']:>9,} tokens, 1% in view: {last['ms']:.1f} ms, {report['culling_ratio']:.2f} times that of"
        )
        typer.echo(f"          these alone; {last['ms_without']:.0f} ms without culling")
        for row in report["writing"]:
            typer.echo(f"{row['tokens']:>9,} tokens: 9 latent frames written in {row['ms']:.0f} ms")
        typer.echo(f"{report['threads']} threads; see {out / 'readout.json'} and {out / 'readout.png'}")


@app.command()
def growth(
    out: Out,
    seeds: Annotated[str, typer.Option(help="Rooms, separated by commas.")] = "900000,900001",
    laps: Annotated[int, typer.Option(help="How often the same loop is walked.")] = 10,
    frames: Annotated[int, typer.Option(help="Frames of a lap, an odd number.")] = 17,
    model: Annotated[str | None, typer.Option(help="Folder of a model; by default the bundled one.")] = None,
) -> None:
    """Walk the same loop again and again: does the memory grow, and does the loop still close?"""
    from mirage_nb.benchmarks.growth import measure_growth

    with one_line():
        out.mkdir(parents=True, exist_ok=True)
        report = measure_growth(load_pipeline(model), [int(seed) for seed in seeds.split(",")], laps, frames)
        _save(out / "growth.json", report)
        for name, row in report["memories"].items():
            typer.echo(
                f"{name}: {row['tokens'][0]:.0f} tokens after a lap, {row['tokens'][-1]:.0f} after {laps} "
                f"({row['growth']:.2f} times); closed loop {row['closed_loop_psnr']:.2f} dB"
            )
        typer.echo(f"see {out / 'growth.json'}")


class Scale(str, Enum):
    """Where the race is run."""

    tiny, half, paper = "tiny", "half", "paper"


@app.command()
def race(
    out: Out,
    scale: Annotated[Scale, typer.Option(help="tiny: the bundled model. paper, half: Wan2.2's VAE.")] = Scale.tiny,
    runs: Annotated[int, typer.Option(help="Of every memory; more can be added later.")] = 5,
    chunks: Annotated[int | None, typer.Option(help="Of a walk; 12 for tiny, else 8.")] = None,
    model: Annotated[str | None, typer.Option(help="Folder of a model, for tiny; by default the bundled one.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu or cuda; by default a GPU, if there is one.")] = None,
) -> None:
    """Race the memories against each other, stage by stage. A stopped race goes on from where it was."""
    from mirage_nb.benchmarks.runner import run_race

    with one_line():
        command = shlex.join(["mirage-nb", *sys.argv[1:]])
        report, paths = run_race(scale.value, out, runs, chunks, model, device, command)
        _print_race(report)
        typer.echo("see " + ", ".join(map(str, paths)))


def _print_race(report: dict) -> None:
    from rich.console import Console
    from rich.table import Table

    from mirage_nb.benchmarks import report as tables

    all_rows = [tables.published_rows()]
    all_rows += [tables.split_rows(report), tables.conditioning_rows(report, int(min(report["ratios"], key=int)))]
    for head, *rows in reversed(all_rows):
        table = Table(*head)
        for row in rows:
            table.add_row(*row)
        Console().print(table)
    for note in report["notes"]:
        typer.echo(note)


@app.command()
def table(
    readme: Annotated[Path, typer.Option(help="The file with the markers.")] = Path("README.md"),
    data: Annotated[Path, typer.Option(help="Where race-tiny.json and race-paper.json are.")] = Path("data/benchmarks"),
) -> None:
    """Make the README's benchmark tables anew from the reports."""
    from mirage_nb.benchmarks.report import read_report, readme_block, update_readme

    with one_line():
        block = readme_block(read_report(data / "race-tiny.json"), read_report(data / "race-paper.json"))
        typer.echo(f"{readme}: " + ("made anew" if update_readme(readme, block) else "nothing has changed"))
