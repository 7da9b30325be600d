"""The race of the memories: what each costs, stage by stage and chunk by chunk, and how well its loop closes.

All memories obey one contract, and all walk the same rooms along the same paths from the same noise. A report (JSON)
has the median and the range of all runs for every memory and chunk.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from mirage_nb.benchmarks.measure import Results, clock_of, machine, one_thread, spread
from mirage_nb.data.clip import Clip
from mirage_nb.evaluation.metrics import closed_loop_psnr, psnr
from mirage_nb.evaluation.rooms import there_and_back_room
from mirage_nb.memory.baselines import make_memory
from mirage_nb.models.vae import frame_encoder, spatial_stride, temporal_stride
from mirage_nb.stitching import new_frames_per_segment, rollout

MEMORIES = ("latent", "append", "rgb_capped", "rgb", "none")
STAGES = ("read", "encode", "denoise", "decode", "depth", "write")
MEMORY_STAGES = ("read", "encode", "write")  # all that a memory takes; the rest is the same for every memory
QUANTITIES = ("bytes", "tokens", "psnr_to_truth")
CHUNKS = {"tiny": 12, "paper": 8}
FIRST_ROOM = 900000  # rooms from here on were never trained on
# Published, one H100 (arXiv 2606.09828): chunks 1 to 5 of whole systems.
PUBLISHED = {
    "Mirage": {"seconds_per_frame": [0.79, 0.25, 0.25, 0.25, 0.25], "mib": [0.46, 0.90, 1.36, 1.80, 2.25]},
    "GEN3C": {"seconds_per_frame": [2.80, 2.88, 2.88, 2.87, 2.90], "mib": [22.3, 43.8, 43.8, 43.8, 43.8]},
    "Spatia": {"seconds_per_frame": [4.03, 5.03, 6.32, 6.00, 7.63], "mib": [23.4, 47.0, 73.2, 98.4, 124.0]},
    "VMem": {"seconds_per_frame": [4.07, 6.19, 6.79, 7.24, 7.25], "mib": [18.8, 33.8, 48.8, 63.8, 78.8]},
}
Progress = Callable[[int, int, str], None]  # called with runs done, runs in all, and the next run


def walk(pipe, name: str, clip: Clip, seed: int, steps: int = 2) -> dict:
    """Generate a video along a closed path with one memory.

    Returns:
        `chunks`, for each segment its new `frames`, `seconds` by stage and QUANTITIES; the seconds of an RGB memory's
        VAE encode are told apart from the rest of its read. And `closed_loop_psnr` of the whole video in dB.
    """
    clock = clock_of(next(pipe.transformer.parameters()).device)
    encode, encoding = frame_encoder(pipe.vae), 0.0

    def timed(pixels):
        nonlocal encoding
        start = clock()
        latents = encode(pixels)
        encoding += clock() - start
        return latents

    memory = make_memory(name, timed, stride=spatial_stride(pipe.vae), channels=int(pipe.vae.config.z_dim))
    results = rollout(pipe, [memory], clip.frames[:1], [clip.cameras], seeds=[seed], num_inference_steps=steps)
    chunks, frames, start = [], [], 0
    for result in results:
        new = result.frames[0]
        truth = clip.frames[start : start + len(new)]
        given = int(start == 0)  # the first frame is the truth itself
        seconds = dict(result.seconds) | {"read": result.seconds["read"] - encoding, "encode": encoding}
        chunks.append({
            "frames": len(new), "seconds": {stage: seconds[stage] for stage in STAGES}, "bytes": int(memory.nbytes),
            "tokens": len(memory), "psnr_to_truth": psnr(new[given:], truth[given:]).mean().item(),
        })  # fmt: skip
        frames.append(new)
        start, encoding = start + len(new), 0.0
    return {"chunks": chunks, "closed_loop_psnr": closed_loop_psnr(torch.cat(frames))}


def race(
    pipe,
    results: Results,
    runs: int = 5,
    chunks: int = CHUNKS["tiny"],
    memories: Sequence[str] = MEMORIES,
    first_room: int = FIRST_ROOM,
    size: tuple[int, int] = (128, 128),
    progress: Progress = lambda done, total, what: None,
) -> dict[str, list[dict]]:
    """Walk `runs` rooms there and back with every memory, on one thread. Finished walks are kept in `results`.

    The memories take turns in each room, so that a slow moment of the machine hits all of them.

    Returns:
        The runs of each memory, as `walk` returns them.
    """
    frames = chunks * new_frames_per_segment(pipe) + 1
    frames += temporal_stride(pipe.vae) if frames % 2 == 0 else 0  # a path there and back has an odd number
    raw: dict[str, list[dict]] = {name: [] for name in memories}
    with one_thread():
        for run in range(runs):
            clip = None
            for index, name in enumerate(memories):

                def task(room: int = first_room + run) -> dict:
                    nonlocal clip
                    if clip is None:
                        clip = there_and_back_room(room, frames, size)
                        short = 2 * new_frames_per_segment(pipe) + 1  # a walk to warm up, which does not count
                        walk(pipe, "rgb", Clip(clip.frames[:short], clip.depth[:short], clip.cameras[:short]), room)
                    return walk(pipe, name, clip, room)

                progress(run * len(memories) + index, runs * len(memories), f"room {first_room + run}, {name}")
                raw[name].append(results.once(f"{first_room + run}-{name}", task))
    progress(runs * len(memories), runs * len(memories), "")
    return raw


def summarise(raw: dict[str, list[dict]]) -> dict[str, dict]:
    """Runs to medians and ranges: NAME.chunks[i].{chunk, frames, seconds_per_frame.STAGE, total, QUANTITY}.

    A stage that no run measured is None and not in the total. A stage that only some runs measured enters the totals of
    the others as its median.
    """
    memories = {}
    for name, runs in raw.items():
        chunks = []
        for index, parts in enumerate(zip(*(run["chunks"] for run in runs))):
            frames = parts[0]["frames"]
            per_frame = {s: spread(p["seconds"][s] / frames for p in parts if s in p["seconds"]) for s in STAGES}
            middle = {stage: value["median"] for stage, value in per_frame.items() if value}
            totals = (sum(p["seconds"].get(s, middle[s] * frames) for s in middle) / frames for p in parts)
            row = {"chunk": index + 1, "frames": frames, "seconds_per_frame": per_frame, "total": spread(totals)}
            chunks.append(row | {q: spread(part.get(q) for part in parts) for q in QUANTITIES})
        closed = spread(run.get("closed_loop_psnr") for run in runs)
        memories[name] = {"chunks": chunks, "closed_loop_psnr": closed}
    return memories


def ratios(memories: dict[str, dict], chunk: int, over: str = "latent", stages: Sequence[str] = STAGES) -> dict:
    """How many times the `time` (of some stages, per frame) and the `bytes` of the memory `over` the others take."""

    def of(name: str) -> tuple[float, float]:
        row = memories[name]["chunks"][chunk - 1]
        return sum(v["median"] for s in stages if (v := row["seconds_per_frame"][s])), row["bytes"]["median"]

    seconds, held = of(over)
    return {name: {"time": of(name)[0] / seconds, "bytes": of(name)[1] / held} for name in memories if name != over}


def run_race(
    scale: str,
    out: str | Path,
    runs: int = 5,
    chunks: int | None = None,
    model: str | None = None,
    device: str | None = None,
) -> dict:
    """Race at a scale. Finished runs are kept in the folder `out`, so that an interrupted race can go on.

    Args:
        scale: "tiny", the bundled model from end to end; or "paper", see `benchmarks.paper`.
        runs: of every memory.
        chunks: of a walk.
        model: folder of a model for "tiny"; by default the bundled one.
        device: "cpu" or "cuda"; by default a GPU if there is one.

    Returns:
        A report: `scale`, `settings`, `machine`, `notes`, `memories` (of `summarise`) and the published figures.

    Raises:
        ValueError: an argument does not fit, or `out` holds the runs of a race with other settings.
    """
    from tqdm.auto import tqdm

    from mirage_nb.checks import integer, one_of

    one_of("scale", scale, list(CHUNKS))
    integer("runs", runs, 1)
    chunks = chunks or CHUNKS[scale]
    integer("chunks", chunks, 2)
    on, kept = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu")), Path(out) / f"race-{scale}-runs"
    with tqdm(desc="race", unit="run") as bar:

        def progress(done: int, total: int, what: str) -> None:
            bar.total, bar.n = total, done
            bar.set_postfix_str(what)

        settings, notes, raw = (_tiny if scale == "tiny" else _paper)(kept, runs, chunks, model, on, progress)
    with one_thread():
        about = machine(on)
    return {
        "format": "mirage-race", "scale": scale, "machine": about, "settings": settings | {"runs": runs},
        "notes": notes, "memories": summarise(raw),
        "published": {"systems": PUBLISHED, "source": "arXiv 2606.09828, one H100"},
    }  # fmt: skip


def _tiny(kept: Path, runs: int, chunks: int, model: str | None, device: torch.device, progress: Progress):
    from mirage_nb.models.presets import bundled_model
    from mirage_nb.pipeline import MiragePipeline
    from mirage_nb.runs import model_digest

    pipe = MiragePipeline.from_pretrained(str(model or bundled_model())).to(device)
    settings = {"scale": "tiny", "size": [128, 128], "chunks": chunks, "steps": 2, "first_room": FIRST_ROOM}
    settings |= {"path": "there and back", "device": device.type, "model": model_digest(pipe.components)}
    notes = [
        f"Each run is another held-out room, walked {chunks} chunks there and back by every memory from the same "
        "noise, two steps a chunk; closed loop: the last frame against the first. Writing includes finding what moves."
    ]
    return settings, notes, race(pipe, Results(kept, settings), runs, chunks, progress=progress)


def _paper(kept: Path, runs: int, chunks: int, model: str | None, device: torch.device, progress: Progress):
    from mirage_nb.benchmarks import paper

    setup = paper.Scale(chunks=chunks)
    settings = {"scale": "paper", **vars(setup), "size": list(setup.size), "device": device.type, "dtype": "bfloat16"}
    raw = paper.race(setup, Results(kept, settings), runs, device=device, progress=progress)
    return settings, paper.notes(setup, runs, device), raw


def read_report(path: str | Path) -> dict:
    """A race's report from its file.

    Raises:
        FileNotFoundError: there is no such file; the command that makes it is named.
        ValueError: the file is not the report of a race.
    """
    path = Path(path)
    if not path.is_file():
        make = f"mirage-nb benchmark race --scale {path.stem.removeprefix('race-')} --out {path.parent}"
        raise FileNotFoundError(f"{path}: no such file; make it with `{make}`")
    try:
        report = json.loads(path.read_text())
        if report["format"] != "mirage-race":
            raise KeyError("format")
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: not the report of a race ({error!r})") from None
    return report
