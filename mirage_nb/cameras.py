"""Pinhole cameras: the one place where the project's coordinate conventions are written down.

* **Axes** are OpenCV's: x right, y down, z forward. `c2w` maps camera to world, 4x4, float32, metres.
* **Pixel i covers [i, i + 1)**; its centre is at i + 0.5. A point belongs to the pixel `floor(u), floor(v)`. With this
  convention intrinsics scale to any other resolution by a plain factor, so the latent grid of a VAE of stride s has the
  intrinsics (fx, fy, cx, cy) / s, and its cell centres are again at i + 0.5. Formats whose pixel centres are integers
  (OpenCV calibrations, 7-Scenes, TUM) get 0.5 added to cx and cy when they are read.
* **Depth** is z-depth (distance along the optical axis, not along the ray) in metres, float32; 0 or a non-finite value
  means unknown.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import wraps

import torch
from torch import Tensor


def default_intrinsics(size: tuple[int, int], fov: float = 64.0) -> Tensor:
    """(4,) fx, fy, cx, cy of a centred camera for an image of (height, width), with a horizontal field of view in
    degrees."""
    height, width = size
    focal = width / 2 / math.tan(math.radians(fov) / 2)
    return torch.tensor([focal, focal, width / 2, height / 2])


def full_precision(method: Callable) -> Callable:
    """Geometry inside of somebody's `torch.autocast` would round metres to three digits; this keeps it in float32."""

    @wraps(method)
    def inner(self, *args, **kwargs):
        with torch.autocast(self.c2w.device.type, enabled=False):
            return method(self, *args, **kwargs)

    return inner


