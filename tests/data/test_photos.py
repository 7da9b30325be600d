"""Photos: their lens, and a photo with a camera path."""

from __future__ import annotations

import math
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image

from mirage_nb.data import read_photo
from mirage_nb.formats import Trajectory
from mirage_nb.paths import camera_path

REAL = Path(__file__).resolve().parents[3] / "shared" / "real"
needs_real = pytest.mark.skipif(not REAL.exists(), reason="no real data at ../shared/real")


def photo(path, size=(600, 400), orientation=1, **tags):
    image, exif = Image.new("RGB", size, "grey"), Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    details = exif.get_ifd(ExifTags.IFD.Exif)
    for name, value in tags.items():
        details[getattr(ExifTags.Base, name)] = value
    image.save(path, exif=exif)
    return path


def test_intrinsics_from_exif(tmp_path):
    """A 3:2 picture at 36 mm on film: the sensor is as wide as the focal length, so f is the width."""
    found = read_photo(photo(tmp_path / "a.jpg", FocalLengthIn35mmFilm=36), (400, 600))
    assert found.cameras.intrinsics[0].tolist() == pytest.approx([600, 600, 300, 200])
    assert "EXIF" in found.note and "53 degrees" in found.note
    upright = read_photo(photo(tmp_path / "b.jpg", orientation=6, FocalLengthIn35mmFilm=36), (600, 400))
    assert upright.image.shape == (600, 400, 3), "turned as its EXIF says"
    assert upright.cameras.intrinsics[0].tolist() == pytest.approx([600, 600, 200, 300])
    small = read_photo(tmp_path / "a.jpg", (100, 100))
    assert small.image.shape == (100, 100, 3) and torch.equal(small.cameras.c2w, torch.eye(4)[None])
    assert small.cameras.intrinsics[0].tolist() == pytest.approx([150, 150, 50, 50])


def test_a_stated_field_of_view_comes_first_and_an_assumed_one_is_told(tmp_path):
    path, size = photo(tmp_path / "a.jpg", FocalLengthIn35mmFilm=36), (400, 600)
    assert read_photo(path, size, fov=90).cameras.intrinsics[0, 0] == pytest.approx(300)
    for name, tags in (("b", {}), ("c", dict(FocalLengthIn35mmFilm=0)), ("d", dict(FocalLength=18.0))):
        plain = read_photo(photo(tmp_path / f"{name}.jpg", **tags), size)
        assert 2 * math.degrees(math.atan(300 / plain.cameras.intrinsics[0, 0])) == pytest.approx(64, abs=0.1)
        assert "assumed" in plain.note
    for fov in (0, 180, math.nan):
        with pytest.raises(ValueError, match="fov"):
            read_photo(path, fov=fov)


def test_a_photo_with_a_trajectory(tmp_path):
    """Its cameras are the trajectory's; so is the lens, where it has one, with a zoom."""
    path, c2w = photo(tmp_path / "a.jpg", FocalLengthIn35mmFilm=36), camera_path("push_in", 2)
    scene = read_photo(path, (200, 300), trajectory=Trajectory(c2w))
    assert torch.equal(scene.cameras.c2w, c2w) and scene.cameras.intrinsics[:, 0].tolist() == pytest.approx([300, 300])
    lenses = torch.tensor([[1.0, 1.5, 0.5, 0.5], [2.0, 3.0, 0.5, 0.5]])
    scene = read_photo(path, (200, 300), trajectory=Trajectory(c2w, lenses, (1, 1)))
    assert scene.cameras.intrinsics[:, :2].tolist() == [[300, 300], [600, 600]] and "trajectory" in scene.note


def test_panoramas_are_refused(tmp_path):
    wide = photo(tmp_path / "a.jpg", (600, 200))
    with pytest.raises(ValueError, match="600x200, looks like a panorama"):
        read_photo(wide)
    assert "90 degrees" in read_photo(wide, fov=90).note
    xmp = b'<rdf:Description GPano:ProjectionType="equirectangular"/>'
    Image.new("RGB", (400, 200)).save(tmp_path / "b.jpg", xmp=xmp)
    with pytest.raises(ValueError, match="equirectangular panorama"):
        read_photo(tmp_path / "b.jpg", fov=90)


def test_a_photo_with_a_camera_stays_as_it_is_stored(tmp_path):
    write_path(tmp_path)
    photo(tmp_path / "img.jpg", (100, 50), orientation=6)
    scene = read_photo(tmp_path, (25, 50))
    torch.testing.assert_close(scene.cameras.intrinsics[0], torch.tensor([25.0, 22.5, 25.0, 15.0]))


def write_path(folder: Path) -> None:
    """Two w2c matrices, the second from 1 m further to the right."""
    (folder / "w2c.txt").write_text(
        "[[1,0,0,0],[0,1,0,0],[0,0,1,0],[0,0,0,1]]\n[[1,0,0,-1],[0,1,0,0],[0,0,1,0],[0,0,0,1]]"
    )
    (folder / "intrinsics.txt").write_text("[0.5 0.9\n 0.5 0.6]")


def test_posed_photo(tmp_path):
    write_path(tmp_path)
    picture = np.zeros((50, 100, 3), np.uint8)
    picture[:, 25:75] = 200  # just the part that a square keeps
    Image.fromarray(picture).save(tmp_path / "img.png")
    photo = read_photo(tmp_path, (20, 20))
    assert photo.image.shape == (20, 20, 3) and photo.prompt is None
    assert (photo.image[:, 3:-3] == 200).float().mean() > 0.9 and (photo.image.int() - 200).abs().max() < 20
    assert photo.cameras.centers.tolist() == [[0, 0, 0], [1, 0, 0]]
    # fx = 0.5 * 100 / 2.5, fy = 0.9 * 50 / 2.5, cx = (50 - 25) / 2.5, cy = 0.6 * 50 / 2.5
    torch.testing.assert_close(photo.cameras.intrinsics[0], torch.tensor([20.0, 18.0, 10.0, 12.0]))
    (tmp_path / "prompt.txt").write_text("a room\n")
    assert read_photo(tmp_path, (20, 20)).prompt == "a room"


def test_bad_posed_photos(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such file"):
        read_photo(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="no photo"):
        read_photo(tmp_path)
    (tmp_path / "img.png").write_bytes(b"not a picture")
    with pytest.raises(ValueError, match="trajectory: .*found none"):
        read_photo(tmp_path)
    write_path(tmp_path)
    with pytest.raises(ValueError, match="can't be read as a picture"):
        read_photo(tmp_path)
    Image.new("RGB", (100, 50)).save(tmp_path / "img.png")
    (tmp_path / "intrinsics.txt").unlink()
    with pytest.raises(ValueError, match="trajectory: it has no intrinsics"):
        read_photo(tmp_path)


@needs_real
def test_real_posed_photo():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        photo = read_photo(REAL / "posed_photo", (88, 156))  # the photo is 1248x704: an eighth, uncropped
    assert photo.image.shape == (88, 156, 3) and len(photo.cameras) == 193 and "dining" in photo.prompt
    fx, fy, cx, cy = photo.cameras.intrinsics[0].tolist()
    assert fx == pytest.approx(fy, rel=2e-3) and (cx, cy) == (pytest.approx(78, abs=1), pytest.approx(44, abs=1))
    first, last = photo.cameras.centers[[0, -1]]
    assert (
        first.norm() < 0.01 and last[0] < -0.5 and last[2] > 1
    )  # "moves left while dollying forward", says its prompt
