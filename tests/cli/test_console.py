"""The command line as a whole: one line for each error, paths before libraries, files of others stay."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from micro import build_micro
from typer.testing import CliRunner

from mirage_nb import files
from mirage_nb.cli import app, console, generate
from mirage_nb.cli.models import check_work, choose_model
from mirage_nb.pipeline import MiragePipeline

ROOM = ("generate", "room:900005", "--frames", 5, "--steps", 1)


def run(*args) -> tuple[int, str]:
    result = CliRunner().invoke(app, [str(a) for a in args])
    return result.exit_code, result.output


def errors(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith("error:")]


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    MiragePipeline(**build_micro()).save_pretrained(folder)
    return folder


WRONG = {
    "no frames": (("generate", "room:3", "--frames", 0), "--frames"),
    "negative frames": (("generate", "room:3", "--frames", -1), "greater than or equal to 2, got -1"),
    "millions of frames": (("generate", "room:3", "--frames", 10**8), "less than or equal to 100000, got 100000000"),
    "a billion steps": (("generate", "room:3", "--steps", 10**9), "--steps"),
    "keystrokes without end": (("generate", "room:3", "--action", "w-99999999999"), "action: expected fewer than"),
    "keystrokes in sum": (("generate", "room:3", "--action", "w-60000,s-60000"), "action: expected fewer than"),
    "no size": (("generate", "room:3", "--size", "0x0"), "size: expected WIDTHxHEIGHT in multiples of 16 up to 4096"),
    "size beyond H.264": (("generate", "room:3", "--size", "65536x128"), "up to 4096"),
    "size beyond the machine": (("generate", "room:3", "--size", "4096x4096", "--frames", 99_999), "GiB"),
    "a negative seed": (("generate", "room:3", "--seed", -1), "--seed"),
    "guidance that is no number": (("generate", "room:3", "--guidance", "nan"), "guidance"),
    "an empty model": (("generate", "room:3", "--model", ""), "model: expected a folder or a name"),
    "a device": (("generate", "/dev/zero"), "INPUT: /dev/zero is a pipe, socket or device"),
    "a device as a path": (("generate", "room:3", "--trajectory", "/dev/zero"), "trajectory: /dev/zero is a pipe"),
    "a folder as a branch": (("generate", "room:3", "--branch", "/"), "branch: / is a folder, expected a file"),
    "a name with escapes": (("generate", "no\x1b[31mwhere"), "INPUT: no such file: no [31mwhere"),
    "negative rooms": (("train", "data", "--folder", "x", "--rooms", -5), "--rooms"),
    "walks of no frames": (("train", "data", "--folder", "x", "--rooms", 1, "--frames", 0), "--frames"),
    "no recordings": (("train", "data", "--folder", "x", "--recordings", "/nowhere"), "recordings: no such file"),
    "no runs": (("benchmark", "race", "--out", "x", "--runs", 0), "--runs"),
    "millions of rooms": (("evaluate", "rooms", "--out", "x", "--seeds", "0-9999999"), "seeds: expected FIRST-LAST"),
    "a digit that is none": (("evaluate", "rooms", "--out", "x", "--seeds", "²"), "seeds: expected FIRST-LAST"),
    "even frames": (("evaluate", "rooms", "--out", "x", "--frames", 4), "frames: expected an odd number"),
    "no batch": (("evaluate", "rooms", "--out", "x", "--batch", 0), "--batch"),
    "a recording that is not there": (("evaluate", "recording", "/nowhere", "--out", "x"), "FOLDER: no such file"),
    "no noise": (("evaluate", "recording", "/", "--out", "x", "--noises", 0), "--noises"),
    "a model that is not there": (("evaluate", "rooms", "--out", "x", "--model", "/nowhere"), "model: no such folder"),
    "a race of no model": (("benchmark", "race", "--out", "x", "--model", "/nowhere"), "model: no such folder"),
    "no such device": (("benchmark", "race", "--out", "x", "--device", "abacus"), "--device"),
    "an unknown option": (("benchmark", "race", "--out", "x", "--leaps", 1), "--leaps"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_wrong_input_is_one_line_and_status_2(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arguments, words = WRONG[name]
    code, text = run(*arguments)
    assert code == 2 and len(errors(text)) == 1 and words in errors(text)[0], text
    assert "Traceback" not in text and "\x1b[31mw" not in text and not list(tmp_path.iterdir())


UNREADABLE = [
    ("generate", "nowhere.png"), ("generate", "room:3", "--model", "/nowhere"),
    ("evaluate", "rooms", "--out", "x", "--model", "/nowhere"), ("evaluate", "recording", "/nowhere", "--out", "x"),
    ("benchmark", "race", "--out", "x", "--model", "/nowhere"),
]  # fmt: skip


@pytest.mark.parametrize("arguments", UNREADABLE)
def test_a_path_is_checked_before_torch_is_loaded(arguments, tmp_path):
    code = "import sys; from mirage_nb.cli import app\ntry: app()\nfinally: print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, cwd=tmp_path)
    assert done.stdout.strip() == "False" and done.stderr.startswith("error:") and done.returncode == 2


def test_what_nobody_foresaw_is_one_line_and_debug_shows_it(tmp_path, monkeypatch):
    def broken(*_):
        raise KeyError("lost\nagain")

    monkeypatch.setattr(generate, "claim", broken)
    monkeypatch.setattr(console.tempfile, "tempdir", str(tmp_path))
    code, text = run("generate", "room:3")
    (line,) = errors(text)
    assert code == 1 and "unforeseen KeyError" in line and "--debug" in line and "Traceback" not in text
    (report,) = tmp_path.glob("mirage-nb-error-*.txt")
    assert str(report) in line and "in broken" in report.read_text()
    result = CliRunner().invoke(app, ["generate", "room:3", "--debug"])
    assert isinstance(result.exception, KeyError)


@pytest.mark.parametrize(
    "command, name", [(("evaluate", "rooms"), "contact.png"), (("benchmark", "race"), "race.json")]
)
def test_files_of_others_stay_where_results_go(command, name, tmp_path):
    (tmp_path / name).write_text("precious")
    code, text = run(*command, "--out", tmp_path)
    assert code == 2 and f"holds {name}, which mirage-nb did not make" in text and "--overwrite" in text
    assert (tmp_path / name).read_text() == "precious"


def test_files_of_others_stay(model, tmp_path):
    (tmp_path / "video.mp4").write_text("precious")
    code, text = run(*ROOM, "--model", model, "--out", tmp_path)
    assert code == 2 and "holds video.mp4, which mirage-nb did not make" in text and "--overwrite" in text
    assert (tmp_path / "video.mp4").read_text() == "precious" and len(list(tmp_path.iterdir())) == 1
    (tmp_path / f".report.json.{2**22 + 1}-abc.mirage-tmp").write_text("of a killed process")
    (tmp_path / f".report.json.{os.getppid()}-abc.mirage-tmp").write_text("of a living one")
    for more in (["--overwrite"], []):  # the second one finds its own results
        code, text = run(*ROOM, "--model", model, "--out", tmp_path, *more)
        assert code == 0, text
        assert [path.name for path in tmp_path.glob(".*")] == [f".report.json.{os.getppid()}-abc.mirage-tmp"]


@pytest.mark.parametrize("last", ["contact.png", "report.json"])
def test_a_disk_that_is_full_at_the_end_is_told(model, tmp_path, monkeypatch, last):
    replace = os.replace

    def full(source, target):
        if Path(target).name == last:
            raise OSError(errno.ENOSPC, "No space left on device")
        replace(source, target)

    monkeypatch.setattr(files.os, "replace", full)
    code, text = run(*ROOM, "--model", model, "--out", tmp_path)
    assert code == 2 and "is full; what was done is kept; free some space and call again to go on" in text, text
    monkeypatch.undo()
    assert run(*ROOM, "--model", model, "--out", tmp_path)[0] == 0


def test_ctrl_c_says_what_was_kept(model, tmp_path, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    assert run(*ROOM, "--model", model, "--out", tmp_path)[0] == 0
    monkeypatch.setattr(generate, "_save_walk", stop)
    code, text = run(*ROOM, "--model", model, "--out", tmp_path)
    assert code == 130 and f"are kept in {tmp_path / 'run'}; the same command goes on" in text


def test_long_work_is_announced(capsys):
    check_work(choose_model(None), 49, None)
    assert not capsys.readouterr().out
    check_work(choose_model(None, "512x512"), 1001, 50)
    assert "note: 1001 frames of 512x512 take about" in capsys.readouterr().out


@pytest.mark.parametrize("first", range(3))
def test_the_same_call_gives_the_same_file(first, tmp_path):
    import torch

    from mirage_nb import LatentGrid
    from mirage_nb.memory.io import save_tensors

    header = {str(k): k for k in range(first, 3)} | {str(k): k for k in range(first)}
    save_tensors(tmp_path / "a", "kind", {"x": torch.zeros(2)}, header)
    save_tensors(tmp_path / "b", "kind", {"x": torch.zeros(2)}, dict(sorted(header.items())))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    LatentGrid(stride=8).save(tmp_path / "c")
    assert LatentGrid.load(tmp_path / "c").stride == 8


def test_a_state_that_names_a_file_of_others_opens_its_own(tmp_path):
    from mirage_nb import NoMemory
    from mirage_nb.runs import Run

    run, precious = Run(tmp_path / "run", {}, 0), tmp_path / "precious.safetensors"
    NoMemory(8, 4).save(precious)
    run.commit(0, {}, {}, NoMemory(16, 4))
    state = json.loads((tmp_path / "run" / "state.json").read_text())
    for name in ("../precious.safetensors", str(precious)):
        (tmp_path / "run" / "state.json").write_text(json.dumps(state | {"memory": name}))
        again = Run(tmp_path / "run", {}, 0)
        assert again.memory(NoMemory()).stride == 16
    again.commit(1, {}, {}, NoMemory(16, 4))
    assert precious.exists()
