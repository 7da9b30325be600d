"""The furniture of a procedural room, each piece made of a few boxes, cylinders and spheres.

Every piece is a function of the builder, the position (x, z) on the floor and the turn about the vertical in radians.
"""

import math

import torch
from torch import Tensor

from mirage_nb.data.rooms import textures as tx
from mirage_nb.data.rooms.raycast import BOX, CYLINDER, SPHERE, Primitives


class Builder:
    """Collects primitives and baked textures."""

    def __init__(self, p: tx.Palette) -> None:
        self.p = p
        self.rows: list[tuple] = []
        self.textures: list[Tensor] = []
        self.footprints: list[tuple[float, float, float]] = []  # x, z, radius of what stands on the floor

    def texture(self, material, colours: list | Tensor) -> int:
        """Bake a material in a colour, each the given one or drawn from a list; returns the texture's index."""
        material = self.p.pick(material) if isinstance(material, list) else material
        colour = colours if isinstance(colours, Tensor) else self.p.colour(colours)
        self.textures.append(material(self.p, colour).clamp(0.02, 1).expand(tx.SIZE, tx.SIZE, 3))
        return len(self.textures) - 1

    def add(self, kind, centre, half, texture, yaw=0.0, fitted=False, shell=False, motion=(0.0,) * 3, phase=0.0):
        self.rows.append((kind, centre, half, yaw, texture, fitted, shell, motion, phase))

    def box(self, centre, half, texture, **options) -> None:
        self.add(BOX, centre, half, texture, **options)

    def cylinder(self, centre, radius, height, texture, **options) -> None:
        self.add(CYLINDER, centre, (radius, height / 2, radius), texture, **options)

    def sphere(self, centre, radius, texture, **options) -> None:
        self.add(SPHERE, centre, (radius,) * 3, texture, **options)

    def boxes(self, x: float, z: float, yaw: float, *parts: tuple) -> None:
        """Boxes in a piece's own frame: dx, height of the centre, dz, hx, hy, hz, texture, whether it fits a face."""
        for dx, up, dz, hx, hy, hz, texture, *fitted in parts:
            px, pz = _offset(x, z, yaw, dx, dz)
            self.box((px, -up, pz), (hx, hy, hz), texture, yaw=yaw, fitted=bool(fitted))

    def primitives(self) -> Primitives:
        return Primitives(*map(torch.tensor, zip(*self.rows)))


def _offset(x: float, z: float, yaw: float, dx: float, dz: float) -> tuple[float, float]:
    c, s = math.cos(yaw), math.sin(yaw)
    return x + c * dx + s * dz, z - s * dx + c * dz


def cabinet(b: Builder, x, z, yaw) -> None:
    p = b.p
    base, tall = p.colour(tx.FLOORS + tx.ACCENTS), p.uniform(0.8, 1.9)
    front = b.texture(tx.bookshelf if p.uniform() < 0.55 else tx.panels, base)
    side, hw = b.texture(tx.wood, base), p.uniform(0.4, 0.7)
    body = (0, tall / 2, 0, hw, tall / 2, 0.2, side)
    b.boxes(x, z, yaw, body, (0, tall / 2, -0.2, hw, tall / 2, 0.012, front, True))
    if tall < 1.3:
        b.sphere((x, -tall - 0.14, z), 0.14, b.texture(tx.cloth, tx.ACCENTS))


def sofa(b: Builder, x, z, yaw) -> None:
    fabric, cushion = b.texture(tx.cloth, tx.ACCENTS), b.texture(tx.cloth, tx.ACCENTS + tx.WALLS)
    seat, back = (0, 0.22, 0, 0.8, 0.22, 0.4, fabric), (0, 0.6, 0.32, 0.8, 0.2, 0.1, fabric)
    arms = ((side, 0.5, 0, 0.09, 0.12, 0.4, fabric) for side in (-0.75, 0.75))
    b.boxes(x, z, yaw, seat, back, *arms, (-0.35, 0.56, 0.15, 0.2, 0.13, 0.07, cushion))


def bed(b: Builder, x, z, yaw) -> None:
    frame, cover = b.texture(tx.wood, tx.FLOORS), b.texture(tx.cloth, tx.ACCENTS)
    pillow = b.texture(tx.cloth, torch.tensor([0.86, 0.85, 0.82]))
    b.boxes(
        x, z, yaw, (0, 0.15, 0, 0.7, 0.15, 0.9, frame), (0, 0.38, -0.1, 0.68, 0.09, 0.78, cover),
        (0, 0.42, 0.7, 0.5, 0.09, 0.17, pillow), (0, 0.5, 0.92, 0.72, 0.5, 0.04, frame),
    )  # fmt: skip


