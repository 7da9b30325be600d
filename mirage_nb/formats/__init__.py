"""Files from and for other tools: camera paths in many formats, COLMAP models, what a run exports."""

from mirage_nb.formats.base import Trajectory
from mirage_nb.formats.trajectories import FORMATS, WRITABLE, load_trajectory, save_trajectory

__all__ = ["FORMATS", "WRITABLE", "Trajectory", "load_trajectory", "save_trajectory"]
