"""What a notebook tells its reader: the values it measured, and whether an exercise is solved. Both are kept in the
cell's output under a MIME type of ours, too, where the tests find them."""

from collections.abc import Callable
from html import escape
from math import isfinite

from IPython.display import display

RECORD = "application/vnd.mirage.record+json"
CHECK = "application/vnd.mirage.check+json"


def record(name: str, value: float, unit: str = "", digits: int = 2) -> None:
    """Show a headline value of the notebook and keep it. The tests compare it with `data/regression/NOTEBOOK.json`.

    Args:
        name: unique in the notebook, a phrase that a reader understands.
        value: a finite number, else ValueError.
        unit: "dB", "%", "tokens" ...; "ms" and "s" are times, which are kept but never compared.
        digits: after the point, as shown; it is kept in full.
    """
    if not isfinite(value):
        raise ValueError(f"value: expected a finite number for {name!r}, got {value}")
    data = {"name": name, "value": float(value), "unit": unit}
    display({RECORD: data, "text/plain": f"{name}: {float(value):.{digits}f} {unit}".rstrip()}, raw=True)


def check(name: str, passed: bool | Callable[[], bool], hint: str = "") -> None:
    """Say whether an exercise is solved. Never raises, so that the notebook runs to its end unsolved.

    Args:
        passed: the verdict, or a function that gives it; an exception in it counts as not solved, and is shown.
        hint: what to look at again.
    """
    error = ""
    try:
        solved = bool(passed() if callable(passed) else passed)
    except Exception as problem:  # a reader's code may fail in any way
        solved, error = False, f"{type(problem).__name__}: {problem}"
    words = "right" if solved else "not yet" + "".join(f"; {part}" for part in (error, hint) if part)
    page = f'<b style="color:{"#009e73" if solved else "#d55e00"}">{escape(name)}: {escape(words)}</b>'
    display({CHECK: {"name": name, "passed": solved}, "text/html": page, "text/plain": f"{name}: {words}"}, raw=True)
