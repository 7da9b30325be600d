"""Every notebook runs from top to bottom, its values hold, and its exercises can be solved."""

from __future__ import annotations

import copy
import json
import os
import re
from pathlib import Path

import nbformat
import pytest
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from typer.testing import CliRunner

from mirage_nb.cli import app, notebooks
from mirage_nb.viz.notebook import CHECK, RECORD

PATHS = notebooks.find_notebooks()
every_notebook = pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)


def read(path: Path) -> NotebookNode:
    return nbformat.read(path, as_version=4)


def tagged(notebook: NotebookNode, tag: str) -> list[NotebookNode]:
    """The cells with a tag, in order."""
    return [cell for cell in notebook.cells if tag in cell.metadata.get("tags", [])]


def solve(notebook: NotebookNode) -> NotebookNode:
    """A copy in which every exercise's cell is the first python block of its solution."""
    notebook = copy.deepcopy(notebook)
    for exercise, solution in zip(tagged(notebook, "exercise"), tagged(notebook, "solution"), strict=True):
        exercise.source = re.search(r"^```python\n(.*?)\n```", solution.source, re.M | re.S)[1]
    return notebook


@pytest.fixture(scope="session")
def solved(tmp_path_factory):
    """Executes a notebook with its exercises solved, once in a test run."""
    folder, done = tmp_path_factory.mktemp("notebooks"), {}

    def execute(path: Path) -> NotebookNode:
        if path not in done:
            notebook = solve(read(path))
            parameters = dict(notebooks.known_values(path.stem)["parameters"])
            if re.search(r"^output_dir\b", tagged(notebook, "parameters")[0].source, re.M):
                parameters["output_dir"] = str(folder / path.stem)
            done[path] = notebooks.execute(notebook, parameters, path, seconds=300)
        return done[path]

    execute.folder = folder
    return execute


# ---- The notebooks as they run


@every_notebook
def test_a_notebook_runs_and_shows_everything_without_a_kernel(path: Path, solved) -> None:
    outputs = notebooks.outputs(solved(path))
    assert not [o.text for o in outputs if o.output_type == "stream" and o.name == "stderr"]
    assert any("image/png" in o.get("data", {}) for o in outputs)
    widgets = notebooks.outputs(solved(path), notebooks.WIDGET_VIEW)
    assert [o.data.get("text/plain") for o in widgets if "image/png" not in o.data] == [], "widgets without a picture"


@every_notebook
def test_the_values_of_a_notebook_hold(path: Path, solved) -> None:
    known, found = notebooks.known_values(path.stem)["values"], notebooks.recorded(solved(path))
    assert found, "a notebook records its headline values"
    if moved := notebooks.moved(known, found):
        fix = f"if that is meant: mirage-nb notebooks run --only {path.stem[:2]}"
        pytest.fail("\n".join([*moved, fix]), pytrace=False)


@every_notebook
def test_the_solutions_are_right(path: Path, solved) -> None:
    wrong = [o.data["text/plain"] for o in notebooks.outputs(solved(path), CHECK) if not o.data[CHECK]["passed"]]
    assert wrong == []


def test_the_quickstart_writes_its_video(solved) -> None:
    solved(PATHS[0])
    assert (solved.folder / "00_quickstart" / "there_and_back.mp4").stat().st_size > 1000


# ---- The notebooks as they are saved


@every_notebook
def test_saved_notebooks_are_small_and_tell_nothing_of_the_machine(path: Path) -> None:
    text = path.read_text()
    notebook = nbformat.reads(text, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert len(text) < 2_000_000
    assert not [output for output in notebooks.outputs(notebook) if output.output_type == "error"]
    assert str(notebooks.ROOT) not in text and str(Path.home()) + os.sep not in text
    assert notebooks.WIDGET_VIEW not in text
    assert not {"papermill", "widgets"} & set(notebook.metadata)
    assert all(set(cell.metadata) <= {"tags"} for cell in notebook.cells)
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1)), "run from top to bottom"
    known = notebooks.known_values(path.stem)["values"]
    assert list(notebooks.recorded(notebook)) == list(known), "the saved notebook records the known values"
    checks = notebooks.outputs(notebook, CHECK)
    assert checks and not any(check.data[CHECK]["passed"] for check in checks), "exercises are saved unsolved"


