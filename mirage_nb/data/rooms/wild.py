"""Surfaces and camera motion as recordings have them and furnished rooms don't: training data for real input.

A room of `Room(seed, wild=True)` keeps its geometry; most of its materials become pictures of overlapping shapes in any
colour and at any scale ("dead leaves", whose statistics are close to those of photos), and its walk is a hand's.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from mirage_nb.data.rooms.textures import SIZE, Palette


def wild_textures(p: Palette, textures: Tensor) -> Tensor:
    """Most of a room's materials (K, S, S, 3) painted over, and all in another light: up to 1.2, over-exposed."""
    pictures = []
    for texture in textures:
        choice = p.uniform()
        if choice < 0.45:
            texture = leaves(p)
        elif choice < 0.65:
            texture = bars(p)
        elif choice < 0.8:  # a plain surface of any colour
            texture = any_colour(p) * (1 + p.uniform(0, 0.15) * _rough(p))[..., None]
        pictures.append(texture.clamp(0.02, 1).expand(SIZE, SIZE, 3))
    gamma = p.uniform(0.6, 1.2) + 0.1 * torch.rand(3, generator=p.generator)
    return torch.stack(pictures) ** gamma * p.uniform(0.8, 1.2)


def any_colour(p: Palette) -> Tensor:
    """(3,) dark or bright, grey or saturated."""
    value, saturation = p.uniform(0.03, 1) ** 1.3, p.uniform() ** 2
    hue = torch.rand(3, generator=p.generator)
    hue = (hue - hue.min()) / (hue.max() - hue.min()).clamp(min=1e-3)
    return value * (1 - saturation * (1 - hue))


def leaves(p: Palette) -> Tensor:
    """(S, S, 3): ellipses and boxes over each other, few large ones and many small ones, of two or three hues."""
    v, u = torch.meshgrid(torch.arange(SIZE), torch.arange(SIZE), indexing="ij")
    hues = [any_colour(p) for _ in range(2 + p.integer(3))]
    picture = hues[0].repeat(SIZE, SIZE, 1)
    for index in range(40):
        radius = 70 / (1 + index) ** 0.65 * p.uniform(0.6, 1.4)
        cx, cy, turn, flat = SIZE * p.uniform(), SIZE * p.uniform(), p.uniform(0, math.pi), p.uniform(0.25, 1)
        r = int(1.5 * radius) + 1  # all that it can cover
        part = (slice(max(int(cy) - r, 0), int(cy) + r), slice(max(int(cx) - r, 0), int(cx) + r))
        dx, dy = u[part] - cx, v[part] - cy
        along, across = math.cos(turn) * dx + math.sin(turn) * dy, math.cos(turn) * dy - math.sin(turn) * dx
        across = across / flat
        far = torch.maximum(along.abs(), across.abs()) if p.integer(2) else (along**2 + across**2).sqrt()
        colour = p.pick(hues) * p.uniform(0.6, 1.3) + 0.1 * (torch.rand(3, generator=p.generator) - 0.5)
        picture[part] = torch.where((far < radius)[..., None], colour, picture[part])
    return picture * (1 + p.uniform(0, 0.1) * _rough(p))[..., None]


def bars(p: Palette) -> Tensor:
    """(S, S, 3): stripes or a grid of two colours, of any period, in any direction: boards, blinds, tiles, carpets."""
    v, u = torch.meshgrid(torch.arange(SIZE), torch.arange(SIZE), indexing="ij")
    turn, period = p.pick([0.0, math.pi / 2, p.uniform(0, math.pi)]), 2 ** p.uniform(2.5, 6)
    width, sharp = p.uniform(0.1, 0.7), p.uniform(2, 20)
    along, across = math.cos(turn) * u + math.sin(turn) * v, math.cos(turn) * v - math.sin(turn) * u

    def line(x: Tensor) -> Tensor:
        phase = (x / period + p.uniform()) % 1
        return torch.sigmoid(sharp * 4 * (width / 2 - (phase - 0.5).abs()))

    cover = line(along)
    if p.integer(2):
        cover = torch.maximum(cover, line(across * p.uniform(0.4, 1)))
    first, second = any_colour(p), any_colour(p)
    return torch.lerp(first, second, cover[..., None]) * (1 + p.uniform(0, 0.15) * _rough(p))[..., None]


def _rough(p: Palette) -> Tensor:
    """Noise (S, S) of all scales, in about [-1, 1]."""
    return sum(0.45 * p.noise(2**k + 1, 2**k + 1) for k in range(2, 7))


def handheld(c2w: Tensor, generator: torch.Generator) -> Tensor:
    """A path (T, 4, 4) with the turns and tilts of a hand: some degrees about every axis, mostly looking down a bit."""
    frames = len(c2w)
    knots = torch.randn(1, 3, max(frames // 6, 2) + 1, generator=generator)
    sway = F.interpolate(knots, frames, mode="linear", align_corners=True)
    sway = F.avg_pool1d(F.pad(sway, (2, 2), mode="replicate"), 5, 1)[0].T  # knots rounded off
    tilt = torch.tensor([0.07, 0.05, 0.06]) * sway
    tilt[:, 0] -= 0.4 * torch.rand((), generator=generator) - 0.1
    x, y, z = tilt.unbind(1)
    zero = torch.zeros_like(x)
    cross = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], 1).view(-1, 3, 3)
    turned = c2w.clone()
    turned[:, :3, :3] = c2w[:, :3, :3] @ torch.linalg.matrix_exp(cross)
    return turned
