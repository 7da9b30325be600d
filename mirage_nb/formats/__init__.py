"""Files from and for other tools: camera paths in many formats, COLMAP models, what a run exports."""

from mirage_nb.formats.readers import FORMATS, load_trajectory
from mirage_nb.formats.trajectory import Trajectory
