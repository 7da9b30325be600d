"""What one looks at and plays with in a notebook: `from mirage_nb import viz`.

Pictures are PIL images, so nothing depends on a window; every widget also brings a still picture, for pages that run no
kernel. The names below are loaded at first use, since plotly, matplotlib and ipywidgets are heavy.
"""

from mirage_nb import lazy_names

_NAMES_OF = {
    "colours": ("heat", "latent_colours", "pca_colours", "readout_cells", "tinted", "token_colours"),
    "figures": ("board", "lines", "pictures"),
    "notebook": ("check", "record"),
    "space": ("cloud_view", "plan_view", "show_cloud"),
    "video": ("contact_sheet", "decoded", "show_videos", "side_by_side", "write_mp4", "write_png"),
    "widgets.live": ("live",),
    "widgets.path_editor": ("PathEditor",),
    "widgets.walk": ("Walk",),
}  # fmt: skip
__all__, __getattr__, __dir__ = lazy_names(__name__, _NAMES_OF)
