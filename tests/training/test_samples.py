"""Training samples: what the memory holds, what is corrupted, and what is shown next to the segment."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from mirage_nb.training.memory import MemoryLoss
from mirage_nb.training.samples import (
    Frames,
    choose_frames,
    corrupt_past,
    draw_sample,
    next_sample,
    read_memory,
    show_context,
)


def test_on_the_way_out_the_memory_holds_no_later_frame():
    g = torch.Generator().manual_seed(0)
    for _ in range(200):
        segment, before, written = choose_frames(25, 5, False, g, before=2)
        step = int(segment[1] - segment[0])
        assert abs(step) == 1 and (segment.diff() == step).all()
        assert segment[0] in written and ((written - segment[0]) * step <= 0).all()
        segment, before, written = choose_frames(25, 5, True, g, before=2)
        assert len(written) >= 2 and 0 <= written.min() and written.max() < 25
        walked = torch.cat([before, segment])
        assert len(walked) == 7 and (walked.diff() == walked[1] - walked[0]).all()
        assert 0 <= walked.min() and walked.max() < 25


def test_context_shows_what_overlaps_and_what_precedes(data):
    g = torch.Generator().manual_seed(0)
    for _ in range(20):
        sample = draw_sample(data, 4, 0.0, True, 2, g)
        shown = show_context(data, sample, 4, g)
        assert shown.references.shape[2] == 4 and shown.preceding.shape[2] == 2
        truth = data.latents[sample.walk].float()
        distance = (truth[:, None] - shown.preceding[0].transpose(0, 1)[None]).square().mean((2, 3, 4))
        assert distance.argmin(0).tolist() == sample.preceding.index.tolist()  # noisy, yet nearest to itself
        nearest = (truth - shown.references[0, :, 0]).square().mean((1, 2, 3)).argmin().item()
        assert nearest in sample.past.index.tolist()
        if set(sample.past.index.tolist()) & set(sample.segment[1:].tolist()):
            assert abs(nearest - sample.segment[1]) <= 2, "a view of the segment overlaps it more than any other"
        assert show_context(data, sample, 0, g).references.shape[2] == 0


def test_the_next_segment_begins_where_the_generated_one_ends(data):
    g = torch.Generator().manual_seed(0)
    for _ in range(20):
        sample = draw_sample(data, 4, 0.0, True, 2, g)
        generated = torch.randn(data.latents.shape[2], 3, *data.size)
        after = next_sample(sample, generated, 7, g)
        assert after.segment[0] == sample.segment[-1] and torch.equal(after.first, generated[:, -1])
        assert torch.equal(after.preceding.latents, generated[:, -3:-1].transpose(0, 1))
        assert torch.equal(after.past.latents[-3:], generated.transpose(0, 1))


def test_the_past_is_corrupted_on_one_side_of_a_plane_and_the_truth_stays(data):
    before, g, shares = data.latents.clone(), torch.Generator().manual_seed(0), []
    for _ in range(20):
        sample = draw_sample(data, 4, 0.0, True, 2, g)
        wrong = corrupt_past(data, sample, g)
        assert torch.equal(wrong.segment, sample.segment) and torch.equal(wrong.past.index, sample.past.index)
        assert torch.equal(data.latents, before)
        changed = (wrong.past.latents != sample.past.latents).any(1)
        shares.append(changed.float().mean().item())
        points = data.cameras(sample.walk, sample.past.index).unproject(
            data.depth[sample.walk, sample.past.index].float()
        )
        if 0.1 < shares[-1] < 0.9:  # two halves of the room: their middles lie apart
            assert (points[changed].mean(0) - points[~changed].mean(0))[[0, 2]].norm() > 0.1
    assert 0.2 < sum(shares) / len(shares) < 0.8 and min(shares) < 0.3
    assert len(corrupt_past(data, draw_sample(data, 4, 0.0, True, 0, g), g).preceding.index) == 0


@pytest.mark.parametrize("share", [0, 1])
def test_a_window_is_written_where_its_sky_gets_a_depth(data, share):
    data.depth[:] = data.estimate[:] = 3.0
    data.writable[:] = True
    data.depth[:, :, 4:8, 4:8] = data.estimate[:, :, 4:8, 4:8] = 0.0  # its sky
    data.writable[:, :, 3:9, 3:9] = False  # and the cells of its frame
    sample = draw_sample(data, 4, 0.0, False, 0, torch.Generator().manual_seed(0))
    only = sample.segment[:1]
    sample = replace(sample, past=Frames(only, data.latents[sample.walk, only].float()))
    for seed in range(4):
        readout = read_memory(data, sample, only, torch.Generator().manual_seed(seed), share)
        window = readout.visibility.reshape(data.size)[4:8, 4:8].float().mean()
        assert window == 0 if not share else window > 0.8
    assert not read_memory(data, replace(sample, has_memory=False), only, torch.Generator()).visibility.any()


def test_what_is_shown_is_a_little_wrong(data):
    """Exact pasts would be too easy; larger errors than the model's own would teach it to ignore what it is shown."""
    data.depth[:], data.estimate[:], data.writable[:] = 3.0, 3.0, True
    errors: dict[float, list] = {0.15: [], 0.1: []}  # of the memory's tokens; of the clean frames
    for seed in range(40):
        g = torch.Generator().manual_seed(seed)
        sample = draw_sample(data, 4, 0.0, False, 2, g)
        only = sample.segment[:1]
        sample = replace(sample, past=Frames(only, data.latents[sample.walk, only].float()))
        readout = read_memory(data, sample, only, g)
        seen = readout.visibility[0]
        errors[0.15].append((readout.latents[0] - sample.past.latents[0])[:, seen].square().mean().sqrt())
        shown = show_context(data, sample, 0, g).preceding[0].transpose(0, 1)
        errors[0.1].append((shown - sample.preceding.latents).square().mean().sqrt())
        first = MemoryLoss(data, batch=1, length=4).sample(g).clean[0, :, 0]
        errors[0.1].append((data.latents.float() - first).square().mean((2, 3, 4)).amin().sqrt())
    for most, found in errors.items():
        assert 0.6 * most < max(found) < 1.1 * most and min(found) < 0.3 * most


def test_most_skies_are_written(data):
    data.depth[:] = data.estimate[:] = 3.0
    data.depth[:, :, 4:8, 4:8] = data.estimate[:, :, 4:8, 4:8] = 0.0
    data.writable[:] = data.depth > 0
    written = []
    for seed in range(60):
        g = torch.Generator().manual_seed(seed)
        sample = draw_sample(data, 4, 0.0, False, 0, g)
        readout = read_memory(data, sample, sample.segment[:1], g)
        written.append(readout.visibility.reshape(data.size)[4:8, 4:8].all().item())
    assert 0.65 < sum(written) / len(written) < 0.93
