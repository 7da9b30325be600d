"""The models of the command line: by name, and `mirage-nb generate` with a Wan2.2-style folder that the test writes."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image
from safetensors.torch import load_file, save_file
from tiny_wan import official_branch, official_lora, write_depth, write_wan
from typer.testing import CliRunner

from mirage_nb.cli import app
from mirage_nb.cli.models import choose_model
from mirage_nb.formats import load_trajectory
from mirage_nb.memory.grid import LatentGrid


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("models")
    write_wan(path / "wan")
    write_depth(path / "depth")
    y, x = np.mgrid[:80, :140]
    exif = Image.Exif()
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.FocalLengthIn35mmFilm] = 28
    Image.fromarray(np.stack([x, 2 * y, 255 - x], -1).astype(np.uint8)).save(path / "photo.jpg", exif=exif)
    return path


def run(*args) -> tuple[int, str]:
    result = CliRunner().invoke(app, [str(a) for a in args])
    return result.exit_code, result.output


def generate(folder, out, *more, photo="photo.jpg"):
    return run(
        "generate", folder / photo, "--model", folder / "wan", "--depth-model", folder / "depth", "--size", "96x64",
        "--steps", 1, "--out", out, *more,
    )  # fmt: skip


def test_depth_without_a_scale_is_told_before_the_large_model_is_loaded(folder, tmp_path, monkeypatch):
    from mirage_nb import MiragePipeline

    def from_wan(*_, **__):
        raise AssertionError("loaded")

    monkeypatch.setattr(MiragePipeline, "from_wan", from_wan)
    write_depth(tmp_path / "relative", "relative")
    code, text = generate(folder, tmp_path / "out", "--prompt", "a room", "--depth-model", tmp_path / "relative")
    assert code == 2 and "relative depth can't be aligned" in text and text.count("error:") == 1, text


def test_a_photo_walks_with_a_wan_folder(folder, tmp_path):
    """From the photo to the video, the memory and data for a splat; two segments of 33 frames that share one."""
    code, text = generate(
        folder, tmp_path, "--prompt", "a room with red chairs", "--path", "orbit_left", "--frames", 65,
        "--export", "nerfstudio,colmap",
    )  # fmt: skip
    assert code == 0, text
    assert "fit the memory's, off by" in text
    assert "EXIF: 28 mm" in text and "running on the" in text
    report = json.loads((tmp_path / "report.json").read_text())
    assert len(report["segments"]) == 2 and report["memory"]["tokens"] > 0
    assert report["memory"]["tokens"] == len(LatentGrid.load(tmp_path / "memory.safetensors"))
    fit = report["depth_fit"]
    assert fit["frames"] == 17 and fit["fitted"] > 0 and fit["relative_error"] >= 0
    for name in ("video.mp4", "contact.png", "memory.ply"):
        assert (tmp_path / name).stat().st_size > 200, name
    for name in ("nerfstudio", "colmap"):
        exported = load_trajectory(tmp_path / name)
        assert exported.c2w.shape == (65, 4, 4)
    width = 80 * 96 / 64  # the photo's middle, as wide as 96 x 64 asks for
    film = 28 * np.hypot(140, 80) / np.hypot(36, 24)
    assert exported.intrinsics[0, 0].item() == pytest.approx(film * 96 / width, rel=1e-4), (
        "the photo's lens, cropped and resized"
    )


def test_a_walk_without_a_branch_returns_to_its_first_frame(folder, tmp_path):
    """Random weights make noise, but the memory is shown to them: what was seen first is seen again in the end."""
    code, text = generate(folder, tmp_path, "--frames", 65, "--path", "there_and_back:pan_left")
    assert code == 0, text
    first, last = (load_file(tmp_path / "run" / f"segment-00{i}.safetensors") for i in (0, 1))
    seen = last["visibility"][-1]
    assert seen.float().mean() > 0.5
    torch.testing.assert_close(last["latents"][:, -1][:, seen], first["latents"][:, 0][:, seen], atol=0.02, rtol=0.01)
    assert json.loads((tmp_path / "report.json").read_text())["conditioning"] == "guidance"


def test_a_trained_branch_changes_the_walk(folder, tmp_path):
    save_file(official_branch(), tmp_path / "branch.safetensors")
    save_file(official_lora(), tmp_path / "lora.safetensors")
    frames = []
    for more in ([], ["--branch", tmp_path / "branch.safetensors", "--lora", tmp_path / "lora.safetensors"]):
        out = tmp_path / f"out{len(more)}"
        code, text = generate(
            folder, out, "--frames", 9, "--path", "push_in", "--guidance", 2, "--negative-prompt", "s", *more
        )
        assert code == 0, text
        frames.append(np.array(Image.open(out / "contact.png")))
    assert (frames[0] != frames[1]).any()


def test_models_by_name():
    wan, tiny = choose_model("wan2.2"), choose_model(None)
    assert wan.wan and wan.size == (704, 1280) and wan.new_frames == 32 and wan.steps == 20
    assert not tiny.wan and tiny.size == (128, 128) and tiny.new_frames == 4 and tiny.steps == 2
    assert choose_model(None, "640x352").size == (352, 640)


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["--size", "90x64"], "size: expected WIDTHxHEIGHT in multiples of 32"),
        (["--size", "large"], "size: expected WIDTHxHEIGHT"),
        (["--fov", "0"], "fov: expected 1 to 170"),
        (["--frames", "10"], "num_frames: expected 4 * k + 1"),
        (["--branch", "nowhere.safetensors"], "branch: no such file"),
        (["--depth-model", "nowhere/at/all"], "depth: nowhere/at/all can't be loaded"),
        (["--export", "usd"], "export: expected one of nerfstudio, colmap"),
        (["--model", "nowhere/"], "model: no such folder"),
    ],
)
def test_bad_input_is_one_clear_line(arguments, words, folder, tmp_path):
    code, text = generate(folder, tmp_path / "out", "--frames", 9, "--path", "push_in", *arguments)
    assert code == 2 and words in text.replace("\n", " ") and "Traceback" not in text, text
    assert len([line for line in text.splitlines() if line.startswith("error:")]) == 1


def test_a_model_without_a_text_encoder_and_one_without_weights(folder, tmp_path):
    write_wan(tmp_path / "wan", text=False)
    write_depth(tmp_path / "depth")
    (tmp_path / "photo.jpg").write_bytes((folder / "photo.jpg").read_bytes())
    code, text = generate(tmp_path, tmp_path / "out", "--frames", 9)
    assert code == 2 and "has no text_encoder" in text
    for file in (tmp_path / "wan" / "vae").glob("*.safetensors"):
        file.unlink()
    code, text = generate(tmp_path, tmp_path / "out", "--frames", 9)
    assert code == 2 and "vae has no weights" in text
    code, text = run("doctor", "--model", tmp_path / "wan")
    assert code == 1 and "vae has no weights" in text and "fetch that part again" in text
