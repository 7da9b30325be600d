"""The memory at scale: fast is plain, culled is whole, spilled is held, to the bit."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scenes import camera, pose, random_cameras, room_views

from mirage_nb import spill
from mirage_nb.benchmarks.measure import one_thread
from mirage_nb.benchmarks.readout import cloud, fill, new_grid, plain_readout, views
from mirage_nb.memory import blocks, culling
from mirage_nb.memory.grid import POLICIES, LatentGrid
from mirage_nb.memory.voxels import voxel_keys
from mirage_nb.reprojection import reproject

FIELDS = ("latents", "visibility", "depth", "offset", "index")
COLUMNS = ("positions", "tokens", "footprints", "written", "views")


def assert_same(a, b, fields=FIELDS):
    for field in fields:
        assert torch.equal(getattr(a, field), getattr(b, field)), field


def assert_read_alike(grid: LatentGrid, cameras) -> None:
    """All ways to read a memory give the same, for cameras at latent size."""
    rows = {name: getattr(grid, name) for name in COLUMNS}
    for splats in (True, False):
        plain = reproject(rows["positions"], rows["tokens"], cameras, rows["footprints"] if splats else None)
        for cull in (True, False):
            assert_same(grid.read(cameras, cameras.size, splats=splats, cull=cull), plain)
    with one_thread():
        slow = plain_readout(rows["positions"], rows["tokens"], cameras)
    assert_same(plain, slow, ("latents", "visibility", "index"))


def filled(positions: torch.Tensor, footprints: torch.Tensor) -> LatentGrid:
    grid = LatentGrid(stride=8, channels=3)
    tokens = torch.arange(3.0 * len(positions)).reshape(-1, 3)
    half = len(positions) // 2
    for part in (slice(0, half), slice(half, None)):
        fill(grid, positions[part], footprints[part], tokens[part])
    return grid


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10**6), count=st.integers(0, 400), spread=st.sampled_from([0.3, 5.0, 300.0]),
    removed=st.sampled_from([0.0, 0.3, 1.0]),
)  # fmt: skip
def test_culled_is_whole_is_plain(seed, count, spread, removed):
    g = torch.Generator().manual_seed(seed)
    positions = torch.randn(count, 3, generator=g) * spread
    positions[::3] = positions[torch.randint(max(1, count // 4), (len(positions[::3]),), generator=g)]  # ties
    grid = filled(positions, spread * (torch.rand(count, generator=g) ** 4 + 0.01))
    gone = torch.rand(count, generator=g) < removed
    assert grid.delete(gone) == gone.sum()
    assert torch.equal(grid.positions, positions[~gone])
    assert torch.equal(grid.tokens[:, 0] / 3, torch.arange(count)[~gone].float())
    fill(grid, positions[:50], torch.ones(min(50, count)), torch.zeros(min(50, count), 3))
    assert_read_alike(grid, random_cameras(seed, 3, (6, 9)))


@pytest.mark.parametrize("name", ["ray", "behind", "nan", "none", "crowd", "border", "far"])
def test_adversarial_worlds(name):
    view, g = camera(pose(), pose((0.2, 0.0, 0.0)), size=(8, 12), focal=10.0), torch.Generator().manual_seed(0)
    ray = view.unproject(torch.ones(2, 8, 12))[0, 3, 4]
    positions = {
        "ray": torch.arange(5000.0, 0, -1)[:, None] * ray * 0.01,
        "behind": torch.randn(3000, 3, generator=g) * torch.tensor([2.0, 2.0, 0.0]) - torch.tensor([0, 0, 1.0]),
        "nan": torch.randn(3000, 3, generator=g) + torch.tensor([0, 0, 3.0]),
        "none": torch.zeros(0, 3),
        "crowd": ray * 2 + 1e-3 * torch.rand(1_000_000, 3, generator=g),
        "border": view.unproject(torch.rand(2, 8, 12, generator=g) * 9)[0].flatten(0, 1) * 1.0001,
        "far": torch.randn(3000, 3, generator=g) * 20000,
    }[name]
    if name == "nan":
        positions[::7, 1] = torch.nan
    if name == "border":  # on the rays through the cells' corners, where rounding decides
        shift = torch.tensor([0.5 / 10, 0.5 / 10, 0.0])
        positions = torch.cat([positions + positions[:, 2:] * shift, positions - positions[:, 2:] * shift])
    grid = filled(positions, positions.norm(dim=1).nan_to_num(1) / 10 + 1e-3)
    assert len(grid) == len(positions)
    if name == "nan":
        for splats in (True, False):
            assert_same(grid.read(view, (8, 12), splats=splats), grid.read(view, (8, 12), splats=splats, cull=False))
        assert grid.read(view, (8, 12)).visibility.any()
    else:
        assert_read_alike(grid, view)
    if name in ("behind", "none"):
        assert not grid.read(view, (8, 12)).visibility.any()


def test_culling_skips_what_is_out_of_view_and_nothing_in_it():
    cameras, g = random_cameras(3, 20, (10, 14)), torch.Generator().manual_seed(3)
    points = torch.randn(20000, 3, generator=g) * 6
    seen = culling.in_view(points, points, cameras)  # boxes of no size
    u, v, z = (x.T for x in (*cameras.project(points)[0].unbind(-1), cameras.project(points)[1]))
    inside = (z > 0.01) & (u > 0) & (u < 14) & (v > 0) & (v < 10)
    wide = (z > -0.1) & (u > -1.5) & (u < 15.5) & (v > -1.5) & (v < 11.5)
    assert seen[inside].all() and not seen[~wide & (z.abs() > 0.1)].any()
    nan = torch.full((1, 3), torch.nan)
    assert culling.in_view(nan, nan, cameras).all()


def touched(monkeypatch, step) -> set[int]:
    """The pages whose rows a step looks at."""
    pages, reach = set(), blocks.Pages.reach

    def noting(self, which, change=False):
        pages.update(which.tolist())
        return reach(self, which, change)

    with monkeypatch.context() as patch:
        patch.setattr(blocks.Pages, "reach", noting)
        step()
    return pages


def test_far_away_tokens_cost_neither_reads_nor_writes(monkeypatch):
    positions, footprints = cloud("in view", 5000)
    cameras = views()
    grid = new_grid(positions, footprints)
    alone = touched(monkeypatch, lambda: grid.read(cameras, cameras.size))
    for n in range(1, 6):
        fill(grid, positions + torch.tensor([30.0 * n, 0, -60.0]), footprints, torch.zeros(5000, 48))
    assert touched(monkeypatch, lambda: grid.read(cameras, cameras.size)) == alone
    assert len(touched(monkeypatch, lambda: grid.read(cameras, cameras.size, cull=False))) > 5 * len(alone)
    pixels, depth = views(1).resize((44 * 16, 80 * 16)), torch.full((1, 44, 80), 3.0)
    wrote = touched(monkeypatch, lambda: grid.write(torch.zeros(1, 48, 44, 80), depth, pixels))
    assert len(wrote) < 3 * len(alone)


def street(count: int = 12):
    cameras = camera(
        *[pose((9.0 * i, 0.0, 0.3 * i), (0.0, 0.2 * i, 0.0)) for i in range(count)], size=(128, 192), focal=150.0
    )
    return *room_views(cameras), cameras


def test_spilled_is_held(tmp_path, monkeypatch):
    monkeypatch.setattr(spill, "GROUP", 8)
    latents, depth, cameras = street()
    for policy in POLICIES:
        held = LatentGrid(policy=policy)
        budget = 16 * 64 * (28 + 4 * 6)
        world = LatentGrid.open(tmp_path / policy, budget, policy=policy)
        for lap in range(2):
            for n in range(0, 12, 3):
                part = slice(n, n + 3)
                assert held.write(latents[part], depth[part], cameras[part]) == world.write(
                    latents[part], depth[part], cameras[part]
                )
            assert_same(held.read(cameras), world.read(cameras))
            box = torch.tensor([[20.0, -9, -9], [22.0, 9, 9]])
            assert held.delete(box) == world.delete(box)
        assert held.nbytes > 3 * budget and world._blocks.pages.capacity == 16
        for name in COLUMNS:
            assert torch.equal(getattr(held, name), getattr(world, name)), name
        world.flush()
        again = LatentGrid.open(tmp_path / policy, budget)
        assert again.policy == policy and again.frames == held.frames
        assert_same(held.read(cameras), again.read(cameras))
        for memory in (held, again):
            memory.write(latents[:2] + 1, depth[:2] * 0.8, cameras[:2])
        assert_same(held.read(cameras), again.read(cameras))


def test_what_was_flushed_survives_whatever_comes(tmp_path, monkeypatch):
    monkeypatch.setattr(spill, "GROUP", 4)
    latents, depth, cameras = street()
    world = LatentGrid.open(tmp_path / "world", 8 * 64 * (28 + 24), policy="average")
    world.write(latents[:6], depth[:6], cameras[:6])
    world.flush()
    before = {name: getattr(world, name).clone() for name in COLUMNS}

    def as_flushed():
        again = LatentGrid.open(tmp_path / "world", 1 << 24)
        return all(torch.equal(getattr(again, name), value) for name, value in before.items())

    world.write(latents, depth, cameras)  # changes old pages, and adds new ones, most of them in the file by now
    world.delete(torch.tensor([[-9.0, -9, -9], [5.0, 9, 9]]))
    assert len(world) != len(before["positions"]) and as_flushed()
    with monkeypatch.context() as patch:
        patch.setattr(spill.grid_io, "save_tensors", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left")))
        with pytest.raises(OSError, match="No space left"):
            world.flush()
    assert as_flushed()
    world.clear()
    world.write(latents[:1].bfloat16(), depth[:1], cameras[:1])  # pages of another size
    assert as_flushed()
    world.flush()
    again = LatentGrid.open(tmp_path / "world", 1 << 24)
    assert torch.equal(again.tokens, world.tokens) and again.tokens.dtype == torch.bfloat16
    assert len(list((tmp_path / "world").iterdir())) == 2  # nothing is left of the old one


def test_broken_worlds_are_refused(tmp_path):
    latents, depth, cameras = street(2)
    folder = tmp_path / "world"
    world = LatentGrid.open(folder, reach=0.4)
    world.write(latents, depth, cameras)
    world.flush()
    with pytest.raises(ValueError, match="another reach"):
        LatentGrid.open(folder, reach=0.5)
    with pytest.raises(ValueError, match="budget: expected at least"):
        LatentGrid.open(folder, budget=1000)
    with pytest.raises(ValueError, match="not opened from a folder"):
        LatentGrid().flush()
    (pages,) = folder.glob("pages-*.bin")
    header, data = (folder / "world.safetensors").read_bytes(), pages.read_bytes()
    tables, stored = spill.grid_io.load_tensors(folder / "world.safetensors", spill.FORMAT, tuple(spill.TABLES))

    def refused(message: str):
        with pytest.raises(ValueError, match=message):
            LatentGrid.open(folder)

    pages.write_bytes(data[: len(data) // 100])
    refused("found .* bytes")
    pages.unlink()
    refused("expected pages")
    pages.write_bytes(data)
    (folder / "world.safetensors").write_bytes(header[:-9])
    refused("not a whole safetensors file")
    other = {name: value.clone() for name, value in tables.items()}
    other["rows"][0] += 1
    for change, more, message in [
        ({"rows": other["rows"]}, {}, "contradict"),
        ({"at": tables["at"] + 10**6}, {}, "expected .* pages"),
        ({"low": tables["low"].double()}, {}, "low: expected"),
        ({}, {"file": "../elsewhere.bin"}, "expected pages"),
        ({}, {"dtype": "nonsense"}, "broken header"),
        ({}, {"policy": "newest"}, "policy"),
    ]:
        spill.grid_io.save_tensors(folder / "world.safetensors", spill.FORMAT, tables | change, stored | more)
        refused(message)
    (folder / "world.safetensors").write_bytes(header)
    assert torch.equal(LatentGrid.open(folder).positions, world.positions)


PEAK = """
import resource, sys, torch
from mirage_nb.benchmarks.measure import one_thread
from mirage_nb.benchmarks.readout import cloud, fill, views
from mirage_nb.memory.grid import LatentGrid
torch.set_num_threads(1)
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
cameras, (positions, footprints) = views(), cloud("in view", 20000)
def build(grid, plots):
    for n in range(plots):
        fill(grid, positions + torch.tensor([20.0 * n, 0, 0]), footprints, torch.full((20000, 48), float(n)))
        grid.read(cameras, cameras.size)
