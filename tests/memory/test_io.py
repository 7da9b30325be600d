"""Files of a memory: what is saved comes back, and what is broken is refused."""

from __future__ import annotations

import builtins
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from scenes import camera, pose, room_views

from mirage_nb import Points
from mirage_nb.memory import io as grid_io
from mirage_nb.memory.grid import COLUMNS, LatentGrid, Settings

HERE, TURN = pose(), pose((0.1, 0.0, 0.1), (0.0, 0.25, 0.0))


def written(*poses) -> LatentGrid:
    grid, views = LatentGrid(), camera(*poses)
    grid.write(*room_views(views), views)
    return grid


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_save_and_load(tmp_path, dtype):
    views = camera(HERE, TURN)
    latents, depth = room_views(views)
    grid = LatentGrid(0.03, "finest", tolerance=0.07)
    grid.write(latents.to(dtype), depth, views)
    grid.save(tmp_path / "memory.safetensors")
    again = LatentGrid.load(tmp_path / "memory.safetensors")
    for name in ("voxel_size", "policy", "tolerance", "stride", "channels", "frames", "nbytes"):
        assert getattr(again, name) == getattr(grid, name), name
    for name in ("positions", "tokens", "footprints", "written", "views"):
        assert torch.equal(getattr(again, name), getattr(grid, name)), name
    assert again.tokens.dtype == dtype
    view = camera(pose((0.3, 0.1, 0.3), (0.1, 0.2, 0.0)))
    for memory in (grid, again):
        memory.write(room_views(view)[0].to(dtype), room_views(view)[1], view)
    assert torch.equal(grid.tokens, again.tokens)
    assert [path.name for path in tmp_path.iterdir()] == ["memory.safetensors"]  # nothing left aside


def test_a_lazy_memory_leaves_its_tokens_in_the_file_and_is_the_same_memory(tmp_path):
    path, grid = tmp_path / "memory.safetensors", written(HERE)
    grid.save(path)
    lazy = LatentGrid.load(path, lazy=True)
    assert lazy.tokens.dtype == grid.tokens.dtype and lazy.nbytes == grid.nbytes
    view = camera(TURN)
    for memory in (grid, lazy):
        assert memory.write(*room_views(view), view) > 10
        assert memory.delete(torch.arange(len(memory)) % 5 == 0) > 10
    for field in ("latents", "index", "depth"):
        assert torch.equal(getattr(lazy.read(camera(HERE, TURN)), field), getattr(grid.read(camera(HERE, TURN)), field))
    lazy.save(path)  # over the file that it is mapped from
    assert torch.equal(LatentGrid.load(path).tokens, grid.tokens) and torch.equal(lazy.tokens, grid.tokens)