@dataclass(frozen=True)
class Cameras:
    """A batch of N pinhole cameras that share an image size.

    Args:
        c2w: (N, 4, 4) rigid camera-to-world matrices, OpenCV axes, metres.
        intrinsics: (N, 4) or (4,), rows `fx, fy, cx, cy` in pixels, pixel centres at half-integers.
        size: (height, width) of the image in pixels (or in latent cells, after `downscale`).

    Raises:
        ValueError: a matrix is not finite or not rigid, a focal length is not positive, the principal point lies
            outside of the image, or shapes do not fit. The message names the argument.
    """

    c2w: Tensor
    intrinsics: Tensor
    size: tuple[int, int]

    def __post_init__(self) -> None:
        c2w = torch.as_tensor(self.c2w, dtype=torch.float32)
        c2w = c2w[None] if c2w.ndim == 2 else c2w
        if c2w.ndim != 3 or c2w.shape[1:] != (4, 4):
            raise ValueError(f"c2w: expected (N, 4, 4) camera-to-world matrices, got shape {tuple(self.c2w.shape)}")
        intrinsics = torch.as_tensor(self.intrinsics, dtype=torch.float32, device=c2w.device)
        if intrinsics.shape[-1:] != (4,) or intrinsics.ndim > 2:
            raise ValueError(f"intrinsics: expected (N, 4) rows of fx, fy, cx, cy, got shape {tuple(intrinsics.shape)}")
        if intrinsics.ndim == 2 and len(intrinsics) not in (1, len(c2w)):
            raise ValueError(f"intrinsics: expected 1 or {len(c2w)} rows, one per camera, got {len(intrinsics)}")
        height, width = map(int, self.size)
        vars(self).update(c2w=c2w, intrinsics=intrinsics.expand(len(c2w), 4), size=(height, width))
        self._check()

    @full_precision
    def _check(self) -> None:
        if not torch.isfinite(self.c2w).all():
            raise ValueError("c2w: expected finite numbers, found NaN or infinity")
        rotation, identity = self.c2w[:, :3, :3], torch.eye(4, device=self.c2w.device)
        error = (rotation @ rotation.mT - identity[:3, :3]).abs().amax((1, 2))
        bottom = (self.c2w[:, 3] - identity[3]).abs().amax(1)
        rigid = (error < 1e-3) & (torch.linalg.det(rotation) > 0) & (bottom < 1e-4)
        if not rigid.all():
            expected = "rigid matrices (rotation and translation, bottom row 0 0 0 1)"
            raise ValueError(f"c2w: expected {expected}; frame {int((~rigid).nonzero()[0])} is not")
        fx, fy, cx, cy = self.intrinsics.unbind(1)
        height, width = self.size
        if not torch.isfinite(self.intrinsics).all() or not ((fx > 0) & (fy > 0)).all():
            raise ValueError(f"intrinsics: expected finite, positive fx and fy, got {self.intrinsics[0].tolist()}")
        if (fx < width / 20).any() or (fy < height / 20).any():
            raise ValueError(
                f"intrinsics: a focal length below a twentieth of the {width}x{height} image is no camera's, got "
                f"fx={fx.min().item():g}, fy={fy.min().item():g} (are they normalised? multiply by the size)"
            )
        if not ((cx > 0) & (cx < width) & (cy > 0) & (cy < height)).all():
            raise ValueError(
                f"intrinsics: the principal point must lie inside the {width}x{height} image, got "
                f"cx={cx[0].item():g}, cy={cy[0].item():g} (are they given for another size, or normalised?)"
            )

    def __len__(self) -> int:
        return len(self.c2w)

    def __getitem__(self, index) -> "Cameras":
        """Select cameras with an int, a slice or an index tensor; always a batch, also for an int."""
        index = [index] if isinstance(index, int) else index
        return replace(self, c2w=self.c2w[index], intrinsics=self.intrinsics[index])

    def to(self, device) -> "Cameras":
        return replace(self, c2w=self.c2w.to(device), intrinsics=self.intrinsics.to(device))

    @staticmethod
    def cat(cameras: "list[Cameras]") -> "Cameras":
        """Join batches of cameras of equal size."""
        sizes = {c.size for c in cameras}
        if len(sizes) != 1:
            raise ValueError(f"cameras: expected one image size, got {sorted(sizes)}")
        return Cameras(torch.cat([c.c2w for c in cameras]), torch.cat([c.intrinsics for c in cameras]), sizes.pop())

    @property
    @full_precision
    def w2c(self) -> Tensor:
        """(N, 4, 4) world-to-camera matrices: the exact inverse of a rigid matrix, by transposition."""
        w2c = torch.eye(4, device=self.c2w.device).repeat(len(self), 1, 1)
        w2c[:, :3, :3] = rotation = self.c2w[:, :3, :3].mT
        w2c[:, :3, 3:] = -rotation @ self.c2w[:, :3, 3:]
        return w2c

    @property
    def centers(self) -> Tensor:
        """(N, 3) camera positions in the world."""
        return self.c2w[:, :3, 3]

    @full_precision
    def relative_to(self, reference: Tensor) -> "Cameras":
        """The same cameras in the coordinate frame of `reference`, a (4, 4) c2w matrix."""
        return replace(self, c2w=torch.linalg.inv(reference.cpu().double()).to(self.c2w) @ self.c2w)

    def resize(self, size: tuple[int, int]) -> "Cameras":
        """The same view sampled at another resolution, (height, width)."""
        sy, sx = size[0] / self.size[0], size[1] / self.size[1]
        return replace(self, intrinsics=self.intrinsics * self.intrinsics.new_tensor([sx, sy, sx, sy]), size=size)

    def downscale(self, stride: int) -> "Cameras":
        """The cameras of the latent grid of a VAE with this spatial stride (paper: intrinsics scaled by 1/s)."""
        if self.size[0] % stride or self.size[1] % stride:
            raise ValueError(f"size: {self.size[0]}x{self.size[1]} is not a multiple of the VAE's stride {stride}")
        return self.resize((self.size[0] // stride, self.size[1] // stride))

    def crop(self, top: int, left: int, size: tuple[int, int]) -> "Cameras":
        """The view of a rectangle of the image whose first row is `top` and first column `left`."""
        return replace(self, intrinsics=self.intrinsics - self.intrinsics.new_tensor([0, 0, left, top]), size=size)

    @full_precision
    def rays(self) -> tuple[Tensor, Tensor]:
        """World-space rays through the pixel centres: origins (N, 3) and directions (N, H, W, 3).

        Directions have camera-space z = 1, so that `origin + depth * direction` is the point at that z-depth.
        """
        v, u = (torch.arange(n, device=self.c2w.device) + 0.5 for n in self.size)
        fx, fy, cx, cy = (p[:, None] for p in self.intrinsics.unbind(1))
        x = ((u - cx) / fx)[:, None, :].expand(-1, len(v), -1)
        y = ((v - cy) / fy)[:, :, None].expand(-1, -1, len(u))
        local = torch.stack([x, y, torch.ones_like(x)], -1)  # (N, H, W, 3) in the camera's axes
        return self.centers, torch.einsum("nij,nhwj->nhwi", self.c2w[:, :3, :3], local)

    def unproject(self, depth: Tensor) -> Tensor:
        """World points (N, H, W, 3) of the pixel centres at the z-depth (N, H, W)."""
        origins, directions = self.rays()
        return origins[:, None, None] + depth[..., None] * directions

    @full_precision
    def project(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Project world points (P, 3) into all N cameras.

        Returns:
            uv (N, P, 2): continuous pixel coordinates; the pixel is `floor(uv)`. Only meaningful where z > 0.
            z (N, P): z-depth in metres, negative behind the camera.
        """
        w2c = self.w2c
        xyz = torch.einsum("nij,pj->npi", w2c[:, :3, :3], points) + w2c[:, None, :3, 3]
        z = xyz[..., 2]
        uv = xyz[..., :2] / z[..., None] * self.intrinsics[:, None, :2] + self.intrinsics[:, None, 2:]
        return uv, z

    def pluecker(self) -> Tensor:
        """(N, 6, H, W) Pluecker coordinates of the pixel rays: unit direction d and moment o x d.

        They tell a network where it looks, also where the memory is empty. They depend on the choice of the world's
        origin, so express cameras relative to a view of the segment first (`relative_to`).
        """
        origins, directions = self.rays()
        directions = torch.nn.functional.normalize(directions, dim=-1)
        moments = torch.linalg.cross(origins[:, None, None].expand_as(directions), directions)
        return torch.cat([directions, moments], -1).permute(0, 3, 1, 2)
