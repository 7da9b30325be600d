"""Procedural materials, baked once per room into small pictures.

Every material is a function of a palette and a base colour; it returns an albedo picture (S, S, 3) in [0, 1]. Those up
to `bricks` are repeated at a physical scale, the others are pictures of a whole face. The details are coarse on
purpose: a latent cell is 8 pixels wide, and no memory can keep what aliases in the picture. The order of the random
draws is part of a room's seed: another order is another room.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

SIZE = 256  # texels along one edge
TEXEL = 0.01  # metres per texel, for materials that are repeated at a physical scale

# Muted colours in three families: large surfaces, floors and wood, and things.
WALLS = [
    (0.85, 0.82, 0.76), (0.78, 0.80, 0.79), (0.80, 0.74, 0.66), (0.70, 0.75, 0.72), (0.86, 0.80, 0.72),
    (0.68, 0.70, 0.75),
]  # fmt: skip
FLOORS = [
    (0.55, 0.40, 0.27), (0.64, 0.50, 0.36), (0.42, 0.31, 0.22), (0.62, 0.60, 0.56), (0.52, 0.50, 0.47),
    (0.70, 0.62, 0.52),
]  # fmt: skip
ACCENTS = [
    (0.62, 0.24, 0.20), (0.20, 0.36, 0.48), (0.78, 0.58, 0.22), (0.27, 0.42, 0.28), (0.45, 0.28, 0.42),
    (0.80, 0.45, 0.28), (0.22, 0.24, 0.28), (0.86, 0.84, 0.78), (0.35, 0.52, 0.55),
]  # fmt: skip


class Palette:
    """A seeded source of numbers, colours and noise for one room."""

    def __init__(self, generator: torch.Generator) -> None:
        self.generator = generator

    def uniform(self, low: float = 0.0, high: float = 1.0) -> float:
        return low + (high - low) * torch.rand((), generator=self.generator).item()

    def integer(self, high: int) -> int:
        return int(torch.randint(high, (), generator=self.generator))

    def pick(self, options: list):
        return options[self.integer(len(options))]

    def colour(self, family: list, jitter: float = 0.06) -> Tensor:
        tone = torch.tensor(self.pick(family)) + jitter * (torch.rand(3, generator=self.generator) - 0.5)
        return (tone * self.uniform(0.9, 1.08)).clamp(0.03, 0.95)

    def noise(self, rows: int, columns: int) -> Tensor:
        """Smooth noise (S, S) in about [-1, 1] with the given number of knots."""
        knots = torch.rand(1, 1, rows, columns, generator=self.generator) * 2 - 1
        return F.interpolate(knots, (SIZE, SIZE), mode="bicubic", align_corners=True)[0, 0]


def _texels() -> tuple[Tensor, Tensor]:
    """Row and column (S, S) of every texel's centre."""
    t = torch.arange(SIZE) + 0.5
    return torch.meshgrid(t, t, indexing="ij")


def _unit_square() -> tuple[Tensor, Tensor, Tensor]:
    """Row and column (S, S) of every texel's centre in [0, 1], and how far the nearest edge is."""
    v, u = (x / SIZE for x in _texels())
    return v, u, torch.minimum(torch.minimum(u, 1 - u), torch.minimum(v, 1 - v))


def _mottled(*layers: tuple[float, int, int]):
    """A material whose brightness varies smoothly. Layers: strength, and the noise's knots along both axes."""

    def material(p: Palette, base: Tensor) -> Tensor:
        return base * sum((strength * p.noise(*knots) for strength, *knots in layers), 1)[..., None]

    return material


plaster = _mottled((0.035, 5, 5), (0.02, 17, 17))
wood = _mottled((0.07, 14, 4), (0.04, 5, 5))
cloth = _mottled((0.04, 12, 12), (0.04, 5, 5))


def stripes(p: Palette, base: Tensor) -> Tensor:
    band = torch.sigmoid(4 * torch.sin(_texels()[1] * torch.pi / p.uniform(18, 32)))
    return base * (1 + p.uniform(0.08, 0.16) * (band - 0.5) + 0.02 * p.noise(9, 9))[..., None]


