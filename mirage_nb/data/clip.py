"""What the sources of data give: a `Clip` has posed frames with depth, a `Scene` is where a generated walk starts."""

from dataclasses import dataclass

from torch import Tensor

from mirage_nb.cameras import Cameras


@dataclass
class Clip:
    """Posed frames with depth."""

    frames: Tensor  # (T, H, W, 3) uint8
    depth: Tensor  # (T, H, W) z-depth in metres; 0 = unknown, the sky too
    cameras: Cameras  # T
    moving: Tensor | None = None  # (T, H, W) bool; None where the source does not say
    sky: Tensor | None = None  # the same


@dataclass
class Scene:
    """A first frame and the path of the camera."""

    image: Tensor  # (H, W, 3) uint8
    cameras: Cameras  # T, the image's first
    depth: Tensor | None = None  # (T, H, W) metres, or (1, H, W) of the first frame; None where it must be estimated
    truth: Tensor | None = None  # (T, H, W, 3) uint8, the true video along the path, if there is one
    prompt: str | None = None
    note: str = ""  # what the user should know about the source, such as where the intrinsics come from
