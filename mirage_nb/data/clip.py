"""What every world gives back, procedural or recorded."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from mirage_nb.cameras import Cameras


@dataclass
class Clip:
    """Posed frames with depth. `moving` and `sky` are None where nobody knows them.

    frames: (T, H, W, 3) uint8. depth: (T, H, W) z-depth in metres, 0 = unknown (the sky, too). moving, sky: (T, H, W)
    bool.
    """

    frames: Tensor
    depth: Tensor
    cameras: Cameras
    moving: Tensor | None = None
    sky: Tensor | None = None
