"""`mirage-nb notebooks`: execute the project's notebooks, and keep what they show and measure.

A notebook has one cell tagged `parameters`, exercises of three cells tagged `exercise`, `check` and `solution`, and
values shown by `record`. `data/regression/NOTEBOOK.json` keeps the values of a fast run:

    {"parameters": {"fast": true},
     "values": {"closed loop": {"value": 31.2, "unit": "dB", "absolute": 0.2, "relative": 0.0}}}

A value may move by `absolute + relative * |value|`. Times (ms, s) depend on the machine and are not compared.
"""

from __future__ import annotations

import copy
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mirage_nb.cli.console import one_line

if TYPE_CHECKING:
    from nbformat import NotebookNode

app = typer.Typer(no_args_is_help=True, help="Execute the notebooks and keep what they show and measure.")
ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = ROOT / "notebooks"
REGRESSION = ROOT / "data" / "regression"
TIMES = ("ms", "s")
# The tolerance of a new value: what another processor or version of torch may change.
TOLERANCE = {"dB": {"absolute": 0.5, "relative": 0.0}}
OTHER_TOLERANCE = {"absolute": 1e-4, "relative": 0.02}
WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"


@app.command()
def run(only: Annotated[str | None, typer.Option(help="Only the notebook whose name begins so, as 03.")] = None):
    """Execute the notebooks, refresh them in place, and refresh the values of their fast runs in data/regression."""
    with one_line():
        import nbformat

        for path in find_notebooks(only):
            notebook, known = nbformat.read(path, as_version=4), known_values(path.stem)
            done, fast = _executed(path, notebook, {}), _executed(path, notebook, known["parameters"])
            values = updated(known["values"], recorded(fast))
            for line in moved(known["values"], values):
                typer.echo(f"  {line}")
            write(path, nbformat.writes(cleaned(done)))
            write(REGRESSION / f"{path.stem}.json", json.dumps(known | {"values": values}, indent=2))


def _executed(path: Path, notebook: NotebookNode, parameters: Mapping) -> NotebookNode:
    from papermill import PapermillExecutionError

    try:
        return execute(notebook, parameters, path.parent, f"{path.stem} {json.dumps(parameters)}", 1800)
    except PapermillExecutionError as error:
        typer.echo("\n".join(error.traceback[-3:]), err=True)
        raise ValueError(f"{path.name}, cell {error.cell_index}: {error.ename}: {error.evalue}") from None


def write(path: Path, text: str) -> None:
    """Write a text file whole, or not at all."""
    from mirage_nb.memory.io import write_aside

    path.parent.mkdir(parents=True, exist_ok=True)
    write_aside(path, (text + "\n").encode())


def find_notebooks(only: str | None = None) -> list[Path]:
    """The notebooks in reading order; with `only`, those whose name begins with it.

    Raises:
        FileNotFoundError: there is none.
    """
    found = sorted(NOTEBOOKS.glob(f"{only or ''}*.ipynb"))
    if not found:
        raise FileNotFoundError(f"{NOTEBOOKS}: no notebook" + (f" whose name begins with {only!r}" if only else ""))
    return found


def tagged(notebook: NotebookNode, tag: str) -> list[NotebookNode]:
    """The cells with a tag, in order."""
    return [cell for cell in notebook.cells if tag in cell.metadata.get("tags", [])]


def solve(notebook: NotebookNode) -> NotebookNode:
    """A copy in which every exercise's cell is the first python block of its solution."""
    notebook = copy.deepcopy(notebook)
    for exercise, solution in zip(tagged(notebook, "exercise"), tagged(notebook, "solution"), strict=True):
        exercise.source = re.search(r"^```python\n(.*?)\n```", solution.source, re.M | re.S)[1]
    return notebook


def execute(
    notebook: NotebookNode, parameters: Mapping, cwd: Path, progress: str | None = None, seconds: int = 600
) -> NotebookNode:
    """Execute a notebook by papermill in the kernel of this Python, offline; returns it with its outputs.

    It runs on one thread, because the order of sums, and so some tokens, depends on the number of threads.

    Args:
        notebook: as `nbformat.read` gives it.
        parameters: put behind the cell tagged `parameters`.
        cwd: the working folder.
        progress: the label of a bar that counts the cells; None shows no bar.
        seconds: the limit for one cell.

    Raises:
        papermill.PapermillExecutionError: a cell failed.
    """
    import papermill

    os.environ.setdefault("JUPYTER_PREFER_ENV_PATH", "1")  # not a kernel that the user has installed elsewhere
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ["OMP_NUM_THREADS"] = "1"
    return papermill.execute_notebook(
        copy.deepcopy(notebook), None, dict(parameters), kernel_name="python3", language="python", cwd=cwd,
        execution_timeout=seconds, progress_bar={"desc": progress, "unit": "cell"} if progress else False,
    )  # fmt: skip


