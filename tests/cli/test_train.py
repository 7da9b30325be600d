"""`mirage-nb train`: from rooms to a transformer, and errors in one line."""

from __future__ import annotations

import pytest
from micro import build_micro
from typer.testing import CliRunner

from mirage_nb.cli import app
from mirage_nb.pipeline import MiragePipeline


def run(*command: str):
    return CliRunner().invoke(app, ["train", *map(str, command)])


def test_from_rooms_to_a_transformer(tmp_path):
    MiragePipeline(**build_micro()).save_pretrained(tmp_path / "model")
    done = run("data", "--folder", tmp_path / "walks", "--rooms", 1, "--frames", 5, "--size", 64)
    assert done.exit_code == 0, done.output
    options = ("--model", tmp_path / "model", "--steps", 2, "--batch", 2)
    paths = ("--walks", tmp_path / "walks", "--folder", tmp_path / "out")
    done = run("transformer", *paths, "--stage", "branch", *options)
    assert done.exit_code == 0, done.output
    assert (tmp_path / "out" / "transformer" / "config.json").exists()
    done = run("transformer", *paths, "--stage", "brunch", *options)
    assert done.exit_code == 2 and done.output.startswith("error: stage")


def test_a_recording_that_does_not_fit_is_named(tmp_path):
    done = run("data", "--folder", tmp_path / "walks", "--recordings", tmp_path / "nothing")
    assert done.exit_code == 0 and "nothing: left out" in done.output


@pytest.mark.parametrize(
    "command, name",
    [((), "folder"), (("--folder", "x", "--preset", "tinny"), "preset"), (("data", "--folder", "x"), "rooms")],
)
def test_errors_are_one_line(command, name):
    done = run(*command)
    assert done.exit_code == 2 and done.output.startswith(f"error: {name}")
