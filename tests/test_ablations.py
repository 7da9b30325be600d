"""The ablations change what they say they change, and nothing else."""

from __future__ import annotations

import pytest
import torch

from mirage_nb.benchmarks.ablations import BilinearDepth, CornerLift, EveryCell, PaperPoints, variants
from mirage_nb.evaluation import evaluate_rooms
from mirage_nb.grid import LatentGrid
from mirage_nb.models.presets import build_micro
from mirage_nb.pipeline import MiragePipeline
from mirage_nb.stitching import frame_encoder
from tests.scenes import camera, pose, room_views


@pytest.fixture(scope="module")
def view():
    cameras = camera(pose())
    return cameras, *room_views(cameras)


def written(memory: LatentGrid, view, mask=None) -> LatentGrid:
    cameras, latents, depth = view
    memory.write(latents, depth, cameras, mask)
    return memory


def test_a_corner_is_half_a_cell_off(view):
    cameras = view[0]
    right, wrong = (written(kind(), view).positions for kind in (LatentGrid, CornerLift))
    (uv, z), (uv_wrong, z_wrong) = (cameras.project(p) for p in (right, wrong))
    half = cameras.size[0] / view[1].shape[2] / 2
    torch.testing.assert_close(uv - uv_wrong, torch.full_like(uv, half), atol=1e-2, rtol=0)
    torch.testing.assert_close(z, z_wrong)


def test_every_cell_is_written_whatever_the_mask(view):
    nothing = torch.zeros(view[1].shape[0], *view[1].shape[2:], dtype=torch.bool)
    assert len(written(LatentGrid(), view, nothing)) == 0 < len(written(EveryCell(), view, nothing))


def test_bilinear_depth_mixes_what_the_median_keeps_apart():
    cameras = camera(pose())
    (height, width), stride = cameras.size, 8
    depth = torch.full((1, height, width), 1.0)
    edge = width // 2 - stride // 2  # in the middle of a cell
    depth[:, :, edge:] = 3.0
    latents = torch.randn(1, 4, height // stride, width // stride)
    kept, mixed = LatentGrid(), BilinearDepth()
    for memory in (kept, mixed):
        memory.write(latents, depth, cameras)
    between = [((z > 1.2) & (z < 2.8)).sum().item() for z in (cameras.project(m.positions)[1] for m in (kept, mixed))]
    assert between[0] == 0 < between[1]


def test_the_papers_memory_appends_and_reads_without_splats(view):
    cameras = view[0]
    memory = written(written(PaperPoints(), view), view)
    assert len(memory) == 2 * len(written(LatentGrid(), view))
    near = camera(pose((0.0, 0.0, 0.6)))
    assert memory.read(near).visibility.sum() < LatentGrid.read(memory, near).visibility.sum()
    assert torch.equal(memory.read(cameras).index, LatentGrid.read(memory, cameras, splats=False).index)


def test_all_variants_walk():
    pipe = MiragePipeline(**build_micro())
    names = variants(frame_encoder(pipe.vae), 8, 4)
    report, videos = evaluate_rooms(pipe, [900000], 5, names, num_inference_steps=1)
    assert report["methods"].keys() == names.keys() and report["parts"]["vae_psnr"]["mean"] > 0
    assert report["methods"]["no memory"]["tokens"]["mean"] == 0 < report["methods"]["ours"]["tokens"]["mean"]
    assert all(videos[900000][name].shape == videos[900000]["truth"].shape for name in names)
