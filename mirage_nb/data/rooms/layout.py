"""The floor plan and the furniture of a procedural room, from a seeded `Palette`.

Every room has a second one behind an opening, and often a screen wall, so that there is always something round the
corner. The main room covers x from 0 to `width` and z from 0 to `depth`; the second one lies behind it.
"""

import math

import torch
from torch import Tensor

from mirage_nb.data.rooms import furniture
from mirage_nb.data.rooms import textures as tx
from mirage_nb.data.rooms.furniture import Builder
from mirage_nb.data.rooms.raycast import Lighting, Primitives

THICK = 0.05  # metres, half the thickness of a floor, a ceiling or an outer wall
WALL_MATERIALS = [tx.plaster, tx.plaster, tx.stripes, tx.bricks]
FLOOR_MATERIALS = [tx.planks, tx.planks, tx.tiles, tx.cloth]
# The piece, the radius of its footprint, and how far its middle is from the wall that it stands against (None: free).
FURNITURE = [
    *[(furniture.cabinet, 0.5, 0.32)] * 2, (furniture.sofa, 0.75, 0.5), (furniture.plant, 0.5, None),
    (furniture.table, 0.75, None), (furniture.bed, 0.75, 0.95), (furniture.stool, 0.5, None),
    (furniture.lamp, 0.5, None), (furniture.crates, 0.5, None), (furniture.ball, 0.5, None),
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
        furniture.mover(b, width, depth)

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
