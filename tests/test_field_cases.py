"""Inputs from public bug reports of the tools around this project, and what each must give: its true cameras, or one
clear line. The inputs lie beside the repository, in `../shared/cases`; where they are absent, the rows are skipped.

Each is a view of one procedural room at 128x96, with 12 known poses and fx = fy = 102.42.
"""

from __future__ import annotations

import warnings
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image

from mirage_nb.data import read_input, read_photo, read_posed_video, read_rgbd
from mirage_nb.formats import load_trajectory

CASES = Path(__file__).resolve().parents[2] / "shared" / "cases"
SIZE, FOCAL = (96, 128), 102.42


class Right(NamedTuple):
    """The number of poses, which are the true ones from the first on (or those given); the focal length in pixels of
    all frames, or of the first and the last; and the words of a warning."""

    poses: int | list[int] = 12
    focal: float | tuple[float, float] | None = FOCAL
    warns: str = ""
    pictures: bool = True  # whether the pictures are the true ones, too


def no_lens(**change) -> Right:
    return Right(focal=None, **change)


ROWS = [  # the kind of reader, the case, and what it must give: poses and lens, or the words of the refusal
    ("video", "01_nerfstudio_pictures_moved", Right()),
    ("path", "01c_nerfstudio_unsorted/transforms.json", Right()),
    ("video", "01c_nerfstudio_unsorted", Right()),
    ("video", "03_colmap_no_points_line", Right()),
    ("path", "03_colmap_no_points_line", Right()),
    ("video", "04_colmap_exif_orientation", Right()),
    ("video", "05_nerfstudio_fisheye", "OPENCV_FISHEYE.*undistort"),
    ("path", "05_nerfstudio_fisheye", "OPENCV_FISHEYE.*undistort"),
    ("video", "06_per_frame_intrinsics", Right(focal=(FOCAL, 2 * FOCAL))),
    ("path", "06_per_frame_intrinsics", Right(focal=(FOCAL, 2 * FOCAL))),
    ("video", "07_no_w_h", Right()),
    ("path", "07_no_w_h/transforms.json", Right()),
    ("video", "08_two_cameras_two_sizes", Right()),
    ("video", "09_frames_missing_on_disk", Right([0, 1, 2, 3, 5, 6, 7, 8, 10, 11], FOCAL, "2 of 12 pictures")),
    ("path", "14_3x4/transforms.json", Right()),
    ("video", "15_colmap_opencv", Right(focal=None, pictures=False)),
    ("video", "15b_colmap_simple_radial", Right(pictures=False)),
    ("video", "15c_colmap_two_cameras", Right(focal=(FOCAL, 1.3 * FOCAL))),
    ("video", "15d_colmap_fisheye", "OPENCV_FISHEYE.*undistort"),
    ("video", "15e_colmap_two_sizes", "intrinsics are for 96x128, the picture is 128x96 .turned"),
    *[
        ("path", f"20_realestate10k/{name}.txt", Right())
        for name in ("ok", "no_url", "blank", "blanks", "bom", "utf16", "id", "commas", "crlf")
    ],
    ("path", "20_realestate10k/zoom.txt", Right(focal=(FOCAL, 2 * FOCAL))),
    ("path", "20_realestate10k/unsorted.txt", Right()),
    ("path", "23_euroc/data.csv", no_lens()),
    ("path", "25_npy_json/list.json", "c2w or w2c"),
    ("path", "25_npy_json/poses.npy", "c2w or w2c"),
    ("path", "27_npz/lyra.npz", Right()),
    ("path", "27_npz/megasam.npz", Right()),
    ("path", "27_npz/vggt.npz", no_lens(warns="not for the size")),
    ("path", "27_npz/vggt2.npz", no_lens(warns="not for the size")),
    ("path", "27_npz/da3.npz", no_lens(warns="not for the size")),
    ("path", "27_npz/vipe.npz", no_lens()),
    ("path", "27_npz/dust3r.npz", no_lens()),
    ("path", "27_npz/gen3c.npz", no_lens()),
    ("path", "29_7scenes_unpadded", no_lens()),
    ("rgbd", "30_rgbd_good", Right(8)),
    ("rgbd", "31_rgbd_depth_scale_5000", "--depth-unit 5000"),
    ("rgbd", "32_rgbd_opengl_axes", "--axes opengl"),
    ("rgbd", "32b_rgbd_w2c", "--w2c"),
    ("rgbd", "34_rgbd_65535", Right(8)),
    ("rgbd", "34b_rgbd_minus_inf", Right([0, 1, 3, 4, 5, 6, 7], FOCAL, "tracking was lost")),
    ("rgbd", "34c_rgbd_first_lost", Right([1, 2, 3, 4, 5, 6, 7], FOCAL, "tracking was lost")),
    ("rgbd", "35_rgbd_small_depth", Right(8)),
    ("rgbd", "35b_rgbd_8bit", "16 bit"),
    ("rgbd", "35d_rgbd_pgm", Right(2)),
    ("rgbd", "36_rgbd_unpadded", Right(8)),
    ("rgbd", "37_rgbd_inverse_depth", "--depth-kind inverse"),
    ("rgbd", "38_rgbd_ray_distance", "--depth-kind ray"),
    ("rgbd", "39_scannet_layout", Right(8)),
    ("rgbd", "39b_rgbd_k4x4", Right(8)),
    ("photo", "40_photos/a.jpg", (120.1, 38.9)),  # mean and spread of the brightness, by hand
    ("photo", "40_photos/g16.png", (122.4, 35.8)),
    ("photo", "40_photos/f.tiff", "floating point"),
    ("photo", "40_photos/alpha2.png", (181.3, 77.9)),
    ("photo", "40_photos/eq.jpg", "equirectangular panorama"),
    ("photo", "40_photos/pano.jpg", "panorama"),
    ("photo", "40_photos/big.png", "200000000 pixels"),
    ("photo", "40_photos/IMG_0001.HEIC", "can't be read as a picture"),
    ("photo", "40_photos/trunc.jpg", "can't be read as a picture"),
    ("photo", "40_photos/cmyk.jpg", (120.1, 38.9)),
    *[("video", f"50_videos/{name}", Right()) for name in ("plain.mp4", "vfr.mp4", "hevc10.mp4", "alpha.webm")],
    *[("video", f"50_videos/{name}", Right(focal=None, pictures=False)) for name in ("rot90.mp4", "rot270.mp4")],
    ("video", "50_videos/sar.mp4", Right()),  # pixels twice as wide as high
    ("video", "50_videos/odd.mkv", Right(focal=None, pictures=False)),
    ("video", "50_videos/arkit.mp4", "intrinsics are for 128x96, the picture is 96x128 .turned"),
    ("video", "50_videos/half.mp4", "expected a pose for each frame, got 12 and"),
    ("video", "50_videos/notvideo.mp4", "can't be read as a video"),
    ("walk", "60_photo_and_trajectory/ok.txt", Right(focal=FOCAL)),
    ("walk", "60_photo_and_trajectory/zoom.txt", Right(focal=(FOCAL, 2 * FOCAL))),
    ("walk", "60_photo_and_trajectory/wide.txt", no_lens(warns="pixels 1.33 times as long as short")),
    ("video", "81_blender_rgba", Right(8, pictures=False)),
    ("path", "86_recammaster/camera_extrinsics.json", "found none"),
    ("video", "89_colmap_partial", Right(8)),
    ("video", "89c_colmap_ending_changed", Right(8)),
    ("video", "89d_colmap_ending_changed_12", Right()),
]


