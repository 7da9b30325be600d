"""One command trains all parts; interrupted and given again, it ends with the same model."""

from __future__ import annotations

from typer.testing import CliRunner

from mirage_nb.cli import app
from mirage_nb.pipeline import MiragePipeline


def test_one_command_goes_through_everything_and_resumes(tmp_path):
    command = ["train", "--preset", "tiny", "--quick", "--folder", str(tmp_path)]
    tmp_path = tmp_path / "quick"
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    folder = tmp_path / "mirage-tiny"
    pipe = MiragePipeline.from_pretrained(folder)
    assert pipe.config.references == 4 and pipe.vae.config.latents_std != [1.0] * 16
    weights = folder / "transformer" / "diffusion_pytorch_model.safetensors"
    before, walks = weights.read_bytes(), next((tmp_path / "walks").iterdir())
    stamp = walks.stat().st_mtime_ns
    (tmp_path / "transformer" / "checkpoint.safetensors").unlink()  # as if it had been stopped before this
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    assert weights.read_bytes() == before and walks.stat().st_mtime_ns == stamp
