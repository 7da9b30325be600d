"""What one plays with in a notebook. Every widget brings a still picture for pages that run no kernel."""

from mirage_nb.widgets.base import bundle, show
from mirage_nb.widgets.compare import Compare
from mirage_nb.widgets.live import Live, live
from mirage_nb.widgets.memory_viewer import MemoryViewer
from mirage_nb.widgets.path_editor import PathEditor
from mirage_nb.widgets.steps import measure_steps, steps_curve
from mirage_nb.widgets.walk import Walk

__all__ = [
    "Compare",
    "Live",
    "MemoryViewer",
    "PathEditor",
    "Walk",
    "bundle",
    "live",
    "measure_steps",
    "show",
    "steps_curve",
]
