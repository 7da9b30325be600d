"""`mirage-nb evaluate`: what the memory is worth, in figures and contact sheets."""

import math
import re
from pathlib import Path
from typing import Annotated

import typer
from tqdm import tqdm

from mirage_nb.cli.console import Overwrite, check_files, claim, load_pipeline, print_table, save_report
from mirage_nb.models.folders import check_model_folder

app = typer.Typer(no_args_is_help=True, help="Measure what the memory is worth.")

Model = Annotated[str | None, typer.Option(help="Folder of a model; by default the bundled one.")]
Steps = Annotated[int, typer.Option(min=1, max=1000, help="Denoising steps a segment.")]
Out = Annotated[Path, typer.Option(help="Folder for the results.")]
Rooms = Annotated[str, typer.Option(help="First and last seed; those from 900000 on were never trained on.")]
Frames = Annotated[int, typer.Option(min=3, max=10_000, help="Frames there and back, an odd number.")]
Batch = Annotated[int, typer.Option(min=1, max=256, help="Rooms generated at once.")]
METHODS = "Separated by commas: latent, densified, append, finest, average, rgb, rgb_capped, none. NAME:HOW sets how."
Memories = Annotated[str, typer.Option(help=METHODS)]
HOW = "How the generator gets the memory: branch, guidance or both; by default the branch, where it is trained."
Conditioning = Annotated[str | None, typer.Option(help=HOW)]
SHOWN = ("closed_loop_psnr", "revisit_psnr", "psnr_to_truth", "psnr_to_truth_covered", "gradient_energy", "bytes")
SHEETS = 3  # rooms in the contact sheet
MOST = 1000  # rooms: half a day on one core
RESULTS = ("report.json", "contact.png")


@app.command()
def rooms(
    out: Out, seeds: Rooms = "900000-900031", frames: Frames = 49, memory: Memories = "latent,rgb,none",
    steps: Steps = 2, batch: Batch = 16, conditioning: Conditioning = None, model: Model = None,
    overwrite: Overwrite = False,
) -> None:  # fmt: skip
    """Walk held-out rooms there and back: the same rooms, paths and noise for every memory."""
    numbers = _seeds(seeds)
    if frames % 2 == 0:
        raise ValueError(f"frames: expected an odd number, got {frames}")
    check_model_folder(model)
    claim(out, RESULTS, overwrite)
    from mirage_nb.evaluation import evaluate_rooms
    from mirage_nb.viz import board, contact_sheet, write_png

    names, pipe = _names(memory, conditioning), load_pipeline(model)
    report, videos = evaluate_rooms(pipe, numbers, frames, names, num_inference_steps=steps, batch=batch, track=tqdm)
    _finish(out / "report.json", report)
    sheets = {f"room {seed}": contact_sheet(videos[seed]) for seed in list(videos)[:SHEETS]}
    write_png(out / "contact.png", board(sheets, columns=1))


@app.command()
def recording(
    folder: Annotated[Path, typer.Argument(help="An RGB-D recording in the layout of 7-Scenes.")], out: Out,
    frames: Annotated[int, typer.Option(min=2, max=10_000, help="How many frames of it, from the first.")] = 49,
    memory: Memories = "latent,none",
    size: Annotated[int, typer.Option(min=16, max=1024, help="Edge of the square pictures, a multiple of 16.")] = 128,
    noises: Annotated[int, typer.Option(min=1, max=MOST, help="How many times, each from other noise.")] = 4,
    steps: Steps = 2, conditioning: Conditioning = None, model: Model = None, overwrite: Overwrite = False,
) -> None:  # fmt: skip
    """Walk the path of a real recording from its first frame, and compare with what was recorded."""
    check_files(folders=True, FOLDER=folder)
    if size % 16:
        raise ValueError(f"size: expected a multiple of 16, got {size}")
    check_model_folder(model)
    claim(out, RESULTS, overwrite)
    from mirage_nb.data.recordings import read_rgbd
    from mirage_nb.evaluation import evaluate_recording
    from mirage_nb.viz import contact_sheet, write_png

    names, clip = _names(memory, conditioning), read_rgbd(folder, (size, size), slice(frames))
    if len(clip.frames) < frames:
        raise ValueError(f"frames: expected at most the {len(clip.frames)} of {folder}, got {frames}")
    pipe, seeds = load_pipeline(model), range(noises)
    report, videos = evaluate_recording(pipe, clip, names, seeds=seeds, num_inference_steps=steps, track=tqdm)
    _finish(out / "report.json", report)
    typer.echo(f"the first memory covers {report['covered']:.0%} of the pixels")
    write_png(out / "contact.png", contact_sheet(videos, title=f"{folder.name}, {frames} frames", tile=size))


def _names(memory: str, conditioning: str | None) -> list[str]:
    """Names of methods; `conditioning` is that of all whose name holds none. A memory of nothing needs none."""
    from mirage_nb.checks import one_of
    from mirage_nb.denoising import CONDITIONINGS
    from mirage_nb.evaluation.walks import METHODS

    names = [name.strip() for name in memory.split(",")]
    if conditioning is not None:
        names = [name if ":" in name or name == "none" else f"{name}:{conditioning}" for name in names]
    for kind, colon, how in (name.partition(":") for name in names):
        one_of("memory", kind, METHODS)
        if colon:
            one_of("conditioning", how, CONDITIONINGS)
    return names


def _seeds(text: str) -> range:
    match = re.fullmatch(r"(\d{1,9})(?:-(\d{1,9}))?", text)
    first, last = (int(number or match[1]) for number in match.groups()) if match else (0, -1)
    if not 0 <= last - first < MOST:
        raise ValueError(f"seeds: expected FIRST-LAST, as 900000-900031, at most {MOST} of them, got {text!r}")
    return range(first, last + 1)


def _finish(path: Path, report: dict) -> None:
    """Print a row for each method, mean ± 95% interval of the main metrics, and save the report."""

    def words(metric: str, value: dict[str, float]) -> str:
        digits = 0 if metric == "bytes" else 2
        mean, interval = (f"{value[key]:.{digits}f}" for key in ("mean", "ci95"))
        return "–" if math.isnan(value["mean"]) else mean if math.isnan(value["ci95"]) else f"{mean} ± {interval}"

    methods, settings = report["methods"], report["settings"]
    metrics = [metric for metric in SHOWN if metric in next(iter(methods.values()))]
    rows = [["", *(metric.replace("_", " ") for metric in metrics)]]
    rows += [[name, *(words(metric, values[metric]) for metric in metrics)] for name, values in methods.items()]
    print_table(rows, title=f"{len(settings['seeds'])} x {settings['frames']} frames")
    save_report(path, report)
