"""What moves is found by geometry alone, and never where nothing does; what has moved away leaves the memory."""

from __future__ import annotations

from types import SimpleNamespace

import torch
from scenes import box_depth, camera, pose, square_in_front

from mirage_nb.cameras import Cameras
from mirage_nb.evaluation import ghosts
from mirage_nb.lifting import cells
from mirage_nb.masking import nearest_around, seen_through, writable
from mirage_nb.memory.grid import LatentGrid
from mirage_nb.models.presets import build_micro
from mirage_nb.scenes import WINDOW, Clock, Past, Scenes, find_moving
from mirage_nb.stitching import rollout

STRIDE, CHANNELS = 8, 4
CELLS = (8, 12)


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
        past.add(latents, depth, views, STRIDE)
        found, rows = find_moving(past, readout, depth, STRIDE)
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
    past.add(latents[:1], depth[:1], views[0], STRIDE)
    broken = depth[1:].clone()
    broken[2] *= 2
    readout = memory.read(views[1:])
    past.add(latents[1:], broken, views[1:], STRIDE)
    found, rows = find_moving(past, readout, broken, STRIDE)
    covered = readout.visibility & (readout.index >= 0)
    assert not len(rows) and not (found & ~covered).any(), "at the edges the first image may object, which has them"
    assert found.float().mean() < 0.05
    assert seen_through(broken, views[1:], STRIDE).any(), "it would, if one were enough"


def test_the_first_frame_of_all_is_written_as_it_is():
    view, past = camera(pose()), Past()
    depth = square_in_front(view, -0.4)[0]
    past.add(torch.zeros(1, CHANNELS, *CELLS), depth, view, STRIDE)
    memory = LatentGrid(stride=STRIDE, channels=CHANNELS)
    found, rows = find_moving(past, memory.read(view), depth, STRIDE)
    assert not found.any() and not len(rows) and torch.equal(past.behind[0], nearest_around(depth, STRIDE)[0])


def test_only_recent_frames_are_asked():
    views = camera(*[pose()] * (WINDOW + 4))
    depth = torch.full((WINDOW + 4, 64, 96), 4.0)
    depth[4:] = 2.0  # a wall has come nearer for good: long enough ago to be believed again
    depth[0] = 0.0  # the first image knows nothing
    past = Past()
    past.add(torch.zeros(len(depth), CHANNELS, *CELLS), depth, views, STRIDE)
    empty = LatentGrid(stride=STRIDE, channels=CHANNELS).read(views[-1])
    assert not find_moving(past, empty, depth[-1:], STRIDE)[0].any()
    for rows in (past.cameras, past.depth, past.behind):
        del rows[1], rows[-1]
    assert find_moving(past, empty, depth[-1:], STRIDE)[0].all(), "and a little earlier it is not"


def test_nothing_is_written_before_what_the_first_image_saw():
    """What a wrong depth makes hang before the first image's surfaces is found however long ago that was."""
    views = camera(*[pose()] * (WINDOW + 4))
    depth = torch.full((WINDOW + 4, 64, 96), 4.0)
    depth[1:, :, 48:] = 3.0
    past = Past()
    past.add(torch.zeros(len(depth), CHANNELS, *CELLS), depth, views, STRIDE)
    empty = LatentGrid(stride=STRIDE, channels=CHANNELS).read(views[-1])
    found, _ = find_moving(past, empty, depth[-1:], STRIDE)
    assert found[0, :, 6:].all() and not found[0, :, :6].any()


def test_what_is_imagined_before_what_was_seen_is_not_written():
    """An imagined wall that past frames look through is left out; what is behind theirs, or beside, is written."""
    views = camera(pose(), pose((0.02, 0.0, 0.0)))
    depth = torch.full((2, 64, 96), 4.0)
    past = Past()
    past.add(torch.zeros(2, CHANNELS, *CELLS), depth, views, STRIDE)
    surface = torch.full(CELLS, 4.0)
    surface[:, :4], surface[:, 8:], surface[0] = 2.0, 5.0, 0.0
    hidden = past.sees_through(surface, views[0].downscale(STRIDE))
    assert hidden[1:, :4].all() and not hidden[:, 4:].any() and not hidden[0].any()
    away = camera(pose((20.0, 0.0, 0.0))).downscale(STRIDE)
    assert not past.sees_through(torch.full(CELLS, 2.0), away).any(), "nobody looked there"

    models = SimpleNamespace(**build_micro(), mask_estimator=None)
    for imagined, written in ((2.0, 0), (4.0, 96)):
        memory = LatentGrid(stride=STRIDE, channels=CHANNELS)
        given = torch.full((1, 2, 64, 96), imagined)
        scenes = Scenes(models, [memory], [views], given, None, torch.device("cpu"))
        scenes.past[0].add(torch.zeros(2, CHANNELS, *CELLS), depth, views, STRIDE)
        scenes.foresee(torch.zeros(1, 3, 64, 96), torch.zeros(1, CHANNELS, *CELLS), 1, [], [0], Clock(scenes.device))
        assert len(memory) == written


