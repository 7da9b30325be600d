"""`mirage-nb evaluate`, on a micro model that the test makes and saves itself."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from micro import build_micro
from typer.testing import CliRunner

from mirage_nb.cli import app
from mirage_nb.pipeline import MiragePipeline

REAL = Path(__file__).resolve().parents[3] / "shared" / "real"


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("model")
    MiragePipeline(**build_micro()).save_pretrained(folder)
    return str(folder)


def run(*args) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["evaluate", *map(str, args)])
    return result.exit_code, result.output


def test_rooms(model, tmp_path):
    code, text = run(
        "rooms", "--seeds", "900000-900001", "--frames", 5, "--memory", "latent,rgb,none", "--steps", 1,
        "--model", model, "--out", tmp_path,
    )  # fmt: skip
    assert code == 0, text
    report = json.loads((tmp_path / "report.json").read_text())
    assert set(report["methods"]) == {"latent", "rgb", "none"}
    assert report["methods"]["latent"]["closed_loop_psnr"]["mean"] > 0 and "command" in report
    assert (tmp_path / "contact.png").exists()
    nothing = {"mean": None, "ci95": None}
    assert report["methods"]["none"]["psnr_to_truth_covered"] == nothing, "JSON has no NaN"


def test_one_room_has_no_interval(model, tmp_path):
    options = "--frames", 5, "--memory", "latent", "--steps", 1, "--model", model, "--out", tmp_path
    code, text = run("rooms", "--seeds", "900000", *options)
    assert code == 0 and "latent" in text and "nan" not in text and "±" not in text, text


@pytest.mark.skipif(not (REAL / "kitchen").exists(), reason="no RGB-D recording of a kitchen on this machine")
def test_a_recording(model, tmp_path):
    options = ("--frames", 5, "--noises", 2, "--steps", 1, "--size", 64, "--model", model, "--out", tmp_path)
    code, text = run("recording", REAL / "kitchen", *options)
    assert code == 0, text
    report = json.loads((tmp_path / "report.json").read_text())
    assert set(report["methods"]) == {"latent", "none"}
    assert (tmp_path / "contact.png").stat().st_size > 1000
    code, text = run("recording", REAL / "kitchen", "--frames", 62, "--out", tmp_path)
    assert code == 2 and "frames" in text and "61" in text
    code, text = run("recording", REAL / "kitchen", "--size", 100, "--out", tmp_path)
    assert code == 2 and "size" in text


@pytest.mark.parametrize("option, value", [("seeds", "900003-900001"), ("seeds", "x"), ("memory", "latent,rbg")])
def test_bad_options_are_named(option, value, model, tmp_path):
    code, text = run("rooms", f"--{option}", value, "--model", model, "--out", tmp_path)
    assert code == 2 and f"error: {option}" in text and "Traceback" not in text
