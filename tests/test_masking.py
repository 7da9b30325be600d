"""Stage 4: nothing that moves and no sky enters the memory, and everything else may."""

from __future__ import annotations

import pytest
import torch
from scenes import box_depth, camera, pose, square_in_front

from mirage_nb.context import Past
from mirage_nb.lifting import cells, depth_to_latent, nearest_around
from mirage_nb.masking import find_moving, inconsistent, looked_through, writable
from mirage_nb.memory.grid import LatentGrid

STRIDE = 8
LATENTS = torch.zeros(1, 4, 8, 12)


def test_writable_cells():
    depth = torch.full((1, 64, 96), 2.0)
    depth[0, :8, :8] = 0
    moving, sky = torch.zeros(2, 1, 64, 96, dtype=torch.bool)
    moving[0, 15, 15] = True  # one pixel in cell (1, 1)
    sky[0, 16, 95] = True  # one in cell (2, 11)
    allowed = writable(depth, moving, sky, stride=STRIDE)
    assert (~allowed[0]).nonzero().tolist() == [[0, 0], [1, 1], [2, 11]]
    with pytest.raises(ValueError, match="moving: expected bool"):
        writable(depth, moving.float(), stride=STRIDE)
    with pytest.raises(ValueError, match="sky: expected bool"):
        writable(depth, None, sky[:, :8], stride=STRIDE)


def test_moving_and_sky_never_enter_the_memory():
    """A square slides in front of a wall with a window to the sky; only cells of the wall get in."""
    grid = LatentGrid(stride=STRIDE)
    for step in range(6):
        view = camera(pose((0.02 * step, 0.0, 0.0)))
        depth, moving = square_in_front(view, -1.2 + 0.3 * step)
        sky = torch.zeros_like(moving)
        sky[:, 2:14, 70:90] = True
        depth = torch.where(sky, 0.0, depth)
        grid.write(LATENTS, depth, view, writable(depth, moving, sky, stride=STRIDE))
        uv, _ = view.project(grid.positions)
        assert len(grid) and (grid.positions[:, 2] - 4).abs().lt(1e-4).all()  # nothing of the square, at 2
        cell = (uv[0, grid.written == step] / STRIDE).floor().long()
        own_moving, own_sky = (cells(x, STRIDE)[0, cell[:, 1], cell[:, 0]] for x in (moving, sky))
        assert not own_moving.any() and not own_sky.any()
    assert grid.read(camera(pose())).visibility.float().mean() > 0.6  # and most of the wall is there


def seen_through(depth, cameras, stride):
    """Cells (N, h, w) of N views whose surface another of them looks through."""
    grid = cameras.downscale(stride)
    return looked_through(depth_to_latent(depth, stride), grid, nearest_around(depth, stride), grid)


def test_what_another_frame_looks_through_has_moved():
    poses = [pose((0.05 * i, 0.0, 0.0)) for i in range(4)]
    views = camera(*poses)
    parts = [square_in_front(views[i], -1.0 + 0.45 * i) for i in range(4)]
    depth, moving = torch.cat([p[0] for p in parts]), torch.cat([p[1] for p in parts])
    found = seen_through(depth, views, STRIDE)
    wholly = cells(moving, STRIDE).all(-1)
    assert wholly.sum() > 20
    assert found[wholly].float().mean() > 0.9
    assert not found[~cells(moving, STRIDE).any(-1)].any()  # never the wall, seen, hidden or set free
    still = torch.cat([square_in_front(views[i], -0.4)[0] for i in range(4)])
    assert not seen_through(still, views, STRIDE).any()
    assert not seen_through(still * torch.tensor([1.0, 1.04, 0.97, 1.0])[:, None, None], views, STRIDE).any()
    assert not seen_through(depth[:1], views[0], STRIDE).any()  # one frame alone says nothing
    unknown = torch.where(depth == 4, torch.nan, depth)
    assert not seen_through(unknown, views, STRIDE).any()


def test_static_things_are_never_taken_for_moving_ones():
    around = camera(*[pose((0.013 * i * (-1) ** i, 0.007 * i, 0.0)) for i in range(12)])
    still = torch.cat([square_in_front(around[i], -0.37)[0] for i in range(12)])
    assert not seen_through(still, around, STRIDE).any()
    grid = LatentGrid(stride=STRIDE)
    grid.write(LATENTS, still[:1], around[0])
    assert not inconsistent(still, grid.read(around)).any()
    opposite = camera(pose(), pose((0.0, 0.0, 0.3), (0.0, 3.1, 0.0)))
    assert not seen_through(box_depth(opposite), opposite, STRIDE).any()


