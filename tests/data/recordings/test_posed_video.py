"""The reader of posed video, in several layouts."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image
from posed_clip import SIZE, UNIT, rendered_clip, write_realestate10k, write_recording, write_transforms
from scipy.ndimage import map_coordinates

from mirage_nb.cameras import Cameras
from mirage_nb.data import Clip, read_posed_video
from mirage_nb.data.images import undistort
from mirage_nb.formats.agreement import moved
from mirage_nb.formats.exports import export_run
from mirage_nb.viz.video import mp4_bytes


@pytest.fixture
def recording(tmp_path):
    return write_recording(tmp_path / "clip")


@pytest.fixture
def clip() -> Clip:
    return rendered_clip()


def close(frames: torch.Tensor, truth: torch.Tensor) -> float:
    return (frames.float() - truth.float()).abs().mean().item()


def test_a_video_and_its_poses(recording, clip):
    frames, cameras = read_posed_video(recording, SIZE)
    assert frames.shape == clip.frames.shape and close(frames, clip.frames) < 4 < close(frames.flip(0), clip.frames)
    torch.testing.assert_close(cameras.c2w, moved(clip.cameras, UNIT).c2w, atol=1e-5, rtol=0)
    torch.testing.assert_close(cameras.intrinsics, clip.cameras.intrinsics)
    frames, cameras = read_posed_video(recording, (24, 24))
    assert frames.shape == (18, 24, 24, 3) and cameras.size == (24, 24)
    torch.testing.assert_close(cameras.intrinsics[0, 0], clip.cameras.intrinsics[0, 0] / 2)


@pytest.mark.parametrize(
    "layout", ["nerfstudio", "colmap", "shuffled", "moved", "realestate10k", "7-scenes", "geometry"]
)
def test_layouts(clip, tmp_path, layout):
    part = Clip(clip.frames[:12], clip.depth[:12], clip.cameras[:12])
    expected, source = part, tmp_path
    if layout in ("nerfstudio", "colmap", "shuffled", "moved"):
        format = "colmap" if layout == "colmap" else "nerfstudio"
        (source,) = export_run(tmp_path, part.frames, part.cameras, part.depth, (format,))
    if layout == "moved":  # the file names them where they were, with another ending
        text = (source / "transforms.json").read_text()
        text = text.replace('"images/', '"C:\\\\ana\\\\').replace('.png"', '.jpg"').replace("depth_file_path", "unused")
        (source / "transforms.json").write_text(text)
    if layout in ("shuffled", "moved"):  # poses stay with the pictures that the file names, in the order of the names
        content = json.loads((source / "transforms.json").read_text())
        content["frames"] = content["frames"][5:] + content["frames"][:5]
        (source / "transforms.json").write_text(json.dumps(content))
    if layout == "colmap":  # a picture without a pose
        Image.new("RGB", SIZE[::-1]).save(source / "images" / "frame_00003_5.png")
    if layout == "realestate10k":  # of two videos in a folder, the one whose name is given
        for name, frames in (("one", part.frames), ("two", part.frames.flip(0))):
            (tmp_path / f"{name}.mp4").write_bytes(mp4_bytes(frames))
            write_realestate10k(tmp_path / f"{name}.txt", part.cameras)
        source = tmp_path / "one.mp4"
    if layout == "7-scenes":  # colour and pose, no depth; tracking was lost once
        for i, (frame, pose) in enumerate(zip(part.frames, part.cameras.c2w)):
            Image.fromarray(frame.numpy()).save(tmp_path / f"frame-{i:06d}.color.png")
            np.savetxt(tmp_path / f"frame-{i:06d}.pose.txt", pose * (np.nan if i == 4 else 1))
        fx, fy, cx, cy = part.cameras.intrinsics[0].tolist()
        np.savetxt(tmp_path / "camera-intrinsics.txt", [[fx, 0, cx - 0.5], [0, fy, cy - 0.5], [0, 0, 1]])
        kept = [i for i in range(12) if i != 4]
        expected = Clip(part.frames[kept], part.depth[kept], part.cameras[kept])
    if layout == "geometry":  # pictures that nothing names: in the order of their numbers
        for i, frame in enumerate(part.frames):
            Image.fromarray(frame.numpy()).save(tmp_path / f"{i}.png")
        np.savez(tmp_path / "path.npz", c2w=part.cameras.c2w, intrinsics=_normalised(part.cameras))
    if layout == "7-scenes":
        with pytest.warns(UserWarning, match="tracking was lost"):
            frames, cameras = read_posed_video(source, SIZE)
    else:
        frames, cameras = read_posed_video(source, SIZE)
    assert close(frames, expected.frames) < 4 < close(frames.flip(0), expected.frames)
    torch.testing.assert_close(cameras.c2w, expected.cameras.c2w, atol=1e-4, rtol=0)
    torch.testing.assert_close(cameras.intrinsics, expected.cameras.intrinsics, atol=1e-3, rtol=0)


def _normalised(cameras: Cameras) -> np.ndarray:
    (height, width), (fx, fy, cx, cy) = cameras.size, cameras.intrinsics[0].tolist()
    return np.array([[fx / width, 0, cx / width], [0, fy / height, cy / height], [0, 0, 1]])


def test_bad_recordings(recording, clip):
    def refused(message, source=recording, error=ValueError):
        with pytest.raises(error, match=message):
            read_posed_video(source, SIZE)

    refused("no such file or folder", recording / "nowhere", FileNotFoundError)
    refused("can't be read as a video", recording / "transforms.json")
    write_transforms(recording / "transforms.json", clip.cameras[:11])
    refused("got 18 and 11 poses")
    (recording / "transforms.json").unlink()
    (recording / "intrinsics.txt").write_text("[0.5 0.9 0.5 0.5]")
    (recording / "readme.txt").write_text("read me")
    refused("in one of the formats .*; found none")
    (recording / "path.txt").write_text("".join(f"{i} 0 0 0 0 0 0 1\n" for i in range(18)))
    refused("no intrinsics")
    write_realestate10k(recording / "path.txt", clip.cameras)
    assert len(read_posed_video(recording, SIZE)[1]) == 18
    (recording / "video.mp4").write_bytes(b"no video at all")
    refused("can't be read as a video")
    (recording / "video.mp4").unlink()
    refused("no frames", error=FileNotFoundError)
    (exported,) = export_run(recording.parent, clip.frames, clip.cameras, clip.depth, ("nerfstudio",))
    (exported / "images" / "frame_00007.png").unlink()
    with pytest.warns(UserWarning, match="1 of 18 pictures .*left out .*frame_00007.png"):
        frames, cameras = read_posed_video(exported, SIZE)
    kept = [i for i in range(18) if i != 7]
    assert close(frames, clip.frames[kept]) < 4 and len(cameras) == 17
    for file in (exported / "images").iterdir():
        file.rename(file.with_name(f"other_{file.name}"))
    refused("frame_00000.png: missing, as are all others", exported, FileNotFoundError)


def test_a_part_of_the_frames(recording, clip):
    for part in (slice(3), slice(2, None, 5), slice(-1, None)):
        frames, cameras = read_posed_video(recording, SIZE, part)
        assert close(frames, clip.frames[part]) < 4 and len(cameras) == len(frames)
        torch.testing.assert_close(cameras.c2w, moved(clip.cameras[part], UNIT).c2w, atol=1e-5, rtol=0)
    with pytest.raises(ValueError, match="frames: .* selects none of the 18"):
        read_posed_video(recording, SIZE, slice(18, None))


@pytest.mark.parametrize("k", [(0.12, -0.03, 0.0, 0.0, 0.001, 0.0005), (-0.2, 0.0, 0.0, 0.0, 0.0, 0.0)])
def test_a_distorted_lens_is_undone(clip, k):
    """A picture is distorted by its definition: each of its pixels shows what a ray of another direction sees."""
    camera, (height, width) = clip.cameras[0], SIZE
    (fx, fy, cx, cy), (k1, k2, *_, p1, p2) = camera.intrinsics[0].tolist(), k
    row, column = np.mgrid[:height, :width] + 0.5
    seen = np.stack([(column - cx) / fx, (row - cy) / fy])  # as distorted; the ray is found by iteration
    x, y = seen.copy()
    for _ in range(50):
        s = x**2 + y**2
        radial, dx = 1 + k1 * s + k2 * s**2, 2 * p1 * x * y + p2 * (s + 2 * x**2)
        x, y = (seen[0] - dx) / radial, (seen[1] - p1 * (s + 2 * y**2) - 2 * p2 * x * y) / radial
    at = [y * fy + cy - 0.5, x * fx + cx - 0.5]
    smooth = np.stack([np.sin(row / 5) * 90 + 120, np.cos(column / 7) * 90 + 120, (row + column)], -1)
    bent = np.stack([map_coordinates(smooth[..., i], at, order=3, mode="nearest") for i in range(3)], -1)
    image, pinhole = undistort(Image.fromarray(bent.round().clip(0, 255).astype(np.uint8)), camera, torch.tensor(k))
    back = pinhole.relative_to(camera.c2w[0]).unproject(torch.ones(1, *SIZE))[0].reshape(-1, 3)
    uv = camera.relative_to(camera.c2w[0]).project(back)[0][0].view(*SIZE, 2).numpy() - 0.5
    expected = np.stack([map_coordinates(smooth[..., i], [uv[..., 1], uv[..., 0]], order=3) for i in range(3)], -1)
    assert np.abs(np.array(image) - expected)[2:-2, 2:-2].mean() < 1.5 < np.abs(bent - expected)[2:-2, 2:-2].mean()
    with pytest.raises(ValueError, match="distorted too much"):
        undistort(image, camera, torch.tensor([-2.0, 0, 0, 0, 0, 0]))
