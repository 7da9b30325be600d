"""The reader of RGB-D recordings."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mirage_nb.cameras import Cameras
from mirage_nb.data import recordings as rgbd
from mirage_nb.data.recordings import DEPTH_TO_COLOUR, read_rgbd, register
from mirage_nb.formats.agreement import Reading, agreement, check_reading
from mirage_nb.formats.trajectory import OPENGL
from mirage_nb.paths import camera_path

REAL = Path(__file__).resolve().parents[4] / "shared" / "real"
needs_real = pytest.mark.skipif(not REAL.exists(), reason="no real data at ../shared/real")


def wall_depth(cameras: Cameras) -> torch.Tensor:
    """Exact depth (T, H, W) of a slanted wall, 3 m ahead of the origin: the plane z + x / 2 = 3."""
    origins, directions = cameras.rays()
    normal = torch.tensor([0.5, 0.0, 1.0])
    return (3 - origins @ normal)[:, None, None] / (directions @ normal)


@pytest.fixture
def recording(tmp_path):
    """Four frames of 48x64 on a walk along the slanted wall, in the layout of 7-Scenes."""
    c2w = camera_path("pan_left+move_right", 4, degrees_per_frame=6, metres_per_frame=0.2)
    cameras = Cameras(c2w, torch.tensor([60.0, 55.0, 30.5, 25.5]), (48, 64))
    depth = wall_depth(cameras)
    for i, matrix in enumerate(c2w):
        np.savetxt(tmp_path / f"frame-{i:06d}.pose.txt", matrix)
        Image.fromarray((depth[i] * 1000).round().numpy().astype(np.uint16)).save(tmp_path / f"frame-{i:06d}.depth.png")
        Image.new("RGB", (64, 48), (40 * i, 0, 0)).save(tmp_path / f"frame-{i:06d}.color.png")
    np.savetxt(tmp_path / "camera-intrinsics.txt", [[60, 0, 30], [0, 55, 25], [0, 0, 1]])
    return tmp_path


@pytest.mark.parametrize("size", [(48, 64), (24, 24), (16, 40), (32, 24), (96, 128)])
def test_rgbd_at_any_size(recording, size):
    clip = read_rgbd(recording, size)
    assert clip.frames.shape == (4, *size, 3) and clip.frames.dtype == torch.uint8
    assert clip.depth.shape == (4, *size) and clip.depth.dtype == torch.float32 and clip.cameras.size == size
    assert clip.frames[:, 0, 0, 0].tolist() == [0, 40, 80, 120]
    # Nearest depth lies up to half an old pixel beside the new centre; over the wall's slant that is this much.
    torch.testing.assert_close(clip.depth, wall_depth(clip.cameras), rtol=0.016, atol=0)
    if size == (48, 64):
        torch.testing.assert_close(clip.depth, wall_depth(clip.cameras), rtol=0, atol=6e-4)  # whole millimetres
    assert agreement(clip.depth, clip.cameras)[1] > 0.95


@pytest.mark.parametrize(
    "frames, expected", [(slice(None, None, 2), [0, 80]), (slice(1, 3), [40, 80]), (slice(-1, None), [120])]
)
def test_rgbd_frames(recording, frames, expected):
    assert read_rgbd(recording, (8, 8), frames).frames[:, 0, 0, 0].tolist() == expected


def test_a_mark_stays_under_its_point(recording):
    """A white square in the colour and in the depth is found where the new cameras project its middle."""
    colour, depth = np.zeros((48, 64, 3), np.uint8), np.full((48, 64), 4000, np.uint16)
    colour[18:26, 36:48], depth[18:26, 36:48] = 255, 2000
    Image.fromarray(colour).save(recording / "frame-000000.color.png")
    Image.fromarray(depth).save(recording / "frame-000000.depth.png")
    for size in ((48, 48), (24, 24), (33, 47), (96, 80)):
        clip = read_rgbd(recording, size, frames=slice(1))
        middle = torch.tensor([[(42 - 30.5) / 60 * 2, (22 - 25.5) / 55 * 2, 2.0]])  # u = 42, v = 22 in the full picture
        expected = clip.cameras.project(middle)[0][0, 0]
        for weight, tolerance in ((clip.frames[0, ..., 0].float(), 0.1), ((clip.depth[0] == 2).float(), 0.5)):
            v, u = torch.meshgrid(torch.arange(size[0]) + 0.5, torch.arange(size[1]) + 0.5, indexing="ij")
            found = torch.stack([(weight * u).sum(), (weight * v).sum()]) / weight.sum()
            torch.testing.assert_close(found, expected, atol=tolerance, rtol=0)


def test_depth_is_never_mixed_and_unknown_stays_unknown(recording):
    depth = np.full((48, 64), 1000, np.uint16)
    depth[:, 31:], depth[:, :20], depth[:10] = 3000, 0, 65535
    Image.fromarray(depth).save(recording / "frame-000000.depth.png")
    for size in ((24, 24), (20, 31), (60, 100)):
        assert set(read_rgbd(recording, size, slice(1)).depth.unique().tolist()) == {0.0, 1.0, 3.0}


def test_inverted_poses_are_refused(recording):
    for path in recording.glob("*.pose.txt"):
        np.savetxt(path, np.linalg.inv(np.loadtxt(path)))
    with pytest.raises(ValueError, match="98% do with --w2c"):
        read_rgbd(recording, (24, 32))


def test_lost_frames_are_left_out(recording):
    np.savetxt(recording / "frame-000001.pose.txt", np.full((4, 4), -np.inf))
    with pytest.warns(UserWarning, match="lost in 1 frames.*frame-000001"):
        clip = read_rgbd(recording, (8, 8))
    assert len(clip.frames) == len(clip.depth) == len(clip.cameras) == 3
    assert clip.frames[:, 0, 0, 0].tolist() == [0, 80, 120]
    with pytest.warns(UserWarning):
        assert read_rgbd(recording, (8, 8), slice(1, 2)).frames[0, 0, 0, 0] == 80, (
            "the second of those that have a pose"
        )


def rewrite(folder: Path, depth=lambda d: d, pose=lambda m: m) -> None:
    """Store depth (in metres) and poses in another way."""
    for file in folder.glob("*.depth.png"):
        changed = depth(np.array(Image.open(file)) / 1000.0)
        Image.fromarray(np.round(changed).astype(np.uint16)).save(file)
    for file in folder.glob("*.pose.txt"):
        np.savetxt(file, pose(np.loadtxt(file)))


RAYS = np.sqrt(1 + ((np.arange(64) - 30) / 60) ** 2 + ((np.arange(48)[:, None] - 25) / 55) ** 2)
MILLIMETRES = np.array([[1, 1, 1, 1000]] * 3 + [[1, 1, 1, 1]])


@pytest.mark.parametrize(
    "change, options",
    [
        (dict(pose=np.linalg.inv), {"w2c": True}),
        (dict(pose=lambda m: m @ np.diag([1, -1, -1, 1])), {"axes": "opengl"}),
        (dict(pose=lambda m: m * MILLIMETRES), {"pose_unit": 1000}),
        (dict(depth=lambda d: d * 5000), {"depth_unit": 5000}),
        (dict(depth=lambda d: d * 100), {"depth_unit": 100}),
        (dict(depth=lambda d: d * 1000 * RAYS), {"depth_kind": "ray"}),
        (dict(depth=lambda d: 10000 / d), {"depth_kind": "inverse", "depth_unit": 10000}),
        (
            dict(pose=lambda m: np.linalg.inv(m @ np.diag([1, -1, -1, 1])), depth=lambda d: d * 1000),
            {"axes": "opengl", "w2c": True},
        ),
    ],
)
def test_another_convention_is_named_and_read(recording, change, options):
    """The wall is of one piece and slanted, so that each reading but the right one misses it."""
    truth = read_rgbd(recording, (48, 64))
    rewrite(recording, **{"depth": lambda d: d * 1000} | change)
    words = " ".join(sorted(Reading(**options).options(Reading()).split(" --")))
    with pytest.raises(ValueError, match="depth and poses do not agree") as error:
        read_rgbd(recording, (48, 64))
    assert " ".join(sorted(str(error.value).split(" do with ")[1].split(" --"))) == words
    clip = read_rgbd(recording, (48, 64), **options)
    torch.testing.assert_close(clip.depth, truth.depth, rtol=0.01, atol=0)
    torch.testing.assert_close(clip.cameras.c2w, truth.cameras.c2w, rtol=0, atol=1e-5)


def test_an_option_that_does_not_fit_is_refused(recording):
    with pytest.raises(ValueError, match="do with the format's own reading"):
        read_rgbd(recording, (48, 64), axes="opengl")
    for bad in ({"axes": "up"}, {"depth_unit": 0.0}, {"depth_kind": "x"}):
        with pytest.raises(ValueError, match="expected known axes and depth_kind, and positive units"):
            read_rgbd(recording, (48, 64), **bad)


def test_depth_that_belongs_to_no_pose_is_refused(recording):
    files = sorted(recording.glob("*.depth.png"))
    noise = np.random.default_rng(0)
    for file in files:
        Image.fromarray(noise.integers(500, 9000, (48, 64), dtype=np.uint16)).save(file)
    with pytest.raises(ValueError, match="depth and poses do not agree: .* of the points fit within 10%"):
        read_rgbd(recording, (48, 64))


def test_fewer_pixels_of_depth_and_floating_point(recording):
    truth = read_rgbd(recording, (24, 32))
    for file in recording.glob("*.depth.png"):
        metres = np.array(Image.open(file)).astype(np.float32) / 1000
        Image.fromarray(metres[::2, ::2]).save(file.with_suffix(".tiff"))
        file.unlink()
    torch.testing.assert_close(
        read_rgbd(recording, (24, 32)).depth, truth.depth, rtol=0.04, atol=0
    )  # half a pixel aside


def test_depth_that_nerfstudio_names(recording):
    truth = read_rgbd(recording, (48, 64))
    frames = [
        {
            "file_path": f"frame-{i:06d}.color.png", "depth_file_path": f"frame-{i:06d}.depth.png",
            "transform_matrix": (matrix @ OPENGL.float()).tolist(),
        }
        for i, matrix in enumerate(truth.cameras.c2w)
    ]  # fmt: skip
    lens = {"fl_x": 60, "fl_y": 55, "cx": 30.5, "cy": 25.5, "w": 64, "h": 48, "depth_unit_scale_factor": 1e-3}
    for file in recording.glob("*.pose.txt"):
        file.unlink()
    (recording / "transforms.json").write_text(json.dumps(lens | {"frames": frames}))
    clip = read_rgbd(recording, (48, 64))
    assert torch.equal(clip.depth, truth.depth) and torch.equal(clip.frames, truth.frames)


@pytest.mark.parametrize("file", ["frame-000002.depth.png", "frame-000002.color.png"])
def test_a_frame_without_a_file_is_left_out(recording, file):
    (recording / file).unlink()
    with pytest.warns(UserWarning, match=f"1 of 4 pictures or depth maps are missing, left out .*{file[:14]}"):
        assert read_rgbd(recording, (48, 64)).frames[:, 0, 0, 0].tolist() == [0, 40, 120]


def test_bad_recordings(recording, tmp_path_factory):
    with pytest.raises(FileNotFoundError, match="no such file or folder"):
        read_rgbd(recording / "none")
    with pytest.raises(ValueError, match="expected a file in one of the formats"):
        read_rgbd(tmp_path_factory.mktemp("empty"))
    with pytest.raises(ValueError, match="size: expected"):
        read_rgbd(recording, (0, 8))
    with pytest.raises(ValueError, match="frames: .* selects none"):
        read_rgbd(recording, frames=slice(9, None))

    depth = recording / "frame-000000.depth.png"
    for bad, message in (
        (np.zeros((48, 64), np.uint16), "depth: no value in 1 frames"),
        (np.zeros((24, 48), np.uint16), r"depth of the colour's aspect, \(48, 64\), got \(24, 48\)"),
        (np.zeros((48, 64), np.uint8), "expected 16 bit or floating point"),
        (np.zeros((48, 64, 3), np.uint8), "expected 16 bit or floating point"),
    ):
        Image.fromarray(bad).save(depth)
        with pytest.raises(ValueError, match=message):
            read_rgbd(recording, frames=slice(1))
    depth.write_bytes(b"not a picture")
    with pytest.raises(ValueError, match="depth.png can't be read as a picture"):
        read_rgbd(recording, frames=slice(1))
    (recording / "frame-000001.color.png").write_bytes(b"not a picture")
    with pytest.raises(ValueError, match="color.png can't be read as a picture"):
        read_rgbd(recording, frames=slice(1, 2))
    (recording / "frame-000003.pose.txt").write_text("1 2 3")
    with pytest.raises(ValueError, match="frame-000003.pose.txt: expected rows of 4 numbers"):
        read_rgbd(recording)
    (recording / "camera-intrinsics.txt").unlink()
    (recording / "frame-000003.pose.txt").write_bytes((recording / "frame-000002.pose.txt").read_bytes())
    with pytest.raises(ValueError, match="no intrinsics"):
        read_rgbd(recording)
    for file in recording.glob("*.depth.png"):
        file.unlink()
    with pytest.raises(FileNotFoundError, match="expected a recording with a depth map for each pose"):
        read_rgbd(recording)


def test_registered_depth_is_what_the_colour_camera_sees():
    """A slanted plane, of which both cameras' depth is known in closed form."""
    size, normal, offset = (60, 80), torch.tensor([0.2, -0.1, 1.0]), 2.0  # n . x = offset, in the depth camera's axes

    def plane(cameras: Cameras, normal: torch.Tensor, offset: float) -> torch.Tensor:
        rays = cameras.unproject(torch.ones(1, *size))[0] - cameras.centers[0]  # of z-depth 1, in world axes
        return (offset - cameras.centers[0] @ normal) / (rays @ normal)

    depth_camera = Cameras(torch.eye(4)[None], torch.tensor([70.0, 70.0, 40.0, 30.0]), size)
    measured = plane(depth_camera, normal, offset)
    measured[10, 10] = 0
    colour = Cameras(torch.linalg.inv(DEPTH_TO_COLOUR), torch.tensor([60.0, 60.0, 41.0, 29.0]), size)
    moved = register(measured, depth_camera, colour)
    known = moved > 0
    assert 0.6 < known.float().mean() < 0.9, "the colour camera sees more than the depth camera does"
    truth = plane(colour, normal, offset)
    assert (moved / truth - 1)[known].abs().max() < 0.02  # a neighbouring pixel's depth at most


