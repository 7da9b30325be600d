"""`mirage-nb benchmark`: what the memory costs, measured."""

from pathlib import Path
from typing import Annotated

import typer
from tqdm import tqdm

from mirage_nb.cli.console import Overwrite, claim, load_pipeline, print_table, save_report
from mirage_nb.models.folders import check_model_folder

app = typer.Typer(no_args_is_help=True, help="Measure the memory's speed and size.")


@app.command()
def race(
    out: Annotated[Path, typer.Option(help="Folder for the results.")],
    runs: Annotated[int, typer.Option(min=1, max=1000, help="Of every memory.")] = 5,
    chunks: Annotated[int, typer.Option(min=2, max=1000, help="Of a walk.")] = 12,
    model: Annotated[str | None, typer.Option(help="Folder of a model; by default the bundled one.")] = None,
    overwrite: Overwrite = False,
) -> None:
    """Race the memories against each other, stage by stage."""
    check_model_folder(model)
    claim(out, ("race.json",), overwrite)
    from mirage_nb.benchmarks.race import MEMORY_STAGES
    from mirage_nb.benchmarks.race import race as race_rooms
    from mirage_nb.benchmarks.report import CHUNK, PUBLISHED, stage_rows

    report = race_rooms(load_pipeline(model), runs, chunks, track=tqdm)
    early = min(CHUNK, len(report["memories"]["latent"]["chunks"]))
    for rows in (stage_rows(report, early, MEMORY_STAGES), stage_rows(report), PUBLISHED):
        print_table(rows)
    typer.echo("\n".join(report["notes"]))
    save_report(out / "race.json", report)