def _bonded(p: Palette, base: Tensor, length: float, width: float, shift: float, tone: float, joint: float) -> Tensor:
    """Rows of pieces (planks, tiles, bricks), each with its own tone, separated by soft joints.

    length, width: of a piece, in texels. shift: of each row against the one before, in lengths. joint: in texels.
    """
    v, u = _texels()
    row = (v / width).floor()
    u = u + row * length * shift
    column = (u / length).floor()
    code = ((row * 57 + column * 131 + p.integer(1000)) * 12.9898).sin() * 43758.5453  # a hash of the piece
    jitter = (code - code.floor() - 0.5) * 2 * tone
    edge_v = torch.minimum(v - row * width, (row + 1) * width - v)
    edge_u = torch.minimum(u - column * length, (column + 1) * length - u)
    surface = (torch.minimum(edge_v, edge_u) / joint).clamp(0, 1)
    return base * ((1 + jitter) * (0.8 + 0.2 * surface))[..., None]


def planks(p: Palette, base: Tensor) -> Tensor:
    boards = _bonded(p, base, p.uniform(100, 150), p.uniform(18, 26), 0.37, 0.09, 3.0)
    return boards * (1 + 0.03 * p.noise(40, 6))[..., None]


def tiles(p: Palette, base: Tensor) -> Tensor:
    edge = p.uniform(40, 60)
    return _bonded(p, base, edge, edge, 0.0, 0.05, 3.0) * (1 + 0.03 * p.noise(9, 9))[..., None]


def bricks(p: Palette, base: Tensor) -> Tensor:
    return _bonded(p, base, 52.0, 22.0, 0.5, 0.06, 4.0) * (1 + 0.02 * p.noise(17, 17))[..., None]


def poster(p: Palette, base: Tensor) -> Tensor:
    """An abstract picture in a frame: large soft shapes that serve as landmarks."""
    v, u, edge = _unit_square()
    picture = p.colour(WALLS).expand(SIZE, SIZE, 3) * (0.9 + 0.25 * v)[..., None]
    for _ in range(3 + p.integer(3)):
        colour, cx, cy, r = p.colour(ACCENTS), p.uniform(0.15, 0.85), p.uniform(0.15, 0.85), p.uniform(0.1, 0.28)
        if p.integer(2):
            inside = r - ((u - cx) ** 2 + (v - cy) ** 2).sqrt()
        else:
            inside = torch.minimum(r - (u - cx).abs(), r * p.uniform(0.4, 1.2) - (v - cy).abs())
        picture = torch.lerp(picture, colour.expand_as(picture), torch.sigmoid(inside * 70)[..., None])
    return torch.where((edge < 0.06)[..., None], base * 0.5, picture)


def bookshelf(p: Palette, base: Tensor) -> Tensor:
    picture = (base * 0.35).expand(SIZE, SIZE, 3).clone()
    shelves = 2 + p.integer(2)
    for shelf in range(shelves):
        top, bottom = SIZE * shelf // shelves + 8, SIZE * (shelf + 1) // shelves - 8
        u = 8
        while u < SIZE - 50:
            width, height = 26 + p.integer(26), int((bottom - top) * p.uniform(0.65, 0.95))
            if p.uniform() < 0.85:
                picture[bottom - height : bottom, u : u + width] = p.colour(ACCENTS)
            u += width + 2
    for shelf in range(shelves + 1):
        row = min(SIZE * shelf // shelves, SIZE - 8)
        picture[max(row - 8, 0) : row + 8] = base
    picture[:, :8] = picture[:, -8:] = base
    return picture


def panels(p: Palette, base: Tensor) -> Tensor:
    """The front of a cabinet: one or two columns of drawers with handles."""
    v, u, _ = _unit_square()
    columns, rows = 1 + p.integer(2), 1 + p.integer(3)
    fu, fv = (u * columns) % 1, (v * rows) % 1
    edge = torch.minimum(torch.minimum(fu, 1 - fu) / columns, torch.minimum(fv, 1 - fv) / rows)
    picture = wood(p, base) * (0.6 + 0.4 * (edge / 0.03).clamp(0, 1))[..., None]
    handle = ((fu - 0.5).abs() < 0.12) & ((fv - 0.2).abs() < 0.05)
    return torch.where(handle[..., None], base * 0.35, picture)


def rug(p: Palette, base: Tensor) -> Tensor:
    v, u, edge = _unit_square()
    second, third = p.colour(ACCENTS), p.colour(WALLS)
    picture = torch.where((edge < 0.07)[..., None], second, base.expand(SIZE, SIZE, 3))
    picture = torch.where(((edge > 0.12) & (edge < 0.16))[..., None], third, picture)
    diamond = (((u - 0.5).abs() + (v - 0.5).abs()) < 0.22)[..., None]
    return torch.where(diamond, second * 0.5 + third * 0.5, picture) * (1 + 0.05 * p.noise(16, 16))[..., None]
