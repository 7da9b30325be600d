"""What one looks at in a notebook.

Everything comes twice, moving or interactive for JupyterLab and as a still picture for pages that run no scripts. The
colours are those of `video.COLOURS`.
"""

from mirage_nb.viz.base import drawn
from mirage_nb.viz.cloud import memory_cloud, memory_picture, show_cloud
from mirage_nb.viz.grids import channel_sheet, level_picture, number_grids, policy_picture, voxel_slice
from mirage_nb.viz.rollouts import (
    ghost_plan,
    holes,
    lines,
    memory_step,
    pictures,
    plan_picture,
    segment_sheet,
    shown,
    tinted,
)
from mirage_nb.viz.stages import (
    board,
    chart,
    cloud_view,
    heat,
    open_viewer,
    plan_view,
    readout_cells,
    ringed,
    yes_no,
)
from mirage_nb.viz.videos import first_last, psnr_curve, show_videos

__all__ = [
    "board",
    "channel_sheet",
    "chart",
    "cloud_view",
    "drawn",
    "first_last",
    "ghost_plan",
    "heat",
    "holes",
    "level_picture",
    "lines",
    "memory_cloud",
    "memory_picture",
    "memory_step",
    "number_grids",
    "open_viewer",
    "pictures",
    "plan_picture",
    "plan_view",
    "policy_picture",
    "psnr_curve",
    "readout_cells",
    "ringed",
    "segment_sheet",
    "show_cloud",
    "show_videos",
    "shown",
    "tinted",
    "voxel_slice",
    "yes_no",
]
