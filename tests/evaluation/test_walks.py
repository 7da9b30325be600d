"""Rooms and a recording, walked with several methods."""

from __future__ import annotations

import math

import pytest
import torch
from scenes import camera, pose, room_views

from mirage_nb.evaluation.metrics import psnr
from mirage_nb.evaluation.walks import (
    METHODS,
    Method,
    evaluate_recording,
    evaluate_rooms,
    methods_by_name,
    there_and_back_room,
    walk,
    write_enlarged,
)
from mirage_nb.memory import LatentGrid, RGBPointCloud


def test_a_room_there_and_back_is_a_closed_loop():
    clip = there_and_back_room(900_003, 9, (32, 32))
    assert torch.equal(clip.frames, clip.frames.flip(0)) and torch.equal(clip.cameras.c2w, clip.cameras.c2w.flip(0))
    assert not torch.equal(clip.frames[0], clip.frames[4])
    with pytest.raises(ValueError, match="num_frames"):
        there_and_back_room(1, 8)


def test_every_method_gets_every_figure(pipe):
    report, videos = evaluate_rooms(pipe, [900_000, 900_001], 5, ("latent", "none"), num_inference_steps=1, batch=1)
    assert set(videos) == {900_000, 900_001} and set(videos[900_000]) == {"truth", "latent", "none"}
    for name in ("latent", "none"):
        figures = report["methods"][name]
        assert set(figures) == set(report["rooms"]["900001"][name]) and math.isfinite(
            figures["closed_loop_psnr"]["mean"]
        )
    assert report["methods"]["none"]["bytes"]["mean"] == 0 < report["methods"]["latent"]["bytes"]["mean"]
    assert torch.equal(videos[900_000]["truth"][0], videos[900_000]["latent"][0]), "the first frame is the given one"


def test_rooms_at_once_are_rooms_one_by_one(pipe):
    together, one_by_one = (
        evaluate_rooms(pipe, [900_000, 900_001], 5, ("latent",), num_inference_steps=1, batch=batch)[1]
        for batch in (2, 1)
    )
    for seed in together:
        difference = (together[seed]["latent"].int() - one_by_one[seed]["latent"].int()).abs()
        assert difference.max() <= 2


def test_an_enlarged_image_puts_points_between_the_pixels():
    cameras = camera(pose(), size=(32, 48))
    _, depth = room_views(cameras)
    image = torch.randint(0, 256, (32, 48, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))

    def encode(pixels):
        return torch.zeros(len(pixels), 4, pixels.shape[2] // 8, pixels.shape[3] // 8)

    memory = RGBPointCloud(encode, stride=8, channels=4)
    write_enlarged(memory, image, depth[0], cameras, encode)
    assert len(memory) == 4 * 32 * 48 and memory.frames == 1 and memory.stride == 8
    uv, z = cameras.project(memory.positions)
    fraction = (uv[0] % 1 - 0.5).abs()
    torch.testing.assert_close(fraction, torch.full_like(fraction, 0.25), atol=1e-3, rtol=0)
    pixel = uv[0].floor().long()
    torch.testing.assert_close(z[0], depth[0, pixel[:, 1], pixel[:, 0]], atol=1e-3, rtol=0)
    render = memory.render(cameras.resize((64, 96)))
    assert render.visibility.all()
    back = torch.nn.functional.avg_pool2d(render.latents.float(), 2)
    assert (back[0].permute(1, 2, 0) - image.float()).abs().mean() < 32, "it is still the image"


def test_only_the_rgb_memories_get_the_image_twice(pipe):
    clip = there_and_back_room(900_000, 5, (32, 32))
    methods = methods_by_name(pipe, METHODS)
    policies = [methods[name].make_memory().policy for name in ("finest", "average", "append", "densified")]
    assert policies == ["finest", "average", "append", "keep_first"]
    assert [name for name, method in methods.items() if method.prepare] == ["rgb", "rgb_capped", "densified"]
    once = Method(methods["rgb"].make_memory)
    one, two = (walk(pipe, m, [clip], [0], steps=1, depth=clip.depth[None]) for m in (once, methods["rgb"]))
    extra = len(two.memories[0]) - len(one.memories[0])
    assert extra == 4 * int((clip.depth[0] > 0).sum())


def test_a_method_prepares_its_memory_and_sets_options_of_the_loop(pipe):
    clip, seen = there_and_back_room(900_000, 5, (32, 32)), []

    def prepare(memory, image, depth, camera):
        seen.append((len(memory), image.shape, depth.shape, len(camera)))
        assert torch.equal(image, clip.frames[0]) and (depth > 0).any()

    method = Method(lambda: LatentGrid(stride=8, channels=4), prepare, {"references": 2})
    walked = walk(pipe, method, [clip], [0], steps=1)
    assert seen == [(0, (32, 32, 3), (32, 32), 1)] and walked.frames.shape == (1, 5, 32, 32, 3)
    assert any(any(segment.references) for segment in walked.segments)
    assert walked.covered(0).shape == (5, 32, 32) and not walked.covered(0)[0].any()


def test_a_recording_is_compared_where_the_first_memory_shows_something(pipe):
    clip = there_and_back_room(900003, 5)
    report, videos = evaluate_recording(pipe, clip, seeds=(0, 1), num_inference_steps=1)
    assert list(videos) == ["recorded", "latent", "none"] and torch.equal(videos["recorded"], clip.frames)
    assert 0.3 < report["covered"] < 1
    for name in ("latent", "none"):
        row = report["methods"][name]
        assert row["psnr_to_truth_covered"]["mean"] != row["psnr_to_truth"]["mean"] and row["psnr_to_truth"]["ci95"] > 0
    two = [evaluate_recording(pipe, clip, ("none",), seeds=(s,), num_inference_steps=1) for s in (0, 1)]
    each = [psnr(videos["none"][1:], clip.frames[1:]).mean().item() for _, videos in two]
    assert report["methods"]["none"]["psnr_to_truth"]["mean"] == pytest.approx(sum(each) / 2, abs=1e-4)
    assert math.isnan(two[0][0]["methods"]["none"]["psnr_to_truth_covered"]["mean"]), "it shows nothing"
