"""The ablations change what they say they change, and nothing else."""

from __future__ import annotations

import pytest
import torch

from mirage_nb.evaluation import evaluate_rooms
from mirage_nb.evaluation.ablations import BilinearDepth, CornerLift, NoEdges, PaperPoints, variants
from mirage_nb.memory.grid import LatentGrid
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


def test_every_trained_variant_differs_in_what_its_name_says(tmp_path, monkeypatch):
    from safetensors.torch import load_file

    from mirage_nb.evaluation import training
    from mirage_nb.training.data import Walks, write_walks
    from mirage_nb.training.encoded import EncodedWalks

    write_walks(tmp_path / "walks", 1, num_frames=9)
    data = EncodedWalks.encode(Walks(tmp_path / "walks"), build_micro()["vae"])

    def micro(seed: int = 0, prior_width: int = 8) -> dict:
        return build_micro(seed, memory_prior=True, prior_width=prior_width)

    monkeypatch.setattr(training, "build_tiny", micro)
    folders = training.train_variants(data, tmp_path / "out", steps=4, rank=2, compile=False)
    weights = {name: load_file(f / "diffusion_pytorch_model.safetensors") for name, f in folders.items()}
    assert len(weights) == 5
    assert [name for name, tensors in weights.items() if any("prior" in key for key in tensors)] == [
        "all at once, learnt prior"
    ]
    ray = "vace_patch_embedding.weight"
    for name, tensors in weights.items():
        assert bool((tensors[ray][:, -training.RAYS :] == 0).all()) == ("no rays" in name), name
    start = load_file(tmp_path / "out" / "with_branch" / "diffusion_pytorch_model.safetensors")
    assert torch.equal(start["vace_blocks.0.ffn.net.2.weight"], start["blocks.0.ffn.net.2.weight"])
    assert (start["vace_blocks.0.proj_out.weight"] == 0).all()
    one, two = (weights[f"backbone first, then {n}"] for n in ("one stage", "two stages"))
    assert not torch.allclose(one["blocks.0.attn1.to_q.weight"].float(), start["blocks.0.attn1.to_q.weight"])
    assert torch.allclose(two["blocks.0.ffn.net.2.weight"].float(), start["blocks.0.ffn.net.2.weight"], atol=1e-2)
    stamps = [f.stat().st_mtime_ns for f in folders.values()]
    again = training.train_variants(data, tmp_path / "out", steps=4, rank=2, compile=False)
    assert [f.stat().st_mtime_ns for f in again.values()] == stamps, "what is there is not trained again"


def test_things_that_move_leave_tokens_only_without_a_mask():
    from mirage_nb.benchmarks.moving import MASKS, moving_things

    parts = build_micro()
    report = moving_things(MiragePipeline(**parts), [900001, 900002], num_frames=9)
    assert set(report) == set(MASKS) and report["none"]["rooms"] == 1, "in the other room nothing moves in view"
    assert report["exact"]["ghost_tokens"]["mean"] == 0 < report["none"]["ghost_tokens"]["mean"]
    assert all(0 < row["psnr_to_truth"]["mean"] < 60 for row in report.values())
