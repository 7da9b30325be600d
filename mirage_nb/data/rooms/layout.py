"""The floor plan and the furniture of a procedural room, from a seeded `Palette`.

World axes: x right, y down, z forward; metres; the floor is y = 0 and the ceiling y = -height. Every room has a second
one behind an opening, often a screen wall as well, so that there is something round the corner.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mirage_nb.data.rooms import furniture
from mirage_nb.data.rooms import textures as tx
from mirage_nb.data.rooms.furniture import Builder
from mirage_nb.data.rooms.raycast import Lighting, Primitives


def build(p: tx.Palette, moving: int) -> tuple[Primitives, Tensor, Lighting, tuple[float, float]]:
    """A furnished room: primitives, textures (K, S, S, 3), lighting, and (width, depth) of the main room in metres."""
    b = Builder(p)
    width, depth, height = p.uniform(4.2, 6.2), p.uniform(4.2, 6.2), p.uniform(2.5, 2.9)
    far = p.uniform(2.8, 4.2)  # depth of the second room, which lies behind the wall at z = depth
    wall_kinds, floor_kinds = (
        [tx.plaster, tx.plaster, tx.stripes, tx.bricks],
        [tx.planks, tx.planks, tx.tiles, tx.cloth],
    )

    def surface(kinds, family):
        return b.texture(p.pick(kinds)(p, p.colour(family)))

    ceiling = b.texture(tx.plaster(p, torch.tensor([0.87, 0.86, 0.84])))
    walls = (
        [surface(wall_kinds, tx.WALLS)] * 4 if p.uniform() < 0.4 else [surface(wall_kinds, tx.WALLS) for _ in range(4)]
    )
    walls[p.integer(4)] = b.texture(tx.plaster(p, p.colour(tx.ACCENTS) * 0.5 + 0.35))  # an accent wall
    second = surface(wall_kinds, tx.WALLS + tx.ACCENTS)
    t = 0.05
    # Shells: floor and ceiling of both rooms, then their walls.
    for z0, z1, floor in (
        (0, depth, surface(floor_kinds, tx.FLOORS)),
        (depth, depth + far, surface(floor_kinds, tx.FLOORS)),
    ):
        middle, half = (width / 2, (z0 + z1) / 2), (z1 - z0) / 2
        b.box((middle[0], t, middle[1]), (width / 2, t, half), floor, shell=True)
        b.box((middle[0], -height - t, middle[1]), (width / 2, t, half), ceiling, shell=True)
    h = height / 2
    b.box((width / 2, -h, -t), (width / 2, h, t), walls[0], shell=True)
    for side, x in ((1, -t), (2, width + t)):
        b.box((x, -h, depth / 2), (t, h, depth / 2), walls[side], shell=True)
        b.box((x, -h, depth + far / 2), (t, h, far / 2), second, shell=True)
    b.box((width / 2, -h, depth + far + t), (width / 2, h, t), second, shell=True)
    # The wall between the rooms, two skins around an opening.
    gap, top = p.uniform(1.2, 2.0), p.uniform(2.05, 2.35)
    left = p.uniform(0.4, width - 0.4 - gap)
    for z, skin in ((depth - t / 2, walls[3]), (depth + t / 2, second)):
        b.box((left / 2, -h, z), (left / 2, h, t / 2), skin, shell=True)
        right = width - left - gap
        b.box((width - right / 2, -h, z), (right / 2, h, t / 2), skin, shell=True)
        b.box((left + gap / 2, -(top + height) / 2, z), (gap / 2, (height - top) / 2, t / 2), skin)
    b.footprints.append((left + gap / 2, depth, 0.9))
    trim = b.texture(tx.wood(p, p.colour(tx.FLOORS + tx.ACCENTS[7:8])))
    for x in (left, left + gap):
        b.box((x, -top / 2, depth), (0.05, top / 2, 0.09), trim)
    b.box((left + gap / 2, -top, depth), (gap / 2 + 0.05, 0.05, 0.09), trim)
    if p.uniform() < 0.35:  # a screen wall that hides a part of the room
        reach, z = p.uniform(1.0, 1.7), p.uniform(0.4, 0.65) * depth
        x = reach / 2 if p.integer(2) else width - reach / 2
        b.box((x, -h, z), (reach / 2, h, 0.07), walls[3])
        b.footprints.append((x, z, reach / 2 + 0.2))

    _decorate(b, width, depth, far, height, (left, gap))
    makers = [
        furniture.cabinet,
        furniture.cabinet,
        furniture.sofa,
        furniture.plant,
        furniture.table,
        furniture.bed,
        furniture.stool,
        furniture.lamp,
        furniture.crates,
        furniture.ball,
    ]
    for room in range(2):
        z0, z1 = (0, depth) if room == 0 else (depth, depth + far)
        for _ in range(6 + p.integer(3) if room == 0 else 3 + p.integer(2)):
            _place(b, p.pick(makers), width, z0, z1)
    rug = b.texture(tx.rug(p, p.colour(tx.ACCENTS)))
    b.box(
        (p.uniform(0.35, 0.65) * width, -0.005, p.uniform(0.35, 0.65) * depth),
        (p.uniform(0.6, 1.1), 0.006, p.uniform(0.5, 0.9)),
        rug,
        yaw=p.uniform(-0.4, 0.4),
        fitted=True,
    )
    for _ in range(moving):
        furniture.mover(b, width, depth)

    scene = b.primitives()
    sun = torch.nn.functional.normalize(torch.tensor([p.uniform(-0.7, 0.7), -1.0, p.uniform(-0.7, 0.7)]), dim=0)
    lamp = torch.tensor([p.uniform(0.3, 0.7) * width, -height + 0.3, p.uniform(0.3, 0.7) * depth])
    light = Lighting(sun, lamp, p.uniform(0.7, 0.8), _contact(scene, width, depth + far), torch.zeros(2))
    return scene, torch.stack(b.textures), light, (width, depth)


def _contact(scene: Primitives, width: float, depth: float) -> Tensor:
    """Soft darkening (Z, X) of the floor under and around what stands on it, 5 cm a cell."""
    z = torch.arange(0, depth, 0.05) + 0.025
    x = torch.arange(0, width, 0.05) + 0.025
    stands = ~scene.shell & ~scene.moving & (scene.centre[:, 1] + scene.half[:, 1] > -0.45) & (scene.half[:, 1] > 0.02)
    occupied = torch.zeros(len(z), len(x))
    for (cx, _, cz), (hx, _, hz), yaw in zip(scene.centre[stands], scene.half[stands], scene.yaw[stands]):
        dz, dx = torch.meshgrid(z - cz, x - cx, indexing="ij")
        c, s = yaw.cos(), yaw.sin()
        occupied[((c * dx - s * dz).abs() < hx) & ((s * dx + c * dz).abs() < hz)] = 1
    soft = torch.nn.functional.avg_pool2d(occupied[None], 9, 1, 4, count_include_pad=False)
    soft = torch.nn.functional.avg_pool2d(soft, 7, 1, 3, count_include_pad=False)[0]
    return 1 - 0.45 * soft


def _decorate(b: Builder, width: float, depth: float, far: float, height: float, opening: tuple[float, float]) -> None:
    """Posters and windows on the walls."""
    p = b.p
    spots = [("z", 0.0, f * width, 1) for f in (0.25, 0.72)]
    spots += [("x", x, f * depth, s) for x, s in ((0.0, 1), (width, -1)) for f in (0.22, 0.6)]
    spots += [("x", x, depth + 0.5 * far, s) for x, s in ((0.0, 1), (width, -1))]
    spots += [("z", depth + far, f * width, -1) for f in (0.3, 0.7)]
    left, gap = opening
    for low, high in ((0.0, left), (left + gap, width)):
        if high - low > 1.1:
            spots.append(("z", depth - 0.05, (low + high) / 2, -1))
    for axis, wall, along, inward in spots:
        choice = p.uniform()
        if choice < 0.25:
            continue
        along += p.uniform(-0.2, 0.2)
        window = choice < 0.5
        hw, hh = (p.uniform(0.4, 0.65), p.uniform(0.45, 0.6)) if window else (p.uniform(0.25, 0.5), p.uniform(0.3, 0.5))
        y, out = -p.uniform(1.35, 1.6), wall + inward * 0.015

        def slab(da, dy, ha, hy, thick, texture, **kw):
            centre, half = (
                ((along + da, y + dy, out), (ha, hy, thick))
                if axis == "z"
                else ((out, y + dy, along + da), (thick, hy, ha))
            )
            b.box(centre, half, texture, **kw)

        if not window:
            slab(0, 0, hw, hh, 0.02, b.texture(tx.poster(p, p.colour(tx.ACCENTS))), fitted=True)
            continue
        slab(0, 0, hw, hh, 0.01, -1)
        frame = b.texture(tx.wood(p, p.colour(tx.ACCENTS[7:8] + tx.FLOORS)))
        for da, dy, ha, hy in (
            (-hw, 0, 0.04, hh),
            (hw, 0, 0.04, hh),
            (0, 0, 0.025, hh),
            (0, -hh, hw, 0.04),
            (0, hh, hw + 0.05, 0.045),
        ):
            slab(da, dy, ha, hy, 0.04, frame)


def _place(b: Builder, maker, width: float, z0: float, z1: float) -> None:
    """Try a few spots; against a wall for what stands there."""
    p = b.p
    against = maker in (furniture.cabinet, furniture.sofa, furniture.bed)
    for _ in range(12):
        radius = 0.75 if maker in (furniture.sofa, furniture.bed, furniture.table) else 0.5
        gap = 0.32 if maker is furniture.cabinet else (0.95 if maker is furniture.bed else 0.5)
        if against:
            x, z, yaw = p.pick(
                [
                    (p.uniform(0.8, width - 0.8), z0 + gap, math.pi),
                    (gap, p.uniform(z0 + 0.8, z1 - 0.8), -math.pi / 2),
                    (width - gap, p.uniform(z0 + 0.8, z1 - 0.8), math.pi / 2),
                    (p.uniform(0.8, width - 0.8), z1 - gap - 0.06, 0.0),
                ]
            )
        else:
            x, z, yaw = p.uniform(0.5, width - 0.5), p.uniform(z0 + 0.5, z1 - 0.5), p.uniform(-math.pi, math.pi)
        if all((x - fx) ** 2 + (z - fz) ** 2 > (radius + fr) ** 2 for fx, fz, fr in b.footprints):
            b.footprints.append((x, z, radius))
            maker(b, x, z, yaw)
            return
