"""NumPy archives of poses, as reconstruction code writes them: MapAnything, and the paper's released code with it."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import torch

from mirage_nb.formats.base import Trajectory, as_matrices, invert

_C2W = ("camera_poses", "c2w", "cam2world", "poses_c2w")
_W2C = ("w2c", "extrinsics", "extrinsic", "poses_w2c")
_INTRINSICS = ("intrinsics", "intrinsic", "K")
_DEPTH = ("depth_z", "depth", "depths")


def read_geometry(path: Path) -> Trajectory:
    """An `.npz` of poses (c2w, or w2c by their name, OpenCV axes) and 3x3 intrinsics. Nothing pickled is ever loaded.

    Pixel centres are integers there: intrinsics in pixels are moved to ours. The size of the depth maps, if there are
    some, is that of the images. The paper's code reconstructs a long video in parts and aligns them by similarities, so
    the rotations of later frames may have a scale, which is divided out.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            poses, inverted, k, depth = (
                next((archive[name] for name in names if name in archive.files), None)
                for names in (_C2W, _W2C, _INTRINSICS, _DEPTH)
            )
            names = ", ".join(archive.files) or "nothing"
    except (ValueError, zipfile.BadZipFile, EOFError, OSError) as error:
        if "allow_pickle" in str(error):
            raise ValueError("it holds pickled objects, which run code when they are read; save plain arrays") from None
        raise ValueError(f"not a whole NumPy archive ({error})") from None
    if poses is None and inverted is None:
        raise ValueError(f"it holds none of {', '.join(_C2W + _W2C)}, but {names}")
    if poses is None:
        c2w = invert(as_matrices("w2c", inverted))
    else:
        c2w = as_matrices("poses", poses)
        scale = torch.linalg.det(c2w[:, :3, :3]).clamp(min=0) ** (1 / 3)
        c2w[:, :3, :3] /= torch.where(scale > 0, scale, 1.0)[:, None, None]  # `Cameras` refuses what is not rigid then
    if k is None:
        return Trajectory(c2w)
    k = torch.as_tensor(np.asarray(k, dtype=np.float64))
    if k.shape not in ((3, 3), (len(c2w), 3, 3)):
        raise ValueError(f"intrinsics: expected ({len(c2w)}, 3, 3), got {tuple(k.shape)}")
    rows = k.reshape(-1, 9)[:, [0, 4, 2, 5]]
    if depth is None and (rows[:, 2:] < 1).all():
        return Trajectory(c2w, rows, (1, 1))  # normalised
    size = None
    if depth is not None:
        if depth.ndim < 3 or len(depth) != len(c2w):
            raise ValueError(f"depth: expected ({len(c2w)}, H, W), got {depth.shape}")
        size = tuple(depth.shape[1:3])
    return Trajectory(c2w, rows + torch.tensor([0, 0, 0.5, 0.5]), size)
