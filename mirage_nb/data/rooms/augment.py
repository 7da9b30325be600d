"""Augmented rooms: random surfaces and a handheld camera, closer to recordings than a furnished room is.

`Room(seed, augmented=True)` keeps the geometry of the room. Most of its materials become pictures of overlapping shapes
of any colour and size ("dead leaves", whose statistics are close to those of photos), and its walks sway.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from mirage_nb.data.rooms.textures import SIZE, Palette


def random_textures(p: Palette, textures: Tensor) -> Tensor:
    """A room's materials (K, S, S, 3), most of them replaced, all in another light: up to 1.2, over-exposed."""
    pictures = []
    for texture in textures:
        choice = p.uniform()
        if choice < 0.45:
            texture = _dead_leaves(p)
        elif choice < 0.65:
            texture = _lines(p)
        elif choice < 0.8:
            texture = _any_colour(p) * (1 + p.uniform(0, 0.15) * _rough(p))[..., None]
        pictures.append(texture.clamp(0.02, 1).expand(SIZE, SIZE, 3))
    gamma = p.uniform(0.6, 1.2) + 0.1 * torch.rand(3, generator=p.generator)
    return torch.stack(pictures) ** gamma * p.uniform(0.8, 1.2)


def _any_colour(p: Palette) -> Tensor:
    """(3,) dark or bright, grey or saturated."""
    value, saturation = p.uniform(0.03, 1) ** 1.3, p.uniform() ** 2
    hue = torch.rand(3, generator=p.generator)
    hue = (hue - hue.min()) / (hue.max() - hue.min()).clamp(min=1e-3)
    return value * (1 - saturation * (1 - hue))


def _dead_leaves(p: Palette) -> Tensor:
    """(S, S, 3): ellipses and boxes over each other, few large ones and many small ones, of two to four hues."""
    v, u = torch.meshgrid(torch.arange(SIZE), torch.arange(SIZE), indexing="ij")
    hues = [_any_colour(p) for _ in range(2 + p.integer(3))]
    picture = hues[0].repeat(SIZE, SIZE, 1)
    for index in range(40):
        radius = 70 / (1 + index) ** 0.65 * p.uniform(0.6, 1.4)
        cx, cy, turn, flat = SIZE * p.uniform(), SIZE * p.uniform(), p.uniform(0, math.pi), p.uniform(0.25, 1)
        r = int(1.5 * radius) + 1  # the shape lies within this distance of its middle
        part = (slice(max(int(cy) - r, 0), int(cy) + r), slice(max(int(cx) - r, 0), int(cx) + r))
        dx, dy = u[part] - cx, v[part] - cy
        a, b = math.cos(turn) * dx + math.sin(turn) * dy, (math.cos(turn) * dy - math.sin(turn) * dx) / flat
        distance = torch.maximum(a.abs(), b.abs()) if p.integer(2) else (a**2 + b**2).sqrt()
        colour = p.pick(hues) * p.uniform(0.6, 1.3) + 0.1 * (torch.rand(3, generator=p.generator) - 0.5)
        picture[part] = torch.where((distance < radius)[..., None], colour, picture[part])
    return picture * (1 + p.uniform(0, 0.1) * _rough(p))[..., None]


def _lines(p: Palette) -> Tensor:
    """(S, S, 3): stripes or a grid of two colours, of any period and direction: boards, blinds, tiles, carpets."""
    v, u = torch.meshgrid(torch.arange(SIZE), torch.arange(SIZE), indexing="ij")
    turn, period = p.pick([0.0, math.pi / 2, p.uniform(0, math.pi)]), 2 ** p.uniform(2.5, 6)
    width, sharp = p.uniform(0.1, 0.7), p.uniform(2, 20)

    def line(x: Tensor) -> Tensor:
        phase = (x / period + p.uniform()) % 1
        return torch.sigmoid(sharp * 4 * (width / 2 - (phase - 0.5).abs()))

    cover = line(math.cos(turn) * u + math.sin(turn) * v)
    if p.integer(2):
        cover = torch.maximum(cover, line((math.cos(turn) * v - math.sin(turn) * u) * p.uniform(0.4, 1)))
    first, second = _any_colour(p), _any_colour(p)
    return torch.lerp(first, second, cover[..., None]) * (1 + p.uniform(0, 0.15) * _rough(p))[..., None]


def _rough(p: Palette) -> Tensor:
    """Noise (S, S) of all scales, in about [-1, 1]."""
    return sum(0.45 * p.noise(2**k + 1, 2**k + 1) for k in range(2, 7))


def handheld(c2w: Tensor, generator: torch.Generator) -> Tensor:
    """A path (T, 4, 4) as a hand would hold the camera: some degrees about every axis, mostly tilted down a little."""
    frames = len(c2w)
    knots = torch.randn(1, 3, max(frames // 6, 2) + 1, generator=generator)
    sway = F.interpolate(knots, frames, mode="linear", align_corners=True)
    sway = F.avg_pool1d(F.pad(sway, (2, 2), mode="replicate"), 5, 1)[0].T  # (T, 3), the knots rounded off
    tilt = torch.tensor([0.07, 0.05, 0.06]) * sway
    tilt[:, 0] -= 0.4 * torch.rand((), generator=generator) - 0.1
    x, y, z = tilt.unbind(1)
    zero = torch.zeros_like(x)
    cross = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], 1).view(-1, 3, 3)
    turned = c2w.clone()
    turned[:, :3, :3] = c2w[:, :3, :3] @ torch.linalg.matrix_exp(cross)
    return turned
