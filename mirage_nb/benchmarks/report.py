"""Reports of the race: JSON, CSV and tables, and the part of the README that is made from them."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path

from mirage_nb.benchmarks.race import PUBLISHED, PUBLISHED_RATIOS, QUANTITIES, STAGES, ratios, summarise
from mirage_nb.memory.io import write_aside
from mirage_nb.viz.video import title_of

CONDITIONING = ("read", "encode")  # from the memory to what the generator is shown
CHUNK = 5  # the chunk of the tables, the last one that was published
BEGIN, END = "<!-- race -->", "<!-- end of race -->"
Rows = list[list[str]]


def build_report(
    scale: str, raw: dict[str, list[dict]], settings: dict, machine: dict, notes: Sequence[str], command: str
) -> dict:
    """Everything that was measured, as JSON: medians and ranges, ratios to the latent memory, published figures."""
    memories = summarise(raw)
    chunks = len(next(iter(memories.values()))["chunks"])
    return {
        "format": "mirage-race",
        "scale": scale,
        "command": command,
        "machine": machine,
        "settings": settings,
        "notes": list(notes),
        "memories": memories,
        "ratios": {
            str(chunk): {"all": ratios(memories, chunk), "conditioning": ratios(memories, chunk, stages=CONDITIONING)}
            for chunk in sorted({min(CHUNK, chunks), chunks})
        },
        "published": {"systems": PUBLISHED, "ratios": PUBLISHED_RATIOS, "source": "arXiv 2606.09828, one H100"},
    }


def read_report(path: str | Path) -> dict:
    """A report from its file.

    Raises:
        FileNotFoundError: there is none; the command that makes it is named.
        ValueError: it is no report of a race.
    """
    path = Path(path)
    scale = path.stem.removeprefix("race-")
    if not path.is_file():
        make = f"make it with `mirage-nb benchmark race --scale {scale} --out {path.parent}`"
        raise FileNotFoundError(f"{path}: no such file; {make}")
    try:
        report = json.loads(path.read_text())
        if report["format"] != "mirage-race":
            raise KeyError("format")
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: not the report of a race ({error!r})") from None
    return report


def to_csv(report: dict) -> str:
    """A row for each memory, chunk and quantity: median, low, high, runs."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["memory", "chunk", "quantity", "median", "low", "high", "runs"])
    for name, memory in report["memories"].items():
        for row in memory["chunks"]:
            values = {f"{stage}_seconds_per_frame": row["seconds_per_frame"][stage] for stage in STAGES}
            values |= {"total_seconds_per_frame": row["total"]} | {q: row[q] for q in QUANTITIES}
            for quantity, value in values.items():
                if value:
                    writer.writerow(
                        [name, row["chunk"], quantity, *(value[k] for k in ("median", "low", "high", "runs"))]
                    )
        if memory["closed_loop_psnr"]:
            value = memory["closed_loop_psnr"]
            last = memory["chunks"][-1]["chunk"]
            writer.writerow([name, last, "closed_loop_psnr", *(value[k] for k in ("median", "low", "high", "runs"))])
    return buffer.getvalue()


def seconds(value: dict | None) -> str:
    """A time as people read it, with its range: "12.3 ms (11.9 to 13.0)"."""
    if value is None:
        return "not measured"
    unit, factor = ("s", 1) if value["median"] >= 1 else ("ms", 1e3) if value["median"] >= 1e-3 else ("µs", 1e6)
    return _ranged(value, lambda x: _short(x * factor), f" {unit}")


