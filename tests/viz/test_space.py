"""Pictures of tokens in space say where the tokens are."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgb
from scenes import camera, pose

from mirage_nb import viz
from mirage_nb.viz.base import COLOURS

RED = torch.tensor([[250, 10, 20]], dtype=torch.uint8)
BLUE = torch.tensor([[20, 30, 250]], dtype=torch.uint8)


def where(picture, colour) -> np.ndarray:
    """(K, 2) rows and columns of the pixels of a colour."""
    rgb = np.array(to_rgb(colour)) * 255 if isinstance(colour, str) else np.asarray(colour).reshape(3)
    return np.argwhere((np.abs(np.asarray(picture).astype(int) - rgb) < 3).all(-1))


def test_a_board_shows_every_tile_in_its_order():
    tile = lambda rgb: np.full((4, 4, 3), rgb, dtype=np.uint8)  # noqa: E731
    tiles = {"a": tile((250, 10, 20)), "b": tile((20, 30, 250)), "c": tile((10, 200, 10))}
    page = viz.board(tiles, side=40, columns=2, note="a line that is much longer than the two pictures are wide")
    red, blue, green = (where(page, rgb) for rgb in ((250, 10, 20), (20, 30, 250), (10, 200, 10)))
    assert len(red) == len(blue) == len(green) == 1600
    assert red[:, 1].max() < blue[:, 1].min() and red[:, 0].max() < green[:, 0].min()
    assert page.width > 250  # the line fits
    with pytest.raises(ValueError, match="tiles"):
        viz.board({})


def test_in_space_the_nearer_token_hides_the_farther_one():
    points = torch.tensor([[0.0, 0.0, 1.0], [0.0, 0.0, 3.0]])
    colours = torch.cat([RED, BLUE])
    focus = torch.tensor([[-2.0, -2.0, 0.0], [2.0, 2.0, 4.0]])
    for order in ([0, 1], [1, 0]):
        front = viz.cloud_view(points[order], colours[order], 0, 0, focus=focus)
        assert len(where(front, RED)) and not len(where(front, BLUE))
    behind = viz.cloud_view(points, colours, 180, 0, focus=focus)
    assert len(where(behind, BLUE)) and not len(where(behind, RED))
    side = viz.cloud_view(points, colours, 90, 0, focus=focus)
    assert len(where(side, RED)) and len(where(side, BLUE))


def test_a_raised_eye_sees_what_is_high_farther_up():
    points = torch.tensor([[0.0, -1.0, 2.0], [0.0, 1.0, 2.0]])  # y points down
    for elevation in (0, 40):
        page = viz.cloud_view(points, torch.cat([RED, BLUE]), 30, elevation)
        assert where(page, RED)[:, 0].max() < where(page, BLUE)[:, 0].min()
    floor = torch.tensor([[0.0, 1.0, 1.0], [0.0, 1.0, 4.0]])  # of a floor, what is farther away is higher up
    page = viz.cloud_view(floor, torch.cat([RED, BLUE]), 0, 30)
    assert where(page, RED)[:, 0].min() > where(page, BLUE)[:, 0].max()


def test_a_marked_token_is_ringed_where_it_is_drawn():
    points = torch.tensor([[-1.0, 0.0, 2.0], [1.0, 0.0, 2.0]])
    page = viz.cloud_view(points, torch.cat([RED, BLUE]), 0, 0, marked=torch.tensor([1]))
    assert np.abs(where(page, COLOURS["picked"]).mean(0) - where(page, BLUE).mean(0)).max() < 1.5


def test_from_above_x_is_right_z_is_up_and_the_higher_token_is_on_top():
    points = torch.tensor([[0.0, 0.0, 0.0], [2.0, 0.0, 2.0], [2.0, -1.0, 2.0]])
    bounds = torch.tensor([[-1.0, -1.0, -1.0], [3.0, 1.0, 3.0]])
    green = torch.tensor([[10, 200, 10]], dtype=torch.uint8)
    page = viz.plan_view(points, torch.cat([RED, BLUE, green]), bounds, 200)
    red, top = where(page, RED).mean(0), where(page, green).mean(0)
    assert red[0] > top[0] and red[1] < top[1] and not len(where(page, BLUE))


def test_a_plan_rings_the_marked_tokens_only():
    points, bounds = (
        torch.tensor([[0.0, 0.0, 0.0], [2.0, 0.0, 2.0]]),
        torch.tensor([[-1.0, -1.0, -1.0], [3.0, 1.0, 3.0]]),
    )
    none, second = torch.tensor([False, False]), torch.tensor([False, True])
    colours = torch.cat([RED, BLUE])
    assert not len(where(viz.plan_view(points, colours, bounds, marked=none), COLOURS["picked"]))
    page = viz.plan_view(points, colours, bounds, marked=second)
    assert np.abs(where(page, COLOURS["picked"]).mean(0) - where(page, BLUE).mean(0)).max() < 1.5


def test_a_cloud_is_shown_to_be_turned_and_as_a_still_picture(monkeypatch):
    shown = []
    monkeypatch.setattr("IPython.display.display", lambda data, **_: shown.append(data))
    cameras = camera(pose(), pose((0.3, 0.0, 0.2)))
    viz.show_cloud(torch.rand(9, 3), RED.repeat(9, 1), cameras, [f"token {i}" for i in range(9)])
    tokens = shown[0]["application/vnd.plotly.v1+json"]["data"][0]
    assert tokens["text"][8] == "token 8" and tokens["marker"]["color"][8] == "rgb(250,10,20)"
    assert len(where(shown[1], RED)) > 50
    with pytest.raises(ValueError, match="^colours:"):
        viz.show_cloud(torch.rand(9, 3), RED, cameras)
