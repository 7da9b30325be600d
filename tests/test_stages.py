"""The two stages: who learns and who doesn't, and two processes that do what one would do."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from mirage_nb.models.presets import build_micro
from mirage_nb.models.transformer import MirageTransformer3DModel
from mirage_nb.training.data import Walks, import_recordings, write_walks
from mirage_nb.training.encoded import EncodedWalks, encode_walks
from mirage_nb.training.loop import fit
from mirage_nb.training.memory import MemoryLoss
from mirage_nb.training.stages import branch_and_lora, merge_lora, train_transformer
from mirage_nb.training.vae import vae_loss

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Two walks, encoded, and a model to start from."""
    home = tmp_path_factory.mktemp("stages")
    write_walks(home / "walks", 2, num_frames=7)
    parts = build_micro()
    encode_walks(home / "walks", home / "encoded", parts["vae"])
    parts["transformer"].save_pretrained(home / "start")
    return home


def changed(before: Path, after: Path) -> set[str]:
    a, b = (load_file(folder / "diffusion_pytorch_model.safetensors") for folder in (before, after))
    assert a.keys() == b.keys()
    return {name for name in a if not torch.allclose(a[name].float(), b[name].float(), rtol=1e-2, atol=1e-3)}


def train(home: Path, folder: Path, **options) -> Path:
    data = EncodedWalks.load(home / "encoded")
    defaults = dict(recipe="memory", steps=3, lr=2e-2, batch=2, warmup=1, rank=2, progress=False)
    options = defaults | options
    return train_transformer(options.pop("recipe"), home / "start", data, folder, **options)


def train_vae(home: Path, folder: Path) -> None:
    loss = vae_loss(Walks(home / "walks"), batch=2, crop=16)
    fit(build_micro()["vae"], loss, steps=3, folder=folder, lr=1e-3, warmup=1, progress=False)


def test_stage_1_changes_the_branch_alone(home, tmp_path):
    names = changed(home / "start", train(home, tmp_path, stage="1"))
    assert names and all(name.startswith("vace_") for name in names)


def test_stage_2_changes_the_branch_and_the_attention(home, tmp_path):
    names = changed(home / "start", train(home, tmp_path, stage="2"))
    backbone = {name for name in names if not name.startswith("vace_")}
    assert any(name.startswith("vace_") for name in names)
    assert backbone and all(name.startswith("blocks.") and ".attn1.to_" in name for name in backbone), backbone


def test_lora_begins_as_nothing_and_merges_into_the_same_model():
    model = build_micro()["transformer"].eval()
    torch.manual_seed(0)
    c = model.config
    x = torch.randn(1, c.in_channels, 3, 4, 4), torch.full((1,), 500.0), torch.randn(1, c.vace_in_channels, 3, 4, 4)
    torch.nn.init.normal_(model.proj_out.weight)
    with torch.no_grad():
        before = model(*x).sample
        branch_and_lora(model, rank=2)
        assert torch.allclose(model(*x).sample, before, atol=1e-5)
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.1)
        changed = model(*x).sample
        assert not torch.allclose(changed, before, atol=1e-3)
        merge_lora(model)
        assert not any("lora" in name for name, _ in model.named_parameters())
        assert torch.allclose(model(*x).sample, changed, atol=1e-4)
    with pytest.raises(ValueError, match="rank"):
        branch_and_lora(model, rank=0)


def test_the_backbone_recipe_sees_no_memory(home, tmp_path, monkeypatch):
    seen = []

    original = MirageTransformer3DModel.forward

    def forward(self, hidden, timestep, control, *args, **kwargs):
        seen.append(control[:, : hidden.shape[1] + 1].abs().max().item())
        return original(self, hidden, timestep, control, *args, **kwargs)

    monkeypatch.setattr(MirageTransformer3DModel, "forward", forward)
    train(home, tmp_path, recipe="backbone")
    assert seen and max(seen) == 0


@pytest.mark.parametrize("options, name", [({"recipe": "vea"}, "recipe"), ({"stage": "3"}, "stage")])
def test_unknown_names_are_told(home, tmp_path, options, name):
    with pytest.raises(ValueError, match=name):
        train(home, tmp_path, **options)


