"""What one looks at in a notebook.

Everything comes twice, moving or interactive for JupyterLab and as a still picture for pages that run no scripts. The
colours are those of `video.COLOURS`.
"""

from mirage_nb.plots.base import drawn
from mirage_nb.plots.cloud import memory_cloud, memory_picture, show_cloud
from mirage_nb.plots.videos import first_last, psnr_curve, show_videos

__all__ = ["drawn", "first_last", "memory_cloud", "memory_picture", "psnr_curve", "show_cloud", "show_videos"]