def test_what_was_given_is_told_from_what_was_made():
    models, views = SimpleNamespace(**build_micro(), mask_estimator=None), camera(pose(), pose((1.0, 0.0, 0.0)))
    memories = [LatentGrid(stride=STRIDE, channels=CHANNELS), LatentGrid(stride=STRIDE, channels=CHANNELS)]
    scenes = Scenes(models, memories, [views, views], None, None, torch.device("cpu"))
    depth = torch.full((2, 64, 96), 4.0)
    for frame in range(2):  # the second sees a strip that the first did not, and is generated
        memories[0].write(torch.zeros(1, CHANNELS, *CELLS), depth[:1], views[[frame]])
    readouts = [scenes.read(scene, [0, 1]) for scene in range(2)]
    given = scenes.given(readouts)
    assert not given[1].any(), "an empty memory shows nothing"
    assert given[0, 0].all() and readouts[0].visibility[1].all()
    assert given[0, 1, :, 0].all() and not given[0, 1, :, -1].any()
    scenes.memories[0] = ["of another kind"]
    assert torch.equal(scenes.given(readouts)[0], readouts[0].visibility)


def test_the_loop_finds_what_moves_by_itself_and_masks_that_are_given_count_alone():
    parts = SimpleNamespace(**build_micro())
    size = (32, 48)
    c2w = torch.eye(4).repeat(9, 1, 1)
    cameras = Cameras(c2w, torch.tensor([40.0, 40.0, 24.0, 16.0]), size)
    depth = torch.full((1, 9, *size), 4.0)
    for frame in range(9):  # two columns of cells slide to the right and out
        depth[0, frame, :, 8 * frame : 8 * frame + 16] = 2.0
    image = torch.randint(0, 256, (1, *size, 3), dtype=torch.uint8)
    left = {}
    for name, moving in (("found", None), ("none", torch.zeros(1, 9, *size, dtype=torch.bool))):
        memory = LatentGrid(stride=8, channels=4)
        results = list(rollout(parts, [memory], image, [cameras], seeds=[0], depth=depth, moving=moving))
        left[name] = int((memory.positions[:, 2] < 3).sum())
        written = torch.cat([r.written for r in results], 1)
        assert written.shape == (1, 9, 4, 6)
        if name == "none":
            assert torch.equal(written[0], writable(depth[0], stride=8))
    assert left["none"] >= 12 and left["found"] <= left["none"] / 3


def test_ghosts_are_the_tokens_lifted_from_what_moved():
    memory = LatentGrid(stride=STRIDE)
    views = camera(pose(), pose((0.01, 0.0, 0.0)))
    depth, moving = (torch.cat(x) for x in zip(*[square_in_front(views[i], 0.6 * i - 0.9) for i in range(2)]))
    for i in range(2):
        memory.write(torch.zeros(1, CHANNELS, *CELLS), depth[[i]], views[i])
    found = ghosts(memory, views, moving)
    assert torch.equal(found, memory.positions[:, 2] < 3) and found.sum() > 20
    assert set(memory.written[found].tolist()) == {0, 1}
    assert not ghosts(memory, views, torch.zeros_like(moving)).any()


def test_nothing_moves_in_a_box_of_six_walls():
    parts = SimpleNamespace(**build_micro())
    cameras = Cameras(
        torch.stack([pose((0.05 * i, 0.0, 0.1 * i), (0.0, 0.1 * i, 0.0)) for i in range(9)]),
        torch.tensor([40.0, 40.0, 24.0, 16.0]),
        (32, 48),
    )
    depth, image = box_depth(cameras)[None], torch.randint(0, 256, (1, 32, 48, 3), dtype=torch.uint8)
    results = list(rollout(parts, [LatentGrid(stride=8)], image, [cameras], seeds=[0], depth=depth))
    assert torch.equal(torch.cat([r.written for r in results], 1)[0], writable(depth[0], stride=8))
