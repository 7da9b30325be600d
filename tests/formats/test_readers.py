"""The readers of trajectory formats, each against a camera written by hand."""

from __future__ import annotations

import json
import math
import pickle
from pathlib import Path

import known_camera
import numpy as np
import pytest
import torch
from known_camera import H
from PIL import Image

from mirage_nb.cameras import Cameras
from mirage_nb.formats import Trajectory, load_trajectory
from mirage_nb.formats.trajectory import find_pictures, natural_order
from mirage_nb.paths import camera_path


def test_the_known_camera():
    camera = Cameras(known_camera.C2W, torch.tensor([10.0, 10.0, 5.0, 5.0]), (10, 10))
    assert torch.equal(camera.w2c[0], torch.tensor(known_camera.W2C, dtype=torch.float32))
    uv, z = camera.project(torch.tensor([[3.0, 2.0, 2.0]]))  # 2 m ahead, 1 m to its right (world -z)
    assert z.item() == 2.0 and uv[0, 0].tolist() == [10.0, 5.0]


def test_a_part_of_a_trajectory():
    c2w, rows = camera_path("push_in", 4), torch.tensor([9.0, 9.0, 5.0, 5.0]) + torch.arange(4.0)[:, None]
    whole = Trajectory(c2w, rows, (20, 20), pictures=list("abcd"))
    for part, expected in ((whole[1:3], [1, 2]), (whole[[3, 0]], [3, 0]), (whole[-1:], [3])):
        assert torch.equal(part.c2w, c2w[expected]) and torch.equal(part.intrinsics, rows[expected])
        assert part.pictures == ["abcd"[i] for i in expected] and part.size[0].tolist() == [20, 20]


def test_intrinsics_that_are_missing():
    with pytest.raises(ValueError, match="it has no intrinsics"):
        Trajectory(torch.eye(4)[None]).cameras((10, 10))


def test_natural_order():
    names = ["frame-2.png", "frame-10.png", "frame-10b.png", "x"]
    assert sorted(map(Path, names[::-1]), key=natural_order) == [*map(Path, names)]


def write_7scenes(folder):
    for i in range(2):
        np.savetxt(folder / f"frame-{i:06d}.pose.txt", known_camera.C2W)
    np.savetxt(folder / "camera-intrinsics.txt", [[50, 0, 49.5], [0, 90, 59.5], [0, 0, 1]])
    Image.new("RGB", (100, 100)).save(folder / "frame-000000.color.png")
    return folder


def test_realestate10k(tmp_path):
    path = tmp_path / "0a1b.txt"
    line = f"66733 0.5 0.9 0.5 0.6 0 0 {known_camera.W2C_ROW}\n"
    for text in ("https://www.youtube.com/watch?v=x\n" + line * 2, line * 2, line.replace(" ", ",") * 2):
        path.write_text(text)
        known_camera.check(load_trajectory(path))
    path.write_text("https://www.youtube.com/watch?v=x\n" + line.replace("0.6 0 0", "0.6 0.1 0"))
    assert load_trajectory(path).distortion.tolist() == [pytest.approx([0.1, 0, 0, 0, 0, 0])]


def test_spatia(tmp_path):
    (tmp_path / "w2c.txt").write_text(f"{json.dumps(known_camera.W2C)}\n{json.dumps(known_camera.W2C)}")
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
    assert trajectory.size[0].tolist() == [100, 100] and trajectory.pictures[0] == tmp_path / "frame-000000.color.png"
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


# ---------------------------------------------------------------------------------------------------------------- JSON

LENS = {"fl_x": 50, "fl_y": 90, "cx": 50, "cy": 60, "w": 100, "h": 100}
FRAME = {"transform_matrix": known_camera.OPENGL_C2W}


def write_json(path, content):
    path.write_text(json.dumps(content))
    return path


def test_nerfstudio(tmp_path):
    path = write_json(tmp_path / "transforms.json", LENS | {"frames": [FRAME] * 2})
    for where in (path, tmp_path):
        known_camera.check(load_trajectory(where))
    assert load_trajectory(path).pictures is None
    frames = [FRAME | LENS | {"file_path": name} for name in ("images/a.png", "b")]
    (tmp_path / "b.png").touch()
    trajectory = load_trajectory(write_json(path, {"frames": frames}))
    known_camera.check(trajectory)
    assert trajectory.pictures == [tmp_path / "b.png", tmp_path / "images" / "a.png"]


