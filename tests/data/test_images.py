"""Pictures from files, cropped and resized with their cameras."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image

from mirage_nb.cameras import Cameras
from mirage_nb.data import centre_crop_resize
from mirage_nb.data.images import as_rgb, centre_crop_nearest, open_picture


def test_pictures_are_as_stored(tmp_path):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    Image.new("L", (60, 40)).save(tmp_path / "a.jpg", exif=exif)
    assert open_picture(tmp_path / "a.jpg").size == (60, 40)
    (tmp_path / "b.jpg").write_text("no picture")
    with pytest.raises(ValueError, match="image: .*b.jpg can't be read as a picture"):
        open_picture(tmp_path / "b.jpg")
    with pytest.raises(FileNotFoundError, match="image: no such file"):
        open_picture(tmp_path / "c.jpg")


def test_a_crop_needs_the_cameras_of_that_image():
    camera = Cameras(torch.eye(4), torch.tensor([9.0, 9.0, 5.0, 5.0]), (10, 12))
    image, small = centre_crop_resize(np.zeros((10, 12, 3), np.uint8), camera, (5, 5))
    assert image.shape == (5, 5, 3) and small.intrinsics[0].tolist() == [4.5, 4.5, 2.0, 2.5]
    with pytest.raises(ValueError, match="cameras: expected size"):
        centre_crop_resize(Image.new("RGB", (12, 11)), camera, (5, 5))
    with pytest.raises(ValueError, match="size: expected"):
        centre_crop_resize(Image.new("RGB", (12, 10)), camera, (0, 5))


def test_depth_is_taken_at_the_centres_of_the_new_pixels():
    depth = torch.arange(24.0).view(4, 6)
    assert centre_crop_nearest(depth, (2, 2)).tolist() == [[8, 10], [20, 22]]
    assert torch.equal(centre_crop_nearest(depth, (8, 12))[::2, ::2], depth)


def test_pictures_of_other_kinds_become_8_bit_rgb(monkeypatch, tmp_path):
    grey = Image.fromarray(np.array([[0, 257 * 7, 65535]], np.uint16))
    assert np.array(as_rgb(grey))[0, :, 0].tolist() == [0, 7, 255]
    clear = Image.fromarray(np.array([[[200, 0, 200, 0], [200, 0, 200, 255]]], np.uint8))
    assert np.array(as_rgb(clear))[0].tolist() == [[255, 255, 255], [200, 0, 200]], "what is transparent lies on white"
    with pytest.raises(ValueError, match="floating point"):
        as_rgb(Image.fromarray(np.zeros((2, 2), np.float32)))
    Image.new("L", (60, 40)).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(ValueError, match="a.png can't be read as a picture .*2400 pixels"):
        open_picture(tmp_path / "a.png")
