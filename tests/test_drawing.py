"""New cells are put together from pieces of a picture of the same world."""

from __future__ import annotations

from itertools import product

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mirage_nb import drawing
from mirage_nb.drawing import cheapest, drawn_to, sewn, shifted, unlike


def everywhere(estimate: torch.Tensor) -> torch.Tensor:
    return torch.ones_like(estimate[:, :1], dtype=torch.bool)


def test_what_the_world_shows_elsewhere_is_found_again():
    g = torch.Generator().manual_seed(0)
    world = torch.randn(2, 16, 8, 10, generator=g)
    moved = world[:, :, :, 3:]  # another view of the very same
    estimate = torch.stack([moved, moved], 2) + 0.1 * torch.randn(2, 16, 2, 8, 7, generator=g)
    drawn = drawn_to(estimate, everywhere(estimate), world)
    assert torch.equal(drawn, torch.stack([moved, moved], 2))


def test_every_new_cell_is_one_of_its_own_world():
    g = torch.Generator().manual_seed(0)
    estimate, world = torch.randn(3, 4, 2, 5, 7, generator=g), torch.randn(3, 4, 6, 4, generator=g)
    new = torch.rand(3, 1, 2, 5, 7, generator=g) < 0.6
    drawn = drawn_to(estimate, new, world)
    for b in range(3):
        same = (drawn[b].flatten(1).T[:, None] == world[b].flatten(1).T).all(-1)
        assert torch.equal(same.any(1), new[b].flatten())
    old = ~new.expand_as(drawn)
    assert torch.equal(drawn[old], estimate[old])
    # Who else is in the batch does not matter.
    assert torch.equal(drawn_to(estimate[1:2], new[1:2], world[1:2]), drawn[1:2])


def test_of_cells_that_look_alike_those_at_the_same_height_are_taken():
    world = torch.zeros(1, 4, 8, 8)
    world[:, :, 4:] = 0.2  # the floor is a little brighter, else like the ceiling
    estimate = torch.full((1, 4, 1, 8, 8), 0.1)
    assert torch.equal(drawn_to(estimate, everywhere(estimate), world)[:, :, 0], world)


def test_a_hedging_guess_is_drawn_to_more_than_the_few_cells_that_are_likest_to_it(monkeypatch):
    g = torch.Generator().manual_seed(0)
    world, estimate = torch.randn(1, 16, 16, 16, generator=g), 0.1 * torch.randn(1, 16, 1, 16, 16, generator=g)

    monkeypatch.setattr(drawing, "SEAM", 0.0)  # else all of a picture of noise comes by one shift

    def used(shared: float) -> int:
        monkeypatch.setattr(drawing, "SHARED", shared)
        return len(drawn_to(estimate, everywhere(estimate), world).flatten(1).view(16, -1).unique(dim=1).T)

    assert used(8.0) > 1.3 * used(1e6)


def test_the_shift_that_saves_most_comes_first_and_brings_nothing_from_beyond_the_picture():
    g = torch.Generator().manual_seed(0)
    (h, w), (high, wide) = (3, 4), (5, 2)
    cost, new = torch.rand(2, h * w, high * wide, generator=g), torch.rand(2, h, w, generator=g) < 0.7
    for n in range(2):
        places, costs = shifted(cost[n], new[n], (high, wide))
        saved = {}
        for dy in range(1 - h, high):
            for dx in range(1 - w, wide):
                cells = [(y, x) for y in range(h) for x in range(w) if 0 <= y + dy < high and 0 <= x + dx < wide]
                where = {(y, x): (y + dy) * wide + x + dx for y, x in cells}
                rest = [cost[n].max() - cost[n, y * w + x, q] for (y, x), q in where.items() if new[n, y, x]]
                saved[sum(rest)] = where
        where = saved[max(saved)]
        for y in range(h):
            for x in range(w):
                place = where.get((y, x), -1)
                assert places[0, y, x] == place
                assert costs[0, y, x] == (cost[n, y * w + x, place] if place >= 0 else torch.inf)