@needs_real
def test_kitchen_depth_agrees_between_frames():
    """Measured: 0.85 to 0.92 for pairs 20 recorded frames apart or more; 0.06 to 0.18 with the poses inverted."""
    clip = read_rgbd(REAL / "kitchen", frames=slice(0, None, 20))
    assert clip.frames.shape == (4, 128, 128, 3) and 0.8 < (clip.depth > 0).float().mean() < 1
    assert 0.5 < clip.depth[clip.depth > 0].min() and clip.depth.max() < 10  # metres
    torch.testing.assert_close(clip.cameras.intrinsics[0], torch.tensor([140.0, 140.0, 240.5 / 3.75, 240.5 / 3.75]))
    assert len(clip.frames) == 4
    for i in (1, 2, 3):
        assert agreement(clip.depth[[0, i]], clip.cameras[[0, i]])[1] > 0.8
    inverted = Cameras(clip.cameras.w2c, clip.cameras.intrinsics, clip.cameras.size)
    assert agreement(clip.depth, inverted)[1] < 0.3
    check_reading(clip.depth, clip.cameras, Reading(depth_unit=1))
    with pytest.raises(ValueError, match="do with --w2c$"):
        check_reading(clip.depth, inverted, Reading(depth_unit=1))


@needs_real
def test_kitchen_colours_agree_with_the_geometry(monkeypatch):
    """Frame 0's colours, looked up where its points land in frame 12, fit better than without the camera's motion,
    and better than if depth and colour were taken for one camera's."""

    def difference() -> tuple[float, float]:
        clip = read_rgbd(REAL / "kitchen", frames=slice(0, 13, 12))
        known = clip.depth[0] > 0
        uv, z = clip.cameras[1].project(clip.cameras[0].unproject(clip.depth[:1])[0][known])
        column, row = uv[0].floor().long().unbind(1)
        inside = (z[0] > 0) & (column >= 0) & (column < 128) & (row >= 0) & (row < 128)
        colours = clip.frames.float()
        moved = (colours[0][known][inside] - colours[1][row[inside], column[inside]]).abs().mean()
        return moved.item(), (colours[0] - colours[1]).abs()[known].mean().item()

    moved, unmoved = difference()
    monkeypatch.setattr(rgbd, "DEPTH_INTRINSICS", None)
    assert moved < 0.35 * unmoved and moved < 0.8 * difference()[0]
