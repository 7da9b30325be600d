"""Wild rooms: the geometry of the room, other surfaces, and a hand's motion."""

from __future__ import annotations

import pytest
import torch
from typer.testing import CliRunner

from mirage_nb.cli import app
from mirage_nb.data.rooms.room import CLEARANCE, Room
from mirage_nb.data.rooms.wild import handheld
from mirage_nb.models.presets import build_micro
from mirage_nb.training.data import Walks, write_walks
from mirage_nb.training.encoded import EncodedWalks, encode_walks


def test_a_wild_room_has_the_geometry_of_the_room_and_other_surfaces():
    tame, wild, again = Room(5), Room(5, wild=True), Room(5, wild=True)
    walk = tame.walk(2, size=(48, 48))
    clips = [room.render(walk) for room in (tame, wild, again)]
    assert torch.equal(clips[0].depth, clips[1].depth) and torch.equal(clips[1].frames, clips[2].frames)
    difference = (clips[0].frames.float() - clips[1].frames.float()).abs().mean((0, 3))
    assert (difference > 10).float().mean() > 0.5
    assert wild.textures.isfinite().all() and wild.textures.shape == tame.textures.shape
    assert 0 < wild.textures.min() and wild.textures.max() <= 1.2


def test_wild_rooms_have_more_colours_than_rooms():
    def spread(wild: bool) -> float:
        means = torch.cat([Room(seed, wild=wild).textures.mean((1, 2)) for seed in range(3)])
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


def test_wild_walks_keep_clear_and_become_data(tmp_path):
    room = Room(7, wild=True)
    assert (room.clearance(room.walk(25).centers) >= CLEARANCE - 1e-4).all()
    write_walks(tmp_path, 1, num_frames=3, first_seed=7, wild=True)
    walks = Walks(tmp_path)
    assert torch.equal(walks["frames"][0], room.render(room.walk(3)).frames)


def test_the_command_writes_wild_walks(tmp_path):
    command = ["train", "data", "--folder", str(tmp_path), "--rooms", "1", "--frames", "3"]
    done = CliRunner().invoke(app, [*command, "--wild"])
    assert done.exit_code == 0, done.output
    room = Room(0, wild=True)
    assert torch.equal(Walks(tmp_path)["frames"][0], room.render(room.walk(3)).frames)


def test_folders_are_joined_and_the_exact_depth_stands_in_for_an_estimate(tmp_path):
    parts = build_micro()
    for name, depth in (("rooms", parts["depth_estimator"]), ("wild", None)):
        write_walks(tmp_path / name, 1, num_frames=3, wild=depth is None)
        encode_walks(tmp_path / name, tmp_path / f"encoded_{name}", parts["vae"], depth)
    rooms, wild = (EncodedWalks.load(tmp_path / f"encoded_{name}") for name in ("rooms", "wild"))
    both = EncodedWalks.load(tmp_path / "encoded_rooms", tmp_path / "encoded_wild")
    assert len(rooms.depths) == 2 and len(wild.depths) == 1 and len(both.depths) == 2 and both.size == rooms.size
    assert torch.equal(both.latents, torch.cat([rooms.latents, wild.latents]))
    assert torch.equal(both.depths[1], torch.cat([rooms.depths[1], wild.depths[0]]))
    assert not torch.equal(rooms.depths[0], rooms.depths[1])
    with pytest.raises(FileNotFoundError, match="nowhere"):
        EncodedWalks.load(tmp_path / "encoded_rooms", tmp_path / "nowhere")