@every_notebook
def test_a_notebook_has_its_form(path: Path) -> None:
    notebook = read(path)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert len(code) <= 25 and notebook.cells[0].source.startswith(f"# {path.stem[:2]} · ")
    assert not any("sys.path" in cell.source for cell in code)
    (parameters,) = tagged(notebook, "parameters")
    assert re.search(r"^seed = 0\b", parameters.source, re.M) and re.search(r"^fast = False\b", parameters.source, re.M)
    tags = [tag for cell in notebook.cells for tag in cell.metadata.tags if tag in ("exercise", "check", "solution")]
    assert tags and tags == ["exercise", "check", "solution"] * (len(tags) // 3)


def test_every_file_of_known_values_has_its_notebook() -> None:
    assert {path.stem for path in notebooks.REGRESSION.glob("*.json")} == {path.stem for path in PATHS}


# ---- Values


@pytest.mark.parametrize(("number", "holds"), [(30.2, True), (29.8, True), (30.21, False), (29.79, False)])
def test_a_value_moves_when_it_leaves_its_tolerance(number: float, holds: bool) -> None:
    known = {"a": {"value": 30.0, "unit": "dB", "absolute": 0.2000001}}
    assert (notebooks.moved(known, {"a": {"value": number, "unit": "dB"}}) == []) == holds


def test_tolerances_add_up_and_negative_values_have_them_too() -> None:
    known = {"a": {"value": -100.0, "unit": "", "absolute": 1.0, "relative": 0.02}}
    assert notebooks.moved(known, {"a": {"value": -102.9, "unit": ""}}) == []
    assert notebooks.moved(known, {"a": {"value": -103.1, "unit": ""}}) != []


def test_times_are_never_compared_and_new_and_gone_values_are_told() -> None:
    known = {"t": {"value": 5.0, "unit": "ms"}, "lost": {"value": 1.0, "unit": "dB", "absolute": 1}}
    found = {"t": {"value": 500.0, "unit": "ms"}, "added": {"value": 1.0, "unit": "dB"}}
    assert notebooks.moved(known, found) == ["lost: gone", "added: new"]


def test_an_update_keeps_tolerances_and_gives_new_values_theirs() -> None:
    known = {"a": {"value": 1.0, "unit": "dB", "absolute": 3.0}, "gone": {"value": 1.0, "unit": ""}}
    units = {"a": "dB", "b": "dB", "c": "tokens", "t": "s"}
    values = notebooks.updated(known, {name: {"value": 2 / 3, "unit": unit} for name, unit in units.items()})
    assert values["a"] == {"value": 0.666667, "unit": "dB", "absolute": 3.0}
    assert values["b"]["absolute"] > 0 and values["c"]["relative"] > 0
    assert values["t"] == {"value": 0.666667, "unit": "s"} and "gone" not in values


def test_two_values_of_one_name_are_an_error() -> None:
    data = {RECORD: {"name": "a", "value": 1.0, "unit": "dB"}}
    notebook = new_notebook(cells=[new_code_cell(outputs=[new_output("display_data", data)] * 2)])
    with pytest.raises(ValueError, match="recorded twice: a"):
        notebooks.recorded(notebook)


# ---- What runs and cleans them


def test_a_solution_replaces_its_exercise() -> None:
    words = "<details>\n\n```python\na = 2\n\nb = 3\n```\n\nbecause\n\n```python\nnot = this\n```\n</details>"
    exercise = new_code_cell("a = None", metadata={"tags": ["exercise"]})
    notebook = new_notebook(cells=[exercise, new_markdown_cell(words, metadata={"tags": ["solution"]})])
    assert solve(notebook).cells[0].source == "a = 2\n\nb = 3"
    assert notebook.cells[0].source == "a = None"
    with pytest.raises(ValueError):
        solve(new_notebook(cells=notebook.cells[:1]))


def test_a_cleaned_notebook_keeps_its_pictures_and_forgets_the_machine() -> None:
    data = {notebooks.WIDGET_VIEW: {"model_id": "1"}, "image/png": "AA", "image/jpeg": "BB", "text/plain": "Live()"}
    printed = f"see {notebooks.ROOT / 'build' / 'a'} and {Path.home() / 'b'}\n"
    cell = new_code_cell(metadata={"papermill": {"duration": 1}, "execution": {}, "tags": ["check"]})
    cell.outputs = [new_output("display_data", data), new_output("stream", name="stdout", text=printed)]
    notebook = new_notebook(
        cells=[cell], metadata={"papermill": {}, "widgets": {}, "language_info": {"name": "python", "version": "3"}}
    )
    kept = nbformat.reads(notebooks.cleaned(notebook), as_version=4)
    assert kept.cells[0].outputs[0].data == {"image/png": "AA", "text/plain": "Live()"}
    assert kept.cells[0].outputs[1].text == f"see {Path('build/a')} and {Path('~/b')}\n"
    assert set(kept.metadata) == {"kernelspec", "language_info"} and "version" not in kept.metadata.language_info
    assert dict(kept.cells[0].metadata) == {"tags": ["check"]}
    assert notebooks.WIDGET_VIEW in cell.outputs[0].data, "the given one stays unchanged"
    assert notebooks.cleaned(kept) == notebooks.cleaned(notebook)


# ---- mirage-nb notebooks


@pytest.fixture
def small(tmp_path: Path, monkeypatch) -> Path:
    """A folder with one quick notebook, and an empty folder of values."""
    source = "from mirage_nb.viz.notebook import record\nrecord('size', 2.0 if fast else 9.0, 'dB')"
    cells = [new_code_cell("fast = False", metadata={"tags": ["parameters"]}), new_code_cell(source)]
    path = tmp_path / "notebooks" / "07_small.ipynb"
    path.parent.mkdir()
    nbformat.write(new_notebook(cells=cells), path)
    monkeypatch.setattr(notebooks, "NOTEBOOKS", path.parent)
    monkeypatch.setattr(notebooks, "REGRESSION", tmp_path / "regression")
    return path


def test_run_refreshes_a_notebook_and_its_values(small: Path) -> None:
    done = CliRunner().invoke(app, ["notebooks", "run", "--only", "07"])
    assert done.exit_code == 0 and "size: new" in done.output
    assert notebooks.recorded(read(small))["size"]["value"] == 9.0 and "papermill" not in small.read_text()
    file = json.loads((notebooks.REGRESSION / "07_small.json").read_text())
    assert file["values"]["size"]["value"] == 2.0 and file["parameters"] == {"fast": True}
    assert list(small.parent.iterdir()) == [small]


def test_a_kernel_of_another_environment_is_not_used(small: Path, tmp_path: Path, monkeypatch) -> None:
    """As JupyterHub sets it: a python3 kernel that comes first in JUPYTER_PATH, and can't run."""
    (tmp_path / "foreign" / "kernels" / "python3").mkdir(parents=True)
    spec = {"argv": ["/nowhere/python3", "{connection_file}"], "display_name": "Python 3", "language": "python"}
    (tmp_path / "foreign" / "kernels" / "python3" / "kernel.json").write_text(json.dumps(spec))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "foreign"))
    notebooks.execute(read(small), {}, small)


def test_a_failing_notebook_stays_as_it_was(small: Path) -> None:
    notebook = read(small)
    notebook.cells[1].source += "\nraise KeyError('lost')"
    nbformat.write(notebook, small)
    before = small.read_text()
    done = CliRunner().invoke(app, ["notebooks", "run"])
    assert done.exit_code == 2 and "07_small.ipynb, cell 1: KeyError" in done.output and small.read_text() == before


def test_a_notebook_that_is_not_there_is_told_in_one_line(small: Path) -> None:
    done = CliRunner().invoke(app, ["notebooks", "run", "--only", "99"])
    assert done.exit_code == 2 and "no notebook whose name begins with '99'" in done.output
