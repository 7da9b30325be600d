"""`mirage-nb train`: rooms become walks, and errors are one line."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from mirage_nb.cli import app
from mirage_nb.training.data import Walks


def run(*command: str):
    return CliRunner().invoke(app, ["train", *map(str, command)])


def test_rooms_become_walks(tmp_path):
    done = run("data", "--folder", tmp_path / "walks", "--rooms", 1, "--frames", 5, "--size", 64)
    assert done.exit_code == 0, done.output
    assert Walks(tmp_path / "walks")["frames"].shape == (1, 5, 64, 64, 3)


def test_recordings_that_do_not_fit_are_named(tmp_path):
    (tmp_path / "empty").mkdir()
    done = run("data", "--folder", tmp_path / "walks", "--recordings", tmp_path / "empty")
    assert done.exit_code == 2 and "empty: left out" in done.output and "recordings: none could be used" in done.output


@pytest.mark.parametrize(
    "command, words",
    [
        ((), "error: folder"),
        (("--folder", "x", "--preset", "tinny"), "--preset"),
        (("data", "--folder", "x"), "error: rooms"),
    ],
)
def test_errors_name_the_option(command, words):
    done = run(*command)
    assert done.exit_code == 2 and words in done.output
