"""Trajectory files of other tools: one known camera, written by hand in each format."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mirage_nb.cameras import Cameras
from mirage_nb.formats.trajectory_files import FORMATS, load_trajectory, save_trajectory
from mirage_nb.paths import camera_path

# One known camera, for every format: it stands at (1, 2, 3) and looks along the world's +x (90 degrees to the right).
KNOWN = torch.tensor([[0, 0, 1, 1], [0, 1, 0, 2], [-1, 0, 0, 3], [0, 0, 0, 1]], dtype=torch.float32)
W2C = [[0, 0, -1, 3], [0, 1, 0, -2], [1, 0, 0, -1], [0, 0, 0, 1]]
W2C_34 = " ".join(str(x) for row in W2C[:3] for x in row)


def test_the_known_camera():
    camera = Cameras(KNOWN, torch.tensor([10.0, 10.0, 5.0, 5.0]), (10, 10))
    assert torch.equal(camera.w2c[0], torch.tensor(W2C, dtype=torch.float32))
    uv, z = camera.project(torch.tensor([[3.0, 2.0, 2.0]]))  # 2 m ahead, 1 m to its right (world -z)
    assert z.item() == 2.0 and uv[0, 0].tolist() == [10.0, 5.0]


def write_realestate10k(folder: Path) -> Path:
    path = folder / "0a1b.txt"
    path.write_text("https://www.youtube.com/watch?v=x\n" + f"66733 0.5 0.9 0.5 0.6 0 0 {W2C_34}\n" * 2)
    return path


def write_spatia(folder: Path) -> Path:
    (folder / "w2c.txt").write_text(f"{json.dumps(W2C)}\n{json.dumps(W2C)}")
    (folder / "intrinsics.txt").write_text("[0.5 0.9\n 0.5 0.6]")
    return folder


def write_7scenes(folder: Path) -> Path:
    for i in range(2):
        np.savetxt(folder / f"frame-{i:06d}.pose.txt", KNOWN)
    np.savetxt(folder / "camera-intrinsics.txt", [[50, 0, 49.5], [0, 90, 59.5], [0, 0, 1]])
    Image.new("RGB", (100, 100)).save(folder / "frame-000000.color.png")
    return folder


def write_tum(folder: Path) -> Path:
    half = math.sqrt(0.5)
    path = folder / "groundtruth.txt"
    path.write_text("# timestamp tx ty tz qx qy qz qw\n" + f"1305031102.175304 1 2 3 0 {half} 0 {half}\n" * 2)
    return path


def write_nerfstudio(folder: Path) -> Path:
    opengl = [[0, 0, -1, 1], [0, -1, 0, 2], [-1, 0, 0, 3], [0, 0, 0, 1]]
    content = {
        "fl_x": 50,
        "fl_y": 90,
        "cx": 50,
        "cy": 60,
        "w": 100,
        "h": 100,
        "frames": [{"transform_matrix": opengl}] * 2,
    }
    path = folder / "transforms.json"
    path.write_text(json.dumps(content))
    return path


WRITERS = {
    "realestate10k": write_realestate10k,
    "spatia": write_spatia,
    "7-scenes": write_7scenes,
    "tum": write_tum,
    "nerfstudio": write_nerfstudio,
}


def test_every_format_has_a_known_case():
    assert set(WRITERS) | {"colmap", "geometry"} == set(FORMATS)  # those two in test_trajectory_formats


@pytest.mark.parametrize("name", WRITERS)
def test_known_camera_in_every_format(name, tmp_path):
    c2w, intrinsics = load_trajectory(WRITERS[name](tmp_path), size=(200, 400))
    assert c2w.dtype == torch.float32
    torch.testing.assert_close(c2w, KNOWN.expand(2, 4, 4), atol=1e-6, rtol=0)
    if name == "tum":
        assert intrinsics is None
    else:  # of a picture 400 wide and 200 high, whichever way the file has them
        torch.testing.assert_close(intrinsics, torch.tensor([[200.0, 180.0, 200.0, 120.0]]).expand(2, 4))


@pytest.mark.parametrize("name", WRITERS)
def test_intrinsics_without_a_size(name, tmp_path):
    _, intrinsics = load_trajectory(WRITERS[name](tmp_path))
    if name in ("7-scenes", "nerfstudio"):
        torch.testing.assert_close(intrinsics[0], torch.tensor([50.0, 90.0, 50.0, 60.0]))
    else:  # none in the file, or normalised ones, which are of no use without a size
        assert intrinsics is None


@pytest.mark.parametrize("shared", [True, False])
def test_save_and_load(shared, tmp_path):
    c2w = camera_path("pan_left+push_in", 7, KNOWN)
    rows = torch.tensor([60.0, 61.0, 33.0, 30.5]).repeat(7, 1) + (0 if shared else torch.arange(7.0)[:, None])
    cameras = Cameras(c2w, rows, (64, 80))
    path = save_trajectory(tmp_path / "path.json", Cameras(KNOWN, rows[:1], (64, 80)))
    save_trajectory(path, cameras)  # in its place
    assert [p.name for p in tmp_path.iterdir()] == ["path.json"]
    got, intrinsics = load_trajectory(path)
    torch.testing.assert_close(got, c2w, atol=0, rtol=0)
    torch.testing.assert_close(intrinsics, rows, atol=0, rtol=0)
    torch.testing.assert_close(load_trajectory(path, (32, 40))[1], rows / 2)


def test_failed_save_keeps_the_old_file(tmp_path):
    path = tmp_path / "path.json"
    path.mkdir()
    with pytest.raises(OSError):
        save_trajectory(path, Cameras(KNOWN, torch.tensor([60.0, 60.0, 32.0, 32.0]), (64, 64)))
    assert [p.name for p in tmp_path.iterdir()] == ["path.json"]


def test_lost_tracking_is_left_out(tmp_path):
    write_7scenes(tmp_path)
    np.savetxt(tmp_path / "frame-000000.pose.txt", np.full((4, 4), np.nan))
    with pytest.warns(UserWarning, match="tracking was lost in 1 .*frame-000000"):
        c2w, intrinsics = load_trajectory(tmp_path)
    assert c2w.shape == (1, 4, 4) and intrinsics.shape == (1, 4)


@pytest.mark.parametrize("name, key", [("realestate10k", "0 0 0 0 -1"), ("nerfstudio", '"fl_x"')])
def test_distortion_is_told(name, key, tmp_path):
    path = WRITERS[name](tmp_path)
    path.write_text(
        path.read_text().replace(key, {"realestate10k": "0.1 0 0 0 -1", "nerfstudio": '"k1": 0.1, "fl_x"'}[name])
    )
    with pytest.warns(UserWarning, match="distortion"):
        load_trajectory(path, (10, 10))


TRANSPOSED = json.dumps(np.array(W2C).T.tolist())


@pytest.mark.parametrize(
    "name, text, message",
    [
        ("a.txt", "hello\n", "in none of the known formats"),
        ("a.txt", "", "in none of the known formats"),
        ("a.npz", "PK\x03\x04", "not a whole NumPy archive"),
        ("a.bin", "PK\x03\x04", "in none of the known formats"),
        ("a.txt", "https://x\n", "it holds no poses"),
        (
            "a.txt",
            f"https://x\n1 .5 .9 .5 .5 0 0 {W2C_34}\n1 2 3",
            "line 2 of its data: expected 19 numbers, got '1 2 3'",
        ),
        ("a.txt", f"https://x\n1 .5 .9 .5 .5 0 0 {W2C_34}".replace("-1 3", "-1 nan"), "c2w: expected finite"),
        ("a.txt", f"https://x\n1 50 90 50 50 0 0 {W2C_34}", "principal point"),  # in pixels, not normalised
        ("w2c.txt", f"{json.dumps(W2C)}\n[[1, 0], [2", "line 2: expected a 4x4 matrix as JSON"),
        ("w2c.txt", TRANSPOSED, "transposed"),
        ("w2c.txt", json.dumps((2 * np.array(W2C) - np.diag([0, 0, 0, 1])).tolist()), "expected rigid matrices"),
        ("a.txt", "0 1 2 3 0 0 0 0.5", "unit quaternions"),
        ("a.txt", "0 1 2 3 0 0 0 1\n0 1 2 x 0 0 0 1", "line 2"),
        ("a.json", "{}", "'frames' is missing"),
        ("a.json", "[1]", "a.json: list indices"),
        ("a.json", "{", "a.json: Expecting"),
        ("a.json", '{"frames": []}', "expected a list of frames"),
        ("a.json", '{"frames": [{"transform_matrix": [[1]]}]}', "each with a 4x4"),
        ("a.json", json.dumps({"fl_x": 9, "frames": [{"transform_matrix": np.eye(4).tolist()}]}), "'w' is missing"),
    ],
)
def test_bad_trajectory_files(name, text, message, tmp_path):
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=message):
        load_trajectory(tmp_path / name, (48, 64))


def test_missing_trajectory(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such file or folder"):
        load_trajectory(tmp_path / "none.txt")
    with pytest.raises(ValueError, match="in none of the known formats"):
        load_trajectory(tmp_path)
