"""Growth over laps."""

from __future__ import annotations

from micro import build_micro

from mirage_nb.benchmarks.growth import measure_growth
from mirage_nb.pipeline import MiragePipeline


def test_appending_grows_with_every_lap():
    pipe = MiragePipeline(**build_micro())
    report = measure_growth(pipe, [900000], laps=3, frames=5)
    append = report["memories"]["append"]["tokens"]
    steps = [b - a for a, b in zip(append, append[1:])]
    assert steps[0] > 0 and abs(steps[1] - steps[0]) <= 0.1 * steps[0]
    assert report["memories"]["append"]["growth"] == append[-1] / append[0] > 2
    for row in report["memories"].values():
        assert len(row["tokens"]) == len(row["closed_loop_psnr_by_lap"]) == 3