def test_a_lazy_memory_takes_little_memory(tmp_path):
    """A file of 200 MB is opened and read from without as much more memory."""
    path, rows = tmp_path / "large.safetensors", 100_000
    g = torch.Generator().manual_seed(0)
    grid = LatentGrid(stride=8, channels=500)
    positions = torch.rand(rows, 3, generator=g) * torch.tensor([400.0, 400.0, 400.0])
    cells = torch.zeros(rows, dtype=torch.int64)
    grid.add(Points(positions, torch.zeros(rows, 500), torch.full((rows,), 0.2), cells, cells))
    grid.save(path)
    code = f"""
import resource, torch
from mirage_nb import Cameras, LatentGrid
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
grid = LatentGrid.load({str(path)!r}, lazy=True)
view = Cameras(torch.eye(4), torch.tensor([80.0, 80.0, 48.0, 32.0]), (64, 96))
assert grid.read(view).visibility.any()
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 120, done.stdout  # MiB


def test_an_empty_memory_can_be_saved(tmp_path):
    LatentGrid(stride=8).save(tmp_path / "empty.safetensors")
    again = LatentGrid.load(tmp_path / "empty.safetensors")
    assert len(again) == 0 and again.stride == 8 and again.channels is None
    assert again.write(*room_views(camera(HERE)), camera(HERE)) == 96


def test_broken_files_are_refused(tmp_path):
    path, bad = tmp_path / "memory.safetensors", tmp_path / "bad.safetensors"
    grid = written(HERE)
    grid.save(path)
    data = path.read_bytes()
    with pytest.raises(FileNotFoundError, match="nowhere"):
        LatentGrid.load(tmp_path / "nowhere.safetensors")
    for part in (b"", data[:5], data[: len(data) // 2], data[:-1], b"not a safetensors file at all"):
        bad.write_bytes(part)
        with pytest.raises(ValueError, match="bad.safetensors: not a whole safetensors file"):
            LatentGrid.load(bad)
    rows, header = grid_io.load_tensors(path, "mirage-latent-grid", COLUMNS, Settings)
    settings = header.model_dump()
    for change, message in [
        ({"tokens": rows["tokens"][:, :2]}, "tokens: expected"),
        ({"positions": rows["positions"][:5]}, "expected"),
        ({"footprints": rows["footprints"].double()}, "footprints: expected"),
        ({"tokens": rows["tokens"] / 0}, "tokens: expected finite"),
    ]:
        grid_io.save_tensors(bad, "mirage-latent-grid", {**rows, **change}, settings)
        with pytest.raises(ValueError, match=message):
            LatentGrid.load(bad)
    for header in ({"policy": "newest"}, {"voxel_size": None}, {"frames": "many"}):
        grid_io.save_tensors(bad, "mirage-latent-grid", rows, {**settings, **header})
        with pytest.raises(ValueError, match="bad.safetensors: broken header"):
            LatentGrid.load(bad)
    grid_io.save_tensors(bad, "mirage-latent-grid", {"positions": rows["positions"]}, settings)
    with pytest.raises(ValueError, match="lacks the tensors"):
        LatentGrid.load(bad)
    for header in ({"format": "other", "version": "1"}, {"format": "mirage-latent-grid", "version": "2"}, {}):
        save_file(rows, bad, header)
        with pytest.raises(ValueError, match="expected format 'mirage-latent-grid', version '1'"):
            LatentGrid.load(bad)


def test_a_failing_write_leaves_the_old_file(tmp_path, monkeypatch):
    path, grid = tmp_path / "memory.safetensors", written(HERE)
    grid.save(path)
    before = path.read_bytes()

    def full(*args):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        with pytest.raises(OSError, match="the disk of .* is full"):
            written(TURN).save(path)
    assert path.read_bytes() == before and len(list(tmp_path.iterdir())) == 1
    with pytest.raises(FileNotFoundError, match="folder"):
        grid.save(tmp_path / "missing" / "memory.safetensors")


@pytest.mark.parametrize("colors", [None, "floats", "bytes"])
def test_ply(tmp_path, colors):
    grid = written(HERE)
    given = {"floats": torch.rand(96, 3), "bytes": torch.randint(256, (96, 3), dtype=torch.uint8)}.get(colors)
    grid.save_ply(tmp_path / "memory.ply", given)
    header, body = (tmp_path / "memory.ply").read_bytes().split(b"end_header\n")
    lines = header.decode().splitlines()
    assert lines[:3] == ["ply", "format binary_little_endian 1.0", "element vertex 96"]
    names = [line.split()[1:] for line in lines[3:]]
    kinds = [(name, {"float": "<f4", "uchar": "u1"}[kind]) for kind, name in names]
    rows = np.frombuffer(body, kinds)
    assert np.array_equal(np.stack([rows[axis] for axis in "xyz"], 1), grid.positions.numpy())
    if given is not None:
        expected = given if colors == "bytes" else (given * 255).round().byte()
        assert np.array_equal(np.stack([rows[c] for c in ("red", "green", "blue")], 1), expected.numpy())
    with pytest.raises(ValueError, match="colors: expected"):
        grid.save_ply(tmp_path / "memory.ply", torch.rand(3, 3))


def test_open3d_agrees_where_it_works(tmp_path):
    try:
        import open3d
    except (ImportError, OSError) as error:
        pytest.skip(f"open3d does not load here: {error}")
    grid = written(HERE)
    cloud = grid.to_open3d(torch.rand(96, 3))
    np.testing.assert_allclose(np.asarray(cloud.points), grid.positions.numpy())
    assert len(cloud.colors) == 96
    grid.save_ply(tmp_path / "memory.ply", torch.rand(96, 3))
    read = open3d.io.read_point_cloud(str(tmp_path / "memory.ply"))
    np.testing.assert_allclose(np.asarray(read.points), grid.positions.numpy())
    assert read.has_colors()


def test_files_do_not_need_open3d(tmp_path, monkeypatch):
    real = builtins.__import__

    def refuse(name, *args, **kwargs):
        if name.startswith("open3d"):
            raise OSError("libGL.so.1: cannot open shared object file")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refuse)
    grid = written(HERE)
    grid.save_ply(tmp_path / "memory.ply")
    grid.save(tmp_path / "memory.safetensors")
    with pytest.raises(OSError):
        grid.to_open3d()
