"""NumPy archives of poses."""

from __future__ import annotations

import pickle
from pathlib import Path

import known_camera
import numpy as np
import pytest
import torch

from mirage_nb.formats import load_trajectory

K = np.array([[50, 0, 49.5], [0, 90, 59.5], [0, 0, 1]])  # of 100x100, pixel centres at integers
POSES = np.stack([known_camera.C2W.numpy()] * 3)


def write(folder: Path, **arrays) -> Path:
    np.savez_compressed(folder / "geometry.npz", **arrays)
    return folder / "geometry.npz"


def test_poses_intrinsics_and_the_size_of_the_depth(tmp_path):
    depth = np.full((2, 100, 100, 1), 1.5, np.float32)
    known_camera.check(load_trajectory(write(tmp_path, camera_poses=POSES[:2], intrinsics=[K] * 2, depth_z=depth)))
    trajectory = load_trajectory(write(tmp_path, camera_poses=POSES, intrinsics=K))
    torch.testing.assert_close(trajectory.intrinsics[2], torch.tensor([50.0, 90, 50, 60]))
    assert trajectory.size is None, "without depth nothing says it"


def test_w2c_and_normalised_intrinsics(tmp_path):
    k = [[0.5, 0, 0.5], [0, 0.9, 0.6], [0, 0, 1]]
    path = write(tmp_path, extrinsics=np.array([known_camera.W2C[:3]] * 2), intrinsics=np.array(k))
    known_camera.check(load_trajectory(path))


@pytest.mark.parametrize("scale", [0.8, 1.25])
def test_the_scale_of_a_similarity_is_divided_out(scale, tmp_path):
    poses = POSES.copy()
    poses[2, :3, :3] *= scale  # as the paper's code aligns a later part of a long video
    known_camera.check(load_trajectory(write(tmp_path, poses_c2w=poses)), poses=3, intrinsics=False)


def test_a_sheared_or_mirrored_pose_is_refused(tmp_path):
    for entry, factor in (((slice(3), 0), -1), ((slice(3), slice(0, 1)), 1.3)):
        wrong = POSES.copy()
        wrong[1][entry] *= factor
        with pytest.raises(ValueError, match="rigid"):
            load_trajectory(write(tmp_path, poses_c2w=wrong))


class Trap:
    def __reduce__(self):
        return Path.touch, (Path(Trap.path),)


def test_pickles_are_never_loaded(tmp_path):
    Trap.path = str(tmp_path / "sprung")
    with pytest.raises(ValueError, match="pickled objects, which run code") as error:
        load_trajectory(write(tmp_path, camera_poses=np.array([Trap()], dtype=object)))
    assert not (tmp_path / "sprung").exists() and "\n" not in str(error.value)
    (tmp_path / "other.npz").write_bytes(pickle.dumps({"camera_poses": 1}))
    with pytest.raises(ValueError, match="other.npz"):
        load_trajectory(tmp_path / "other.npz")


@pytest.mark.parametrize(
    "arrays, message",
    [
        ({"points": np.zeros(3)}, "it holds none of camera_poses, .*, but points"),
        ({"c2w": np.zeros((2, 3))}, r"poses: expected \(T, 4, 4\)"),
        ({"c2w": POSES, "intrinsics": np.zeros((2, 3, 3))}, r"intrinsics: expected \(3, 3, 3\)"),
        ({"c2w": POSES, "intrinsics": K, "depth": np.zeros((2, 4, 4))}, r"depth: expected \(3, H, W\)"),
        ({"c2w": 2 * POSES}, "rigid"),
        ({"w2c": POSES * np.array([2, 2, 2, 1])}, "rigid"),
    ],
)
def test_bad_archives(arrays, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        load_trajectory(write(tmp_path, **arrays))
