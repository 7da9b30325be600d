"""The paper's stages: what learns and what does not, and two processes that do what one would do."""

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
from mirage_nb.training.data import Walks
from mirage_nb.training.encoded import EncodedWalks
from mirage_nb.training.loop import fit
from mirage_nb.training.stages import branch_and_lora, merge_lora, train_transformer
from mirage_nb.training.vae import vae_loss

ROOT = Path(__file__).resolve().parents[2]


def changed(before: Path, after: Path) -> set[str]:
    a, b = (load_file(folder / "diffusion_pytorch_model.safetensors") for folder in (before, after))
    assert a.keys() == b.keys()
    return {name for name in a if not torch.allclose(a[name].float(), b[name].float(), rtol=1e-2, atol=1e-3)}


def train(home: Path, folder: Path, stage: str = "joint", **options) -> Path:
    options = dict(steps=3, lr=2e-2, batch=2, warmup=1, rank=2) | options
    return train_transformer(stage, home / "start", EncodedWalks.load(home / "encoded"), folder, **options)


def test_stage_1_changes_the_branch_alone(home, tmp_path):
    names = changed(home / "start", train(home, tmp_path, "branch"))
    assert names and all(name.startswith("vace_") for name in names)


def test_stage_2_changes_the_branch_and_the_attention(home, tmp_path):
    names = changed(home / "start", train(home, tmp_path, "lora"))
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
        adapted = model(*x).sample
        assert not torch.allclose(adapted, before, atol=1e-3)
        merge_lora(model)
        assert not any("lora" in name for name, _ in model.named_parameters())
        assert torch.allclose(model(*x).sample, adapted, atol=1e-4)
    with pytest.raises(ValueError, match="rank"):
        branch_and_lora(model, rank=0)


def test_the_backbone_sees_no_memory(home, tmp_path, monkeypatch):
    seen, original = [], MirageTransformer3DModel.forward

    def forward(self, hidden, timestep, control, *args, **kwargs):
        seen.append(control[:, : hidden.shape[1] + 1].abs().max().item())
        return original(self, hidden, timestep, control, *args, **kwargs)

    monkeypatch.setattr(MirageTransformer3DModel, "forward", forward)
    train(home, tmp_path, "backbone")
    assert seen and max(seen) == 0


def test_an_unknown_stage_is_named(home, tmp_path):
    with pytest.raises(ValueError, match="stage"):
        train(home, tmp_path, "brunch")


def test_gradient_checkpointing_takes_the_same_steps(home, tmp_path):
    plain = train(home, tmp_path / "plain")
    assert not changed(plain, train(home, tmp_path / "checkpointed", gradient_checkpointing=True))


def train_both(home: Path, out: Path) -> None:
    """The transformer and the VAE, three steps each."""
    train(home, out / "memory")
    loss = vae_loss(Walks(home / "walks"), batch=2, crop=16)
    fit(build_micro()["vae"], loss, steps=3, folder=out / "vae", lr=1e-3, warmup=1)


SCRIPT = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
import test_stages
from mirage_nb.training.data import processes
test_stages.train_both(Path({home!r}), Path({out!r}))
Path({out!r}, f"process{{processes().process_index}}").write_text(str(processes().num_processes))
"""


def test_two_processes_take_the_steps_of_one(home, tmp_path):
    train_both(home, tmp_path / "1")
    script = tmp_path / "run.py"
    script.write_text(SCRIPT.format(tests=str(Path(__file__).parent), home=str(home), out=str(tmp_path / "2")))
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    # Without a GPU `accelerate launch` starts one process only; torchrun starts them all.
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    done = subprocess.run([*torchrun, str(script)], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert [(tmp_path / "2" / f"process{i}").read_text() for i in (0, 1)] == ["2", "2"]
    starts = {
        "memory": load_file(home / "start" / "diffusion_pytorch_model.safetensors"),
        "vae": build_micro()["vae"].state_dict(),
    }
    for what, start in starts.items():
        one, two = (load_file(tmp_path / n / what / "checkpoint-00000003" / "weights.safetensors") for n in "12")
        moved = difference = 0.0
        for name, value in start.items():
            moved += (one[f"model/{name}"] - value).abs().sum().item()
            difference += (one[f"model/{name}"] - two[f"model/{name}"]).abs().sum().item()
        assert moved > 0 and difference < 0.05 * moved, (what, difference / moved)
