"""More trajectory formats: COLMAP, Blender, WorldScore, NumPy archives; and every format that is written."""

from __future__ import annotations

import json
import math
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from mirage_nb.cameras import Cameras
from mirage_nb.formats.colmap import matrix_to_quaternion, quaternion_to_matrix
from mirage_nb.formats.trajectory_files import load_trajectory, save_trajectory
from mirage_nb.formats.trajectory_formats import read_geometry
from mirage_nb.formats.trajectory_writers import WRITERS
from mirage_nb.paths import camera_path

# One known camera, for every format: it stands at (1, 2, 3) and looks along the world's +x (90 degrees to the right).
KNOWN = torch.tensor([[0, 0, 1, 1], [0, 1, 0, 2], [-1, 0, 0, 3], [0, 0, 0, 1]], dtype=torch.float32)
BLENDER = [[0, 0, -1, 1], [0, -1, 0, 2], [-1, 0, 0, 3], [0, 0, 0, 1]]  # y up, z back
H = math.sqrt(0.5)  # w2c turns by -90 degrees about y: w x y z = H, 0, -H, 0; its translation is 3, -2, -1


def colmap_text(folder: Path) -> Path:
    folder = folder / "sparse" / "0"
    folder.mkdir(parents=True)
    (folder / "cameras.txt").write_text("# id model w h p\n7 PINHOLE 100 100 50 90 50 60\n")
    pose = f"{H} 0 {-H} 0 3 -2 -1 7"
    (folder / "images.txt").write_text(f"# two lines a picture\n2 {pose} b c.png\n1.5 2.5 -1\n1 {pose} a.png\n\n")
    return folder.parents[1]


def colmap_binary(folder: Path) -> Path:
    (folder / "cameras.bin").write_bytes(struct.pack("<QiiQQ4d", 1, 7, 1, 100, 100, 50, 90, 50, 60))
    images = struct.pack("<Q", 2)
    for number, name, points in ((2, b"b c.png", 1), (1, b"a.png", 0)):
        images += struct.pack("<i7di", number, H, 0, -H, 0, 3, -2, -1, 7) + name + b"\0" + struct.pack("<Q", points)
        images += struct.pack("<ddq", 1.5, 2.5, -1) * points
    (folder / "images.bin").write_bytes(images)
    return folder


def geometry(folder: Path) -> Path:
    k = [[50, 0, 49.5], [0, 90, 59.5], [0, 0, 1]]  # pixel centres at integers
    depth = np.full((2, 100, 100), 1.5, np.float32)
    np.savez(folder / "geometry.npz", camera_poses=np.stack([KNOWN] * 2), intrinsics=np.array([k] * 2), depth_z=depth)
    return folder / "geometry.npz"


def geometry_w2c(folder: Path) -> Path:
    w2c = [[0, 0, -1, 3], [0, 1, 0, -2], [1, 0, 0, -1]]
    k = np.array([[0.5, 0, 0.5], [0, 0.9, 0.6], [0, 0, 1]])
    np.savez(folder / "geometry.npz", extrinsics=np.array([w2c] * 2), intrinsics=k)
    return folder / "geometry.npz"


@pytest.mark.parametrize("write", [colmap_text, colmap_binary, geometry, geometry_w2c])
def test_the_known_camera(write, tmp_path):
    c2w, intrinsics = load_trajectory(write(tmp_path), size=(200, 400))
    torch.testing.assert_close(c2w, KNOWN.expand(2, 4, 4), atol=1e-6, rtol=0)
    torch.testing.assert_close(intrinsics, torch.tensor([[200.0, 180.0, 200.0, 120.0]]).expand(2, 4))


def test_a_geometry_archive_brings_its_depth(tmp_path):
    assert read_geometry(geometry(tmp_path)).depth.shape == (2, 100, 100)


def official_geometry(folder: Path, scale: float = 1.0, **changes) -> Path:
    """As the paper's released code saves it: compressed, with the frames, and empty arrays where there is nothing."""
    poses = np.stack([KNOWN.numpy()] * 3).astype(np.float32)
    poses[2, :3, :3] *= scale  # a later part of the video, aligned by a similarity
    arrays = dict(
        frames=np.zeros((3, 28, 42, 3), np.uint8), depths=np.full((3, 28, 42), 1.5, np.float32),
        intrinsics=np.array([[[40, 0, 20], [0, 38, 15], [0, 0, 1]]] * 3, np.float32), poses_c2w=poses,
        masks=np.array([]), frame_indices=np.arange(3, dtype=np.int32), original_size=np.array((704, 1280)),
        processed_size=np.array((28, 42)),
    )  # fmt: skip
    np.savez_compressed(folder / "geometry.npz", **arrays | changes)
    return folder / "geometry.npz"


