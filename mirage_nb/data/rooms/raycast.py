"""A vectorised ray caster for boxes, upright cylinders and spheres, in plain torch.

The image is cut into square tiles. Primitives outside a tile's frustum are dropped; then, in round k, every tile
intersects its rays with its k-th candidate. So the cost depends on what a tile sees, not on what the room holds.
Rays have camera-space z = 1, so that the ray parameter of a hit is its z-depth.
"""

from dataclasses import dataclass, replace
from functools import reduce

import torch
from torch import Tensor

from mirage_nb.cameras import Cameras
from mirage_nb.data.rooms.textures import SIZE, TEXEL

BOX, CYLINDER, SPHERE = 0, 1, 2
TILE = 16  # pixels along the edge of a tile
NEAR = 0.02  # metres
# The first sample is the pixel's centre and gives depth and masks; colour is the mean of the 2x2 others.
SAMPLES = ((0.5, 0.5), (0.25, 0.25), (0.75, 0.25), (0.25, 0.75), (0.75, 0.75))


@dataclass
class Primitives:
    """P primitives. World axes: x right, y down, z forward; metres; the floor is y = 0."""

    kind: Tensor  # (P,) BOX, CYLINDER or SPHERE
    centre: Tensor  # (P, 3)
    half: Tensor  # (P, 3) half extents; of a cylinder radius, half height, radius; of a sphere the radius three times
    yaw: Tensor  # (P,) turn about the vertical, radians
    texture: Tensor  # (P,) index of the room's textures, -1 for sky
    fitted: Tensor  # (P,) bool, the texture is a picture of a whole face
    shell: Tensor  # (P,) bool, a wall, a floor or a ceiling
    motion: Tensor  # (P, 3) amplitude of a swing, 0 for what stands still
    phase: Tensor  # (P,) of the swing, radians

    def at(self, time: float) -> "Primitives":
        """The scene at a time in frames: bodies swing along `motion` with a period of 60 frames."""
        swing = torch.sin(self.phase + time * (2 * torch.pi / 60.0))
        return replace(self, centre=self.centre + self.motion * swing[:, None])

    @property
    def moving(self) -> Tensor:
        return self.motion.abs().amax(1) > 0

    def distance(self, points: Tensor) -> Tensor:
        """(Q,) distance in metres from points (Q, 3) to the nearest static surface, negative inside."""
        static = ~self.moving
        local = torch.stack(_turned((points[:, None] - self.centre[static]).unbind(-1), self.yaw[static]), -1)
        excess = local.abs() - self.half[static]  # (Q, P, 3)
        side = torch.stack([local[..., [0, 2]].norm(dim=-1) - self.half[static, 0], excess[..., 1]], -1)
        box, cylinder = (x.clamp(min=0).norm(dim=-1) + x.amax(-1).clamp(max=0) for x in (excess, side))
        sphere, kind = local.norm(dim=-1) - self.half[static, 0], self.kind[static]
        return torch.where(kind == BOX, box, torch.where(kind == CYLINDER, cylinder, sphere)).amin(1)


def _turned(vector: tuple, yaw: Tensor) -> tuple:
    """Components (x, y, z) in the frame of a body that is turned by `yaw`."""
    (x, y, z), cos, sin = vector, yaw.cos(), yaw.sin()
    return cos * x - sin * z, y, sin * x + cos * z


# Ray parameters (K, R) at which rays enter and leave a body. o: origins (K, 1), d: directions (K, R), half: (K, 1), all
# as (x, y, z) in the body's frame.


def _slab(o: Tensor, d: Tensor, half: Tensor) -> tuple[Tensor, Tensor]:
    """Between the planes at -half and half of one axis."""
    inverse = 1 / torch.where(d.abs() < 1e-9, 1e-9, d)
    middle, reach = -o * inverse, half * inverse.abs()
    return middle - reach, middle + reach


def _tube(o: tuple, d: tuple, radius: Tensor) -> tuple[Tensor, Tensor]:
    """Where the root of the sum of squares of the given axes is below the radius: of two a tube, of three a ball."""
    a, b, c = (sum(x * y for x, y in zip(*pair)) for pair in ((d, d), (o, d), (o, o)))
    a = a.clamp(min=1e-9)
    disc = b * b - a * (c - radius**2)
    root = disc.clamp(min=0).sqrt()
    return torch.where(disc > 0, (-b - root) / a, torch.inf), (-b + root) / a


