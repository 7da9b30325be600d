"""Exports of a walk: other tools' readers find the same cameras, pictures, depth and surface."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from mirage_nb.cameras import Cameras
from mirage_nb.formats import load_trajectory
from mirage_nb.formats.exports import export_run, surface_points
from mirage_nb.paths import camera_path

SIZE, FRAMES = (24, 32), 9


@pytest.fixture
def walk():
    g = torch.Generator().manual_seed(0)
    frames = torch.randint(0, 256, (FRAMES, *SIZE, 3), generator=g, dtype=torch.uint8)
    cameras = Cameras(camera_path("pan_left+push_in", FRAMES), torch.tensor([30.0, 31.0, 16.5, 12.0]), SIZE)
    depth = 1 + torch.rand(3, *SIZE, generator=g)  # of every fourth frame
    depth[0, :4], depth[1, 0, 0], depth[2, 0, 0] = 0, torch.inf, 70.0  # unknown, sky, and farther than 16 bits
    return frames, cameras, depth


@pytest.mark.parametrize("zoom", [0, 1])
def test_both_formats_hold_the_walk(walk, zoom, tmp_path):
    frames, cameras, depth = walk
    cameras = replace(cameras, intrinsics=cameras.intrinsics + zoom * torch.arange(9.0)[:, None] * torch.eye(4)[0])
    folders = export_run(tmp_path, frames, cameras, depth)
    assert [folder.name for folder in folders] == ["nerfstudio", "colmap"]
    for folder in folders:
        trajectory = load_trajectory(folder)
        torch.testing.assert_close(trajectory.c2w, cameras.c2w, atol=1e-6, rtol=0)
        torch.testing.assert_close(trajectory.intrinsics, cameras.intrinsics, atol=1e-5, rtol=0)
        pictures = trajectory.pictures
        assert torch.equal(torch.from_numpy(np.stack([np.array(Image.open(p)) for p in pictures])), frames)


def test_depth_is_in_millimetres_of_the_frames_that_have_it(walk, tmp_path):
    frames, cameras, depth = walk
    (folder,) = export_run(tmp_path, frames, cameras, depth, ("nerfstudio",))
    content = json.loads((folder / "transforms.json").read_text())
    files = {i: frame["depth_file_path"] for i, frame in enumerate(content["frames"]) if "depth_file_path" in frame}
    assert list(files) == [0, 4, 8]
    for (index, file), metres in zip(files.items(), depth):
        image = Image.open(folder / file)
        found = torch.from_numpy(np.array(image).astype(np.float32)) * content["depth_unit_scale_factor"]
        expected = torch.where(torch.isfinite(metres) & (metres < 65), metres, 0.0)
        torch.testing.assert_close(found, expected, atol=6e-4, rtol=0)


def test_the_surface_is_where_the_depth_says_in_the_pictures_colours(walk, tmp_path):
    import open3d

    frames, cameras, depth = walk
    folders = export_run(tmp_path, frames, cameras, depth)
    cloud = open3d.io.read_point_cloud(str(folders[0] / "points.ply"))
    points, colours = torch.tensor(np.asarray(cloud.points)).float(), np.asarray(cloud.colors) * 255
    assert len(points) == (torch.isfinite(depth) & (depth > 0)).sum()
    last = points[-(depth[2] > 0).sum() :]  # the third depth's, all known: they land on their own pixels again
    uv, z = cameras[8].project(last)
    torch.testing.assert_close(z[0], depth[2].flatten(), atol=1e-3, rtol=1e-4)
    row, column = (uv[0].floor().long()).flip(1).unbind(1)
    assert np.array_equal(colours[-len(last) :].round().astype(np.uint8), frames[8][row, column].numpy())
    rows = np.loadtxt(folders[1] / "sparse" / "0" / "points3D.txt")
    assert np.allclose(rows[:, 1:4], points, atol=1e-5) and np.array_equal(rows[:, 4:7], colours.round())


def test_fewer_points_are_spread_over_all_frames(walk):
    frames, cameras, depth = walk
    some, colours = surface_points(frames[[0, 4, 8]], depth, cameras[[0, 4, 8]], count=60)
    assert len(some) == len(colours) == 60
    again, _ = surface_points(frames[[0, 4, 8]], depth, cameras[[0, 4, 8]], count=60)
    assert torch.equal(some, again)
    nothing, _ = surface_points(frames[:1], torch.zeros(1, *SIZE), cameras[:1])
    assert nothing.shape == (0, 3)


@pytest.mark.parametrize(
    "change, message",
    [
        (dict(formats=("ply",)), "export: expected one of"),
        (dict(frames=torch.zeros(8, *SIZE, 3, dtype=torch.uint8)), "frames: expected"),
        (dict(depth=torch.ones(4, *SIZE)), "depth: expected"),
        (dict(depth=torch.ones(3, 2, 2)), "depth: expected"),
    ],
)
def test_what_does_not_fit_writes_nothing(walk, change, message, tmp_path):
    frames, cameras, depth = walk
    with pytest.raises(ValueError, match=message):
        export_run(**dict(folder=tmp_path, frames=frames, cameras=cameras, depth=depth) | change)
    assert not list(tmp_path.iterdir())
