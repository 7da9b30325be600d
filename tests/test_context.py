"""Which past frames a segment is shown as they are: chosen by the voxels that they share with it."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from micro import micro_model
from scenes import box_depth, camera, pose

from mirage_nb.cameras import Cameras
from mirage_nb.context import MIN_OVERLAP, Context, choose_references, overlap, shared_voxel_size, visible_voxels
from mirage_nb.memory.baselines import make_memory
from mirage_nb.paths import camera_path
from mirage_nb.stitching import rollout

SIZE = (32, 48)
SETS = st.sets(st.integers(-50, 50), max_size=30)


def keys(values) -> torch.Tensor:
    return torch.tensor(sorted(values), dtype=torch.int64)


@given(SETS, SETS)
def test_overlap_is_intersection_over_union(a, b):
    expected = len(a & b) / len(a | b) if a | b else 0.0
    assert overlap(keys(a), keys(b)) == pytest.approx(expected)
    assert overlap(keys(a), keys(b)) == overlap(keys(b), keys(a))


def test_voxels_are_those_of_the_points_that_are_seen():
    view = camera(pose(), size=(8, 12), focal=10.0)
    depth = torch.full((1, 8, 12), 3.0)
    depth[0, 0, 0], depth[0, 0, 1] = 0.0, torch.nan
    points = view.unproject(torch.full((1, 8, 12), 3.0))[0].flatten(0, 1)[2:]
    by_hand = {tuple(p) for p in (points / 0.1).floor().long().tolist()}
    assert len(visible_voxels(depth, view)) == len(by_hand)
    where = torch.zeros(1, 8, 12, dtype=torch.bool)
    where[0, 4, 5] = where[0, 0, 0] = True
    assert len(visible_voxels(depth, view, where)) == 1  # unknown depth sees nothing
    assert len(visible_voxels(depth, view, voxel_size=100.0)) <= 8
    twice = Cameras.cat([view, view])
    assert torch.equal(visible_voxels(depth.expand(2, -1, -1), twice), visible_voxels(depth, view))


def test_views_of_one_wall_overlap_however_coarse_their_cells():
    """At 0.1 m two grids of points 0.3 m apart meet by chance; at the size for them they see the same voxels."""
    views = camera(pose(), pose((0.13, 0.07, 0.0)), pose((0.0, 0.0, 0.0), (0.0, 3.1, 0.0)), size=(16, 24), focal=10.0)
    depth = torch.full((3, 16, 24), 3.0)
    size = shared_voxel_size(depth, views)
    assert size == pytest.approx(0.6) and shared_voxel_size(depth / 100, views) == 0.1
    assert shared_voxel_size(torch.zeros_like(depth), views) == 0.1

    def between(i: int, j: int, size: float) -> float:
        return overlap(*(visible_voxels(depth[[k]], views[k], None, size) for k in (i, j)))

    assert between(0, 1, size) > 0.7 > 0.35 > between(0, 1, 0.1)
    assert between(0, 2, size) == 0


def test_the_most_overlapping_frames_come_first_and_ties_go_to_the_earlier():
    target = keys(range(100))
    past = [keys(range(90, 190)), keys(range(50)), keys(range(1000, 1100)), keys(range(50)), keys(range(99))]
    assert choose_references(target, past) == [4, 1, 3, 0]
    assert choose_references(target, past, count=2) == [4, 1]
    three = keys(range(97, 197))
    assert overlap(target, three) < MIN_OVERLAP and choose_references(target, [three]) == []
    assert choose_references(target, []) == [] and choose_references(keys([]), past) == []


def test_a_frame_that_looked_the_same_way_is_chosen_and_one_that_looked_away_is_not():
    views = camera(*[pose(axis_angle=(0.0, turn, 0.0)) for turn in (0.0, 0.2, 1.5, 3.0)], size=(8, 12), focal=10.0)
    seen = [visible_voxels(box_depth(views[i]), views[i]) for i in range(4)]
    assert choose_references(seen[0], seen[1:]) == [0]


def test_context_stands_around_the_target_and_comes_off_again():
    parts = [torch.randn(2, 4, n, 3, 3, generator=torch.Generator().manual_seed(n)) for n in (2, 5, 1)]
    context = Context(parts[0], parts[2])
    whole, timestep, options = context.add_to(parts[1], torch.full((2, 5), 7.0))
    assert torch.equal(whole, torch.cat(parts, 2)) and torch.equal(context.of_target(whole), parts[1])
    assert timestep.tolist() == 2 * [[0, 0, 7, 7, 7, 7, 7, 0]] and options["num_references"] == 2
    positions = options["frame_positions"].tolist()
    assert torch.equal(Context.stack([context, context]).references, torch.cat([parts[0]] * 2))
    assert sorted(positions) == list(range(8)), "all distinct"
    references, target, preceding = positions[:2], positions[2:7], positions[7:]
    assert max(references) < min(preceding) <= max(preceding) == target[0] - 1 and target == sorted(target)
    nothing = Context.none(parts[1])
    assert nothing.positions(5).tolist() == [0, 1, 2, 3, 4]
    assert nothing.add_to(parts[1], timestep[:, 2:7])[2] == {}, "the model's own defaults"


@pytest.mark.parametrize("temporal", [False, True])
def test_what_the_transformer_is_given_with_the_target(temporal):
    model, calls = micro_model(temporal, references=3, preceding=2, num_inference_steps=1), []
    model.parts.transformer.register_forward_pre_hook(
        lambda m, args, kwargs: calls.append((args, kwargs)), with_kwargs=True
    )
    stride = 4 if temporal else 1
    cameras = Cameras(camera_path("there_and_back", 8 * stride + 1), [40.0, 42.0, 25.0, 15.0], SIZE)
    image = torch.randint(0, 256, (1, *SIZE, 3), dtype=torch.uint8)
    run = rollout(model, [make_memory("latent")], image, [cameras], seeds=[0], depth=box_depth(cameras)[None])
    results = list(run)
    latents = torch.cat([r.latents for r in results], 2)
    assert results[0].references == [[]] and not calls[0][1].get("num_references"), "there is no past yet"
    assert len(calls) == 4
    for index, ((inputs, timesteps, control, *_), more) in enumerate(calls[1:], 1):
        chosen, first = results[index].references[0], 2 * index
        assert more["num_references"] == len(chosen) <= 3 and all(frame < first - 2 for frame in chosen)
        assert torch.equal(inputs[:, :, : len(chosen)], latents[:, :, chosen])
        assert torch.equal(inputs[:, :, -min(2, first) :], latents[:, :, max(0, first - 2) : first])
        noisy = timesteps[0].nonzero().flatten().tolist()
        assert noisy == [len(chosen) + 1, len(chosen) + 2], "all but the target's new frames are clean"
        assert control.shape[2] == inputs.shape[2] - len(chosen), "the branch does not see the references"
        assert len(more["frame_positions"]) == inputs.shape[2]
    assert results[3].references[0], "the way back shares its voxels with the way out"
