"""Every notebook runs from top to bottom, measures what it measured before, and its exercises can be solved."""

from __future__ import annotations

import json
import os
import re
import time
from dataclasses import dataclass
from pathlib import Path

import nbformat
import pytest
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from rich.console import Console
from typer.testing import CliRunner

from mirage_nb import notebook_runs as runs
from mirage_nb.cli.notebooks import app
from mirage_nb.viz.notebook import CHECK, RECORD

ROOT = runs.ROOT
QUICKSTART = ROOT / "notebooks" / "00_quickstart.ipynb"
PATHS = sorted(ROOT.glob("notebooks/*.ipynb"))
every_notebook = pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)


def read(path: Path) -> NotebookNode:
    return nbformat.read(path, as_version=4)


@dataclass
class Runs:
    """Each notebook is run twice at most: as it is, from its folder, and solved, from the project's root."""

    folder: Path
    done: dict

    def __call__(self, path: Path, solved: bool = False) -> NotebookNode:
        key = path.stem, solved
        if key not in self.done:
            notebook = read(path)
            parameters = dict(runs.known_values(path.stem)["parameters"])
            if re.search(r"^output_dir\b", runs.tagged(notebook, "parameters")[0].source, re.M):
                parameters["output_dir"] = str(self.folder / f"{path.stem}_{solved}")
            notebook = runs.solve(notebook) if solved else notebook
            begin = time.monotonic()
            cwd = ROOT if solved else path.parent
            self.done[key] = runs.execute(notebook, parameters, cwd=cwd, seconds=300)
            print(f"{path.stem}{', solved' * solved}: {time.monotonic() - begin:.0f} s")
        return self.done[key]


@pytest.fixture(scope="session")
def run(tmp_path_factory) -> Runs:
    return Runs(tmp_path_factory.mktemp("notebooks"), {})


# ---- The notebooks as they run


@every_notebook
def test_a_notebook_runs_and_shows_everything_without_a_kernel(path: Path, run: Runs) -> None:
    outputs = runs.outputs(run(path))
    assert not [o.text for o in outputs if o.output_type == "stream" and o.name == "stderr"]
    assert any("image/png" in o.get("data", {}) for o in outputs)
    bare = [
        o.data.get("text/plain") for o in outputs if runs.WIDGET_VIEW in o.get("data", {}) and "image/png" not in o.data
    ]
    assert bare == [], "widgets without a picture beside them"


@every_notebook
def test_a_notebook_measures_what_it_measured(path: Path, run: Runs) -> None:
    rows = runs.compare(runs.known_values(path.stem), runs.recorded(run(path)))
    assert [row for row in rows if row.unit not in runs.TIMES], "a notebook records its headline values"
    console = Console(width=120)
    with console.capture() as shown:
        console.print(runs.table(path.stem, rows))
    moved = [row.name for row in rows if not row.holds]
    if moved:
        fix = f"if that is meant: mirage-nb notebooks run --only {path.stem[:2]} --fast --update"
        pytest.fail(f"{', '.join(moved)}\n{shown.get()}{fix}", pytrace=False)


@every_notebook
def test_an_unsolved_exercise_is_told_so(path: Path, run: Runs) -> None:
    verdicts = runs.checks(run(path))
    assert len(verdicts) >= 1 and [name for name, passed in verdicts if passed] == []


@every_notebook
def test_the_solutions_are_right(path: Path, run: Runs) -> None:
    done = run(path, solved=True)
    wrong = [o.data["text/plain"] for o in runs.outputs(done, CHECK) if not o.data[CHECK]["passed"]]
    assert wrong == []
    assert [name for name, _ in runs.checks(done)] == [name for name, _ in runs.checks(run(path))]


def test_the_quickstart_shows_pictures_and_writes_its_video(run: Runs) -> None:
    kinds = [kind for output in runs.outputs(run(QUICKSTART)) for kind in output.get("data", {})]
    assert kinds.count("image/png") >= 4 and "application/vnd.plotly.v1+json" in kinds
    assert (run.folder / "00_quickstart_False" / "there_and_back.mp4").stat().st_size > 1000


# ---- The notebooks as they are saved


@every_notebook
def test_saved_notebooks_are_small_and_tell_nothing_of_the_machine(path: Path) -> None:
    text = path.read_text()
    notebook = nbformat.reads(text, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert len(text) < 2_000_000
    assert not [output for output in runs.outputs(notebook) if output.output_type == "error"]
    assert str(ROOT) not in text and str(Path.home()) + os.sep not in text
    assert runs.WIDGET_VIEW not in text and "papermill" not in notebook.metadata and "widgets" not in notebook.metadata
    assert all(set(cell.metadata) <= {"tags"} for cell in notebook.cells)
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1)), "run from top to bottom"
    shown = runs.recorded(notebook)
    assert list(shown) == list(runs.known_values(path.stem)["values"]), "the saved notebook records the known values"


