"""The things that stand in a procedural room, each made of a few boxes, cylinders and spheres.

World axes: x right, y down, z forward; metres; the floor is y = 0. Every maker takes the builder, the place (x, z)
and the turn about the vertical.
"""

from __future__ import annotations

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
        self.footprints: list[tuple[float, float, float]] = []  # x, z, radius: what stands on the floor

    def texture(self, picture: Tensor) -> int:
        self.textures.append(picture.clamp(0.02, 1).expand(tx.SIZE, tx.SIZE, 3))
        return len(self.textures) - 1

    def add(self, kind, centre, half, texture, yaw=0.0, fitted=False, shell=False, motion=(0, 0, 0), phase=0.0) -> None:
        self.rows.append((kind, centre, half, yaw, texture, fitted, shell, motion, phase))

    def box(self, centre, half, texture, **kwargs) -> None:
        self.add(BOX, centre, half, texture, **kwargs)

    def round(self, kind, centre, radius, height, texture, **kwargs) -> None:
        half = (radius, height / 2, radius) if kind == CYLINDER else (radius,) * 3
        self.add(kind, centre, half, texture, **kwargs)

    def primitives(self) -> Primitives:
        kind, centre, half, yaw, texture, fitted, shell, motion, phase = zip(*self.rows)
        return Primitives(
            torch.tensor(kind),
            torch.tensor(centre, dtype=torch.float32),
            torch.tensor(half, dtype=torch.float32),
            torch.tensor(yaw, dtype=torch.float32),
            torch.tensor(texture),
            torch.tensor(fitted),
            torch.tensor(shell),
            torch.tensor(motion, dtype=torch.float32),
            torch.tensor(phase, dtype=torch.float32),
        )


def _offset(x: float, z: float, yaw: float, dx: float, dz: float) -> tuple[float, float]:
    c, s = math.cos(yaw), math.sin(yaw)
    return x + c * dx + s * dz, z - s * dx + c * dz


def _parts(b: Builder, x: float, z: float, yaw: float, parts) -> None:
    """Boxes in the frame of a piece of furniture: (dx, height of the centre, dz, hx, hy, hz, texture, fitted)."""
    for dx, up, dz, hx, hy, hz, texture, fitted in parts:
        px, pz = _offset(x, z, yaw, dx, dz)
        b.box((px, -up, pz), (hx, hy, hz), texture, yaw=yaw, fitted=fitted)


def cabinet(b: Builder, x, z, yaw) -> None:
    p = b.p
    base = p.colour(tx.FLOORS + tx.ACCENTS)
    tall = p.uniform(0.8, 1.9)
    front = b.texture(tx.bookshelf(p, base) if p.uniform() < 0.55 else tx.panels(p, base))
    side = b.texture(tx.wood(p, base))
    hw = p.uniform(0.4, 0.7)
    _parts(
        b,
        x,
        z,
        yaw,
        [(0, tall / 2, 0, hw, tall / 2, 0.2, side, False), (0, tall / 2, -0.2, hw, tall / 2, 0.012, front, True)],
    )
    if tall < 1.3:
        b.round(SPHERE, (x, -tall - 0.14, z), 0.14, 0, b.texture(tx.cloth(p, p.colour(tx.ACCENTS))))


def sofa(b: Builder, x, z, yaw) -> None:
    p = b.p
    fabric = b.texture(tx.cloth(p, p.colour(tx.ACCENTS)))
    cushion = b.texture(tx.cloth(p, p.colour(tx.ACCENTS + tx.WALLS)))
    _parts(
        b,
        x,
        z,
        yaw,
        [
            (0, 0.22, 0, 0.8, 0.22, 0.4, fabric, False),
            (0, 0.6, 0.32, 0.8, 0.2, 0.1, fabric, False),
            (-0.75, 0.5, 0, 0.09, 0.12, 0.4, fabric, False),
            (0.75, 0.5, 0, 0.09, 0.12, 0.4, fabric, False),
            (-0.35, 0.56, 0.15, 0.2, 0.13, 0.07, cushion, False),
        ],
    )


def bed(b: Builder, x, z, yaw) -> None:
    p = b.p
    frame, cover = b.texture(tx.wood(p, p.colour(tx.FLOORS))), b.texture(tx.cloth(p, p.colour(tx.ACCENTS)))
    pillow = b.texture(tx.cloth(p, torch.tensor([0.86, 0.85, 0.82])))
    _parts(
        b,
        x,
        z,
        yaw,
        [
            (0, 0.15, 0, 0.7, 0.15, 0.9, frame, False),
            (0, 0.38, -0.1, 0.68, 0.09, 0.78, cover, False),
            (0, 0.42, 0.7, 0.5, 0.09, 0.17, pillow, False),
            (0, 0.5, 0.92, 0.72, 0.5, 0.04, frame, False),
        ],
    )