def outputs(notebook: NotebookNode, kind: str | None = None) -> list[NotebookNode]:
    """All outputs of the code cells, or those that carry the MIME type `kind`."""
    found = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    return [output for output in found if kind is None or kind in output.get("data", {})]


def recorded(notebook: NotebookNode) -> dict[str, dict]:
    """The recorded values: name -> {"value", "unit"}.

    Raises:
        ValueError: two values have one name.
    """
    from mirage_nb.viz.notebook import RECORD

    values = {}
    for output in outputs(notebook, RECORD):
        name, value, unit = (output.data[RECORD][key] for key in ("name", "value", "unit"))
        if name in values:
            raise ValueError(f"recorded twice: {name}")
        values[name] = {"value": value, "unit": unit}
    return values


def verdicts(notebook: NotebookNode) -> list[tuple[str, bool]]:
    """Name and verdict of each exercise's check, in order."""
    from mirage_nb.viz.notebook import CHECK

    return [(output.data[CHECK]["name"], output.data[CHECK]["passed"]) for output in outputs(notebook, CHECK)]


def known_values(name: str) -> dict:
    """The content of `data/regression/NAME.json`; without values if there is no such file."""
    path = REGRESSION / f"{name}.json"
    return json.loads(path.read_text()) if path.exists() else {"parameters": {"fast": True}, "values": {}}


def moved(known: Mapping[str, dict], found: Mapping[str, dict]) -> list[str]:
    """One line for each value that is new, gone, or differs by more than its tolerance."""
    lines = []
    for name in known | found:
        was, now = known.get(name), found.get(name)
        if was is None or now is None:
            lines.append(f"{name}: " + ("new" if was is None else "gone"))
        elif now["unit"] not in TIMES:
            allowed = was.get("absolute", 0.0) + was.get("relative", 0.0) * abs(was["value"])
            if abs(now["value"] - was["value"]) > allowed:
                lines.append(f"{name}: {was['value']:.6g} -> {now['value']:.6g} {now['unit']} (allowed: {allowed:.2g})")
    return lines


def updated(known: Mapping[str, dict], found: Mapping[str, dict]) -> dict[str, dict]:
    """The found values with the tolerances of the known ones; a new value gets one by its unit, a time none."""
    values = {}
    for name, value in found.items():
        unit, old = value["unit"], known.get(name, {})
        tolerance = {key: old[key] for key in ("absolute", "relative") if key in old}
        tolerance = {} if unit in TIMES else tolerance or TOLERANCE.get(unit, OTHER_TOLERANCE)
        values[name] = {"value": float(f"{value['value']:.6g}"), "unit": unit} | tolerance
    return values


def cleaned(notebook: NotebookNode) -> NotebookNode:
    """A copy to commit: without times, folders of this machine, and widgets, whose pictures stay."""
    notebook = copy.deepcopy(notebook)
    language = {key: value for key, value in notebook.metadata.get("language_info", {}).items() if key != "version"}
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    notebook.metadata = type(notebook)(kernelspec=kernel, language_info=language)
    for cell in notebook.cells:
        cell.metadata = type(notebook)(tags=cell.metadata.get("tags", []))
        for output in cell.get("outputs", []):
            output.pop("transient", None)
            data = output.get("data", {})
            data.pop(WIDGET_VIEW, None)
            if "image/png" in data:
                data.pop("image/jpeg", None)  # PIL gives both
            if "text" in output:
                output.text = _without_folders(output.text)
            for kind in data:
                data[kind] = _without_folders(data[kind])
    return notebook


def _without_folders(content):
    """Text, or JSON with texts in it, without the folders of this machine."""
    if isinstance(content, str):
        content = content.replace(f"{ROOT}{os.sep}", "").replace(str(ROOT), ".")
        return content.replace(str(Path.home()) + os.sep, "~/")
    if isinstance(content, Mapping):
        return type(content)({key: _without_folders(value) for key, value in content.items()})
    return [_without_folders(value) for value in content] if isinstance(content, list) else content