def test_the_official_geometry(tmp_path):
    c2w, intrinsics = load_trajectory(official_geometry(tmp_path), size=(56, 84))
    torch.testing.assert_close(c2w, KNOWN.expand(3, 4, 4).float(), atol=1e-6, rtol=0)
    assert intrinsics[1].tolist() == [80, 76, 41, 31], "half a pixel of the file's, as its centres are integers"
    mask = np.ones((3, 28, 42), bool)
    mask[1, 5, 6] = False
    depth = read_geometry(official_geometry(tmp_path, masks=mask)).depth
    assert depth[1, 5, 6] == 0 and (depth == 1.5).sum() == depth.numel() - 1
    with pytest.raises(ValueError, match="masks: expected"):
        read_geometry(official_geometry(tmp_path, masks=mask[:2]))


@pytest.mark.parametrize("scale", [0.8, 1.25])
def test_a_scaled_pose_moves_no_point(scale, tmp_path):
    """The similarity's scale goes into the depth: the pose is rigid, the points are where the file has them."""
    path = official_geometry(tmp_path, scale)
    geometry = read_geometry(path)
    c2w, row, z = geometry.recorded.c2w[2], geometry.recorded.intrinsics[2], geometry.depth[2, 3, 4].double()
    torch.testing.assert_close(load_trajectory(path)[0], KNOWN.expand(3, 4, 4).float(), atol=1e-5, rtol=0)
    with np.load(path) as archive:
        pose, k = torch.from_numpy(archive["poses_c2w"][2]).double(), archive["intrinsics"][2]
    ray = torch.tensor([(4 - k[0, 2]) / k[0, 0], (3 - k[1, 2]) / k[1, 1], 1.0], dtype=torch.float64)
    expected = pose[:3, :3] @ (1.5 * ray) + pose[:3, 3]
    ours = torch.stack([(4.5 - row[2]) / row[0], (3.5 - row[3]) / row[1], torch.ones((), dtype=torch.float64)])
    torch.testing.assert_close(c2w[:3, :3] @ (z * ours) + c2w[:3, 3], expected, atol=1e-5, rtol=0)


def test_a_sheared_or_mirrored_pose_is_still_refused(tmp_path):
    poses = np.stack([KNOWN.numpy()] * 3)
    for entry in ((slice(None), 0), (slice(None), slice(0, 1))):
        wrong = poses.copy()
        wrong[1][:3, :3][entry] *= -1 if entry[1] == 0 else 1.3
        with pytest.raises(ValueError, match="rigid"):
            load_trajectory(official_geometry(tmp_path, poses_c2w=wrong))


def test_blender_states_an_angle_of_view(tmp_path):
    """90 degrees across 400 pixels: the focal length is 200 either way."""
    content = {"camera_angle_x": math.pi / 2, "frames": [{"file_path": "./r_0", "transform_matrix": BLENDER}]}
    path = tmp_path / "transforms_train.json"
    path.write_text(json.dumps(content))
    c2w, nothing = load_trajectory(path, (200, 400))
    torch.testing.assert_close(c2w[0], KNOWN)
    assert nothing is None, "neither a size nor a picture tells how high it is"
    Image.new("RGB", (400, 200)).save(tmp_path / "r_0.png")
    for where in (path, tmp_path):
        torch.testing.assert_close(load_trajectory(where)[1][0], torch.tensor([200.0, 200.0, 200.0, 100.0]))


def test_worldscores_blender_poses(tmp_path):
    """Its first camera is at the origin of a PyTorch3D world (x left, y up), and `push_in` walks along its +z."""
    first = np.diag([-1.0, 1.0, -1.0, 1.0])
    second = first.copy()
    second[2, 3] = 0.5
    content = {"focal_length": 500, "scale": 1, "cameras": [first.tolist()]}
    content["cameras_interp"] = [first.tolist(), second.tolist()]
    (tmp_path / "camera_data.json").write_text(json.dumps(content))
    c2w, intrinsics = load_trajectory(tmp_path)
    assert intrinsics is None and len(c2w) == 2
    move = torch.linalg.inv(c2w[0]) @ c2w[1]
    torch.testing.assert_close(move[:3, 3], torch.tensor([0.0, 0.0, 0.5]), msg="forward, in OpenCV's axes")
    up = c2w[0][:3, :3] @ torch.tensor([0.0, -1.0, 0.0])
    torch.testing.assert_close(up, torch.tensor([0.0, 1.0, 0.0]))