def table(b: Builder, x, z, yaw) -> None:
    p = b.p
    wood, up = b.texture(tx.wood(p, p.colour(tx.FLOORS))), p.uniform(0.6, 0.78)
    hx, hz = p.uniform(0.4, 0.65), p.uniform(0.35, 0.45)
    legs = [
        (sx * (hx - 0.06), up / 2, sz * (hz - 0.06), 0.04, up / 2, 0.04, wood, False)
        for sx in (-1, 1)
        for sz in (-1, 1)
    ]
    _parts(b, x, z, yaw, [(0, up, 0, hx, 0.03, hz, wood, False)] + legs)
    px, pz = _offset(x, z, yaw, p.uniform(-0.2, 0.2), p.uniform(-0.15, 0.15))
    tall = p.uniform(0.16, 0.32)
    b.round(
        CYLINDER,
        (px, -up - 0.03 - tall / 2, pz),
        p.uniform(0.07, 0.12),
        tall,
        b.texture(tx.cloth(p, p.colour(tx.ACCENTS))),
    )


def plant(b: Builder, x, z, yaw) -> None:
    p = b.p
    pot, leaf = (
        b.texture(tx.cloth(p, p.colour(tx.ACCENTS[5:8]))),
        b.texture(tx.cloth(p, p.colour([(0.25, 0.40, 0.22), (0.33, 0.46, 0.28)]))),
    )
    b.round(CYLINDER, (x, -0.18, z), 0.19, 0.36, pot)
    tall = p.uniform(0.5, 1.0)
    b.round(SPHERE, (x, -0.36 - tall / 2, z), p.uniform(0.25, 0.34), 0, leaf)
    b.round(SPHERE, (x + 0.1, -0.3 - tall, z + 0.06), p.uniform(0.18, 0.26), 0, leaf)


def stool(b: Builder, x, z, yaw) -> None:
    p = b.p
    up = p.uniform(0.42, 0.6)
    seat = b.texture(tx.cloth(p, p.colour(tx.ACCENTS)))
    b.round(CYLINDER, (x, -up / 2, z), 0.06, up, b.texture(tx.wood(p, p.colour(tx.FLOORS))))
    b.round(CYLINDER, (x, -up, z), p.uniform(0.2, 0.28), 0.1, seat)


def lamp(b: Builder, x, z, yaw) -> None:
    p = b.p
    dark = b.texture(tx.wood(p, p.colour(tx.ACCENTS[6:7])))
    b.round(CYLINDER, (x, -0.75, z), 0.03, 1.5, dark)
    b.round(CYLINDER, (x, -0.02, z), 0.17, 0.04, dark)
    b.round(
        CYLINDER,
        (x, -1.6, z),
        p.uniform(0.17, 0.25),
        0.32,
        b.texture(tx.cloth(p, p.colour(tx.ACCENTS[2:3] + tx.WALLS))),
    )


def crates(b: Builder, x, z, yaw) -> None:
    p = b.p
    e = p.uniform(0.2, 0.3)
    low, high = (b.texture(tx.panels(p, p.colour(tx.FLOORS + tx.ACCENTS))) for _ in range(2))
    _parts(b, x, z, yaw, [(0, e, 0, e, e, e, low, True)])
    _parts(b, x, z, yaw + 0.4, [(0.04, 2 * e + 0.7 * e, 0, 0.7 * e, 0.7 * e, 0.7 * e, high, True)])


def ball(b: Builder, x, z, yaw) -> None:
    r = b.p.uniform(0.16, 0.3)
    b.round(SPHERE, (x, -r, z), r, 0, b.texture(tx.stripes(b.p, b.p.colour(tx.ACCENTS))))


def mover(b: Builder, width: float, depth: float) -> None:
    """A body that swings to and fro across the main room: a ball, or somebody's robot."""
    p = b.p
    x, z = p.uniform(0.35, 0.65) * width, p.uniform(0.3, 0.8) * depth
    angle, reach = p.uniform(0, math.pi), p.uniform(0.5, 1.2)
    motion = (reach * math.cos(angle), 0.0, reach * math.sin(angle))
    texture, phase = b.texture(tx.stripes(p, p.colour(tx.ACCENTS))), p.uniform(0, 2 * math.pi)
    if p.integer(2):
        r = p.uniform(0.18, 0.32)
        b.round(SPHERE, (x, -r, z), r, 0, texture, motion=motion, phase=phase)
    else:
        b.round(CYLINDER, (x, -0.4, z), 0.2, 0.8, texture, motion=motion, phase=phase)
        b.round(
            SPHERE, (x, -0.98, z), 0.19, 0, b.texture(tx.cloth(p, p.colour(tx.ACCENTS))), motion=motion, phase=phase
        )
