"""From a command to a report: what is raced at each scale, and what has to be said beside the figures."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import torch

from mirage_nb.benchmarks import paper, predictions, race
from mirage_nb.benchmarks.measure import Results, machine, one_thread
from mirage_nb.benchmarks.rates import Rates, calibrate
from mirage_nb.benchmarks.report import build_report, save_report

SCALES = ("tiny", *paper.SIZES)


def run_race(
    scale: str,
    out: str | Path,
    runs: int = 5,
    chunks: int | None = None,
    model: str | None = None,
    device: str | None = None,
    command: str = "",
) -> tuple[dict, list[Path]]:
    """Race at a scale, and write race-SCALE.json, .csv and .png into `out`; finished runs are kept beside them.

    Returns:
        The report, and the paths of the files.

    Raises:
        ValueError: an argument does not fit, or `out` holds the runs of a race with other settings.
    """
    from tqdm.auto import tqdm

    from mirage_nb.checks import integer, one_of

    one_of("scale", scale, SCALES)
    integer("runs", runs, 1)
    chunks = chunks or (12 if scale == "tiny" else 8)
    integer("chunks", chunks, 2)
    place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    with tqdm(desc="race", unit="run") as bar:

        def progress(done: int, total: int, what: str) -> None:
            bar.total, bar.n = total, done
            bar.set_postfix_str(what)
            bar.refresh()

        if scale == "tiny":
            settings, notes, raw, model_costs = _tiny(out, runs, chunks, model, place, progress)
        else:
            settings, notes, raw, model_costs = _paper(scale, out, runs, chunks, place, progress)
    with one_thread():
        about = machine(place)
    report = build_report(scale, raw, settings | {"runs": runs}, about, notes, command)
    report["costs"] = model_costs(report)
    return report, save_report(out, report)


def _rates(results: Results, place: torch.device) -> Rates:
    def task() -> dict:
        with one_thread():
            return asdict(calibrate(place))

    found = results.once("rates", task)
    return Rates(**found | {name: {float(x): y for x, y in found[name].items()} for name in ("flops", "moved")})


def _tiny(out: Path, runs: int, chunks: int, model: str | None, place: torch.device, progress):
    from mirage_nb.models.presets import bundled_model
    from mirage_nb.pipeline import MiragePipeline
    from mirage_nb.runs import model_digest

    pipe = MiragePipeline.from_pretrained(str(model or bundled_model())).to(place)
    settings = {"scale": "tiny", "size": [128, 128], "chunks": chunks, "steps": 2, "first_room": 900000}
    settings |= {"path": "there and back", "device": place.type, "model": model_digest(pipe.components)}
    results = Results(out / "race-tiny-runs", settings)
    raw = race.race(pipe, results, runs, chunks, progress=progress)
    rates = _rates(results, place)
    notes = [
        f"Each run is another held-out room, walked {chunks} chunks there and back by every memory from the same "
        "noise, two steps a chunk; closed loop: the last frame against the first. Writing includes finding what moves."
    ]
    return settings, notes, raw, lambda report: predictions.at_tiny_scale(pipe, report, rates)


def _paper(scale: str, out: Path, runs: int, chunks: int, place: torch.device, progress):
    setup = paper.Scale(size=paper.SIZES[scale], chunks=chunks)
    settings = {
        "scale": scale,
        **asdict(setup),
        "device": place.type,
        "dtype": "bfloat16",
        "path": "once around a room",
    }
    settings["size"] = list(setup.size)
    results = Results(out / f"race-{scale}-runs", settings)
    raw = paper.race(setup, results, runs, device=place, progress=progress)
    rates = _rates(results, place)
    notes = [
        f"A camera turns once around a ray-cast room in {chunks} chunks of {setup.frames} frames; {setup.keys} key "
        "frames a chunk are written into every memory, with exact depth. The latent memories read "
        f"{setup.latent_frames} latent frames, the RGB ones render {setup.frames} frames and encode them; times are "
        f"divided by the {setup.new_frames} new frames of a chunk."
    ]
    if place.type != "cuda":
        notes.append(
            "On the CPU one chunk was encoded once, in bf16 (every other figure is of "
            f"{runs} runs), and a render took 3 of the {setup.frames} frames, scaled. Denoising, decoding and depth "
            "were left out: the 5B transformer would take hours a chunk on a processor. A GPU speeds up the encode "
            "more than the readout, so the ratio of their times is a processor's; that of the bytes is not."
        )
    else:
        notes.append("Denoising took 20 steps of the 5B transformer with random weights. Depth was left out.")
    return settings, notes, raw, lambda report: predictions.at_paper_scale(setup, report, rates)
