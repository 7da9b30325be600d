"""Trajectories as JSON: nerfstudio, Blender's NeRF scenes, WorldScore."""

from __future__ import annotations

import json
import math

import known_camera
import numpy as np
import pytest
import torch
from PIL import Image

from mirage_nb.formats import load_trajectory

LENS = {"fl_x": 50, "fl_y": 90, "cx": 50, "cy": 60, "w": 100, "h": 100}
FRAME = {"transform_matrix": known_camera.OPENGL_C2W}


def write(path, content):
    path.write_text(json.dumps(content))
    return path


def test_nerfstudio(tmp_path):
    path = write(tmp_path / "transforms.json", LENS | {"frames": [FRAME] * 2})
    for where in (path, tmp_path):
        known_camera.check(load_trajectory(where))
    assert load_trajectory(path).pictures is None
    frames = [FRAME | LENS | {"file_path": name} for name in ("images/a.png", "b")]
    (tmp_path / "b.png").touch()
    trajectory = load_trajectory(write(path, {"frames": frames}))
    known_camera.check(trajectory)
    assert trajectory.pictures == [tmp_path / "images" / "a.png", tmp_path / "b.png"]


def test_frames_of_several_sizes_and_distortion(tmp_path):
    path = write(tmp_path / "a.json", {"frames": [FRAME | LENS, FRAME | LENS | {"w": 200}]})
    with pytest.raises(ValueError, match="frames of one size"):
        load_trajectory(path)
    with pytest.warns(UserWarning, match="distortion"):
        load_trajectory(write(path, LENS | {"k1": 0.1, "frames": [FRAME]}))


def test_blender_states_an_angle_of_view(tmp_path):
    """90 degrees across 400 pixels: the focal length is 200 either way."""
    path = tmp_path / "transforms_train.json"
    write(path, {"camera_angle_x": math.pi / 2, "frames": [FRAME | {"file_path": "./r_0"}]})
    trajectory = load_trajectory(path)
    torch.testing.assert_close(trajectory.c2w[0], known_camera.C2W)
    assert trajectory.intrinsics is None, "neither a size nor a picture says how high it is"
    Image.new("RGB", (400, 200)).save(tmp_path / "r_0.png")
    for where in (path, tmp_path):
        assert load_trajectory(where).intrinsics[0].tolist() == pytest.approx([200, 200, 200, 100])
    angles = {"camera_angle_x": math.pi / 2, "camera_angle_y": math.pi / 2, "frames": [FRAME]}
    trajectory = load_trajectory(write(path, angles))
    assert trajectory.cameras((200, 400)).intrinsics[0].tolist() == pytest.approx([200, 100, 200, 100])


def test_worldscores_blender_poses(tmp_path):
    """Its first camera is at the origin of a PyTorch3D world (x left, y up), and `push_in` walks along its +z."""
    first = np.diag([-1.0, 1.0, -1.0, 1.0])
    second = first.copy()
    second[2, 3] = 0.5
    poses = [first.tolist(), second.tolist()]
    write(tmp_path / "camera_data.json", {"focal_length": 500, "cameras": poses[:1], "cameras_interp": poses})
    trajectory = load_trajectory(tmp_path)
    assert trajectory.intrinsics is None and len(trajectory) == 2
    move = torch.linalg.inv(trajectory.c2w[0]) @ trajectory.c2w[1]
    torch.testing.assert_close(move[:3, 3], torch.tensor([0.0, 0.0, 0.5]), msg="forward, in OpenCV's axes")
    up = trajectory.c2w[0][:3, :3] @ torch.tensor([0.0, -1.0, 0.0])
    torch.testing.assert_close(up, torch.tensor([0.0, 1.0, 0.0]))