def table(b: Builder, x, z, yaw) -> None:
    p = b.p
    wood, up = b.texture(tx.wood, tx.FLOORS), p.uniform(0.6, 0.78)
    hx, hz = p.uniform(0.4, 0.65), p.uniform(0.35, 0.45)
    corners = [(sx * (hx - 0.06), sz * (hz - 0.06)) for sx in (-1, 1) for sz in (-1, 1)]
    legs = ((dx, up / 2, dz, 0.04, up / 2, 0.04, wood) for dx, dz in corners)
    b.boxes(x, z, yaw, (0, up, 0, hx, 0.03, hz, wood), *legs)
    px, pz = _offset(x, z, yaw, p.uniform(-0.2, 0.2), p.uniform(-0.15, 0.15))
    tall, radius = p.uniform(0.16, 0.32), p.uniform(0.07, 0.12)
    b.cylinder((px, -up - 0.03 - tall / 2, pz), radius, tall, b.texture(tx.cloth, tx.ACCENTS))


def plant(b: Builder, x, z, yaw) -> None:
    p = b.p
    pot, leaf = b.texture(tx.cloth, tx.ACCENTS[5:8]), b.texture(tx.cloth, [(0.25, 0.40, 0.22), (0.33, 0.46, 0.28)])
    b.cylinder((x, -0.18, z), 0.19, 0.36, pot)
    tall = p.uniform(0.5, 1.0)
    b.sphere((x, -0.36 - tall / 2, z), p.uniform(0.25, 0.34), leaf)
    b.sphere((x + 0.1, -0.3 - tall, z + 0.06), p.uniform(0.18, 0.26), leaf)


def stool(b: Builder, x, z, yaw) -> None:
    up, seat = b.p.uniform(0.42, 0.6), b.texture(tx.cloth, tx.ACCENTS)
    b.cylinder((x, -up / 2, z), 0.06, up, b.texture(tx.wood, tx.FLOORS))
    b.cylinder((x, -up, z), b.p.uniform(0.2, 0.28), 0.1, seat)


def lamp(b: Builder, x, z, yaw) -> None:
    dark = b.texture(tx.wood, tx.ACCENTS[6:7])
    b.cylinder((x, -0.75, z), 0.03, 1.5, dark)
    b.cylinder((x, -0.02, z), 0.17, 0.04, dark)
    radius = b.p.uniform(0.17, 0.25)
    b.cylinder((x, -1.6, z), radius, 0.32, b.texture(tx.cloth, tx.ACCENTS[2:3] + tx.WALLS))


def crates(b: Builder, x, z, yaw) -> None:
    e = b.p.uniform(0.2, 0.3)
    low, high = (b.texture(tx.panels, tx.FLOORS + tx.ACCENTS) for _ in range(2))
    b.boxes(x, z, yaw, (0, e, 0, e, e, e, low, True))
    b.boxes(x, z, yaw + 0.4, (0.04, 2 * e + 0.7 * e, 0, 0.7 * e, 0.7 * e, 0.7 * e, high, True))


def ball(b: Builder, x, z, yaw) -> None:
    r = b.p.uniform(0.16, 0.3)
    b.sphere((x, -r, z), r, b.texture(tx.stripes, tx.ACCENTS))


def mover(b: Builder, width: float, depth: float) -> None:
    """A body that swings to and fro across the main room: a ball, or a robot."""
    p = b.p
    x, z = p.uniform(0.35, 0.65) * width, p.uniform(0.3, 0.8) * depth
    angle, reach = p.uniform(0, math.pi), p.uniform(0.5, 1.2)
    texture = b.texture(tx.stripes, tx.ACCENTS)
    swing = dict(motion=(reach * math.cos(angle), 0.0, reach * math.sin(angle)), phase=p.uniform(0, 2 * math.pi))
    if p.integer(2):
        r = p.uniform(0.18, 0.32)
        b.sphere((x, -r, z), r, texture, **swing)
    else:
        b.cylinder((x, -0.4, z), 0.2, 0.8, texture, **swing)
        b.sphere((x, -0.98, z), 0.19, b.texture(tx.cloth, tx.ACCENTS), **swing)
