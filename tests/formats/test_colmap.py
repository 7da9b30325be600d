"""COLMAP models, text and binary, against a camera written by hand."""

from __future__ import annotations

import struct
from pathlib import Path

import known_camera
import pytest
from known_camera import H

from mirage_nb.formats import load_trajectory


def write_text(folder: Path) -> Path:
    folder = folder / "sparse" / "0"
    folder.mkdir(parents=True)
    (folder / "cameras.txt").write_text("# id model w h p\n7 PINHOLE 100 100 50 90 50 60\n")
    pose = f"{H} 0 {-H} 0 3 -2 -1 7"
    (folder / "images.txt").write_text(f"# two lines a picture\n2 {pose} b c.png\n1.5 2.5 -1\n1 {pose} a.png\n\n")
    return folder.parents[1]


def write_binary(folder: Path) -> Path:
    (folder / "cameras.bin").write_bytes(struct.pack("<QiiQQ4d", 1, 7, 1, 100, 100, 50, 90, 50, 60))
    images = struct.pack("<Q", 2)
    for number, name, points in ((2, b"b c.png", 1), (1, b"a.png", 0)):
        images += struct.pack("<i7di", number, H, 0, -H, 0, 3, -2, -1, 7) + name + b"\0" + struct.pack("<Q", points)
        images += struct.pack("<ddq", 1.5, 2.5, -1) * points
    (folder / "images.bin").write_bytes(images)
    return folder


@pytest.mark.parametrize("write", [write_text, write_binary])
def test_the_known_camera(write, tmp_path):
    known_camera.check(load_trajectory(write(tmp_path)))
    for home in (tmp_path, tmp_path / "images"):  # wherever the pictures are, under another ending, too
        home.mkdir(exist_ok=True)
        for name in ("a.jpg", "b c.png"):
            (home / name).touch()
        assert load_trajectory(tmp_path).pictures == [home / "a.jpg", home / "b c.png"]
        for name in ("a.jpg", "b c.png"):
            (home / name).unlink()


def test_points_lines_may_be_left_out(tmp_path):
    file = write_text(tmp_path) / "sparse" / "0" / "images.txt"
    lines = [line for line in file.read_text().splitlines() if line.endswith("png")]
    for end in ("\n", "\n\n", "\n1.5 2.5 -1\n", "\r\n"):
        file.write_text("".join(line + end for line in lines))
        known_camera.check(load_trajectory(tmp_path))


def test_the_largest_model_is_taken(tmp_path):
    write_text(tmp_path)
    small = tmp_path / "sparse" / "1"
    small.mkdir()
    (small / "cameras.txt").write_text("1 PINHOLE 10 10 5 5 5 5\n")
    (small / "images.txt").write_text("1 1 0 0 0 0 0 0 1 a.png\n\n")
    with pytest.warns(UserWarning, match=r"0 \(2 pictures\), 1 \(1 pictures\), the largest is taken: 0"):
        known_camera.check(load_trajectory(tmp_path))


def test_bad_models(tmp_path):
    folder = write_binary(tmp_path)
    whole = (folder / "images.bin").read_bytes()
    for cut in (4, 30, 90, 100, len(whole) - 3):
        (folder / "images.bin").write_bytes(whole[:cut])
        with pytest.raises(ValueError, match="images.bin is truncated"):
            load_trajectory(folder)
    at = whole.index(b"b c.png\0") + 8  # the number of the picture's points
    for huge in (10**12, 2**63):
        (folder / "images.bin").write_bytes(whole[:at] + struct.pack("<Q", huge) + whole[at + 8 :])
        with pytest.raises(ValueError, match="images.bin is truncated"):
            load_trajectory(folder)
    (folder / "images.bin").write_bytes(whole)
    for camera, form, message in (
        ((1, 7, 5, 100, 100, 50, 90, 50, 60, 0, 0, 0, 0), "8d", "the lens is OPENCV_FISHEYE, expected a pinhole"),
        ((1, 8, 1, 100, 100, 50, 90, 50, 60), "4d", "camera 7, which is not there"),
        ((1, 7, 99, 100, 100, 50, 90, 50, 60), "4d", "no camera model has the number 99"),
        ((2, 7, 1, 100, 100, 50, 90, 50, 60), "4d", "cameras.bin is truncated"),
    ):
        (folder / "cameras.bin").write_bytes(struct.pack(f"<QiiQQ{form}", *camera))
        with pytest.raises(ValueError, match=message):
            load_trajectory(folder)
    (folder / "cameras.bin").write_bytes(struct.pack("<QiiQQ4d", 1, 7, 2, 100, 100, 50, 50, 50, 0.2))
    assert load_trajectory(folder).distortion[0].tolist() == pytest.approx([0.2, 0, 0, 0, 0, 0])


@pytest.mark.parametrize(
    "cameras, images, message",
    [
        ("7 PINHOLE 100 100 50 90 50", "1 1 0 0 0 0 0 0 7 a.png\n", "expected 4 parameters of PINHOLE, got 3"),
        ("7 PINHOLE 100", "1 1 0 0 0 0 0 0 7 a.png\n", "not enough values"),
        ("7 PINHOLE 100 100 50 90 50 60", "1 1 0 0 0 0 0 7 a.png\n", "images.txt: expected id, qw"),
        ("7 PINHOLE 100 100 50 90 50 60", "1 .5 0 0 0 0 0 0 7 a.png\n", "unit quaternions"),
    ],
)
def test_bad_text(cameras, images, message, tmp_path):
    (tmp_path / "cameras.txt").write_text(cameras)
    (tmp_path / "images.txt").write_text(images)
    with pytest.raises(ValueError, match=message):
        load_trajectory(tmp_path)
