"""The pictures of stages 1 to 3 say what the tensors say."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgb
from scenes import camera, pose, room_views

from mirage_nb import viz as plots
from mirage_nb.memory.grid import LatentGrid
from mirage_nb.viz.grids import LEVEL_COLOURS
from mirage_nb.viz.stages import MARK
from mirage_nb.viz.video import COLOURS

RED = torch.tensor([[250, 10, 20]], dtype=torch.uint8)
BLUE = torch.tensor([[20, 30, 250]], dtype=torch.uint8)


def where(picture, colour) -> np.ndarray:
    """(K, 2) rows and columns of the pixels of a colour."""
    rgb = np.array(to_rgb(colour)) * 255 if isinstance(colour, str) else np.asarray(colour).reshape(3)
    return np.argwhere((np.abs(np.asarray(picture).astype(int) - rgb) < 3).all(-1))


def test_heat_is_white_where_nothing_is_known_and_keeps_its_scale():
    values = torch.tensor([[0.0, 1.0, torch.nan], [2.0, 3.0, torch.inf]])
    picture = plots.heat(values)
    assert picture.shape == (2, 3, 3) and picture.dtype == np.uint8
    assert (picture == 255).all(-1).tolist() == [[True, False, True], [False, False, True]]
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) == 4  # white and three depths
    assert (plots.heat(values, 0.0, 2.0)[1, 0] == plots.heat(values, 0.0, 2.0)[1, 1]).all()  # clipped
    assert (plots.heat(torch.zeros(2, 2)) == 255).all()


def test_a_readout_shows_tokens_by_colour_and_holes_as_holes():
    colours = torch.tensor([[0.5, 0.0, 0.0], [0.0, 0.5, 0.0], [0.0, 0.0, 0.2]])  # two channels and a constant
    latents = torch.tensor([[[1.0, 0.0], [2.0, 9.0]], [[0.0, 1.0], [0.0, 9.0]]])
    visible = torch.tensor([[True, True], [True, False]])
    picture = plots.readout_cells(latents, visible, colours)
    assert picture[0, 0].tolist() == [128, 0, 51] and picture[0, 1].tolist() == [0, 128, 51]
    assert picture[1, 0].tolist() == [255, 0, 51]
    assert where(picture, COLOURS["hole"]).tolist() == [[1, 1]]
    assert where(plots.yes_no(visible), COLOURS["memory"]).tolist() == [[0, 0], [0, 1], [1, 0]]


def test_a_ring_frames_its_cell_and_leaves_it_as_it_is():
    picture = np.zeros((32, 48, 3), dtype=np.uint8)
    ring = where(plots.ringed(picture, (2, 3), 8, 2), MARK)
    assert ring.min(0).tolist() == [2 * 16 - 1, 3 * 16 - 1] and ring.max(0).tolist() == [3 * 16, 4 * 16]
    assert not ((ring > [32, 48]) & (ring < [47, 63])).all(1).any()


def test_a_board_shows_every_tile_in_its_order():
    tile = lambda rgb: np.full((4, 4, 3), rgb, dtype=np.uint8)  # noqa: E731
    tiles = {"a": tile((250, 10, 20)), "b": tile((20, 30, 250)), "c": tile((10, 200, 10))}
    page = plots.board(tiles, side=40, columns=2, note="a line that is much longer than the two pictures are wide")
    red, blue, green = (where(page, rgb) for rgb in ((250, 10, 20), (20, 30, 250), (10, 200, 10)))
    assert len(red) == len(blue) == len(green) == 1600
    assert red[:, 1].max() < blue[:, 1].min() and red[:, 0].max() < green[:, 0].min()
    assert page.width > 250  # the line fits
    with pytest.raises(ValueError, match="tiles"):
        plots.board({})


def test_in_space_the_nearer_token_hides_the_farther_one():
    points = torch.tensor([[0.0, 0.0, 1.0], [0.0, 0.0, 3.0]])
    colours = torch.cat([RED, BLUE])
    focus = torch.tensor([[-2.0, -2.0, 0.0], [2.0, 2.0, 4.0]])
    for order in ([0, 1], [1, 0]):
        front = plots.cloud_view(points[order], colours[order], 0, 0, focus=focus)
        assert len(where(front, RED)) and not len(where(front, BLUE))
    behind = plots.cloud_view(points, colours, 180, 0, focus=focus)
    assert len(where(behind, BLUE)) and not len(where(behind, RED))
    side = plots.cloud_view(points, colours, 90, 0, focus=focus)
    assert len(where(side, RED)) and len(where(side, BLUE))


def test_a_raised_eye_sees_what_is_high_farther_up():
    points = torch.tensor([[0.0, -1.0, 2.0], [0.0, 1.0, 2.0]])  # y points down
    for elevation in (0, 40):
        page = plots.cloud_view(points, torch.cat([RED, BLUE]), 30, elevation)
        assert where(page, RED)[:, 0].max() < where(page, BLUE)[:, 0].min()
    floor = torch.tensor([[0.0, 1.0, 1.0], [0.0, 1.0, 4.0]])  # of a floor, what is farther away is higher up
    page = plots.cloud_view(floor, torch.cat([RED, BLUE]), 0, 30)
    assert where(page, RED)[:, 0].min() > where(page, BLUE)[:, 0].max()


def test_a_marked_token_is_ringed_where_it_is_drawn():
    points = torch.tensor([[-1.0, 0.0, 2.0], [1.0, 0.0, 2.0]])
    page = plots.cloud_view(points, torch.cat([RED, BLUE]), 0, 0, marked=torch.tensor([1]))
    assert np.abs(where(page, MARK).mean(0) - where(page, BLUE).mean(0)).max() < 1.5
    assert len(where(plots.cloud_view(points[:0], RED[:0]), (255, 255, 255))) == 360 * 260


def test_from_above_x_is_right_z_is_up_and_the_higher_token_is_on_top():
    points = torch.tensor([[0.0, 0.0, 0.0], [2.0, 0.0, 2.0], [2.0, -1.0, 2.0]])
    bounds = torch.tensor([[-1.0, -1.0, -1.0], [3.0, 1.0, 3.0]])
    green = torch.tensor([[10, 200, 10]], dtype=torch.uint8)
    box = torch.tensor([[1.5, -1.0, 1.5], [2.5, 1.0, 2.5]])
    page = plots.plan_view(points, torch.cat([RED, BLUE, green]), bounds, 200, box=box)
    red, top, frame = where(page, RED).mean(0), where(page, green).mean(0), where(page, MARK)
    assert red[0] > top[0] and red[1] < top[1] and not len(where(page, BLUE))
    assert (frame.min(0) < top).all() and (frame.max(0) > top).all()


def test_a_chart_stops_at_the_frame():
    early, late = (plots.chart({"latent": [1, 2, 3, 4, 5]}, at) for at in (1, 4))
    assert where(early, COLOURS["latent"])[:, 1].max() < where(late, COLOURS["latent"])[:, 1].max()


def test_small_grids_and_channels_are_drawn():
    grids = {"depth": torch.tensor([[1.0, 0.0], [2.0, 4.0]]), "seen": torch.tensor([[True, False], [True, True]])}
    assert plots.number_grids(grids | {"count": torch.tensor([[0, 1], [2, 1]])}).width > 500
    assert plots.channel_sheet(torch.randn(5, 4, 4), columns=3).height > 150


def test_a_slice_shows_only_its_own_voxels_at_their_size():
    cameras = camera(pose(), pose((0.3, 0.0, 0.2)))
    latents, depth = room_views(cameras)
    memory = LatentGrid()
    memory.write(latents, depth, cameras)
    colours = RED.repeat(len(memory), 1)
    height = -memory.positions[:, 1].median().item()
    thin, thick = (plots.voxel_slice(memory, colours, height, t, memory.bounds) for t in (0.2, 9.0))
    assert 0 < len(where(thin, RED)) < len(where(thick, RED))
    assert not len(where(plots.voxel_slice(memory, colours, 50.0, 0.2, memory.bounds), RED))
    for level in memory.level.unique().tolist():
        assert len(where(thick, LEVEL_COLOURS[level]))
    levels = plots.level_picture(memory.footprints * 10, memory.footprints, memory.level, memory.voxel_size)
    assert levels.width > 500
    assert plots.policy_picture({"keep_first": (10, 1.5), "append": (40, 2.5)}, ["tokens", "dB"]).width > 400


@pytest.mark.parametrize("headless", [False, True], ids=["no display", "executed by papermill"])
def test_without_a_display_the_viewer_says_so_and_loads_nothing(monkeypatch, headless):
    if not headless and not sys.platform.startswith("linux"):
        pytest.skip("only Linux tells whether it has a display")
    code = (
        "import sys; from mirage_nb.viz import open_viewer; from mirage_nb.memory.grid import LatentGrid\n"
        "assert 'no display' in open_viewer(LatentGrid()) and 'open3d' not in sys.modules"
    )
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    if headless:  # a window would wait for somebody to close it
        monkeypatch.setenv("DISPLAY", ":99")
        monkeypatch.setenv("MIRAGE_HEADLESS", "1")
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
