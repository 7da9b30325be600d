"""The other memories keep the contract of the latent one, and are honest versions of what they stand for."""

from __future__ import annotations

import pytest
import torch
from scenes import camera, paint, pose, room_views

from mirage_nb.lifting import lift
from mirage_nb.masking import writable
from mirage_nb.memory import Memory
from mirage_nb.memory.baselines import MEMORIES, NoMemory, RGBPointCloud, make_memory
from mirage_nb.memory.grid import LatentGrid

STRIDE = 8


def encode(frames):
    """A stand-in for a VAE: the mean colour of each cell, and its negative."""
    mean = torch.nn.functional.avg_pool2d(frames, STRIDE)
    return torch.cat([mean, -mean], 1)


def views(*poses):
    """Cameras, depth and smoothly painted frames (N, 3, H, W) in [-1, 1], with their latents."""
    cameras = camera(*poses)
    depth = room_views(cameras)[1]
    frames = paint(cameras.unproject(depth) / 3, 3).permute(0, 3, 1, 2)
    return encode(frames), depth, cameras, frames


HERE, TURN = pose(), pose((0.1, 0.0, 0.1), (0.0, 0.25, 0.0))


def build(name, **options):
    return make_memory(name, encode, **options)


@pytest.mark.parametrize("name", MEMORIES)
def test_the_contract(name, tmp_path):
    memory = build(name)
    latents, depth, cameras, frames = views(HERE, TURN)
    with pytest.raises(ValueError, match="stride: unknown"):
        memory.read(cameras)
    assert len(memory) == memory.nbytes == memory.frames == 0
    added = memory.write(latents, depth, cameras, None, frames=frames)
    assert added == len(memory) and memory.frames == 2
    assert (memory.stride, memory.channels) == (STRIDE, 6)
    readout = memory.read(cameras)
    assert readout.latents.shape == latents.shape and readout.offset.shape == (2, 2, 8, 12)
    assert readout.visibility.shape == readout.depth.shape == readout.index.shape == (2, 8, 12)
    assert readout.visibility.dtype == torch.bool and readout.visibility.any() == (name != "none")
    hidden = ~readout.visibility
    assert not readout.depth[hidden].any() and not readout.latents.permute(0, 2, 3, 1)[hidden].any()
    assert (readout.index[hidden] == -1).all()
    assert isinstance(memory, Memory)
    path = tmp_path / "memory.safetensors"
    memory.save(path)
    again = memory.load(path)
    assert type(again) is type(memory) and again is not memory
    assert (len(again), again.nbytes, again.frames) == (len(memory), memory.nbytes, 2)
    assert torch.equal(again.read(cameras).latents, readout.latents)
    memory.write(latents, depth, cameras, frames=frames, time=9)
    assert memory.frames == 11
    if name != "none":
        behind = torch.tensor([[-9.0, -9.0, -9.0], [9.0, 9.0, 0.0]])
        gone = (memory.positions[:, 2] <= 0).sum()
        assert memory.delete(behind) == gone and (memory.positions[:, 2] > 0).all()
    assert memory.delete(torch.ones(len(memory), dtype=torch.bool)) >= 0
    assert len(memory) == memory.nbytes == 0 and not memory.read(cameras).visibility.any()
    with pytest.raises(ValueError, match="where: expected"):
        memory.delete(torch.ones(3))
    with pytest.raises(ValueError, match="latents: "):
        memory.write(latents[:, :, :5], depth, cameras, frames=frames)


def test_files_are_not_mixed_up(tmp_path):
    path = tmp_path / "memory.safetensors"
    NoMemory(8, 16).save(path)
    assert (NoMemory.load(path).stride, NoMemory.load(path).channels) == (8, 16)
    for load in (LatentGrid.load, RGBPointCloud(encode).load):
        with pytest.raises(ValueError, match="expected format"):
            load(path)


def test_no_memory_is_empty():
    memory = NoMemory(stride=STRIDE, channels=16)
    memory.add(lift(torch.ones(1, 16, 8, 12), torch.ones(1, 64, 96), camera(HERE)))
    readout = memory.read(camera(HERE, TURN))
    assert readout.latents.shape == (2, 16, 8, 12) and not readout.latents.any() and (readout.index == -1).all()


def test_rgb_gives_the_encoded_view_back():
    latents, depth, cameras, frames = views(HERE)
    memory = RGBPointCloud(encode)
    assert memory.write(latents, depth, cameras, frames=frames) == 64 * 96
    assert memory.nbytes == 19 * 64 * 96
    readout = memory.read(cameras)
    assert readout.visibility.all() and not readout.offset.any() and (readout.index == -1).all()
    torch.testing.assert_close(readout.latents, latents, atol=1 / 255, rtol=0)
    truth = views(pose((0.1, 0.05, 0.3), (0.05, 0.05, 0.0)))  # near by: no hole shows
    readout = memory.read(truth[2])
    seen = readout.visibility[0]
    assert seen.float().mean() > 0.85
    assert (readout.latents - truth[0])[0, :, seen].abs().mean() < 0.05
    relative = (readout.depth / truth[1][:, 4::8, 4::8] - 1)[0, seen].abs()
    assert relative.median() < 0.02 and relative.max() < 0.2