def test_a_crumb_goes_with_its_surroundings_and_a_piece_with_what_is_known(monkeypatch):
    g = torch.Generator().manual_seed(0)
    world = torch.randn(1, 8, 1, 12, generator=g)
    places = torch.stack([torch.arange(6), torch.arange(6) + 6]).view(1, 2, 1, 6)  # two halves of the picture
    costs = torch.tensor([1.0, 1.01]).view(1, 2, 1, 1).repeat(1, 1, 1, 6)
    costs[..., 2] = costs[:, [1, 0], :, 2]  # one cell has it the other way
    everywhere = torch.ones(1, 1, 6, dtype=torch.bool)
    alone = torch.tensor([[[False, False, False, False, True, False]]])
    assert sewn(places, costs, world[..., :6], everywhere, world)[0].tolist() == [0, 1, 2, 3, 4, 5]
    assert sewn(places, costs, world[..., 6:], alone, world)[0, 4] == 10, "as what is known on both sides"
    monkeypatch.setattr(drawing, "SEAM", 0.0)
    assert sewn(places, costs, world[..., :6], everywhere, world)[0].tolist() == [0, 1, 8, 3, 4, 5]
    assert sewn(places, costs, world[..., 6:], alone, world)[0, 4] == 4


@settings(max_examples=20, deadline=None)
@given(st.integers(2, 5), st.integers(2, 3), st.booleans(), st.integers(0, 99))
def test_along_a_chain_the_cheapest_labels_are_found(length, labels, upright, seed):
    g = torch.Generator().manual_seed(seed)
    own = torch.rand(1, labels, 1, length, generator=g)
    costs = torch.rand(length - 1, labels, labels, generator=g)  # of the labels of a cell and of the next
    after, before = torch.zeros(2, 1, labels, labels, 1, length)
    after[0, :, :, 0, :-1], before[0, :, :, 0, 1:] = costs.permute(1, 2, 0), costs.permute(2, 1, 0)
    pairs = [after, before, 0 * after, 0 * after]
    if upright:
        own, pairs = own.mT, [x.mT for x in pairs[2:] + pairs[:2]]

    def together(chosen) -> float:
        alone = sum(own.flatten()[label * length + cell] for cell, label in enumerate(chosen))
        return alone + sum(costs[cell, label, chosen[cell + 1]] for cell, label in enumerate(chosen[:-1]))

    found = cheapest(own, pairs).flatten().tolist()
    assert together(found) <= min(together(chosen) for chosen in product(range(labels), repeat=length)) + 1e-3


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 5), st.integers(1, 5), st.integers(1, 5), st.integers(1, 5), st.integers(0, 3))
def test_surroundings_are_compared_and_what_one_picture_lacks_counts_as_unlike(h, w, h2, w2, reach):
    g = torch.Generator().manual_seed(0)
    one, other = torch.randn(1, 3, h, w, generator=g), torch.randn(1, 3, h2, w2, generator=g)
    found = unlike(one, other, reach, 5.0).view(h, w, h2, w2)
    y, x, v, u = (n // 2 for n in (h, w, h2, w2))
    around = range(-reach, reach + 1)
    shifts = [(dy, dx) for dy in around if 0 <= y + dy < h for dx in around if 0 <= x + dx < w]
    apart = [
        (one[0, :, y + dy, x + dx] - other[0, :, v + dy, u + dx]).square().sum()
        if 0 <= v + dy < h2 and 0 <= u + dx < w2 else torch.tensor(5.0)
        for dy, dx in shifts
    ]  # fmt: skip
    torch.testing.assert_close(found[y, x, v, u], torch.stack(apart).mean(), atol=1e-4, rtol=1e-4)


def test_a_floor_goes_on_where_a_wall_at_the_rim_of_the_picture_would_fit_as_it_has_little_to_compare():
    g = torch.Generator().manual_seed(0)
    world = torch.randn(1, 16, 12, 12, generator=g)
    wall, floor = torch.randn(2, 1, 16, 1, 1, generator=g)
    world[:, :, :, :2] = wall  # down to the bottom, at the left edge
    world[:, :, 8:, 2:] = floor + 0.7 * torch.randn(1, 16, 4, 10, generator=g)
    view, new = world[:, :, :, None].clone().transpose(2, 3), torch.zeros(1, 1, 1, 12, 12, dtype=torch.bool)
    new[..., -2:] = True
    view = torch.where(new, wall[:, :, None], view)  # to its right the generator has the wall in mind
    drawn = drawn_to(view, new, world)[0, :, 0, 8:, -2:]
    plain = (drawn == wall[0]).all(0)
    assert not plain.any()