NAMES = {"nerfstudio": "a.json", "realestate10k": "a.txt", "tum": "a.txt", "spatia": "w2c.txt", "colmap": "model",
         "worldscore": "camera_data.json", "geometry": "geometry.npz"}  # fmt: skip


@pytest.mark.parametrize("format", WRITERS)
def test_what_is_written_is_read_back(format, tmp_path):
    c2w = camera_path("pan_left+push_in", 7, KNOWN)
    cameras = Cameras(c2w, torch.tensor([60.0, 61.0, 33.0, 30.5]), (64, 80))
    path = save_trajectory(tmp_path / NAMES[format], cameras, format)
    got, intrinsics = load_trajectory(path, (64, 80) if format != "geometry" else None)
    torch.testing.assert_close(got, c2w, atol=2e-6, rtol=0)
    if format in ("tum", "worldscore"):
        assert intrinsics is None
    else:
        torch.testing.assert_close(intrinsics, cameras.intrinsics, atol=1e-4, rtol=0)


def test_unknown_format_to_write(tmp_path):
    with pytest.raises(ValueError, match="format: expected one of nerfstudio"):
        save_trajectory(tmp_path / "a", Cameras(KNOWN, torch.tensor([9.0, 9.0, 5.0, 5.0]), (10, 10)), "bvh")


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(-1, 1), min_size=4, max_size=4).filter(lambda q: sum(x * x for x in q) > 1e-3))
def test_quaternions_there_and_back(values):
    q = torch.nn.functional.normalize(torch.tensor([values], dtype=torch.float64), dim=1)
    r = quaternion_to_matrix(q)
    torch.testing.assert_close(torch.linalg.det(r), torch.ones(1, dtype=torch.float64))
    back = matrix_to_quaternion(r)
    torch.testing.assert_close(quaternion_to_matrix(back), r, atol=1e-9, rtol=0)
    assert back[0, 0] >= 0


class Trap:
    def __reduce__(self):
        return Path.touch, (Path(Trap.path),)


def test_pickled_geometry_is_never_loaded(tmp_path):
    Trap.path = str(tmp_path / "sprung")
    np.savez(tmp_path / "geometry.npz", camera_poses=np.array([Trap()], dtype=object))
    with pytest.raises(ValueError, match="pickled objects, which run code") as error:
        load_trajectory(tmp_path / "geometry.npz")
    assert not (tmp_path / "sprung").exists() and "\n" not in str(error.value)
    (tmp_path / "other.npz").write_bytes(pickle.dumps({"camera_poses": 1}))
    with pytest.raises(ValueError, match="other.npz"):
        load_trajectory(tmp_path / "other.npz")


@pytest.mark.parametrize(
    "arrays, message",
    [
        ({"points": np.zeros(3)}, "it holds none of camera_poses, .*, but points"),
        ({"c2w": np.zeros((2, 3))}, r"poses: expected \(T, 4, 4\)"),
        ({"c2w": np.stack([np.eye(4)] * 2), "intrinsics": np.zeros((3, 3, 3))}, r"intrinsics: expected \(2, 3, 3\)"),
        ({"c2w": np.stack([np.eye(4)] * 2), "depth": np.zeros((3, 4, 4))}, r"depth: expected \(2, H, W\)"),
        ({"c2w": 2 * np.stack([np.eye(4)])}, "rigid"),
    ],
)
def test_bad_archives(arrays, message, tmp_path):
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(ValueError, match=message):
        load_trajectory(tmp_path / "a.npz")


def test_bad_colmap_models(tmp_path):
    folder = colmap_binary(tmp_path)
    whole = (folder / "images.bin").read_bytes()
    for cut in (4, 30, 90, len(whole) - 3):
        (folder / "images.bin").write_bytes(whole[:cut])
        with pytest.raises(ValueError, match="images.bin is truncated"):
            load_trajectory(folder)
    (folder / "images.bin").write_bytes(whole)
    (folder / "cameras.bin").write_bytes(struct.pack("<QiiQQ8d", 1, 7, 5, 100, 100, 50, 90, 50, 60, 0, 0, 0, 0))
    with pytest.raises(ValueError, match="OPENCV_FISHEYE is no pinhole"):
        load_trajectory(folder)
    (folder / "cameras.bin").write_bytes(struct.pack("<QiiQQ4d", 1, 8, 1, 100, 100, 50, 90, 50, 60))
    with pytest.raises(ValueError, match="camera 7, which is not there"):
        load_trajectory(folder)
    (folder / "cameras.bin").write_bytes(struct.pack("<QiiQQ4d", 1, 7, 2, 100, 100, 50, 50, 50, 0.2))
    with pytest.warns(UserWarning, match="distortion"):
        load_trajectory(folder)
