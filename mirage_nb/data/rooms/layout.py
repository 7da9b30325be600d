"""The floor plan and the furniture of a procedural room, from a seeded `Palette`.

A piece of furniture is a function of the builder, the position (x, z) on the floor and the turn about the vertical in
radians.

Every room has a second one behind an opening, and often a screen wall, so that there is always something round the
corner. The main room covers x from 0 to `width` and z from 0 to `depth`; the second one lies behind it.
"""

import math

import torch
from torch import Tensor

from mirage_nb.data.rooms import textures as tx
from mirage_nb.data.rooms.raycast import BOX, CYLINDER, SPHERE, Lighting, Primitives

THICK = 0.05  # metres, half the thickness of a floor, a ceiling or an outer wall
WALL_MATERIALS = [tx.plaster, tx.plaster, tx.stripes, tx.bricks]
FLOOR_MATERIALS = [tx.planks, tx.planks, tx.tiles, tx.cloth]


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


# The piece, the radius of its footprint, and how far its middle is from the wall that it stands against (None: free).
FURNITURE = [
    *[(cabinet, 0.5, 0.32)] * 2, (sofa, 0.75, 0.5), (plant, 0.5, None),
    (table, 0.75, None), (bed, 0.75, 0.95), (stool, 0.5, None),
    (lamp, 0.5, None), (crates, 0.5, None), (ball, 0.5, None),
]  # fmt: skip


def build(p: tx.Palette, moving: int) -> tuple[Primitives, Tensor, Lighting, tuple[float, float]]:
    """A furnished room: primitives, textures (K, S, S, 3), lighting, and (width, depth) of the main room in metres."""
    b = Builder(p)
    width, depth, height = p.uniform(4.2, 6.2), p.uniform(4.2, 6.2), p.uniform(2.5, 2.9)
    far = p.uniform(2.8, 4.2)  # depth of the second room, which lies behind the wall at z = depth
    opening = _shell(b, width, depth, far, height)
    _decorate(b, width, depth, far, opening)
    for z0, z1, count in ((0, depth, (6, 3)), (depth, depth + far, (3, 2))):
        for _ in range(count[0] + p.integer(count[1])):
            _place(b, *p.pick(FURNITURE), width, z0, z1)
    rug = b.texture(tx.rug, tx.ACCENTS)
    centre = (p.uniform(0.35, 0.65) * width, -0.005, p.uniform(0.35, 0.65) * depth)
    half = (p.uniform(0.6, 1.1), 0.006, p.uniform(0.5, 0.9))
    b.box(centre, half, rug, yaw=p.uniform(-0.4, 0.4), fitted=True)
    for _ in range(moving):
        mover(b, width, depth)

    scene = b.primitives()
    sun = torch.nn.functional.normalize(torch.tensor([p.uniform(-0.7, 0.7), -1.0, p.uniform(-0.7, 0.7)]), dim=0)
    lamp = torch.tensor([p.uniform(0.3, 0.7) * width, -height + 0.3, p.uniform(0.3, 0.7) * depth])
    light = Lighting(sun, lamp, p.uniform(0.7, 0.8), _contact_shadow(scene, width, depth + far))
    return scene, torch.stack(b.textures), light, (width, depth)


