"""What the tests of the widgets share: a small scene, and the check that a widget shows a picture without a browser."""

from __future__ import annotations

import base64
import io

import numpy as np
import torch
from PIL import Image
from scenes import camera, room_views

from mirage_nb.memory.grid import LatentGrid
from mirage_nb.paths import camera_path

SIZE = (32, 48)
VIEW = "application/vnd.jupyter.widget-view+json"


def image() -> torch.Tensor:
    return torch.randint(0, 256, (*SIZE, 3), generator=torch.Generator().manual_seed(2), dtype=torch.uint8)


def scene(frames: int = 6):
    """A memory written by a pan through the box room, its cameras, and frames that tell their cells apart."""
    cameras = camera(*camera_path("pan_left", frames, degrees_per_frame=6.0))
    latents, depth = room_views(cameras)
    memory = LatentGrid()
    memory.write(latents, depth, cameras)
    pixels = ((latents[:, :3] + 1) * 127).byte().repeat_interleave(8, 2).repeat_interleave(8, 3)
    return memory, cameras, pixels.movedim(1, -1).contiguous()


def rows_of(memory) -> dict[str, torch.Tensor]:
    return {name: getattr(memory, name).clone() for name in ("positions", "tokens", "footprints", "written", "views")}


def same(memory, rows) -> bool:
    return all(torch.equal(getattr(memory, name), value) for name, value in rows.items())


def is_shown(widget) -> Image.Image:
    """Checks the bundle of a widget and returns its still picture."""
    data = widget._repr_mimebundle_()
    assert data[VIEW]["model_id"] == widget.model_id and data["text/plain"]
    assert widget.css in widget._dom_classes
    picture = Image.open(io.BytesIO(base64.b64decode(data["image/png"])))
    assert min(picture.size) > 20 and len(np.unique(np.asarray(picture))) > 8
    return picture
