"""What one plays with in a notebook. Every widget brings a still picture for pages that run no kernel."""

from mirage_nb.viz.widgets.base import bundle, show
from mirage_nb.viz.widgets.compare import Compare
from mirage_nb.viz.widgets.live import Live, live
from mirage_nb.viz.widgets.memory_viewer import MemoryViewer
from mirage_nb.viz.widgets.path_editor import PathEditor
from mirage_nb.viz.widgets.steps import measure_steps, steps_curve
from mirage_nb.viz.widgets.walk import Walk

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
