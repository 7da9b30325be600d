"""Runs the project's notebooks: in this environment's kernel, with what they record compared with known values.

A notebook has one cell tagged `parameters`, exercises of three cells tagged `exercise`, `check` and `solution`, and
values kept by `record`. Known values are in `data/regression/NOTEBOOK.json`, of a run with the parameters stated there:

    {"parameters": {"fast": true},
     "values": {"closed loop": {"value": 31.2, "unit": "dB", "absolute": 0.2, "relative": 0.0}}}

A value may differ by `absolute + relative * |value|`. Those in ms or s depend on the machine: they are kept, never
compared.
"""

from __future__ import annotations

import copy
import json
import math
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import nbformat
from nbformat import NotebookNode

from mirage_nb.memory.io import write_aside
from mirage_nb.viz.notebook import CHECK, RECORD

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = ROOT / "notebooks"
REGRESSION = ROOT / "data" / "regression"
FAST = {"fast": True}
TIMES = ("ms", "s")
# For values that are new: what another processor or version of torch may change. The file's own are kept afterwards.
TOLERANCE = {"dB": {"absolute": 0.5, "relative": 0.0}}
OTHERWISE = {"absolute": 1e-4, "relative": 0.02}
WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"
SOLUTION = re.compile(r"^```python\n(.*?)^```", re.M | re.S)


# ---- Running


def find_notebooks(only: str | None = None) -> list[Path]:
    """The notebooks in reading order; with `only`, the one whose name begins with it.

    Raises:
        FileNotFoundError: there is none.
    """
    found = sorted(path for path in NOTEBOOKS.glob("*.ipynb") if path.name.startswith(only or ""))
    if not found:
        raise FileNotFoundError(f"{NOTEBOOKS}: no notebook" + (f" whose name begins with {only!r}" if only else ""))
    return found


def tagged(notebook: NotebookNode, tag: str) -> list[NotebookNode]:
    """The cells with a tag, in order."""
    return [cell for cell in notebook.cells if tag in cell.metadata.get("tags", [])]


def solve(notebook: NotebookNode) -> NotebookNode:
    """A copy in which every exercise's cell is the python block of its solution.

    Raises:
        ValueError: an exercise has no solution, or a solution no python block.
    """
    notebook = copy.deepcopy(notebook)
    exercises, solutions = tagged(notebook, "exercise"), tagged(notebook, "solution")
    if len(exercises) != len(solutions):
        raise ValueError(f"expected one solution an exercise, got {len(exercises)} and {len(solutions)}")
    for exercise, solution in zip(exercises, solutions):
        block = SOLUTION.search(solution.source)
        if not block:
            raise ValueError(f"cell {solution.id}: the solution has no ```python block")
        exercise.source = block[1].rstrip()
    return notebook


def execute(
    notebook: NotebookNode, parameters: Mapping, cwd: Path = ROOT, progress: str | None = None, seconds: int = 600
) -> NotebookNode:
    """Run a notebook by papermill in the kernel of this Python, offline; returns it with its outputs.

    On one thread: with another number of them sums round differently, another token wins a cell, and the values move
    (two threads moved closed loops of one room by 0.15 dB). Another processor may do the same, hence the tolerances.

    Args:
        notebook: as `nbformat.read` gives it. parameters: put behind the cell tagged `parameters`; may be empty.
        cwd: where it runs; from the project's root and from notebooks/ it finds the package.
        progress: what to call it in a bar that counts its cells; None shows no bar.
        seconds: the most that one cell may take.

    Raises:
        papermill.PapermillExecutionError: a cell failed.
    """
    import papermill

    os.environ.setdefault("JUPYTER_PREFER_ENV_PATH", "1")  # not a kernel that the user has installed elsewhere
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ["OMP_NUM_THREADS"] = os.environ["MIRAGE_HEADLESS"] = "1"
    return papermill.execute_notebook(
        copy.deepcopy(notebook), None, dict(parameters), kernel_name="python3", language="python", cwd=cwd,
        execution_timeout=seconds, progress_bar={"desc": progress, "unit": "cell"} if progress else False,
    )  # fmt: skip


def outputs(notebook: NotebookNode, kind: str | None = None) -> list[NotebookNode]:
    """All outputs of the code cells, or those that carry the MIME type `kind`."""
    all_of_them = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    return [output for output in all_of_them if kind is None or kind in output.get("data", {})]


def recorded(notebook: NotebookNode) -> dict[str, dict]:
    """What it recorded: name -> {"value", "unit"}.

    Raises:
        ValueError: two values have one name.
    """
    found = [output.data[RECORD] for output in outputs(notebook, RECORD)]
    names = [value["name"] for value in found]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"recorded twice: {', '.join(twice)}")
    return {value["name"]: {"value": value["value"], "unit": value["unit"]} for value in found}


def checks(notebook: NotebookNode) -> list[tuple[str, bool]]:
    """The verdicts of its exercises, in order."""
    return [(output.data[CHECK]["name"], output.data[CHECK]["passed"]) for output in outputs(notebook, CHECK)]


# ---- Comparing


