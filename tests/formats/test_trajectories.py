"""The table of trajectory formats: how they are told, and errors."""

from __future__ import annotations

import json

import known_camera
import numpy as np
import pytest
import torch

from mirage_nb.formats import FORMATS, Trajectory, load_trajectory

W2C_ROW = known_camera.W2C_ROW
FILES = {  # a file's name, what it holds, and whether its name or place is needed to tell the format
    "7-scenes": ("a.pose.txt", "", True), "nerfstudio": ("a.json", '{"frames": []}', False),
    "colmap": ("sparse/3/cameras.txt", "", True), "worldscore": ("a.json", '{"cameras_interp": []}', False),
    "spatia": ("a.txt", "[[1, 0, 0, 0], ...", False), "geometry": ("a.npz", None, False),
    "realestate10k": ("a.txt", "https://x\n" + "0 " * 19, False), "tum": ("a.txt", "# t\n\n0 1 2 3 0 0 0 1\n", False),
    "scannet": ("pose/0.txt", "", True),
    "euroc": ("a.csv", "#t,x,y,z,qw,qx,qy,qz\n1,0,0,0,1,0,0,0", False),
    "kitti": ("a.txt", "1 0 0 0 0 1 0 0 0 0 1 0", False),
}  # fmt: skip


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_is_told_in_a_folder_with_other_files(name, tmp_path, monkeypatch):
    found = []
    for other, format in FORMATS.items():
        reader = lambda file, other=other: found.append((other, file)) or Trajectory(torch.eye(4)[None])  # noqa: E731
        monkeypatch.setitem(FORMATS, other, format._replace(read=reader))
    file, content, by_name = tmp_path / FILES[name][0], *FILES[name][1:]
    file.parent.mkdir(parents=True, exist_ok=True)
    if content is None:
        np.savez(file, w2c=np.eye(4)[None])
    else:
        file.write_text(content)
    (tmp_path / "readme.txt").write_text("read me")
    (tmp_path / "other.json").write_text("[1]")
    (tmp_path / "._a.json").write_bytes(b"\0\5\x16\7")  # macOS leaves these beside files
    if name == "colmap":
        (file.parent / "images.txt").touch()
    load_trajectory(tmp_path)
    assert found == [(name, file)]
    if not by_name:
        load_trajectory(file)
        assert found[1] == found[0]


def test_a_folder_with_two_trajectories_is_refused(tmp_path):
    for name in ("a.txt", "b.txt"):
        (tmp_path / name).write_text("0 1 2 3 0 0 0 1")
    with pytest.raises(ValueError, match="found a.txt, b.txt"):
        load_trajectory(tmp_path)


def test_poses_come_in_the_order_of_the_names(tmp_path):
    frames = []
    for number in (10, 2, 1):
        matrix = np.eye(4)
        matrix[0, 3] = number
        frames.append({"file_path": f"{number}.png", "transform_matrix": matrix.tolist()})
    (tmp_path / "transforms.json").write_text(json.dumps({"frames": frames}))
    trajectory = load_trajectory(tmp_path)
    assert trajectory.c2w[:, 0, 3].tolist() == [1, 2, 10] and trajectory.pictures[2] == tmp_path / "10.png"


W2C_SCALED = json.dumps((2 * np.array(known_camera.W2C) - np.diag([0, 0, 0, 1])).tolist())


@pytest.mark.parametrize(
    "name, text, message",
    [
        ("a.txt", "hello\n", "in one of the formats .*; found none"),
        ("a.txt", "", "in one of the formats .*; found none"),
        ("a.bin", "PK\x03\x04", "in one of the formats .*; found none"),
        ("a.npz", "PK\x03\x04", "a.npz: it is malformed .File is not a zip file"),
        ("a.txt", "https://x\n", "found none"),
        (
            "a.txt",
            f"https://x\n1 .5 .9 .5 .5 0 0 {W2C_ROW}\n1 2 3",
            "a.txt: the number of columns changed from 19 to 3 at row 2",
        ),
        ("a.txt", f"https://x\n1 .5 .9 .5 .5 0 0 {W2C_ROW}".replace("-1 3", "-1 nan"), "c2w: expected finite"),
        ("a.txt", f"https://x\n1 nan .9 .5 .5 0 0 {W2C_ROW}", "intrinsics: expected finite"),
        ("a.txt", f"https://x\n1 50 90 50 50 0 0 {W2C_ROW}", "principal point"),  # in pixels, not normalised
        ("w2c.txt", f"{json.dumps(known_camera.W2C)}\n[[1, 0], [2", "changed from 16 to 3 at row 2"),
        ("w2c.txt", json.dumps(np.array(known_camera.W2C).T.tolist()), "transposed"),
        ("w2c.txt", W2C_SCALED, "expected rigid matrices"),
        ("a.txt", "0 1 2 3 0 0 0 0.5", "unit quaternions"),
        ("a.txt", "0 1 2 3 0 0 0 1\n0 1 2 x 0 0 0 1", "'x' to float64 at row 1"),
        ("a.json", "{}", "found none"),
        ("a.json", '{"c2w": []}', "found none"),
        ("a.json", '{"frames": [{}]}', "'transform_matrix' is missing"),
        ("a.json", "[1]", "found none"),
        ("a.json", '{"frames": [5]}', "it is malformed"),
        ("a.json", '{"frames": [{"transform_matrix": [[1]], "file_path": 5}]}', "transform_matrix: expected"),
        ("a.json", "[[[1, 0, 0, 0]]]", "found none .*may be c2w or w2c: save them by that name"),
        ("a.csv", ",".join(["1"] * 17), "found none"),
        ("a.json", "{", "a.json: Expecting"),
        ("a.json", '{"frames": []}', r"transform_matrix: expected \(T, 4, 4\)"),
        ("a.json", '{"frames": [{"transform_matrix": [[1]]}]}', r"transform_matrix: expected \(T, 4, 4\)"),
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
    with pytest.raises(ValueError, match="found none"):
        load_trajectory(tmp_path)