def test_frames_of_several_sizes_and_distortion(tmp_path):
    path = write_json(tmp_path / "a.json", {"frames": [FRAME | LENS, FRAME | LENS | {"w": 200, "h": 200}]})
    assert load_trajectory(path)[[1]].cameras((100, 100)).intrinsics[0].tolist() == [25, 45, 25, 30]
    trajectory = load_trajectory(write_json(path, LENS | {"k1": 0.1, "p2": 0.2, "frames": [FRAME]}))
    assert trajectory.distortion[0].tolist() == pytest.approx([0.1, 0, 0, 0, 0, 0.2])
    for lens in ({"camera_model": "OPENCV_FISHEYE"}, {"is_fisheye": True}, {"camera_model": "EQUIRECTANGULAR"}):
        with pytest.raises(ValueError, match="expected a pinhole; undistort"):
            load_trajectory(write_json(path, LENS | lens | {"frames": [FRAME]}))


def test_pictures_are_found_by_name(tmp_path):
    """Whatever folder and ending they had; of several cameras', the one whose folder fits."""
    for name in ("images/left/1.jpg", "images/right/1.jpg"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).touch()
    (tmp_path / "images_4").mkdir()
    (tmp_path / "images_4" / "IMG 2.5.JPG").touch()
    names = ["images\\right\\1.png", "C:\\ana\\images\\left\\1.jpg", "/home/ana/IMG 2.5", "none.png"]
    found = find_pictures(names, [tmp_path / "nowhere", tmp_path])
    expected = ["images/right/1.jpg", "images/left/1.jpg", "images_4/IMG 2.5.JPG", "none.png"]
    assert [str(file.relative_to(tmp_path)) for file in found] == expected
    there = tmp_path / "elsewhere.png"
    there.touch()
    (tmp_path / "images" / "elsewhere.png").touch()
    assert find_pictures([str(there)], [tmp_path / "images"]) == [there], "where the file says, if it is there"
    with pytest.raises(ValueError, match="two poses fit one picture"):
        find_pictures(["a/IMG 2.5.png", "b/IMG 2.5.png"], [tmp_path])


def test_intrinsics_of_another_aspect_are_refused():
    trajectory = Trajectory(torch.eye(4)[None], torch.tensor([100.0, 100, 64, 48]), (96, 128))
    assert trajectory.cameras((48, 64)).intrinsics[0].tolist() == [50, 50, 32, 24]
    assert trajectory.cameras((95, 127)).size == (95, 127), "rounded"
    for size, message in (((128, 96), "for 128x96, the picture is 96x128 .turned"), ((96, 96), "cropped")):
        with pytest.raises(ValueError, match=message):
            trajectory.cameras(size)


def test_blender_states_an_angle_of_view(tmp_path):
    """90 degrees across 400 pixels: the focal length is 200 either way."""
    path = tmp_path / "transforms_train.json"
    write_json(path, {"camera_angle_x": math.pi / 2, "frames": [FRAME | {"file_path": "./r_0"}]})
    trajectory = load_trajectory(path)
    torch.testing.assert_close(trajectory.c2w[0], known_camera.C2W)
    assert trajectory.intrinsics is None, "neither a size nor a picture says how high it is"
    Image.new("RGB", (400, 200)).save(tmp_path / "r_0.png")
    for where in (path, tmp_path):
        assert load_trajectory(where).intrinsics[0].tolist() == pytest.approx([200, 200, 200, 100])
    angles = {"camera_angle_x": math.pi / 2, "camera_angle_y": math.pi / 2, "w": 400, "h": 200, "frames": [FRAME]}
    trajectory = load_trajectory(write_json(path, angles))
    assert trajectory.cameras((200, 400)).intrinsics[0].tolist() == pytest.approx([200, 100, 200, 100])


def test_worldscores_blender_poses(tmp_path):
    """Its first camera is at the origin of a PyTorch3D world (x left, y up), and `push_in` walks along its +z."""
    first = np.diag([-1.0, 1.0, -1.0, 1.0])
    second = first.copy()
    second[2, 3] = 0.5
    poses = [first.tolist(), second.tolist()]
    write_json(tmp_path / "camera_data.json", {"focal_length": 500, "cameras": poses[:1], "cameras_interp": poses})
    trajectory = load_trajectory(tmp_path)
    assert trajectory.intrinsics is None and len(trajectory) == 2
    move = torch.linalg.inv(trajectory.c2w[0]) @ trajectory.c2w[1]
    torch.testing.assert_close(move[:3, 3], torch.tensor([0.0, 0.0, 0.5]), msg="forward, in OpenCV's axes")
    up = trajectory.c2w[0][:3, :3] @ torch.tensor([0.0, -1.0, 0.0])
    torch.testing.assert_close(up, torch.tensor([0.0, 1.0, 0.0]))