def test_the_view_against_the_memory():
    view = camera(pose())
    (before, there), (after, now) = square_in_front(view, -0.8), square_in_front(view, 0.5)
    grid = LatentGrid(stride=STRIDE)
    grid.write(LATENTS, before, view)
    readout = grid.read(view)
    ghost = inconsistent(after, readout)
    assert ghost[cells(there & ~now, STRIDE).all(-1)].float().mean() > 0.5  # all but the outline, next to known wall
    assert not ghost[~cells(there, STRIDE).any(-1)].any()  # not where the square stands now: it may just hide the wall
    assert not inconsistent(before, readout).any()
    assert not inconsistent(torch.zeros_like(after), readout).any()
    grid.delete(torch.isin(torch.arange(len(grid)), readout.index[ghost]))
    assert len(grid) == 96 - ghost.sum() and not inconsistent(after, grid.read(view))[ghost].any()
    assert inconsistent(after[:, ::8, ::8], readout).shape == (1, 8, 12)  # depth per cell will do
    with pytest.raises(ValueError, match="depth: expected"):
        inconsistent(after[:, :60], readout)


# ---- what moves, by geometry alone

CHANNELS, CELLS = 4, (8, 12)


def stream(lefts, group: int = 4, noise: float = 0.0):
    """A square slides (its left edge at `lefts`) before a wall; frames are written in groups, by what is found."""
    memory, past = LatentGrid(stride=STRIDE, channels=CHANNELS), Past()
    g, wrong, hit, all_moving = torch.Generator().manual_seed(0), 0, 0, 0
    for start in range(0, len(lefts), group):
        part = lefts[start : start + group]
        views = camera(*[pose((0.01 * (start + i), 0.0, 0.0)) for i in range(len(part))])
        depth, moving = (torch.cat(x) for x in zip(*[square_in_front(views[i], x) for i, x in enumerate(part)]))
        depth = depth * (1 + noise * torch.randn(len(depth), 1, 1, generator=g))
        latents, readout = torch.zeros(len(part), CHANNELS, *CELLS), memory.read(views)
        past.add(latents, depth, views)
        found, rows = find_moving(past, readout, depth)
        memory.delete(torch.zeros(len(memory), dtype=torch.bool).index_fill_(0, rows, True))
        memory.write(latents, depth, views, writable(depth, stride=STRIDE) & ~found)
        wrong += int((found & ~cells(moving, STRIDE).any(-1)).sum())
        whole = cells(moving, STRIDE).all(-1)
        hit, all_moving = hit + int((found & whole).sum()), all_moving + int(whole.sum())
    return memory, wrong, hit / all_moving


def test_a_sliding_square_leaves_the_memory_and_the_wall_stays():
    memory, wrong, recall = stream([-1.4 + 0.15 * i for i in range(16)])
    assert not wrong, "never the wall"
    assert recall > 0.5  # it must have moved by its own width first
    in_front = memory.positions[:, 2] < 3
    # What is left of the square is where it stands at the end, at most.
    assert not (in_front & (memory.positions[:, 0] < 0.2)).any()
    everything = LatentGrid(stride=STRIDE)
    for i in range(16):
        view = camera(pose((0.01 * i, 0.0, 0.0)))
        everything.write(torch.zeros(1, CHANNELS, *CELLS), square_in_front(view, -1.4 + 0.15 * i)[0], view)
    assert (everything.positions[:, 2] < 3).sum() > 3 * in_front.sum()


def test_a_square_that_stands_is_kept_even_if_depth_errs():
    for noise in (0.0, 0.02):
        memory, wrong, recall = stream([-0.4] * 16, noise=noise)
        assert not wrong and recall == 0
        assert (memory.positions[:, 2] < 3).sum() > 10