def size(value: dict | float) -> str:
    """Bytes as people read them."""
    number = value["median"] if isinstance(value, dict) else value
    if not number:
        return "0"
    for unit, factor in (("TiB", 2**40), ("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if number >= factor:
            return f"{_short(number / factor)} {unit}"
    return f"{number:.0f} B"


def _ranged(value: dict, text: Callable[[float], str], unit: str = "") -> str:
    middle, low, high = (text(value[k]) for k in ("median", "low", "high"))
    return f"{middle}{unit}" + (f" ({low} to {high})" if value["runs"] > 1 else "")


def _short(x: float) -> str:
    return f"{x:.0f}" if abs(x) >= 99.5 else f"{x:.1f}" if abs(x) >= 9.95 else f"{x:.2f}"


def times(x: float | None) -> str:
    return "–" if x is None else f"{x:,.0f} x" if x >= 99.5 else f"{x:.3g} x"


def conditioning_rows(report: dict, chunk: int = CHUNK) -> Rows:
    """The conditioning path and the bytes of each memory that remembers, with a head."""
    ratio = report["ratios"][str(chunk)]["conditioning"]
    head = [f"after {chunk} chunks, for each frame", "read or render", "VAE encode", "both, over latent", "memory",
            "over latent"]  # fmt: skip
    rows = [head]
    for name, memory in report["memories"].items():
        row = memory["chunks"][chunk - 1]
        if not row["bytes"]["median"]:
            continue
        per_frame, over = row["seconds_per_frame"], ratio.get(name)
        encode = seconds(per_frame["encode"]) if per_frame["encode"] else "none needed"
        rows.append([
            title_of(name), seconds(per_frame["read"]), encode, times(over["time"]) if over else "1 x",
            size(row["bytes"]), times(over["bytes"]) if over else "1 x",
        ])  # fmt: skip
    return rows


def split_rows(report: dict, chunk: int | None = None) -> Rows:
    """Every stage of each memory at one chunk (by default the last), milliseconds a frame, with a head."""
    any_memory = next(iter(report["memories"].values()))
    chunk = chunk or len(any_memory["chunks"])
    stages = [
        s for s in STAGES if any(m["chunks"][chunk - 1]["seconds_per_frame"][s] for m in report["memories"].values())
    ]
    rows = [[f"chunk {chunk}, ms a frame", *stages, "all", "over latent", "memory", "closed loop"]]
    over = report["ratios"][str(chunk)]["all"]
    for name, memory in report["memories"].items():
        row, closed = memory["chunks"][chunk - 1], memory["closed_loop_psnr"]
        values = [row["seconds_per_frame"][s] for s in stages]
        cells = [_short(1e3 * v["median"]) if v else "–" for v in values]
        whole = _ranged(row["total"], lambda x: _short(1e3 * x))
        cells += [whole, times(over[name]["time"]) if name in over else "1 x", size(row["bytes"])]
        if closed:
            cells.append(_ranged(closed, lambda x: f"{x:.1f}", " dB"))
        rows.append([title_of(name), *cells])
    return rows if any_memory["closed_loop_psnr"] else [row[: len(rows[1])] for row in rows]


def published_rows() -> Rows:
    """The published figures, marked as such."""
    head = ["published (one H100, end to end)", "s a frame, chunk 1", f"chunk {CHUNK}", f"MiB after {CHUNK} chunks"]
    rows = [head]
    for name, figures in PUBLISHED.items():
        time, mib = figures["seconds_per_frame"], figures["mib"]
        rows.append([name, f"{time[0]:.2f}", f"{time[CHUNK - 1]:.2f}", f"{mib[CHUNK - 1]:g}"])
    return rows


def markdown(rows: Rows) -> str:
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([lines[0], "| " + " | ".join("---" for _ in rows[0]) + " |", *lines[1:]])


def paper_words(report: dict) -> str:
    """What the figures at the paper's scale come to, in three sentences."""
    chunk = min(map(int, report["ratios"]))
    every = report["ratios"][str(chunk)]["conditioning"]
    rgb, append, share = every["rgb"], every["append"], report["costs"]["end_to_end_ratio"]
    speed, size_ratio = PUBLISHED_RATIOS["speed"], PUBLISHED_RATIOS["bytes"]
    return (
        f"After {chunk} chunks the RGB detour takes **{times(rgb['time'])}** the time of the latent readout and "
        f"**{times(rgb['bytes'])}** its bytes (published, between whole systems: {speed:g} x and {size_ratio:g} x). Of "
        f"the bytes, {times(rgb['bytes'] / append['bytes'])} come from tokens instead of pixels and "
        f"{times(append['bytes'])} from not storing a surface twice. End to end is another matter: counted in "
        f"operations, the VAE encode makes a chunk of the 5B model (20 steps and the decoder) only {share:.2f} x as "
        "long. The render comes on top, and the "
        "published factor also holds what else differs between the systems: backbones, steps, implementations."
    )


def readme_block(tiny: dict, paper: dict) -> str:
    """What stands between the markers of the README: both tables, the published one, and how they were measured."""
    chunk = min(map(int, paper["ratios"]))
    height, width = paper["settings"]["size"]
    last = len(next(iter(tiny["memories"].values()))["chunks"])
    whole = tiny["ratios"][str(last)]["all"]["rgb"]
    commands = " and ".join(f"`{report['command']}`" for report in (paper, tiny))
    return "\n\n".join([
        f"**{height} x {width}, the paper's scale**: the conditioning path, from the memory to what the generator is "
        f"shown, with the VAE of Wan2.2-TI2V-5B, random weights, on {where(paper)}.",
        markdown(conditioning_rows(paper, chunk)),
        paper_words(paper),
        *paper["notes"],
        f"**`mirage-tiny`, end to end**, on {where(tiny)}: with the RGB point cloud a frame of chunk {last} takes "
        f"**{times(whole['time'])}** as long as with the latent memory.",
        markdown(split_rows(tiny)),
        *tiny["notes"],
        "Published, for whole systems on another machine:",
        markdown(published_rows()),
        f"Median and range of {paper['settings']['runs']} and {tiny['settings']['runs']} runs, measured by {commands}, "
        "kept in `data/benchmarks`. `mirage-nb benchmark table` makes this section from there.",
    ])  # fmt: skip


def where(report: dict) -> str:
    machine = report["machine"]
    threads = machine["threads"]
    return machine["name"] + (f" ({threads} thread{'s' * (threads > 1)}, processor time)" if threads else "")


def update_readme(path: str | Path, block: str) -> bool:
    """Put the block between the README's markers; says whether that changed anything.

    Raises:
        ValueError: the markers are not there, each once and in order.
    """
    path = Path(path)
    text = path.read_text()
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        raise ValueError(f"{path}: expected the markers {BEGIN} and {END}, each once and in this order")
    before, rest = text.split(BEGIN)
    new = f"{before}{BEGIN}\n{block}\n{END}{rest.split(END)[1]}"
    if new != text:
        write_aside(path, new.encode())
    return new != text


def save_report(out: Path, report: dict) -> list[Path]:
    """Write race-SCALE.json, .csv and .png into a folder; returns their paths."""
    from mirage_nb.viz.race import race_picture
    from mirage_nb.viz.video import write_png

    stem = Path(out) / f"race-{report['scale']}"
    write_aside(stem.with_suffix(".json"), (json.dumps(report, indent=1) + "\n").encode())
    write_aside(stem.with_suffix(".csv"), to_csv(report).encode())
    write_png(stem.with_suffix(".png"), race_picture(report))
    return [stem.with_suffix(suffix) for suffix in (".json", ".csv", ".png")]