def _meet(*spans: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """In all of several spans of the rays."""
    near, far = zip(*spans)
    return reduce(torch.maximum, near), reduce(torch.minimum, far)


_INTERSECT = {
    BOX: lambda o, d, half: _meet(*map(_slab, o, d, half)),
    CYLINDER: lambda o, d, half: _meet(_tube(o[::2], d[::2], half[0]), _slab(o[1], d[1], half[1])),
    SPHERE: lambda o, d, half: (_tube(o, d, half[0])[0], torch.inf),  # a ray that only touches it hits it
}


def tile_rays(camera: Cameras) -> Tensor:
    """(K, TILE, TILE, S, 3) world directions of all samples of one camera, tiles padded beyond the image's edge."""
    rows, columns = tiles_of(camera.size)
    fx, fy, cx, cy = camera.intrinsics[0]
    offsets = torch.tensor(SAMPLES)
    x = (torch.arange(columns * TILE)[:, None] + offsets[:, 0] - cx) / fx  # (W, S)
    y = (torch.arange(rows * TILE)[:, None] + offsets[:, 1] - cy) / fy
    x = x.view(1, columns, 1, TILE, -1).expand(rows, -1, TILE, -1, -1)
    y = y.view(rows, 1, TILE, 1, -1).expand(-1, columns, -1, TILE, -1)
    rotation = camera.c2w[0, :3, :3]
    # The sum is written out: a matmul of this shape would be many tiny ones.
    rays = torch.stack([rotation[i, 0] * x + rotation[i, 1] * y + rotation[i, 2] for i in range(3)], -1)
    return rays.flatten(0, 1)


def tiles_of(size: tuple[int, int]) -> tuple[int, int]:
    """Rows and columns of tiles that an image (height, width) takes."""
    return -(-size[0] // TILE), -(-size[1] // TILE)


def trace(scene: Primitives, origin: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
    """Nearest hits of tiled rays, from an origin (3,) in directions (K, TILE, TILE, S, 3).

    Returns z-depth (K, R), infinite where nothing is hit, and the index of the primitive (K, R).
    """
    visible = _in_frustum(scene, origin, directions)
    dx, dy, dz = (c.contiguous() for c in directions.flatten(1, 3).unbind(-1))
    best, winner = torch.full_like(dx, torch.inf), torch.zeros_like(dx, dtype=torch.long)
    for kind, intersect in _INTERSECT.items():
        members = (scene.kind == kind).nonzero()[:, 0]
        counts = visible[:, members].sum(1)
        order = members[visible[:, members].int().argsort(dim=1, descending=True, stable=True)]
        for k in range(int(counts.max())):
            tiles = (counts > k).nonzero()[:, 0]
            which = order[tiles, k]
            offsets = (origin - scene.centre[which]).unsqueeze(-1).unbind(1)
            o, d = (_turned(x, scene.yaw[which][:, None]) for x in (offsets, (dx[tiles], dy[tiles], dz[tiles])))
            near, far = intersect(o, d, scene.half[which].split(1, dim=1))
            nearer = (near < far) & (near > NEAR) & (near < best[tiles])
            best[tiles] = torch.where(nearer, near, best[tiles])
            winner[tiles] = torch.where(nearer, which[:, None], winner[tiles])
    return best, winner


def _in_frustum(scene: Primitives, origin: Tensor, directions: Tensor) -> Tensor:
    """(K, P) bool: which primitives' bounds may meet each tile's frustum."""
    last = TILE - 1
    corners = torch.stack([directions[:, i, j, 0] for i, j in ((0, 0), (0, last), (last, last), (last, 0))], 1)
    middle = corners.mean(1, keepdim=True)
    corners = middle + (corners - middle) * 1.1  # the samples lie up to half a pixel beyond the corner pixels' centres
    normals = torch.cat([torch.linalg.cross(corners, corners.roll(-1, 1)), middle], 1)  # four sides, view direction
    distance = normals @ (scene.centre - origin).T  # (K, 5, P)
    (hx, hy, hz), c, s = scene.half.unbind(1), scene.yaw.cos().abs(), scene.yaw.sin().abs()
    extent = torch.stack([c * hx + s * hz, hy, s * hx + c * hz], 1)  # (P, 3) of the bounds along the axes
    return (distance + normals.abs() @ extent.T >= 0).all(1)


@dataclass
class Lighting:
    """A soft sun and a lamp; `floor` (Z, X) darkens the floor under furniture, 5 cm a cell from the origin."""

    sun: Tensor
    lamp: Tensor
    ambient: float
    floor: Tensor


def shade(scene: Primitives, textures: Tensor, light: Lighting, points: Tensor, rays: Tensor, index: Tensor) -> Tensor:
    """Colours (R, 3) in [0, 1] of hit points (R, 3)."""
    kind, half, yaw = scene.kind[index], scene.half[index], scene.yaw[index]
    local = torch.stack(_turned((points - scene.centre[index]).unbind(1), yaw), 1)
    ratio = local.abs() / half
    axis = ratio.argmax(1)
    normal = torch.nn.functional.one_hot(axis, 3) * local.sign()
    radial = local * local.new_tensor([1.0, 0.0, 1.0])
    body = torch.where((kind == SPHERE)[:, None], local, radial) / half[:, :1]
    cap = (kind == CYLINDER) & (ratio[:, 1] > 0.999)
    normal = torch.where(((kind != BOX) & ~cap)[:, None], body, normal)
    normal = torch.where(cap[:, None], local.sign() * local.new_tensor([0.0, 1.0, 0.0]), normal)
    (nx, ny, nz), cos, sin = normal.unbind(1), yaw.cos(), yaw.sin()
    normal = torch.stack([cos * nx + sin * nz, ny, cos * nz - sin * nx], 1)  # back into the world

    # Texture coordinates: the two axes along the face; on round bodies a cheap slanted projection.
    across, upward = torch.where(axis == 0, 2, 0), torch.where(axis == 1, 2, 1)
    (u, hu), (v, hv) = ([x.gather(1, a[:, None])[:, 0] for x in (local, half)] for a in (across, upward))
    round_body = kind != BOX
    mu, mv = torch.where(round_body, local[:, 0] + 0.6 * local[:, 2], u), torch.where(round_body, local[:, 1], v)
    fitted = scene.fitted[index] & ~round_body
    column, row = (
        _mirror(torch.where(fitted, (x / edge * 0.5 + 0.5) * (SIZE - 1), m / TEXEL + SIZE * 8))
        for x, edge, m in ((u, hu, mu), (v, hv, mv))
    )
    texel, texture = row * SIZE + column, scene.texture[index]
    albedo = textures.flatten(1, 2).flatten(0, 1)[texture.clamp(min=0) * SIZE * SIZE + texel]

    # Light: ambient, a soft sun, a lamp, and darkening towards the edges of the room's shell.
    lit = light.ambient + (1 - light.ambient) * (normal @ light.sun).clamp(-0.3, 1)
    lit = lit * (0.78 + 0.34 / (1 + ((points - light.lamp) ** 2).sum(1) / 6.0))
    edges = (1 - 0.3 * torch.exp((u.abs() - hu) / 0.22)) * (1 - 0.3 * torch.exp((v.abs() - hv) / 0.22))
    lit = torch.where(scene.shell[index], lit * edges, lit * (1 - 0.25 * torch.exp(points[:, 1].clamp(max=0) / 0.2)))
    row, column = (points[:, [2, 0]] / 0.05).long().unbind(1)
    shadow = light.floor[row.clamp(0, light.floor.shape[0] - 1), column.clamp(0, light.floor.shape[1] - 1)]
    lit = torch.where(points[:, 1] > -0.03, lit * shadow, lit)
    return torch.where((texture < 0)[:, None], _sky(rays), albedo * lit[:, None]).clamp(0, 1)


def _sky(rays: Tensor) -> Tensor:
    """A pale gradient with soft clouds, by direction alone, since the sky is infinitely far."""
    d = torch.nn.functional.normalize(rays, dim=1)
    height = (-d[:, 1]).clamp(-0.2, 1)[:, None]
    cloud = (torch.sin(d[:, 0] * 7 + 3 * d[:, 2]) * torch.sin(d[:, 2] * 6 - d[:, 1] * 9))[:, None] * 0.04
    low, high = rays.new_tensor([0.86, 0.90, 0.93]), rays.new_tensor([0.48, 0.66, 0.86])
    return low + (high - low) * (height + 0.2) / 1.2 + cloud


def _mirror(t: Tensor) -> Tensor:
    """Texel index (R,) of a coordinate. A texture is repeated in mirror images, so that no seam shows."""
    t = t.floor().long() % (2 * SIZE)
    return torch.where(t < SIZE, t, 2 * SIZE - 1 - t)