# ------------------------------------------------------------------------------------------------------------ archives

K = np.array([[50, 0, 49.5], [0, 90, 59.5], [0, 0, 1]])  # of 100x100, pixel centres at integers
POSES = np.stack([known_camera.C2W.numpy()] * 3)


def write_archive(folder: Path, **arrays) -> Path:
    np.savez_compressed(folder / "geometry.npz", **arrays)
    return folder / "geometry.npz"


def test_poses_intrinsics_and_the_size_of_the_depth(tmp_path):
    depth = np.full((2, 100, 100, 1), 1.5, np.float32)
    known_camera.check(
        load_trajectory(write_archive(tmp_path, camera_poses=POSES[:2], intrinsics=[K] * 2, depth_z=depth))
    )
    known_camera.check(load_trajectory(write_archive(tmp_path, camera_poses=POSES[:2], intrinsics=K, depth=depth)))
    trajectory = load_trajectory(write_archive(tmp_path, camera_poses=POSES, intrinsics=K))
    assert trajectory.intrinsics is None, "without depth nothing says for which size they are"


def test_w2c_and_normalised_intrinsics(tmp_path):
    k = [[0.5, 0, 0.5], [0, 0.9, 0.6], [0, 0, 1]]
    path = write_archive(tmp_path, extrinsics=np.array([known_camera.W2C[:3]] * 2), intrinsics=np.array(k))
    known_camera.check(load_trajectory(path))


@pytest.mark.parametrize("scale", [0.8, 1.25])
def test_the_scale_of_a_similarity_is_divided_out(scale, tmp_path):
    poses = POSES.copy()
    poses[2, :3, :3] *= scale  # as the paper's code aligns a later part of a long video
    known_camera.check(load_trajectory(write_archive(tmp_path, poses_c2w=poses)), poses=3, intrinsics=False)


def test_a_sheared_or_mirrored_pose_is_refused(tmp_path):
    for entry, factor in (((slice(3), 0), -1), ((slice(3), slice(0, 1)), 1.3)):
        wrong = POSES.copy()
        wrong[1][entry] *= factor
        with pytest.raises(ValueError, match="rigid"):
            load_trajectory(write_archive(tmp_path, poses_c2w=wrong))


class Trap:
    def __reduce__(self):
        return Path.touch, (Path(Trap.path),)


def test_pickles_are_never_loaded(tmp_path):
    Trap.path = str(tmp_path / "sprung")
    with pytest.raises(ValueError, match="allow_pickle=False") as error:
        load_trajectory(write_archive(tmp_path, camera_poses=np.array([Trap()], dtype=object)))
    assert not (tmp_path / "sprung").exists() and "\n" not in str(error.value)
    (tmp_path / "other.npz").write_bytes(pickle.dumps({"camera_poses": 1}))
    with pytest.raises(ValueError, match="other.npz"):
        load_trajectory(tmp_path / "other.npz")


@pytest.mark.parametrize(
    "arrays, message",
    [
        ({"points": np.zeros(3)}, "in one of the formats .*; found none"),
        ({"c2w": np.zeros((2, 3))}, r"poses: expected \(T, 4, 4\)"),
        ({"c2w": POSES, "intrinsics": np.zeros((2, 3, 3))}, r"intrinsics: expected \(3, 3\) or \(3, 3, 3\)"),
        ({"c2w": POSES, "intrinsics": K, "image_height": 4}, "no intrinsics"),
        ({"c2w": 2 * POSES}, "rigid"),
        ({"w2c": POSES * np.array([2, 2, 2, 1])}, "rigid"),
    ],
)
def test_bad_archives(arrays, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        load_trajectory(write_archive(tmp_path, **arrays)).cameras((10, 10))


# ------------------------------------------------------------------------------------ one camera in the others' formats

ROW = " ".join(str(x) for row in known_camera.C2W.tolist()[:3] for x in row)


@pytest.mark.parametrize(
    "name, content",
    [
        ("poses.txt", f"{ROW}\n{ROW}"),
        ("data.csv", f"#timestamp [ns],x,y,z,qw,qx,qy,qz\n2,1,2,3,{H},0,{H},0\n1,1,2,3,{H},0,{H},0\n"),
        ("data.csv", f"1305031102175303936,1,2,3,{H},0,{H},0\n" * 2),
    ],
)
def test_the_known_camera_in(name, content, tmp_path):
    (tmp_path / name).write_text(content)
    known_camera.check(load_trajectory(tmp_path), intrinsics=False)