def test_every_second_batch_leaps_if_asked(home, tmp_path, monkeypatch):
    seen = []
    sample = MemoryLoss.sample

    def spy(self, *args):
        batch = sample(self, *args)
        seen.append((batch.clean.shape[0], batch.clean.shape[2]))
        return batch

    monkeypatch.setattr(MemoryLoss, "sample", spy)
    train(home, tmp_path, leap=3)
    assert seen == [(2, 3), (4, 2), (2, 3)]


def test_gradient_checkpointing_takes_the_same_steps(home, tmp_path):
    plain = train(home, tmp_path / "plain")
    assert not changed(plain, train(home, tmp_path / "checkpointed", gradient_checkpointing=True))


SCRIPT = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from test_stages import train, train_vae
train(Path({home!r}), Path(sys.argv[1]) / "memory", lr=1e-3)
train_vae(Path({home!r}), Path(sys.argv[1]) / "vae")
from accelerate import PartialState
state = PartialState()
(Path(sys.argv[1]) / f"process{{state.process_index}}").write_text(str(state.num_processes))
"""


def test_two_processes_take_the_step_of_one(home, tmp_path):
    train(home, tmp_path / "1" / "memory", lr=1e-3)
    train_vae(home, tmp_path / "1" / "vae")
    script = tmp_path / "train.py"
    script.write_text(SCRIPT.format(tests=str(ROOT / "tests"), home=str(home)))
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    # Without a GPU `accelerate launch` starts one process, however many it is asked for; torchrun starts them all.
    options = "--standalone --nproc_per_node 2"
    launch = [sys.executable, "-m", "torch.distributed.run", *options.split(), str(script), str(tmp_path / "2")]
    done = subprocess.run(launch, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert [(tmp_path / "2" / f"process{i}").read_text() for i in (0, 1)] == ["2", "2"]
    starts = {
        "memory": load_file(home / "start" / "diffusion_pytorch_model.safetensors"),
        "vae": build_micro()["vae"].state_dict(),
    }
    for what, start in starts.items():
        one, two = (load_file(tmp_path / n / what / "checkpoint.safetensors") for n in "12")
        moved = difference = 0.0
        for name, value in start.items():
            moved += (one[f"model/{name}"] - value).abs().sum().item()
            difference += (one[f"model/{name}"] - two[f"model/{name}"]).abs().sum().item()
        assert moved > 0 and difference < 0.05 * moved, (what, difference / moved)


def test_recordings_become_walks_and_what_does_not_fit_is_told(tmp_path):
    kitchen = ROOT.parent / "shared" / "real" / "kitchen"
    if not kitchen.exists():
        pytest.skip("no RGB-D recording at ../shared/real/kitchen")
    report = import_recordings([kitchen, tmp_path / "nothing"], tmp_path / "walks", num_frames=5, size=(32, 32))
    assert "walks" in report[str(kitchen)] and report[str(tmp_path / "nothing")].startswith("left out")
    walks = Walks(tmp_path / "walks")
    assert len(walks) == int(report[str(kitchen)].split()[0]) and walks["frames"].shape[1:] == (5, 32, 32, 3)
    report = import_recordings([kitchen], tmp_path / "long", num_frames=10_000)
    assert "10000 frames in a row" in report[str(kitchen)]


def test_the_commands_go_from_rooms_to_a_transformer(tmp_path):
    from typer.testing import CliRunner

    from mirage_nb.cli import app
    from mirage_nb.pipeline import MiragePipeline

    MiragePipeline(**build_micro()).save_pretrained(tmp_path / "model")
    walks, out = str(tmp_path / "walks"), tmp_path / "out"
    data = CliRunner().invoke(app, ["train", "data", "--folder", walks, "--rooms", "1", "--frames", "7"])
    assert data.exit_code == 0, data.output
    command = ["train", "memory", "--walks", walks, "--folder", str(out), "--model", str(tmp_path / "model")]
    done = CliRunner().invoke(app, [*command, "--stage", "1", "--steps", "2", "--batch", "2", "--leap", "3"])
    assert done.exit_code == 0, done.output
    assert (out / "transformer" / "config.json").exists() and (out / "loss.png").stat().st_size > 1000
    nothing = CliRunner().invoke(app, ["train"])
    assert nothing.exit_code == 2 and nothing.output.startswith("error: folder")
