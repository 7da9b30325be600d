"""The table of trajectory formats: detection, errors, and files that are written and read back."""

from __future__ import annotations

import json

import known_camera
import numpy as np
import pytest
import torch

from mirage_nb.cameras import Cameras
from mirage_nb.formats import FORMATS, Trajectory, load_trajectory
from mirage_nb.formats.trajectories import detect_format
from mirage_nb.paths import camera_path

W2C_ROW = known_camera.W2C_ROW


def test_the_known_camera():
    camera = Cameras(known_camera.C2W, torch.tensor([10.0, 10.0, 5.0, 5.0]), (10, 10))
    assert torch.equal(camera.w2c[0], torch.tensor(known_camera.W2C, dtype=torch.float32))
    uv, z = camera.project(torch.tensor([[3.0, 2.0, 2.0]]))  # 2 m ahead, 1 m to its right (world -z)
    assert z.item() == 2.0 and uv[0, 0].tolist() == [10.0, 5.0]


FILES = {
    "nerfstudio": ("a.json", "{}"), "geometry": ("a.npz", "PK"), "spatia": ("w2c.txt", "[[1, 0, 0, 0], ...]"),
    "realestate10k": ("a.txt", "https://x\n"), "7-scenes": ("a.pose.txt", ""), "colmap": ("images.txt", ""),
    "tum": ("a.txt", "# time\n\n0 1 2 3 0 0 0 1\n"),
}  # fmt: skip


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_is_detected(name, tmp_path):
    file, content = FILES[name]
    (tmp_path / file).write_text(content)
    if name == "colmap":
        (tmp_path / "cameras.txt").write_text("")
    assert detect_format(tmp_path if name in ("7-scenes", "colmap") else tmp_path / file) == name


def test_a_part_of_a_trajectory():
    c2w, rows = camera_path("push_in", 4), torch.tensor([9.0, 9.0, 5.0, 5.0]) + torch.arange(4.0)[:, None]
    whole = Trajectory(c2w, rows, (20, 20), pictures=list("abcd"))
    for part, expected in ((whole[1:3], [1, 2]), (whole[[3, 0]], [3, 0]), (whole[-1:], [3])):
        assert torch.equal(part.c2w, c2w[expected]) and torch.equal(part.intrinsics, rows[expected])
        assert part.pictures == ["abcd"[i] for i in expected] and part.size == (20, 20)


def test_intrinsics_that_are_missing_or_of_an_unknown_size():
    with pytest.raises(ValueError, match="it has no intrinsics"):
        Trajectory(torch.eye(4)[None]).cameras((10, 10))
    with pytest.raises(ValueError, match="for which image size"):
        Trajectory(torch.eye(4)[None], torch.tensor([[9.0, 9.0, 5.0, 5.0]])).cameras((10, 10))


W2C_SCALED = json.dumps((2 * np.array(known_camera.W2C) - np.diag([0, 0, 0, 1])).tolist())


@pytest.mark.parametrize(
    "name, text, message",
    [
        ("a.txt", "hello\n", "in none of the formats"),
        ("a.txt", "", "in none of the formats"),
        ("a.bin", "PK\x03\x04", "in none of the formats"),
        ("a.npz", "PK\x03\x04", "not a whole NumPy archive"),
        ("a.txt", "https://x\n", "a.txt: it holds no poses"),
        (
            "a.txt",
            f"https://x\n1 .5 .9 .5 .5 0 0 {W2C_ROW}\n1 2 3",
            "line 2 of its data: expected 19 numbers, got '1 2 3'",
        ),
        ("a.txt", f"https://x\n1 .5 .9 .5 .5 0 0 {W2C_ROW}".replace("-1 3", "-1 nan"), "c2w: expected finite"),
        ("a.txt", f"https://x\n1 nan .9 .5 .5 0 0 {W2C_ROW}", "intrinsics: expected finite"),
        ("a.txt", f"https://x\n1 50 90 50 50 0 0 {W2C_ROW}", "principal point"),  # in pixels, not normalised
        ("w2c.txt", f"{json.dumps(known_camera.W2C)}\n[[1, 0], [2", "line 2: expected a 4x4 matrix as JSON"),
        ("w2c.txt", json.dumps(np.array(known_camera.W2C).T.tolist()), "transposed"),
        ("w2c.txt", W2C_SCALED, "expected rigid matrices"),
        ("a.txt", "0 1 2 3 0 0 0 0.5", "unit quaternions"),
        ("a.txt", "0 1 2 3 0 0 0 1\n0 1 2 x 0 0 0 1", "line 2"),
        ("a.json", "{}", "'frames' is missing"),
        ("a.json", "[1]", "a.json: list indices"),
        ("a.json", "{", "a.json: Expecting"),
        ("a.json", '{"frames": []}', "expected a list of frames"),
        ("a.json", '{"frames": [{"transform_matrix": [[1]]}]}', r"transform_matrix: expected \(T, 4, 4\)"),
        ("a.json", json.dumps({"fl_x": 9, "frames": [{"transform_matrix": np.eye(4).tolist()}]}), "'h' is missing"),
    ],
)
def test_bad_trajectory_files(name, text, message, tmp_path):
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=message) as error:
        load_trajectory(tmp_path / name)
    assert name in str(error.value) and "\n" not in str(error.value)


def test_a_missing_trajectory(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such file or folder"):
        load_trajectory(tmp_path / "none.txt")
    with pytest.raises(ValueError, match="in none of the formats"):
        load_trajectory(tmp_path)
