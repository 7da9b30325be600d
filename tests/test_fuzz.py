"""Random and mutilated headers, JSON and tensors: they are read, or refused in one line. No other exception comes out.

A hundred inputs of each kind in a normal run, two thousand with `-m slow`.
"""

from __future__ import annotations

import copy
import json
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from micro import build_micro
from safetensors.torch import save
from scenes import camera, pose, room_views

from mirage_nb import LatentGrid, MiragePipeline, NoMemory, RGBPointCloud
from mirage_nb.checks import as_image
from mirage_nb.files import read_json
from mirage_nb.models.checkpoints import read_names
from mirage_nb.models.folders import BUNDLED, check_model_folder
from mirage_nb.runs import Run
from mirage_nb.training.data import Walks
from mirage_nb.training.loop import read_log

AMOUNTS = [pytest.param(100, id="few"), pytest.param(2000, id="many", marks=pytest.mark.slow)]
STRANGE = [
    None, True, 0, -1, 0.0, 1e10, 1e308, float("inf"), float("nan"), 2**70, "a", "", "../../x", [], [[]], {},
    {"encode": 1}, "\x1b[31m", "memory.safetensors\n", "/etc/passwd", ["os", "system"],
]  # fmt: skip
DTYPES = [torch.float8_e4m3fn, torch.int64, torch.float16, torch.float32, torch.bool, torch.uint8, torch.int32]
JSON = st.recursive(
    st.sampled_from(STRANGE) | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=8,
)


