"""Checks of input: one clear line that names the argument and says what was expected, before any network runs."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from micro import build_micro
from PIL import Image
from scenes import box_depth, camera, pose

from mirage_nb import LatentGrid, MiragePipeline
from mirage_nb.paths import camera_path

SIZE = (32, 48)
PATH = camera_path("pan_left", 5)
DEPTH = torch.full(SIZE, 2.0)
NAN = float("nan")


@pytest.fixture(scope="module")
def guarded(pipe):
    """A pipeline whose networks, heavy work, none of these calls may reach."""
    for name in ("vae", "transformer", "depth_estimator"):
        for module in getattr(pipe, name).children():
            module.register_forward_pre_hook(_reached)
    return pipe


def _reached(module, args):
    raise AssertionError("a network ran before the input was checked")


def edited(tensor: torch.Tensor, index, value) -> torch.Tensor:
    tensor = tensor.clone()
    tensor[index] = value
    return tensor


def scaled() -> torch.Tensor:
    path = PATH.clone()
    path[:, :3, :3] *= 1.1
    return path


BAD = {
    "no image": (dict(image=None), "image: expected a path, a PIL image"),
    "image of a wrong kind": (dict(image={"a": 1}), "image: expected a path, a PIL image"),
    "image of floats": (dict(image=torch.rand(*SIZE, 3)), "image: expected (H, W, 3) uint8, got torch.float32"),
    "image in one colour": (dict(image=torch.zeros(SIZE, dtype=torch.uint8)), "image: expected (H, W, 3) uint8"),
    "image of odd size": (dict(image=Image.new("RGB", (45, 31))), "multiples of 16, got 45x31; the nearest is 48x32"),
    "image too small": (dict(image=Image.new("RGB", (3, 3))), "the nearest is 16x16"),
    "depth of another size": (dict(depth=torch.ones(16, 24)), "depth: expected (32, 48) or (5, 32, 48)"),
    "depth of too few frames": (dict(depth=torch.ones(3, *SIZE)), "depth: expected (32, 48) or (5, 32, 48)"),
    "depth unknown": (dict(depth=DEPTH * 0), "depth: no value is known"),
    "depth NaN": (dict(depth=DEPTH * NAN), "depth: no value is known"),
    "depth unknown in the first frame": (dict(depth=edited(DEPTH.repeat(5, 1, 1), 0, NAN)), "depth: no value is known"),
    "depth negative": (dict(depth=-DEPTH), "depth: expected metres > 0"),
    "depth negative later": (dict(depth=edited(DEPTH.repeat(5, 1, 1), (3, 2, 2), -1)), "depth: expected metres > 0"),
    "depth in millimetres": (dict(depth=DEPTH * 1000), "these look like millimetres"),
    "depth as a PNG holds it": (dict(depth=np.full(SIZE, 2000, np.uint16)), "depth: expected floating-point metres"),
    "depth of text": (dict(depth="far"), "depth: expected an array of numbers"),
    "moving of numbers": (dict(moving=torch.zeros(5, *SIZE)), "moving: expected bool (5, 32, 48), got torch.float32"),
    "no path": (dict(c2w=None), "c2w: expected"),
    "one matrix": (dict(c2w=torch.eye(4)), "c2w: expected (T, 4, 4)"),
    "3x4 matrices": (dict(c2w=PATH[:, :3]), "c2w: expected (T, 4, 4)"),
    "matrices of text": (dict(c2w=[["a"]]), "c2w: expected an array of numbers"),
    "path not rigid": (dict(c2w=scaled()), "c2w: expected rigid matrices"),
    "path mirrored": (dict(c2w=PATH @ torch.diag(torch.tensor([1.0, -1, 1, 1]))), "c2w: expected rigid matrices"),
    "path NaN": (dict(c2w=edited(PATH, (2, 0, 3), NAN)), "c2w: expected finite numbers"),
    "three intrinsics": (dict(intrinsics=[40, 24, 16]), "intrinsics: expected (N, 4)"),
    "intrinsics of a larger image": (dict(intrinsics=[585, 585, 320, 240]), "intrinsics: the principal point must lie"),
    "normalised intrinsics": (dict(intrinsics=[0.9, 1.3, 0.5, 0.5]), "(are they normalised?"),
    "intrinsics negative": (dict(intrinsics=[-40, 40, 24, 16]), "intrinsics: expected finite, positive fx and fy"),
    "intrinsics NaN": (dict(intrinsics=[40, 40, NAN, 16]), "intrinsics: expected finite"),
    "one frame": (dict(c2w=PATH[:1]), "num_frames: expected at least 2, got 1"),
    "no steps": (dict(num_inference_steps=0), "num_inference_steps: expected an integer of at least 1"),
    "seed negative": (dict(generator=-1), "generator: expected an integer of at least 0"),
    "seed of text": (dict(generator="1"), "generator: expected an integer of at least 0"),
    "memory misspelt": (dict(memory="latnet"), "did you mean 'latent'?"),
    "memory of a wrong kind": (dict(memory=3), "memory: expected a name or a Memory, got int"),
    "memory of another model": (dict(memory=LatentGrid(stride=16)), "memory: holds latents of stride 16"),
    "memory of other channels": (dict(memory=LatentGrid(channels=16)), "memory: holds latents of channels 16"),
    "output misspelt": (dict(output_type="pill"), "output_type: expected one of pil, np, pt, uint8, got 'pill'"),
    "tensor inputs": (dict(callback_on_step_end_tensor_inputs=["latent"]), "did you mean 'latents'?"),
    "prompt of a wrong kind": (dict(prompt=3), "prompt: expected a string"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_each_bad_argument_gets_one_line_that_names_it(guarded, name, tmp_path):
    change, message = BAD[name]
    arguments = dict(image=Image.new("RGB", SIZE[::-1]), c2w=PATH, output_dir=tmp_path / "run") | change
    with pytest.raises(ValueError) as error:
        guarded(arguments.pop("image"), arguments.pop("prompt", None), **arguments)
    assert message in str(error.value) and "\n" not in str(error.value)
    assert not (tmp_path / "run").exists(), "nothing is written for a call that can't run"


def test_the_same_call_without_a_mistake_reaches_the_networks(guarded):
    with pytest.raises(AssertionError, match="a network ran"):
        guarded(Image.new("RGB", SIZE[::-1]), c2w=PATH, depth=DEPTH, intrinsics=[40, 40, 24, 16])


def test_unknown_spots_in_a_depth_map_are_fine(guarded):
    with pytest.raises(AssertionError, match="a network ran"):
        guarded(Image.new("RGB", SIZE[::-1]), c2w=PATH, depth=edited(edited(DEPTH, 0, NAN), 1, 0))


def test_files_that_are_no_image(guarded, tmp_path):
    with pytest.raises(FileNotFoundError, match="image: no such file: .*nowhere.png"):
        guarded(tmp_path / "nowhere.png", c2w=PATH)
    (tmp_path / "text.png").write_text("not a picture")
    with pytest.raises(ValueError, match="image: .*text.png can't be read as a picture"):
        guarded(str(tmp_path / "text.png"), c2w=PATH)
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (*SIZE, 3), np.uint8)).save(tmp_path / "whole.png")
    whole = (tmp_path / "whole.png").read_bytes()
    (tmp_path / "half.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="image: .*half.png can't be read as a picture"):
        guarded(tmp_path / "half.png", c2w=PATH)


def test_w2c_passed_for_c2w_is_found_out_by_the_depth(guarded):
    cameras = camera(*(pose((0.1 * k, 0.0, -0.1 * k), (0.0, 0.12 * k, 0.0)) for k in range(5)), size=SIZE, focal=40.0)
    depth = box_depth(cameras)
    with pytest.raises(ValueError, match="c2w: expected c2w, OpenCV.*agree: .* do with --w2c$"):
        guarded(Image.new("RGB", SIZE[::-1]), c2w=cameras.w2c, intrinsics=cameras.intrinsics, depth=depth)
    with pytest.raises(AssertionError, match="a network ran"):
        guarded(Image.new("RGB", SIZE[::-1]), c2w=cameras.c2w, intrinsics=cameras.intrinsics, depth=depth)


def test_frame_counts_that_do_not_fit_the_stride_offer_the_nearest():
    pipe = MiragePipeline(**build_micro(temporal=True))
    with pytest.raises(ValueError, match=r"num_frames: expected 4 \* k \+ 1, got 48; the nearest is 45 or 49"):
        pipe(Image.new("RGB", SIZE[::-1]), c2w=camera_path("fixed", 48))


def test_a_prompt_that_nobody_reads_is_told(guarded):
    with pytest.warns(UserWarning, match="prompt: this model reads no text"), pytest.raises(AssertionError):
        guarded(Image.new("RGB", SIZE[::-1]), "a corridor", c2w=PATH)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "tiny"
    MiragePipeline(**build_micro()).save_pretrained(folder)
    return folder


@pytest.fixture
def broken(model, tmp_path):
    return shutil.copytree(model, tmp_path / "tiny")


def test_truncated_and_missing_weights(broken):
    weights = next((broken / "transformer").glob("*.safetensors"))
    data = weights.read_bytes()
    for size in (0, 5, len(data) // 2, len(data) - 1):
        weights.write_bytes(data[:size])
        with pytest.raises(ValueError, match="model: .*transformer.* not a whole safetensors file, perhaps truncated"):
            MiragePipeline.from_pretrained(broken)
    weights.unlink()
    with pytest.raises(FileNotFoundError, match="model: .*transformer has no weights"):
        MiragePipeline.from_pretrained(broken)
    shutil.rmtree(broken / "vae")
    index = json.loads((broken / "model_index.json").read_text())
    with pytest.raises(FileNotFoundError, match="model: .* (has no weights|lacks the folder vae)"):
        MiragePipeline.from_pretrained(broken)
    index.pop("transformer")
    (broken / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(FileNotFoundError, match="model: .* lacks the folder vae"):
        MiragePipeline.from_pretrained(broken)
    (broken / "model_index.json").write_text("{")
    with pytest.raises(ValueError, match="model: .*model_index.json is broken"):
        MiragePipeline.from_pretrained(broken)
    (broken / "model_index.json").unlink()
    with pytest.raises(FileNotFoundError, match="model: .* has no model_index.json"):
        MiragePipeline.from_pretrained(broken)


def test_a_misspelt_model_folder_is_named(model):
    with pytest.raises(FileNotFoundError, match="model: no such folder: .*tinny"):
        MiragePipeline.from_pretrained(model.parent / "tinny")


def test_weights_that_run_code_are_not_loaded(broken):
    weights = next((broken / "transformer").glob("*.safetensors"))
    torch.save(build_micro()["transformer"].state_dict(), weights.with_suffix(".bin"))
    weights.unlink()
    with pytest.raises(FileNotFoundError, match="has no weights"):
        MiragePipeline.from_pretrained(broken)


@pytest.fixture
def run(tmp_path):
    """A whole run, and the call that reads it."""
    pipe = MiragePipeline(**build_micro())
    pipe.set_progress_bar_config(disable=True)

    def again():
        return pipe(Image.new("RGB", SIZE[::-1]), c2w=PATH, generator=0, num_inference_steps=1, output_dir=tmp_path)

    again()
    return tmp_path, again


@pytest.mark.parametrize("name", ["memory.safetensors", "segment-001.safetensors"])
def test_a_truncated_file_of_a_run_is_told(run, name):
    folder, again = run
    data = (folder / name).read_bytes()
    (folder / name).write_bytes(data[: len(data) // 2])
    with pytest.raises(ValueError, match=f"{name}: not a whole safetensors file, perhaps truncated"):
        again()


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"format": "mirage-run"}'])
def test_a_broken_state_of_a_run_is_told_and_kept(run, text):
    folder, again = run
    (folder / "state.json").write_text(text)
    with pytest.raises(ValueError, match="output_dir: .*state.json is not the state of a run"):
        again()
    assert (folder / "state.json").read_text() == text


def test_an_output_dir_that_is_a_file(guarded, tmp_path):
    (tmp_path / "file").write_text("precious")
    with pytest.raises(OSError, match="output_dir: .* is a file, expected a folder"):
        guarded(Image.new("RGB", SIZE[::-1]), c2w=PATH, output_dir=tmp_path / "file")
    assert (tmp_path / "file").read_text() == "precious"
