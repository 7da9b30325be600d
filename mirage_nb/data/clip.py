"""What the sources of data give: a `Clip` has posed frames with depth, a `Scene` is where a generated walk starts."""

from dataclasses import dataclass

from torch import Tensor

from mirage_nb.cameras import Cameras


@dataclass
class Clip:
    """Posed frames with depth.

    Args:
        frames: (T, H, W, 3) uint8.
        depth: (T, H, W) z-depth in metres; 0 = unknown, the sky too.
        moving, sky: (T, H, W) bool; None where the source does not say.
    """

    frames: Tensor
    depth: Tensor
    cameras: Cameras
    moving: Tensor | None = None
    sky: Tensor | None = None


@dataclass
class Scene:
    """A first frame and the path of the camera.

    Args:
        image: (H, W, 3) uint8.
        cameras: T, the image's first.
        depth: (T, H, W) metres, or (1, H, W) of the first frame only; None where it must be estimated.
        truth: (T, H, W, 3) uint8, the true video along the path, if there is one.
        note: what the user should know about the source, such as where the intrinsics come from.
    """

    image: Tensor
    cameras: Cameras
    depth: Tensor | None = None
    truth: Tensor | None = None
    prompt: str | None = None
    note: str = ""