build(LatentGrid(stride=16, channels=48), 2)  # whatever torch needs to run
budget, before = 16 << 20, peak()
grid = LatentGrid.open(sys.argv[1], budget, stride=16, channels=48)
build(grid, 25)
grid.flush()
assert grid.read(cameras, cameras.size).latents.max() == 0 and grid.nbytes > 6 * budget
print(peak() - before - budget)
"""


def test_peak_memory_stays_under_the_budget(tmp_path):
    pytest.importorskip("resource")
    run = subprocess.run([sys.executable, "-c", PEAK, tmp_path / "world"], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert int(run.stdout) < 40 << 20  # what a view needs; the world is 105 MiB


def test_voxels_and_blocks_agree_about_what_is_occupied():
    g = torch.Generator().manual_seed(0)
    positions, footprints = torch.randn(3000, 3, generator=g) * 3, torch.full((3000,), 0.2)
    grid = filled(positions, footprints)
    keys = voxel_keys(positions, footprints, grid.voxel_size)
    assert grid._blocks.occupied(keys, grid.voxel_size).all()
    elsewhere = voxel_keys(positions + 0.3, footprints, grid.voxel_size)
    expected = torch.isin(elsewhere, keys)
    assert 0 < expected.sum() < 3000
    assert torch.equal(grid._blocks.occupied(elsewhere, grid.voxel_size), expected)
