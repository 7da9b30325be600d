"""Augmented rooms: the geometry of the room, other surfaces, and a handheld camera."""

from __future__ import annotations

import torch

from mirage_nb.data.rooms.augment import handheld
from mirage_nb.data.rooms.room import CLEARANCE, Room


def test_an_augmented_room_has_the_geometry_of_the_room_and_other_surfaces():
    plain, augmented, again = Room(5), Room(5, augmented=True), Room(5, augmented=True)
    walk = plain.walk(2, size=(48, 48))
    clips = [room.render(walk) for room in (plain, augmented, again)]
    assert torch.equal(clips[0].depth, clips[1].depth) and torch.equal(clips[1].frames, clips[2].frames)
    difference = (clips[0].frames.float() - clips[1].frames.float()).abs().mean((0, 3))
    assert (difference > 10).float().mean() > 0.5
    assert augmented.textures.isfinite().all() and augmented.textures.shape == plain.textures.shape
    assert 0 < augmented.textures.min() and augmented.textures.max() <= 1.2


def test_augmented_rooms_have_more_colours():
    def spread(augmented: bool) -> float:
        means = torch.cat([Room(seed, augmented=augmented).textures.mean((1, 2)) for seed in range(3)])
        return means.std(0).mean().item()

    assert spread(True) > 1.2 * spread(False)


def test_a_hand_turns_about_every_axis_and_stays_where_it_walks():
    c2w = torch.eye(4).repeat(25, 1, 1)
    c2w[:, 2, 3] = torch.linspace(0, 0.5, 25)
    held = handheld(c2w, torch.Generator().manual_seed(0))
    assert torch.equal(held, handheld(c2w, torch.Generator().manual_seed(0)))
    assert torch.equal(held[:, :3, 3], c2w[:, :3, 3])
    rotation = held[:, :3, :3]
    assert torch.allclose(rotation @ rotation.mT, torch.eye(3).expand(25, 3, 3), atol=1e-5)
    step = rotation[:-1].mT @ rotation[1:]
    turns = torch.stack([step[:, 2, 1] - step[:, 1, 2], step[:, 0, 2] - step[:, 2, 0], step[:, 1, 0] - step[:, 0, 1]])
    degrees = torch.rad2deg(turns / 2)
    assert (degrees.abs().mean(1) > 0.05).all() and degrees.abs().max() < 5


def test_augmented_walks_keep_clear_of_walls():
    room = Room(7, augmented=True)
    assert (room.clearance(room.walk(25).centers) >= CLEARANCE - 1e-4).all()
