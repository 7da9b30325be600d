"""`mirage-nb notebooks`: execute the project's notebooks. data/regression keeps the values of fast runs (`record`):

    {"parameters": {"fast": true},
     "values": {"closed loop": {"value": 31.2, "unit": "dB", "absolute": 0.2, "relative": 0.0}}}

A value may move by `absolute + relative * |value|`. Times (ms, s) depend on the machine and are not compared.
"""

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

    os.environ.pop("JUPYTER_PATH", None)  # a kernel of another environment, as JupyterHub sets it, or of the user's
    os.environ |= {"JUPYTER_PREFER_ENV_PATH": "1", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    try:
        return papermill.execute_notebook(
            copy.deepcopy(notebook), None, parameters, kernel_name="python3", language="python", cwd=path.parent,
            execution_timeout=seconds, progress_bar={"desc": f"{path.stem} {parameters}", "unit": "cell"},
        )  # fmt: skip
    except papermill.PapermillExecutionError as error:
        typer.echo("\n".join(error.traceback[-3:]), err=True)
        raise ValueError(f"{path.name}, cell {error.cell_index}: {error.ename}: {error.evalue}") from None


def outputs(notebook, kind: str = "") -> list:
    """All outputs of the code cells, or those that carry the MIME type `kind`."""
    found = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    return [output for output in found if not kind or kind in output.get("data", {})]


def recorded(notebook) -> dict[str, dict]:
    """The recorded values: name -> {"value", "unit"}. ValueError if two have one name."""
    from mirage_nb.viz.notebook import RECORD

    values = {}
    for data in (output.data[RECORD] for output in outputs(notebook, RECORD)):
        if data["name"] in values:
            raise ValueError(f"recorded twice: {data['name']}")
        values[data["name"]] = {key: data[key] for key in ("value", "unit")}
    return values


def known_values(name: str) -> dict:
    """The content of `data/regression/NAME.json`; without values if there is no such file."""
    path = REGRESSION / f"{name}.json"
    return json.loads(path.read_text()) if path.exists() else {"parameters": {"fast": True}, "values": {}}


def moved(known: dict[str, dict], found: dict[str, dict]) -> list[str]:
    """One line for each value that is new, gone, or differs by more than its tolerance."""
    lines = [f"{name}: gone" for name in known if name not in found]
    lines += [f"{name}: new" for name in found if name not in known]
    for name in [name for name in found if name in known and found[name]["unit"] not in TIMES]:
        was, now = known[name], found[name]
        allowed = was.get("absolute", 0.0) + was.get("relative", 0.0) * abs(was["value"])
        if abs(now["value"] - was["value"]) > allowed:
            lines.append(f"{name}: {was['value']:.6g} -> {now['value']:.6g} {now['unit']} (allowed: {allowed:.2g})")
    return lines


def updated(known: dict[str, dict], found: dict[str, dict]) -> dict[str, dict]:
    """The found values with the tolerances of the known ones; a new value gets one by its unit, a time none."""
    values = {}
    for name, now in found.items():
        new = {} if now["unit"] in TIMES else TOLERANCE.get(now["unit"], OTHER_TOLERANCE)
        values[name] = known.get(name, now | new) | now | {"value": float(f"{now['value']:.6g}")}
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
        output.get("data", {}).pop(WIDGET_VIEW, None)
    for output in outputs(notebook, "image/png"):
        output.data.pop("image/jpeg", None)  # PIL gives both pictures
    text = nbformat.writes(notebook)
    for folder, short in ((f"{ROOT}{os.sep}", ""), (f"{ROOT}", "."), (f"{Path.home()}{os.sep}", "~/")):
        text = text.replace(json.dumps(folder)[1:-1], short)  # as JSON spells it
    return text
