"""`mirage-nb benchmark`, on a micro model and small scales."""

from __future__ import annotations

import json

from micro import build_micro
from typer.testing import CliRunner

from mirage_nb.cli import app
from mirage_nb.pipeline import MiragePipeline


def run(*args) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["benchmark", *map(str, args)])
    return result.exit_code, result.output


def test_race(tmp_path):
    MiragePipeline(**build_micro()).save_pretrained(tmp_path / "model")
    options = "--model", tmp_path / "model", "--out", tmp_path
    code, text = run("race", "--runs", 1, "--chunks", 2, *options)
    assert code == 0, text
    report = json.loads((tmp_path / "race.json").read_text())
    assert report["settings"]["runs"] == 1 and report["machine"]["device"] == "cpu" and "command" in report
    code, text = run("race", "--runs", 0, "--out", tmp_path)
    assert code == 2 and "runs" in text
