"""`mirage-nb generate`, on a micro model that the test makes and saves itself."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from micro import build_micro
from PIL import Image
from typer.testing import CliRunner

from mirage_nb.cli import app
from mirage_nb.data import Room
from mirage_nb.memory.grid import LatentGrid
from mirage_nb.pipeline import MiragePipeline


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("model")
    MiragePipeline(**build_micro()).save_pretrained(folder)
    return str(folder)


def run(*args) -> tuple[int, str]:
    result = CliRunner().invoke(app, [str(a) for a in args])
    return result.exit_code, result.output


def test_generate_a_room(model, tmp_path):
    code, text = run("generate", "room:900005", "--frames", 5, "--steps", 1, "--model", model, "--out", tmp_path)
    assert code == 0, text
    report = json.loads((tmp_path / "report.json").read_text())
    assert set(report["segments"][0]["seconds"]) == {"read", "denoise", "decode", "depth", "write"}
    assert report["memory"]["tokens"] == len(LatentGrid.load(tmp_path / "memory.safetensors")) > 0
    assert len(report["psnr_to_truth"]["per_frame"]) == len(report["psnr_to_truth"]["covered"]["per_frame"]) == 4
    assert np.isfinite(report["closed_loop_psnr"]) and report["seed"] == 0 and "torch" in report["versions"]
    for name in ("video.mp4", "contact.png", "memory.ply"):
        assert (tmp_path / name).stat().st_size > 500, name
    import av

    with av.open(str(tmp_path / "video.mp4")) as video:
        assert sum(1 for _ in video.decode(video=0)) == 5
    assert run("generate", "room:900005", "--frames", 5, "--steps", 1, "--model", model, "--out", tmp_path)[0] == 0, (
        "resumes"
    )


def test_generate_from_a_plain_photo_says_how_far_to_trust_its_depth(model, tmp_path):
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (150, 201, 3), dtype=np.uint8)).save(
        tmp_path / "photo.jpg"
    )
    code, text = run(
        "generate", tmp_path / "photo.jpg", "--frames", 3, "--steps", 1, "--path", "push_in", "--model", model,
        "--out", tmp_path / "out",
    )  # fmt: skip
    assert code == 0, text
    assert "trust" in text and "64 degrees" in text
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert "psnr_to_truth" not in report
    assert report["segments"][0]["tokens"] > 0


def test_a_recording_is_read_as_the_options_say(model, tmp_path):
    """Stored in 1/5000 m: refused with the option that mends it, which then does. A path in another unit is told."""
    room, folder = Room(5, moving=0), tmp_path / "recording"
    clip = room.render(room.walk(6, size=(48, 64)))
    folder.mkdir()
    for i in range(6):
        np.savetxt(folder / f"{i}.pose.txt", clip.cameras.c2w[i])
        Image.fromarray(clip.frames[i].numpy()).save(folder / f"{i}.color.png")
        Image.fromarray((clip.depth[i] * 5000).round().numpy().astype(np.uint16)).save(folder / f"{i}.depth.png")
    fx, fy, cx, cy = clip.cameras.intrinsics[0].tolist()
    np.savetxt(folder / "camera-intrinsics.txt", [[fx, 0, cx - 0.5], [0, fy, cy - 0.5], [0, 0, 1]])
    call = ["generate", folder, "--frames", 5, "--steps", 1, "--model", model, "--out", tmp_path / "out"]
    code, text = run(*call)
    assert code == 2 and "--depth-unit 5000" in text, text
    code, text = run(*call, "--depth-unit", 5000)
    assert code == 0 and "warning" not in text, text
    (tmp_path / "path.txt").write_text("0 0 0 0 0 0 0 1\n1 0 0 9 0 0 0 1\n2 0 0 18 0 0 0 1")
    call[-1] = tmp_path / "walk"
    for options, told in ([], True), (["--allow-collisions"], False), (["--scale", 0.01], False):
        shutil.rmtree(tmp_path / "walk", ignore_errors=True)
        walked = run(*call, "--depth-unit", 5000, "--trajectory", tmp_path / "path.txt", *options)
        assert walked[0] == 0 and ("warning: path: it " in walked[1]) == told, walked[1]


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["room:x"], "INPUT"),
        (["nowhere.jpg"], "INPUT"),
        (["room:3", "--path", "push_out"], "pull_out"),
        (["room:3", "--path", "push_in", "--action", "w-3"], "path"),
        (["room:3", "--frames", "6", "--action", "w-zero"], "w-zero"),
        (["room:3", "--trajectory", "nowhere.txt"], "nowhere.txt"),
        (["room:3", "--axes", "opengl"], "INPUT"),
        (["room:3", "--scale", "0"], "scale"),
    ],
)
def test_bad_input_is_one_clear_line(arguments, words, model, tmp_path):
    code, text = run("generate", *arguments, "--model", model, "--out", tmp_path)
    assert code == 2 and words in text and "Traceback" not in text, text
    assert len([line for line in text.splitlines() if line.startswith("error:")]) == 1


def test_a_missing_model_is_named(tmp_path):
    code, text = run("generate", "room:3", "--frames", 3, "--model", tmp_path / "none", "--out", tmp_path)
    assert code == 2 and "none" in text