def _shell(b: Builder, width: float, depth: float, far: float, height: float) -> tuple[float, float]:
    """Floors, ceilings and walls of both rooms; returns the opening between them, its left edge and its width."""
    p = b.p
    ceiling = b.texture(tx.plaster, torch.tensor([0.87, 0.86, 0.84]))
    kinds = 1 if p.uniform() < 0.4 else 4
    walls = [b.texture(WALL_MATERIALS, tx.WALLS) for _ in range(kinds)] * (4 // kinds)
    walls[p.integer(4)] = b.texture(tx.plaster, p.colour(tx.ACCENTS) * 0.5 + 0.35)  # an accent wall
    second = b.texture(WALL_MATERIALS, tx.WALLS + tx.ACCENTS)
    floors = [b.texture(FLOOR_MATERIALS, tx.FLOORS) for _ in range(2)]
    for z0, z1, floor in ((0, depth, floors[0]), (depth, depth + far, floors[1])):
        half = (width / 2, THICK, (z1 - z0) / 2)
        b.box((width / 2, THICK, (z0 + z1) / 2), half, floor, shell=True)
        b.box((width / 2, -height - THICK, (z0 + z1) / 2), half, ceiling, shell=True)
    h = height / 2
    b.box((width / 2, -h, -THICK), (width / 2, h, THICK), walls[0], shell=True)
    for side, x in ((1, -THICK), (2, width + THICK)):
        b.box((x, -h, depth / 2), (THICK, h, depth / 2), walls[side], shell=True)
        b.box((x, -h, depth + far / 2), (THICK, h, far / 2), second, shell=True)
    b.box((width / 2, -h, depth + far + THICK), (width / 2, h, THICK), second, shell=True)
    # The wall between the rooms: two skins around an opening with a frame.
    gap, top = p.uniform(1.2, 2.0), p.uniform(2.05, 2.35)
    left = p.uniform(0.4, width - 0.4 - gap)
    right, skin = width - left - gap, THICK / 2
    for z, texture in ((depth - skin, walls[3]), (depth + skin, second)):
        b.box((left / 2, -h, z), (left / 2, h, skin), texture, shell=True)
        b.box((width - right / 2, -h, z), (right / 2, h, skin), texture, shell=True)
        b.box((left + gap / 2, -(top + height) / 2, z), (gap / 2, (height - top) / 2, skin), texture)
    b.footprints.append((left + gap / 2, depth, 0.9))
    trim = b.texture(tx.wood, tx.FLOORS + tx.ACCENTS[7:8])
    for x in (left, left + gap):
        b.box((x, -top / 2, depth), (0.05, top / 2, 0.09), trim)
    b.box((left + gap / 2, -top, depth), (gap / 2 + 0.05, 0.05, 0.09), trim)
    if p.uniform() < 0.35:  # a screen wall that hides a part of the room
        reach, z = p.uniform(1.0, 1.7), p.uniform(0.4, 0.65) * depth
        x = reach / 2 if p.integer(2) else width - reach / 2
        b.box((x, -h, z), (reach / 2, h, 0.07), walls[3])
        b.footprints.append((x, z, reach / 2 + 0.2))
    return left, gap


def _contact_shadow(scene: Primitives, width: float, depth: float) -> Tensor:
    """Soft darkening (Z, X) of the floor under and around what stands on it, 5 cm a cell."""
    z, x = (torch.arange(0, edge, 0.05) + 0.025 for edge in (depth, width))
    stands = ~scene.shell & ~scene.moving & (scene.centre[:, 1] + scene.half[:, 1] > -0.45) & (scene.half[:, 1] > 0.02)
    occupied = torch.zeros(len(z), len(x))
    for (cx, _, cz), (hx, _, hz), yaw in zip(scene.centre[stands], scene.half[stands], scene.yaw[stands]):
        dz, dx = torch.meshgrid(z - cz, x - cx, indexing="ij")
        c, s = yaw.cos(), yaw.sin()
        occupied[((c * dx - s * dz).abs() < hx) & ((s * dx + c * dz).abs() < hz)] = 1
    soft = torch.nn.functional.avg_pool2d(occupied[None], 9, 1, 4, count_include_pad=False)
    soft = torch.nn.functional.avg_pool2d(soft, 7, 1, 3, count_include_pad=False)[0]
    return 1 - 0.45 * soft


def _decorate(b: Builder, width: float, depth: float, far: float, opening: tuple[float, float]) -> None:
    """Posters and windows on the walls."""
    p = b.p
    # Each spot: the wall's normal axis, the wall's position on it, the position on the wall, and the way into the room.
    spots = [("z", 0.0, f * width, 1) for f in (0.25, 0.72)]
    spots += [("x", x, f * depth, s) for x, s in ((0.0, 1), (width, -1)) for f in (0.22, 0.6)]
    spots += [("x", x, depth + 0.5 * far, s) for x, s in ((0.0, 1), (width, -1))]
    spots += [("z", depth + far, f * width, -1) for f in (0.3, 0.7)]
    left, gap = opening
    for low, high in ((0.0, left), (left + gap, width)):
        if high - low > 1.1:
            spots.append(("z", depth - 0.05, (low + high) / 2, -1))
    for axis, wall, position, inward in spots:
        choice = p.uniform()
        if choice < 0.25:
            continue
        position += p.uniform(-0.2, 0.2)
        window = choice < 0.5
        hw, hh = (p.uniform(0.4, 0.65), p.uniform(0.45, 0.6)) if window else (p.uniform(0.25, 0.5), p.uniform(0.3, 0.5))
        y, out = -p.uniform(1.35, 1.6), wall + inward * 0.015

        def slab(da, dy, ha, hy, thick, texture, **options):
            centre_and_half = ((position + da, y + dy, out), (ha, hy, thick))  # of a wall across z
            b.box(*(x if axis == "z" else x[::-1] for x in centre_and_half), texture, **options)

        if not window:
            slab(0, 0, hw, hh, 0.02, b.texture(tx.poster, tx.ACCENTS), fitted=True)
            continue
        slab(0, 0, hw, hh, 0.01, -1)  # the pane shows the sky
        frame = b.texture(tx.wood, tx.ACCENTS[7:8] + tx.FLOORS)
        for da, ha in ((-hw, 0.04), (hw, 0.04), (0, 0.025)):
            slab(da, 0, ha, hh, 0.04, frame)
        slab(0, -hh, hw, 0.04, 0.04, frame)
        slab(0, hh, hw + 0.05, 0.045, 0.04, frame)


def _place(b: Builder, piece, radius: float, gap: float | None, width: float, z0: float, z1: float) -> None:
    """Put a piece of furniture between z0 and z1: the first of 12 random spots that is free, or none."""
    p = b.p
    for _ in range(12):
        if gap:
            spots = [
                (p.uniform(0.8, width - 0.8), z0 + gap, math.pi),
                (gap, p.uniform(z0 + 0.8, z1 - 0.8), -math.pi / 2),
                (width - gap, p.uniform(z0 + 0.8, z1 - 0.8), math.pi / 2),
                (p.uniform(0.8, width - 0.8), z1 - gap - 0.06, 0.0),
            ]
            x, z, yaw = p.pick(spots)
        else:
            x, z, yaw = p.uniform(0.5, width - 0.5), p.uniform(z0 + 0.5, z1 - 0.5), p.uniform(-math.pi, math.pi)
        if all((x - fx) ** 2 + (z - fz) ** 2 > (radius + fr) ** 2 for fx, fz, fr in b.footprints):
            b.footprints.append((x, z, radius))
            piece(b, x, z, yaw)
            return