class Row(NamedTuple):
    """One value as it was and as it is. None where it is new, or gone."""

    name: str
    unit: str
    was: float | None
    now: float | None
    allowed: float

    @property
    def verdict(self) -> str:
        if self.was is None or self.now is None:
            return "new" if self.was is None else "gone"
        if self.unit in TIMES:
            return "a time"
        return "as before" if abs(self.now - self.was) <= self.allowed else "moved"

    @property
    def holds(self) -> bool:
        return self.verdict in ("as before", "a time")


def known_values(name: str) -> dict:
    """The content of `data/regression/NAME.json`; without values where there is no such file.

    Raises:
        ValueError: the file is not as described at the top of this module.
    """
    path = REGRESSION / f"{name}.json"
    if not path.exists():
        return {"parameters": FAST, "values": {}}
    try:
        known = json.loads(path.read_text())
        entries = list(known["values"].values())
        numbers = [entry[key] for entry in entries for key in ("value", "absolute", "relative") if key in entry]
        if not isinstance(known["parameters"], dict) or not all(isinstance(entry["unit"], str) for entry in entries):
            raise TypeError("parameters, or a unit")
        if not all(isinstance(number, (int, float)) and math.isfinite(number) for number in numbers):
            raise TypeError("a number")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}: expected parameters and values with value and unit each ({error})") from None
    return known


def compare(known: dict, found: Mapping[str, dict]) -> list[Row]:
    """Values of a run beside the known ones: those of the file in its order, then what is new."""
    values, rows = known["values"], []
    for name in [*values, *(name for name in found if name not in values)]:
        was, now = values.get(name), found.get(name)
        allowed = was.get("absolute", 0.0) + was.get("relative", 0.0) * abs(was["value"]) if was else 0.0
        unit = (now or was)["unit"]
        rows.append(Row(name, unit, was and was["value"], now and now["value"], allowed))
    return rows


def updated(known: dict, found: Mapping[str, dict]) -> dict:
    """The known values refreshed. Tolerances stay; what is new gets one by its unit, a time none."""
    values = {}
    for name, value in found.items():
        old = known["values"].get(name, {})
        tolerance = {} if value["unit"] in TIMES else TOLERANCE.get(value["unit"], OTHERWISE)
        kept = {key: old[key] for key in ("absolute", "relative") if key in old and value["unit"] not in TIMES}
        values[name] = {"value": float(f"{value['value']:.6g}"), "unit": value["unit"]} | (kept or tolerance)
    return {"parameters": known["parameters"], "values": values}


def save_values(name: str, known: dict) -> None:
    """Write `data/regression/NAME.json`."""
    REGRESSION.mkdir(parents=True, exist_ok=True)
    write_aside(REGRESSION / f"{name}.json", (json.dumps(known, indent=2, ensure_ascii=False) + "\n").encode())


def table(name: str, rows: list[Row]):
    """What was compared, as a rich table."""
    from rich.table import Table

    def number(value: float | None) -> str:
        return "–" if value is None else f"{value:,.5g}"

    made = Table("value", "unit", title=name, title_justify="left")
    for column in ("was", "is", "differs by", "may by"):
        made.add_column(column, justify="right")
    made.add_column("")
    for row in rows:
        both = row.was is not None and row.now is not None
        made.add_row(
            row.name, row.unit, number(row.was), number(row.now), f"{row.now - row.was:+.3g}" if both else "–",
            f"{row.allowed:.2g}" if both and row.unit not in TIMES else "–", row.verdict,
            style=None if row.holds else "bold red",
        )  # fmt: skip
    return made


# ---- Keeping


def cleaned(notebook: NotebookNode) -> NotebookNode:
    """A copy to be committed: it shows its pictures where there is no kernel, and tells nothing of this machine.

    Left out are the times of execution, papermill's notes, and the state of live widgets. Where a widget's view has a
    picture beside it, the picture stays: a page without that widget's state would show neither.
    """
    notebook = copy.deepcopy(notebook)
    language = notebook.metadata.get("language_info", {})
    notebook.metadata = NotebookNode(
        kernelspec={"display_name": "Python 3", "language": "python", "name": "python3"},
        language_info={key: value for key, value in language.items() if key != "version"},
    )
    for cell in notebook.cells:
        cell.metadata = NotebookNode(tags=list(cell.metadata.get("tags", [])))
        for output in cell.get("outputs", []):
            output.pop("transient", None)
            data = output.get("data", {})
            if data.pop(WIDGET_VIEW, None):
                output.metadata = NotebookNode(live=True)  # for the book
            if "image/png" in data:
                data.pop("image/jpeg", None)  # PIL gives both
            for kind in data:
                data[kind] = nameless(data[kind])
            if "text" in output:
                output.text = nameless(output.text)
    return notebook


def nameless(content):
    """Text, or JSON with texts in it, without the folders of this machine."""
    if isinstance(content, str):
        content = content.replace(f"{ROOT}{os.sep}", "").replace(str(ROOT), ".")
        return content.replace(str(Path.home()) + os.sep, "~/")
    if isinstance(content, Mapping):
        return type(content)({key: nameless(value) for key, value in content.items()})
    return [nameless(value) for value in content] if isinstance(content, list) else content


def save_notebook(path: Path, notebook: NotebookNode) -> None:
    """Write a notebook whole, or not at all."""
    nbformat.validate(notebook)
    write_aside(path, (nbformat.writes(notebook) + "\n").encode())