@every_notebook
def test_a_notebook_has_the_form_of_all(path: Path) -> None:
    notebook = read(path)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert len(code) <= 25 and notebook.cells[0].source.startswith(f"# {path.stem[:2]} · ")
    (parameters,) = runs.tagged(notebook, "parameters")
    assert all(re.search(rf"^{name} = {value}\b", parameters.source, re.M) for name, value in
               (("model", "None"), ("seed", "0"), ("fast", "False")))  # fmt: skip
    form = [tag for cell in notebook.cells for tag in cell.metadata.tags if tag in ("exercise", "check", "solution")]
    assert form == ["exercise", "check", "solution"] * (len(form) // 3) and form
    assert all(
        cell.source.startswith("<details><summary>Solution</summary>\n\n") for cell in runs.tagged(notebook, "solution")
    )
    prose = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown").lower()
    assert all(words in prose for words in ("predict first", "what was measured", "where to go next"))


def test_the_quickstart_has_under_ten_code_cells() -> None:
    assert sum(cell.cell_type == "code" for cell in read(QUICKSTART).cells) < 10


def test_every_file_of_known_values_has_its_notebook() -> None:
    assert {path.stem for path in runs.REGRESSION.glob("*.json")} == {path.stem for path in PATHS}


# ---- What runs, compares and cleans them


def value(name: str, number: float, unit: str = "dB") -> NotebookNode:
    return new_output("display_data", {RECORD: {"name": name, "value": number, "unit": unit}, "text/plain": name})


def known(**values: dict) -> dict:
    return {"parameters": {"fast": True}, "values": values}


def verdicts(file: dict, **found: tuple[float, str]) -> dict[str, str]:
    values = {name: {"value": number, "unit": unit} for name, (number, unit) in found.items()}
    return {row.name: row.verdict for row in runs.compare(file, values)}


@pytest.mark.parametrize(
    ("number", "verdict"), [(30.2, "as before"), (29.8, "as before"), (30.21, "moved"), (29.79, "moved")]
)
def test_a_value_moves_when_it_leaves_its_tolerance(number: float, verdict: str) -> None:
    file = known(a={"value": 30.0, "unit": "dB", "absolute": 0.2000001, "relative": 0.0})
    assert verdicts(file, a=(number, "dB")) == {"a": verdict}


def test_tolerances_add_up_and_negative_values_have_them_too() -> None:
    file = known(a={"value": -100.0, "unit": "", "absolute": 1.0, "relative": 0.02})
    assert verdicts(file, a=(-102.9, ""))["a"] == "as before" and verdicts(file, a=(-103.1, ""))["a"] == "moved"


def test_times_are_never_compared_and_new_and_gone_values_are_told() -> None:
    file = known(t={"value": 5.0, "unit": "ms"}, gone={"value": 1.0, "unit": "dB", "absolute": 1})
    rows = runs.compare(file, {"t": {"value": 500.0, "unit": "ms"}, "new": {"value": 1.0, "unit": "dB"}})
    assert {row.name: (row.verdict, row.holds) for row in rows} == {
        "t": ("a time", True), "gone": ("gone", False), "new": ("new", False),
    }  # fmt: skip
    assert verdicts(known(a={"value": 5.0, "unit": "dB"}), a=(5.1, "dB")) == {"a": "moved"}  # exact, if it says nothing


def test_an_update_keeps_tolerances_and_gives_new_values_theirs() -> None:
    old = known(a={"value": 1.0, "unit": "dB", "absolute": 3.0}, gone={"value": 1.0, "unit": ""})
    found = {
        name: {"value": 2 / 3, "unit": unit} for name, unit in {"a": "dB", "b": "dB", "c": "tokens", "t": "s"}.items()
    }
    values = runs.updated(old, found)["values"]
    assert values["a"] == {"value": 0.666667, "unit": "dB", "absolute": 3.0}
    assert values["b"]["absolute"] > 0 and values["c"]["relative"] > 0
    assert values["t"] == {"value": 0.666667, "unit": "s"} and "gone" not in values
    assert all(row.holds for row in runs.compare(known(**values), found))


def test_two_values_of_one_name_are_an_error() -> None:
    notebook = new_notebook(cells=[new_code_cell(outputs=[value("a", 1.0), value("a", 2.0)])])
    with pytest.raises(ValueError, match="recorded twice: a"):
        runs.recorded(notebook)


@pytest.mark.parametrize("text", ["[]", "{", '{"parameters": {}, "values": {"a": {"value": NaN, "unit": ""}}}',
                                  '{"parameters": {}, "values": {"a": {"value": 1}}}'])  # fmt: skip
def test_a_broken_file_of_values_is_told_by_name(text: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(runs, "REGRESSION", tmp_path)
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(ValueError, match=r"a\.json: expected"):
        runs.known_values("a")


def test_a_solution_takes_the_place_of_its_exercise() -> None:
    def cell(source: str, tag: str, make=new_code_cell) -> NotebookNode:
        return make(source, metadata={"tags": [tag]})

    words = "<details>\n\n```python\na = 2\n\nb = 3\n```\n\nbecause\n\n```python\nnot = this\n```\n</details>"
    notebook = new_notebook(cells=[cell("a = None", "exercise"), cell(words, "solution", new_markdown_cell)])
    assert runs.solve(notebook).cells[0].source == "a = 2\n\nb = 3"
    assert notebook.cells[0].source == "a = None"
    notebook.cells[1].source = "no code"
    with pytest.raises(ValueError, match="no ```python block"):
        runs.solve(notebook)
    with pytest.raises(ValueError, match="1 and 0"):
        runs.solve(new_notebook(cells=notebook.cells[:1]))


def test_a_cleaned_notebook_keeps_its_pictures_and_forgets_the_machine() -> None:
    data = {runs.WIDGET_VIEW: {"model_id": "1"}, "image/png": "AAAA", "image/jpeg": "BBBB", "text/plain": "Live()"}
    printed = new_output("stream", name="stdout", text=f"see {ROOT / 'build' / 'a'} and {Path.home() / 'b'}\n")
    cell = new_code_cell(metadata={"papermill": {"duration": 1}, "execution": {}, "tags": ["check"]})
    cell.outputs = [new_output("display_data", data), printed]
    notebook = new_notebook(
        cells=[cell], metadata={"papermill": {}, "widgets": {}, "language_info": {"name": "python", "version": "3"}}
    )
    kept = runs.cleaned(notebook)
    shown = kept.cells[0].outputs[0]
    assert shown.data == {"image/png": "AAAA", "text/plain": "Live()"} and shown.metadata == {"live": True}
    assert kept.cells[0].outputs[1].text == f"see {Path('build/a')} and {Path('~/b')}\n"
    assert set(kept.metadata) == {"kernelspec", "language_info"} and "version" not in kept.metadata.language_info
    assert dict(kept.cells[0].metadata) == {"tags": ["check"]}
    assert runs.WIDGET_VIEW in cell.outputs[0].data  # the given one is left as it was
    assert runs.cleaned(kept) == kept


# ---- mirage-nb notebooks


@pytest.fixture
def small(tmp_path: Path, monkeypatch) -> Path:
    """A folder with one notebook that takes no time, and none of the project's values."""
    source = "x = 2.0 if fast else 9.0\nrecord('size', x, 'dB')\nprint(here)"
    cells = [
        new_code_cell("fast = False", metadata={"tags": ["parameters"]}),
        new_code_cell(f"from mirage_nb.viz.notebook import record\nhere = {str(ROOT)!r} + '/a'\n{source}"),
    ]
    (tmp_path / "notebooks").mkdir()
    path = tmp_path / "notebooks" / "07_small.ipynb"
    nbformat.write(new_notebook(cells=cells), path)
    monkeypatch.setattr(runs, "NOTEBOOKS", path.parent)
    monkeypatch.setattr(runs, "REGRESSION", tmp_path / "regression")
    return path


def test_run_refreshes_and_update_asks(small: Path) -> None:
    def call(*arguments: str, answer: str = ""):
        return CliRunner().invoke(app, ["run", *arguments], input=answer)

    values = small.parents[1] / "regression" / "07_small.json"
    before = small.read_text()
    assert call("--fast").exit_code == 1 and small.read_text() == before  # its value is new
    asked = call("--fast", "--update", answer="n\n")
    assert asked.exit_code == 1 and "size" in asked.output and not values.exists()
    assert call("--fast", "--update", "--yes").exit_code == 0
    assert json.loads(values.read_text())["values"]["size"]["value"] == 2.0 and small.read_text() == before
    assert call("--only", "07").exit_code == 0
    done = read(small)
    assert runs.recorded(done)["size"]["value"] == 9.0 and "papermill" not in small.read_text()
    assert [o.text for o in runs.outputs(done) if o.output_type == "stream"] == ["a\n"]
    assert list(small.parent.iterdir()) == [small]


def test_a_failing_notebook_stays_as_it_was(small: Path) -> None:
    notebook = read(small)
    notebook.cells[1].source += "\nraise KeyError('lost')"
    nbformat.write(notebook, small)
    before = small.read_text()
    done = CliRunner().invoke(app, ["run"])
    assert done.exit_code == 1 and "KeyError" in done.output and small.read_text() == before


def test_a_notebook_that_is_not_there_is_told_in_one_line(small: Path) -> None:
    done = CliRunner().invoke(app, ["run", "--only", "99"])
    assert done.exit_code == 2 and "no notebook whose name begins with '99'" in done.output