def refused_in_one_line(read, *args) -> bool:
    """Whether an input was refused. An exception that is not ours, or of several lines, fails the test."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            read(*args)
        except (ValueError, OSError) as error:
            words = str(error)
            assert words and "\n" not in words and "\x1b" not in words and len(words) < 2000, words
            return True
    return False


def places(value, path=()):
    """Where something could be replaced in JSON: the keys that lead to each value."""
    yield path
    inside = value.items() if isinstance(value, dict) else enumerate(value[:6]) if isinstance(value, list) else ()
    for key, part in inside:
        yield from places(part, (*path, key))


@st.composite
def mutilated(draw, content):
    """JSON with a value replaced or left out, or bytes that are none."""
    content, kind = copy.deepcopy(content), draw(st.integers(0, 9))
    if kind == 0:
        return draw(st.binary(max_size=40))
    if kind == 1:
        return b"[" * 100_000
    text = json.dumps(content).encode()
    if kind == 2:
        return text[: draw(st.integers(0, len(text)))]
    for _ in range(draw(st.integers(1, 3))):
        path = draw(st.sampled_from(sorted(places(content), key=str)))
        if not path:
            return json.dumps(draw(JSON)).encode()
        parent = content
        for key in path[:-1]:
            parent = parent[key]
        if isinstance(parent, dict) and draw(st.booleans()) and draw(st.booleans()):
            del parent[path[-1]]
        else:
            parent[path[-1]] = copy.deepcopy(draw(JSON))
    return json.dumps(content).encode()


def fuzz(amount: int, strategy, check) -> None:
    checks = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example]
    options = dict(max_examples=amount, deadline=None, suppress_health_check=checks, derandomize=True, database=None)
    settings(**options)(given(strategy)(check))()


@pytest.mark.parametrize("amount", AMOUNTS)
def test_states_of_runs(amount, tmp_path):
    asked = {"image": "a", "c2w": "b"}
    (tmp_path / "precious.txt").write_text("mine")
    Run(tmp_path, asked, 3)
    whole = json.loads((tmp_path / "state.json").read_text()) | {"segments": 1}

    def check(data: bytes):
        (tmp_path / "state.json").write_bytes(data)
        if not refused_in_one_line(Run, tmp_path, asked, None):
            refused_in_one_line(lambda: Run(tmp_path, asked, None).memory(NoMemory()))

    fuzz(amount, mutilated(whole), check)
    assert (tmp_path / "precious.txt").exists()


@pytest.mark.parametrize("amount", AMOUNTS)
@pytest.mark.parametrize("part", ["model_index.json", "vae/config.json", "transformer/config.json", "scheduler"])
def test_configurations_of_models(amount, part, tmp_path):
    name = "scheduler/scheduler_config.json" if part == "scheduler" else part
    whole = json.loads((BUNDLED / name).read_text())
    for path in BUNDLED.rglob("*.*"):
        (tmp_path / path.relative_to(BUNDLED)).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path.relative_to(BUNDLED)).symlink_to(path)
    (tmp_path / name).unlink()

    def check(data: bytes):
        (tmp_path / name).write_bytes(data)
        refused_in_one_line(check_model_folder, tmp_path)

    fuzz(amount, mutilated(whole), check)


def memory_files(folder: Path) -> dict:
    """Name -> a small file, and what reads it."""
    views, grid, points = camera(pose()), LatentGrid(), RGBPointCloud(lambda x: x[:, :, ::8, ::8])
    latents, depth = room_views(views)
    grid.write(latents, depth, views)
    points.write(latents, depth, views, frames=torch.zeros(1, 3, *views.size))
    nothing = NoMemory(8, 4)
    loads = {"grid": (grid, LatentGrid.load), "points": (points, points.load), "none": (nothing, NoMemory.load)}
    for name, (memory, _) in loads.items():
        memory.save(folder / f"{name}.safetensors")
    return {name: (folder / f"{name}.safetensors", load, views) for name, (_, load) in loads.items()}


@pytest.mark.parametrize("amount", AMOUNTS)
@pytest.mark.parametrize("name", ["grid", "points", "none", "walks", "segment"])
def test_files_of_tensors(amount, name, tmp_path):
    if name in ("walks", "segment"):
        path, tensors, header, read = run_files(name, tmp_path)
    else:
        path, load, views = memory_files(tmp_path)[name]

        def read():
            memory = load(path)
            if memory.stride == 8:
                memory.read(views)

        tensors, header = opened(path)
    plain = {key: value if key in ("format", "version") else from_header(value) for key, value in header.items()}
    names = sorted(tensors)
    change = st.tuples(st.sampled_from(names or ["none"]), st.sampled_from(DTYPES), st.integers(0, 5))

    def check(given):
        data, (changed, dtype, how) = given
        try:
            new = json.loads(data)
            assert isinstance(new, dict)
        except (ValueError, AssertionError, RecursionError):
            new = header
        mixed = dict(tensors)
        if changed in mixed and how:
            tensor = mixed[changed]
            kinds = [tensor[:0], tensor.flatten(), tensor.float().mul(float("nan")), tensor[..., None], tensor * 0 - 1]
            mixed[changed] = (kinds[how - 1] if tensor.dtype != torch.bool else tensor.flatten()).to(dtype).contiguous()
        words = {str(k): v if isinstance(v, str) else json.dumps(v) for k, v in new.items()}
        path.write_bytes(save(mixed, {k: v.encode("utf-8", "replace").decode() for k, v in words.items()}))
        refused_in_one_line(read)

    fuzz(amount, st.tuples(mutilated(plain), change), check)


def from_header(value: str):
    try:
        return json.loads(value)
    except ValueError:
        return value


def opened(path: Path) -> tuple[dict, dict]:
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name).clone() for name in file.keys()}, file.metadata()  # noqa: SIM118


def run_files(name: str, folder: Path):
    from mirage_nb.memory.io import save_tensors
    from mirage_nb.runs import SEGMENT
    from mirage_nb.training.data import FORMAT

    if name == "walks":
        tensors = {"frames": torch.zeros(1, 2, 4, 4, 3, dtype=torch.uint8), "depth": torch.ones(1, 2, 4, 4).half()}
        tensors |= {"moving": torch.zeros(1, 2, 4, 4).bool(), "c2w": torch.eye(4).expand(1, 2, 4, 4).contiguous()}
        tensors |= {"intrinsics": torch.ones(1, 2, 4)}
        path = folder / "walks-0000000.safetensors"
        save_tensors(path, FORMAT, tensors, {})
        return path, *opened(path), lambda: Walks(folder)
    tensors = {"frames": torch.zeros(5, 16, 16, 3, dtype=torch.uint8), "latents": torch.zeros(4, 5, 2, 2)}
    tensors |= {"depth": torch.ones(5, 16, 16), "visibility": torch.zeros(5, 2, 2).bool()}
    run = Run(folder, {}, 0)
    run.segments = 1
    path = folder / "segment-000.safetensors"
    save_tensors(path, SEGMENT, tensors, {"seconds": {"read": 0.1}, "tokens": 3, "fits": [[1.0, 0.0, 0.5, 0.1]]})
    return path, *opened(path), run.results


@pytest.mark.parametrize("amount", AMOUNTS)
@pytest.mark.parametrize("read", [read_log, as_image, read_names, Run], ids=["log", "image", "branch", "run"])
def test_files_of_any_bytes(amount, read, tmp_path):
    path = tmp_path / "state.json"

    def check(data: bytes):
        path.write_bytes(data)
        arguments = {as_image: (path, 16), read_names: ("branch", path), Run: (tmp_path, {}, 0)}.get(read, (path,))
        refused_in_one_line(read, *arguments)

    row = {"step": 1, "loss": 0.5, "figure": 2.0}
    head = st.sampled_from([b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0", b"II*\x00", b"GIF89a", b"\x10" + b"\0" * 7])
    fuzz(amount, mutilated(row) | st.tuples(head, st.binary(max_size=60)).map(b"".join), check)


@pytest.mark.parametrize("read", [LatentGrid.load, lambda p: as_image(p, 16), lambda p: read_names("branch", p)])
@pytest.mark.parametrize("kind", ["pipe", "device", "folder", "nothing"])
def test_what_is_no_file_is_refused_at_once(read, kind, tmp_path):
    import os

    path = {"device": Path("/dev/zero"), "folder": tmp_path}.get(kind, tmp_path / "file")
    if kind == "pipe":
        os.mkfifo(path)
    with pytest.raises((ValueError, FileNotFoundError), match="expected a file|no such file"):
        read(path)


def test_arrays_with_negative_strides_are_taken():
    image = np.arange(16 * 16 * 3, dtype=np.uint8).reshape(16, 16, 3)[..., ::-1]
    assert (as_image(image, 16).numpy() == image).all()


BROKEN = {
    "not finite": (lambda w: w.mul_(float("nan")), "transformer has weights that are not finite"),
    "half of them": (None, "the files of transformer lack the weights"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_weights_are_refused_by_name(name, tmp_path):
    from safetensors.torch import load_file, save_file

    from mirage_nb.cli.console import load_pipeline

    change, message = BROKEN[name]
    MiragePipeline(**build_micro()).save_pretrained(tmp_path)
    path = next((tmp_path / "transformer").glob("*.safetensors"))
    tensors = load_file(path)
    if change is None:
        tensors = dict(list(tensors.items())[::2])
    else:
        change(tensors["proj_out.weight"])
    save_file(tensors, path, {"format": "pt"})
    with pytest.raises(ValueError, match=message):
        load_pipeline(str(tmp_path))


CONFIGURED = {
    "a stride of 0": ("vae", {"scale_factor_spatial": 0}, "greater than or equal to 1, got 0"),
    "a stride of other layers": ("vae", {"scale_factor_spatial": 16}, "scale_factor_spatial: the layers have"),
    "statistics of other channels": ("vae", {"latents_mean": [0.0]}, "latents_mean, latents_std: expected z_dim"),
    "no timesteps": ("scheduler", {"num_train_timesteps": 0}, "num_train_timesteps"),
    "too many timesteps": ("scheduler", {"num_train_timesteps": 10**10}, "num_train_timesteps"),
    "a library that is missing": (
        "transformer", {"quantization_config": {"quant_method": "nosuchlibrary"}}, "quantised: install nosuchlibrary",
    ),
    "a class from anywhere": ("", {"vae": ["os", "system"]}, "names vae of .'os', 'system'., no library it may use"),
}  # fmt: skip


@pytest.mark.parametrize("name", CONFIGURED)
def test_a_configuration_out_of_its_range_is_refused(name, tmp_path):
    part, change, message = CONFIGURED[name]
    MiragePipeline(**build_micro()).save_pretrained(tmp_path)
    file = {"": "model_index.json", "scheduler": "scheduler_config.json"}.get(part, "config.json")
    path = tmp_path / part / file
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ValueError, match=message) as error:
        check_model_folder(tmp_path)
    assert "\n" not in str(error.value)


def test_a_schema_drops_unknown_keys(tmp_path):
    from mirage_nb.runs import State

    Run(tmp_path, {}, 0)
    state = json.loads((tmp_path / "state.json").read_text()) | {"encode": 1}
    (tmp_path / "state.json").write_text(json.dumps(state))
    assert "encode" not in read_json(tmp_path / "state.json", State).model_dump()
