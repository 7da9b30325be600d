"""The ablations change what they say they change, and nothing else."""

from __future__ import annotations

import pytest
import torch
from micro import build_micro
from scenes import camera, pose, room_views

from mirage_nb.evaluation import evaluate_rooms
from mirage_nb.evaluation.ablations import BilinearDepth, CornerLift, NearestPoint, NoEdges, variants
from mirage_nb.memory import LatentGrid
from mirage_nb.pipeline import MiragePipeline


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


def test_without_depth_edges_no_cell_of_two_surfaces_is_written():
    cameras, stride = camera(pose()), 8
    height, width = cameras.size
    depth = torch.full((1, height, width), 1.0)
    depth[:, :, width // 2 - stride // 2 :] = 3.0  # in the middle of a cell
    latents = torch.randn(1, 4, height // stride, width // stride)
    rows, columns = latents.shape[2:]
    mask = torch.ones(1, rows, columns, dtype=torch.bool)
    mask[:, 0] = False
    counts = []
    for memory, where in ((LatentGrid(), None), (NoEdges(), None), (NoEdges(), mask)):
        memory.write(latents, depth, cameras, where)
        counts.append(len(memory))
    assert counts == [rows * columns, rows * (columns - 1), (rows - 1) * (columns - 1)]


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


def test_the_nearest_point_takes_no_neighbouring_cell(view):
    points, splats = (written(kind(), view) for kind in (NearestPoint, LatentGrid))
    near = camera(pose((0.0, 0.0, 0.6)))  # between its points are holes
    assert points.read(near).visibility.sum() < splats.read(near).visibility.sum()
    assert torch.equal(points.read(near).index, splats.read(near, splats=False).index)


def test_all_variants_walk():
    pipe = MiragePipeline(**build_micro())
    methods = variants(pipe)
    report, videos = evaluate_rooms(pipe, [900000], 5, methods, num_inference_steps=1)
    tokens = {name: row["tokens"]["mean"] for name, row in report["methods"].items()}
    assert tokens.keys() == methods.keys() and tokens["no memory"] == 0 < tokens["ours"]
    assert tokens["first frame densified"] > 2 * tokens["ours"]
    assert tokens["appended, our readout"] == tokens["appended, nearest point"] > tokens["ours"]
    assert all(video.shape == videos[900000]["truth"].shape for video in videos[900000].values())
    assert methods["with past frames"].options == {"references": 4, "preceding": 2}
