"""An image lifted at sub-cell shifts: each token stands where its cell was, and a camera between the cells finds it."""

from __future__ import annotations

import pytest
import torch
from scenes import box_depth, camera, pose

from mirage_nb import LatentGrid
from mirage_nb.extras.densify import densify
from mirage_nb.models.vae import as_pixels

STRIDE, SIZE = 8, (32, 48)


def encode(pixels):
    """A stand-in for a VAE: the mean colour of each cell."""
    return torch.nn.functional.avg_pool2d(pixels, STRIDE)


@pytest.mark.parametrize("policy", ["keep_first", "finest"])
def test_a_camera_that_looks_from_between_the_cells_finds_a_token_that_was_made_there(policy):
    image = torch.randint(0, 256, (*SIZE, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    view = camera(pose(), size=SIZE, focal=40.0)
    depth, memory = box_depth(view)[0], LatentGrid(policy=policy, stride=STRIDE)
    count = densify(memory, image, depth, view, encode, shifts=4)
    h, w = 4, 6
    assert count == len(memory) == h * w + 3 * (h * (w - 1) + w * (h - 1)) + 9 * (h - 1) * (w - 1)
    assert not memory.written.any() and memory.frames == 0, "all are of the first frame, which is not counted yet"
    between = view.crop(2, 6, (SIZE[0] - STRIDE, SIZE[1] - STRIDE))
    readout = memory.read(between)
    assert readout.visibility.all() and readout.offset.abs().max() < 1e-3
    shifted = encode(as_pixels(image)[None, :, 2 : 2 + 24, 6 : 6 + 40])
    torch.testing.assert_close(readout.latents, shifted.half())
    plain = LatentGrid(stride=STRIDE)
    plain.write(encode(as_pixels(image)[None]), depth[None], view)
    assert plain.read(between).offset.abs().max() > 0.2
    assert memory.write(encode(as_pixels(image)[None]).half(), depth[None], view) == 0, "a rollout adds nothing"


def test_masked_pixels_and_unknown_depth_are_left_out():
    view, image = camera(pose(), size=SIZE, focal=40.0), torch.zeros(*SIZE, 3, dtype=torch.uint8)
    depth, mask = torch.full(SIZE, 2.0), torch.ones(SIZE, dtype=torch.bool)
    depth[:, :16], mask[:, 32:] = 0, False
    memory = LatentGrid(stride=STRIDE)
    densify(memory, image, depth, view, encode, shifts=2, mask=mask)
    uv, _ = view.project(memory.positions)
    assert uv[0, :, 0].min() >= 16 and uv[0, :, 0].max() <= 28.1


@pytest.mark.parametrize("shifts", [0, 3, 16])
def test_shifts_must_divide_the_stride(shifts):
    view, image = camera(pose(), size=SIZE, focal=40.0), torch.zeros(*SIZE, 3, dtype=torch.uint8)
    with pytest.raises(ValueError, match="shifts: expected a divisor of the stride 8"):
        densify(LatentGrid(), image, torch.ones(SIZE), view, encode, shifts=shifts)


def test_depth_that_a_shift_loses_and_a_memory_without_a_stride_are_fine():
    view, image = camera(pose(), size=SIZE, focal=40.0), torch.zeros(*SIZE, 3, dtype=torch.uint8)
    depth, memory = torch.zeros(SIZE), LatentGrid()
    depth[:, :4] = 2.0
    assert densify(memory, image, depth, view, encode, shifts=2) == len(memory) > 0
    assert memory.stride == STRIDE and memory.read(view).visibility.any()