def test_rgb_holes_are_grey_and_half_a_cell_makes_it_visible():
    latents, depth, cameras, _ = views(HERE)
    depth = torch.full_like(depth, 2.0)
    depth[:, :8, :4] = torch.nan  # half of cell (0, 0)
    depth[:, 8:16, :5] = torch.nan  # more than half of cell (1, 0)
    seen = []
    memory = RGBPointCloud(lambda frames: seen.append(frames) or encode(frames))
    memory.write(latents, depth, cameras, frames=torch.ones(1, 3, 64, 96))
    readout = memory.read(cameras)
    assert (~readout.visibility[0]).nonzero().tolist() == [[1, 0]]
    assert not readout.latents[0, :, 1, 0].any()  # though the encoder saw some white there
    assert not seen[0][0, :, :8, :4].any() and (seen[0][0, :, 16:] == 1).all()


def test_rgb_takes_the_same_cells_as_the_latent_memory():
    latents, depth, cameras, frames = views(HERE)
    moving = torch.zeros(1, 64, 96, dtype=torch.bool)
    moving[0, 20:30, 40:50] = True
    mask = writable(depth, moving, stride=STRIDE)
    rgb, latent = RGBPointCloud(encode), LatentGrid()
    added = rgb.write(latents, depth, cameras, mask, frames=frames)
    assert added == latent.write(latents, depth, cameras, mask) * STRIDE**2 < 64 * 96
    assert torch.equal(rgb.read(cameras).visibility, latent.read(cameras).visibility)


def test_rgb_grows_unless_capped():
    sizes = {}
    for cap in (None, 2):
        memory = RGBPointCloud(encode, max_chunks=cap)
        sizes[cap] = []
        for _ in range(4):
            latents, depth, cameras, frames = views(HERE)
            memory.write(latents, depth, cameras, frames=frames)
            sizes[cap].append(len(memory) // (64 * 96))
    assert sizes == {None: [1, 2, 3, 4], 2: [1, 2, 2, 2]}


def test_the_capped_memory_has_its_last_two_chunks_and_no_other(tmp_path):
    """As if the chunks before had never been: by its points, and by what a read shows; also after a file."""
    poses = [pose((0.1 * k, 0, 0), (0, 0.3 * k, 0)) for k in range(4)]
    capped, fresh = make_memory("rgb_capped", encode), make_memory("rgb", encode)
    for k, here in enumerate(poses):
        latents, depth, cameras, frames = views(here)
        capped.write(latents, depth, cameras, frames=frames)
        if k >= 2:
            fresh.write(latents, depth, cameras, frames=frames)
    capped.save(tmp_path / "memory.safetensors")
    for memory in (capped, RGBPointCloud(encode).load(tmp_path / "memory.safetensors")):
        assert torch.equal(memory.positions, fresh.positions) and torch.equal(memory.colors, fresh.colors)
        assert torch.equal(memory.read(camera(*poses)).latents, fresh.read(camera(*poses)).latents)
        latents, depth, cameras, frames = views(HERE)
        memory.write(latents, depth, cameras, frames=frames)
        assert len(memory) == 2 * 64 * 96, "the cap outlives the file"


def test_what_rgb_refuses():
    latents, depth, cameras, frames = views(HERE)
    with pytest.raises(ValueError, match="frames: an RGB memory needs"):
        RGBPointCloud(encode).write(latents, depth, cameras)
    with pytest.raises(ValueError, match=r"frames: .*\(1, 3, 64, 96\), got \(1, 3, 8, 8\)"):
        RGBPointCloud(encode).write(latents, depth, cameras, frames=torch.zeros(1, 3, 8, 8))
    with pytest.raises(ValueError, match="depth: .* per pixel"):
        RGBPointCloud(encode).write(latents, torch.ones(1, 8, 12), cameras, frames=frames)
    with pytest.raises(ValueError, match="max_chunks"):
        RGBPointCloud(encode, max_chunks=0)


def test_memories_by_name():
    assert isinstance(make_memory("latent", policy="finest"), LatentGrid)
    assert make_memory("append").policy == "append"
    assert make_memory("rgb", encode=encode).max_chunks is None and make_memory("rgb_capped", encode).max_chunks == 2
    assert make_memory("none", encode).nbytes == 0  # those that need no codec do not mind one
    with pytest.raises(ValueError, match="encode: 'rgb_capped' is read through a VAE"):
        make_memory("rgb_capped")
    with pytest.raises(ValueError, match="expected one of latent, append, rgb, rgb_capped, none"):
        make_memory("???")
