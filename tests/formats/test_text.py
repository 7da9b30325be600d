"""Trajectories as text: RealEstate10K, Spatia, TUM, 7-Scenes."""

from __future__ import annotations

import json

import known_camera
import numpy as np
import pytest
import torch
from known_camera import H
from PIL import Image

from mirage_nb.formats import load_trajectory


def write_7scenes(folder):
    for i in range(2):
        np.savetxt(folder / f"frame-{i:06d}.pose.txt", known_camera.C2W)
    np.savetxt(folder / "camera-intrinsics.txt", [[50, 0, 49.5], [0, 90, 59.5], [0, 0, 1]])
    Image.new("RGB", (100, 100)).save(folder / "frame-000000.color.png")
    return folder


def test_realestate10k(tmp_path):
    path = tmp_path / "0a1b.txt"
    line = f"66733 0.5 0.9 0.5 0.6 0 0 {known_camera.W2C_ROW}\n"
    path.write_text("https://www.youtube.com/watch?v=x\n" + line * 2)
    known_camera.check(load_trajectory(path))
    path.write_text("https://www.youtube.com/watch?v=x\n" + line.replace("0.6 0 0", "0.6 0.1 0"))
    with pytest.warns(UserWarning, match="distortion"):
        load_trajectory(path)


def test_spatia(tmp_path):
    (tmp_path / "w2c.txt").write_text(f"{json.dumps(known_camera.W2C)}\n{json.dumps(known_camera.W2C[:3])}")
    known_camera.check(load_trajectory(tmp_path), intrinsics=False)
    (tmp_path / "intrinsics.txt").write_text("[0.5 0.9\n 0.5 0.6]")
    known_camera.check(load_trajectory(tmp_path))
    known_camera.check(load_trajectory(tmp_path / "w2c.txt"))


def test_tum(tmp_path):
    path = tmp_path / "groundtruth.txt"
    path.write_text("# timestamp tx ty tz qx qy qz qw\n" + f"1305031102.175304 1 2 3 0 {H} 0 {H}\n" * 2)
    known_camera.check(load_trajectory(path), intrinsics=False)


def test_7scenes(tmp_path):
    trajectory = load_trajectory(write_7scenes(tmp_path))
    known_camera.check(trajectory)
    assert trajectory.size == (100, 100) and trajectory.pictures[0] == tmp_path / "frame-000000.color.png"
    (tmp_path / "camera-intrinsics.txt").unlink()
    known_camera.check(load_trajectory(tmp_path), intrinsics=False)


def test_frames_whose_tracking_was_lost_are_left_out(tmp_path):
    write_7scenes(tmp_path)
    np.savetxt(tmp_path / "frame-000000.pose.txt", np.full((4, 4), np.nan))
    with pytest.warns(UserWarning, match="tracking was lost in 1 .*frame-000000"):
        trajectory = load_trajectory(tmp_path)
    assert torch.equal(trajectory.c2w, known_camera.C2W[None]) and "000001" in trajectory.pictures[0].name
    np.savetxt(tmp_path / "frame-000001.pose.txt", np.full((4, 4), -np.inf))
    with pytest.warns(UserWarning), pytest.raises(ValueError, match="it holds no poses"):
        load_trajectory(tmp_path)