@cache
def truth() -> tuple[torch.Tensor, torch.Tensor]:
    """The 12 poses, and the 12 pictures."""
    pictures = [Image.open(CASES / "07_no_w_h" / "images" / f"{i:05d}.jpg") for i in range(12)]
    poses = torch.from_numpy(np.load(CASES / "25_npy_json" / "poses.npy"))
    return poses, torch.from_numpy(np.stack([np.array(picture) for picture in pictures])).float()


def read(kind: str, path: Path):
    """Cameras of 128x96 (or a trajectory without a lens), and the pictures, if there are any."""
    if kind == "video":
        frames, cameras = read_posed_video(path, SIZE)
        return cameras, frames
    if kind == "rgbd":
        clip = read_rgbd(path, SIZE)
        return clip.cameras, clip.frames
    if kind == "walk":
        scene = read_input(str(path.with_name("photo.jpg")), load_trajectory(path), size=SIZE)
        return scene.cameras, None
    trajectory = load_trajectory(path)
    return (trajectory if trajectory.intrinsics is None else trajectory.cameras(SIZE)), None


@pytest.mark.skipif(not CASES.is_dir(), reason="no field cases at ../shared/cases")
@pytest.mark.parametrize("kind, case, expected", ROWS, ids=[f"{kind}-{case}" for kind, case, _ in ROWS])
def test_a_field_case(kind, case, expected):
    path = CASES / case
    if kind == "photo":
        return check_photo(path, expected)
    if isinstance(expected, str):
        with pytest.raises((ValueError, FileNotFoundError), match=expected) as error:
            read(kind, path)
        assert "\n" not in str(error.value)
        return
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        cameras, pictures = read(kind, path)
    said = [str(warning.message) for warning in said]
    assert any(expected.warns in words for words in said) if expected.warns else not said, said
    poses, frames = truth()
    chosen = list(range(expected.poses)) if isinstance(expected.poses, int) else expected.poses
    poses, found = poses[chosen], cameras.c2w
    assert len(found) == len(chosen)
    for which in (poses, found):
        which[:] = torch.linalg.inv(which[0]) @ which
    torch.testing.assert_close(found, poses, atol=2e-4, rtol=0)
    if expected.focal is not None:
        ends = expected.focal if isinstance(expected.focal, tuple) else (expected.focal, expected.focal)
        assert cameras.intrinsics[[0, -1], :2].flatten().tolist() == pytest.approx(np.repeat(ends, 2), rel=2e-3)
        assert cameras.intrinsics[:, 2:].unique(dim=0).tolist() == [pytest.approx([64, 48], abs=0.5)]
    if pictures is not None and expected.pictures:
        off = (pictures[:, None].float() - frames[None]).abs().mean((2, 3, 4))
        assert off.argmin(1).tolist() == chosen and off.min(1).values.max() < 8


def check_photo(path: Path, expected) -> None:
    if isinstance(expected, str):
        with pytest.raises(ValueError, match=expected) as error:
            read_photo(path, SIZE)
        assert "\n" not in str(error.value)
        return
    image = read_photo(path, SIZE).image.float()
    mean, spread = expected
    assert image.mean().item() == pytest.approx(mean, abs=2) and image.std().item() == pytest.approx(spread, abs=2)