def test_one_frame_alone_is_no_witness_against_the_others():
    """A single later frame whose depth is wildly wrong neither marks what stands before it nor deletes it."""
    views = camera(*[pose((0.01 * i, 0.0, 0.0)) for i in range(5)])
    depth = torch.cat([square_in_front(views[i], -0.4)[0] for i in range(5)])
    memory, past, latents = LatentGrid(stride=STRIDE), Past(), torch.zeros(5, CHANNELS, *CELLS)
    memory.write(latents[:1], depth[:1], views[0])
    past.add(latents[:1], depth[:1], views[0])
    broken = depth[1:].clone()
    broken[2] *= 2
    readout = memory.read(views[1:])
    past.add(latents[1:], broken, views[1:])
    found, rows = find_moving(past, readout, broken)
    covered = readout.visibility & (readout.index >= 0)
    assert not len(rows) and not (found & ~covered).any(), "at the edges the first image may object, which has them"
    assert found.float().mean() < 0.05
    assert seen_through(broken, views[1:], STRIDE).any(), "it would, if one were enough"


def test_the_first_frame_of_all_is_written_as_it_is():
    view, past = camera(pose()), Past()
    depth = square_in_front(view, -0.4)[0]
    past.add(torch.zeros(1, CHANNELS, *CELLS), depth, view)
    memory = LatentGrid(stride=STRIDE, channels=CHANNELS)
    found, rows = find_moving(past, memory.read(view), depth)
    assert not found.any() and not len(rows) and torch.equal(past.nearest[0], nearest_around(depth, STRIDE)[0])


def test_only_recent_frames_are_asked():
    views = camera(*[pose()] * (20))
    depth = torch.full((20, 64, 96), 4.0)
    depth[4:] = 2.0  # a wall has come nearer for good: long enough ago to be believed again
    depth[0] = 0.0  # the first image knows nothing
    past = Past()
    past.add(torch.zeros(len(depth), CHANNELS, *CELLS), depth, views)
    empty = LatentGrid(stride=STRIDE, channels=CHANNELS).read(views[-1])
    assert not find_moving(past, empty, depth[-1:])[0].any()
    for rows in (past.cameras, past.depth, past.nearest):
        del rows[1], rows[-1]
    assert find_moving(past, empty, depth[-1:])[0].all(), "and a little earlier it is not"


def test_nothing_is_written_before_what_the_first_image_saw():
    """What a wrong depth makes hang before the first image's surfaces is found however long ago that was."""
    views = camera(*[pose()] * (20))
    depth = torch.full((20, 64, 96), 4.0)
    depth[1:, :, 48:] = 3.0
    past = Past()
    past.add(torch.zeros(len(depth), CHANNELS, *CELLS), depth, views)
    empty = LatentGrid(stride=STRIDE, channels=CHANNELS).read(views[-1])
    found, _ = find_moving(past, empty, depth[-1:])
    assert found[0, :, 6:].all() and not found[0, :, :6].any()


@pytest.mark.parametrize(("nearer", "moves"), [(0.97, False), (0.93, False), (0.87, True), (0.6, True)])
def test_how_far_in_front_a_surface_must_stand_to_count_as_new(nearer, moves):
    """Estimated depth errs by a few percent from frame to frame; a thing stands farther in front."""
    views = camera(*[pose()] * 4)
    depth = torch.full((4, 64, 96), 4.0)
    depth[3] *= nearer
    past, memory = Past(), LatentGrid(stride=STRIDE)
    memory.write(torch.zeros(3, CHANNELS, *CELLS), depth[:3], views[:3])
    past.add(torch.zeros(4, CHANNELS, *CELLS), depth, views)
    found, _ = find_moving(past, memory.read(views[3]), depth[3:])
    assert found.all() == found.any() == moves
    past.depth[3], past.nearest[3] = 8.0 - past.depth[3], 8.0 - past.nearest[3]  # now it stands as far behind
    found, gone = find_moving(past, memory.read(views[3]), 8.0 - depth[3:])
    assert not found.any() and (len(gone) > 0) == moves


@pytest.mark.parametrize(("views", "goes"), [(3, False), (5, True)])
def test_how_many_new_frames_must_look_through_a_token(views, goes):
    """Of eight new frames, whose depth may err."""
    cameras, latents = camera(*[pose()] * 9), torch.zeros(9, CHANNELS, *CELLS)
    depth = torch.full((9, 64, 96), 2.0)
    depth[1 : 1 + views] = 4.0
    memory, past = LatentGrid(stride=STRIDE), Past()
    memory.write(latents[:1], depth[:1], cameras[0])
    past.add(latents, depth, cameras)
    _, gone = find_moving(past, memory.read(cameras[1:]), depth[1:])
    assert len(gone) == (len(memory) if goes else 0)
