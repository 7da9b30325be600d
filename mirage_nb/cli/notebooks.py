"""`mirage-nb notebooks`: execute the project's notebooks. data/regression keeps the values of fast runs (`record`):

    {"parameters": {"fast": true},
     "values": {"closed loop": {"value": 31.2, "unit": "dB", "absolute": 0.2, "relative": 0.0}}}

A value may move by `absolute + relative * |value|`. Times (ms, s) depend on the machine and are not compared.
"""

from __future__ import annotations

import copy
import json
import os
from pathlib import Path
from typing import Annotated

import typer

from mirage_nb.cli.console import write_json

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
    paths = find_notebooks(only)
    import nbformat

    from mirage_nb.files import write_aside

    for path in paths:
        notebook, known = nbformat.read(path, as_version=4), known_values(path.stem)
        done, fast = execute(notebook, {}, path), execute(notebook, known["parameters"], path)
        values = updated(known["values"], recorded(fast))
        for line in moved(known["values"], values):
            typer.echo(f"  {line}")
        REGRESSION.mkdir(parents=True, exist_ok=True)
        write_aside(path, f"{cleaned(done)}\n".encode())
        write_json(REGRESSION / f"{path.stem}.json", known | {"values": values})


def find_notebooks(only: str | None = None) -> list[Path]:
    """The notebooks in reading order, those whose name begins with `only`. FileNotFoundError if there is none."""
    found = sorted(NOTEBOOKS.glob(f"{only or ''}*.ipynb"))
    if not found:
        raise FileNotFoundError(f"{NOTEBOOKS}: no notebook whose name begins with {only or ''!r}")
    return found


def execute(notebook, parameters: dict, path: Path, seconds: int = 1800):
    """Execute a notebook by papermill in the kernel of this Python, offline; returns it with its outputs.

    It runs in the folder of `path`, at most `seconds` a cell, with `parameters` put behind the cell of this tag, and on
    one thread: the order of sums, and so some tokens, depends on the number of threads. ValueError if a cell fails.
    """
    import papermill

    os.environ["JUPYTER_PREFER_ENV_PATH"] = "1"  # not a kernel that the user has installed elsewhere
    os.environ.pop("JUPYTER_PATH", None)  # nor one of another environment, as JupyterHub sets it
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ["OMP_NUM_THREADS"] = "1"
    try:
        return papermill.execute_notebook(
            copy.deepcopy(notebook), None, parameters, kernel_name="python3", language="python", cwd=path.parent,
            execution_timeout=seconds, progress_bar={"desc": f"{path.stem} {parameters}", "unit": "cell"},
        )  # fmt: skip
    except papermill.PapermillExecutionError as error:
        typer.echo("\n".join(error.traceback[-3:]), err=True)
        raise ValueError(f"{path.name}, cell {error.cell_index}: {error.ename}: {error.evalue}") from None


def outputs(notebook, kind: str | None = None) -> list:
    """All outputs of the code cells, or those that carry the MIME type `kind`."""
    found = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    return [output for output in found if kind is None or kind in output.get("data", {})]


def recorded(notebook) -> dict[str, dict]:
    """The recorded values: name -> {"value", "unit"}. ValueError if two have one name."""
    from mirage_nb.viz.notebook import RECORD

    values = {}
    for data in (output.data[RECORD] for output in outputs(notebook, RECORD)):
        if data["name"] in values:
            raise ValueError(f"recorded twice: {data['name']}")
        values[data["name"]] = {"value": data["value"], "unit": data["unit"]}
    return values


def known_values(name: str) -> dict:
    """The content of `data/regression/NAME.json`; without values if there is no such file."""
    path = REGRESSION / f"{name}.json"
    return json.loads(path.read_text()) if path.exists() else {"parameters": {"fast": True}, "values": {}}


def moved(known: dict[str, dict], found: dict[str, dict]) -> list[str]:
    """One line for each value that is new, gone, or differs by more than its tolerance."""
    lines = [f"{name}: gone" for name in known if name not in found]
    for name, now in found.items():
        was = known.get(name)
        if was is None:
            lines.append(f"{name}: new")
        elif now["unit"] not in TIMES:
            allowed = was.get("absolute", 0.0) + was.get("relative", 0.0) * abs(was["value"])
            if abs(now["value"] - was["value"]) > allowed:
                lines.append(f"{name}: {was['value']:.6g} -> {now['value']:.6g} {now['unit']} (allowed: {allowed:.2g})")
    return lines


def updated(known: dict[str, dict], found: dict[str, dict]) -> dict[str, dict]:
    """The found values with the tolerances of the known ones; a new value gets one by its unit, a time none."""
    values = {}
    for name, value in found.items():
        unit = value["unit"]
        source = {} if unit in TIMES else known.get(name) or TOLERANCE.get(unit, OTHER_TOLERANCE)
        tolerance = {key: source[key] for key in ("absolute", "relative") if key in source}
        values[name] = {"value": float(f"{value['value']:.6g}"), "unit": unit} | tolerance
    return values


def cleaned(notebook) -> str:
    """The text of a notebook to commit: without times, folders of this machine, and widgets, whose pictures stay."""
    import nbformat

    notebook = copy.deepcopy(notebook)
    language = {key: value for key, value in notebook.metadata.get("language_info", {}).items() if key != "version"}
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    notebook.metadata = nbformat.from_dict({"kernelspec": kernel, "language_info": language})
    for cell in notebook.cells:
        cell.metadata = nbformat.from_dict({"tags": cell.metadata.get("tags", [])})
    for output in outputs(notebook):
        output.pop("transient", None)
        data = output.get("data", {})
        for kind in (WIDGET_VIEW, "image/jpeg" if "image/png" in data else ""):  # PIL gives both pictures
            data.pop(kind, None)
    text = nbformat.writes(notebook)
    for folder, short in ((f"{ROOT}{os.sep}", ""), (f"{ROOT}", "."), (f"{Path.home()}{os.sep}", "~/")):
        text = text.replace(json.dumps(folder)[1:-1], short)  # as JSON spells it
    return text
