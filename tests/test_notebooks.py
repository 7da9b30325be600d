"""The notebooks run from top to bottom on the bundled model, and the saved ones show their pictures."""

from __future__ import annotations

import os
from pathlib import Path

import nbformat
import papermill
import pytest

from mirage_nb.models.presets import build_micro, bundled_model
from mirage_nb.pipeline import MiragePipeline

ROOT = Path(__file__).resolve().parents[1]
QUICKSTART = ROOT / "notebooks" / "00_quickstart.ipynb"


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    """The bundled model; before there is one, a tiny untrained one."""
    if bundled_model().exists():
        return bundled_model()
    folder = tmp_path_factory.mktemp("model")
    MiragePipeline(**build_micro()).save_pretrained(folder)
    return folder


def run(path: Path, cwd: Path, folder: Path, model: Path, monkeypatch) -> nbformat.NotebookNode:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    parameters = {"fast": True, "output_dir": str(folder / "out"), "model": str(model)}
    done = folder / path.name
    papermill.execute_notebook(
        path, done, parameters, kernel_name="python3", cwd=cwd, progress_bar=False, execution_timeout=300
    )
    return nbformat.read(done, as_version=4)


@pytest.mark.parametrize("cwd", [ROOT, ROOT / "notebooks"], ids=["from the root", "from notebooks"])
def test_the_quickstart_runs(cwd: Path, tmp_path: Path, model: Path, monkeypatch) -> None:
    notebook = run(QUICKSTART, cwd, tmp_path, model, monkeypatch)
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    kinds = [kind for output in outputs for kind in output.get("data", {})]
    assert kinds.count("image/png") >= 4 and "application/vnd.plotly.v1+json" in kinds
    assert not [o for o in outputs if o.output_type == "stream" and o.name == "stderr"]
    assert (tmp_path / "out" / "there_and_back.mp4").stat().st_size > 1000


@pytest.mark.parametrize("path", sorted(ROOT.glob("notebooks/*.ipynb")), ids=lambda path: path.stem)
def test_saved_notebooks_are_small_and_tell_nothing_of_the_machine(path: Path) -> None:
    text = path.read_text()
    notebook = nbformat.reads(text, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert len(text) < 2_000_000
    assert sum("parameters" in cell.metadata.get("tags", []) for cell in code) == 1
    assert not [o for cell in code for o in cell.outputs if o.output_type == "error"]
    assert str(ROOT) not in text and str(Path.home()) + "/" not in text


def test_the_quickstart_has_under_ten_code_cells() -> None:
    notebook = nbformat.read(QUICKSTART, as_version=4)
    assert sum(cell.cell_type == "code" for cell in notebook.cells) < 10
