"""Stage 5: the plan, the noise, and the loop, on models of a few thousand random parameters."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from scenes import box_depth

from mirage_nb.cameras import Cameras
from mirage_nb.memory.baselines import make_memory
from mirage_nb.memory.grid import LatentGrid
from mirage_nb.models.control import memory_control
from mirage_nb.models.presets import build_micro
from mirage_nb.models.vae import spatial_stride
from mirage_nb.paths import camera_path
from mirage_nb.stitching import segment_noise
from mirage_nb.stitching import (
    STAGES,
    align_scale,
    as_frames,
    as_pixels,
    frame_encoder,
    new_frames_per_segment,
    rollout,
)

SIZE = (32, 48)


def models(temporal: bool = False) -> SimpleNamespace:
    return SimpleNamespace(**build_micro(temporal=temporal))


def walk(frames: int, name: str = "there_and_back", **speeds) -> Cameras:
    return Cameras(camera_path(name, frames, **speeds), torch.tensor([40.0, 42.0, 25.0, 15.0]), SIZE)


def images(count: int) -> torch.Tensor:
    g = torch.Generator().manual_seed(5)
    return torch.randint(0, 256, (count, *SIZE, 3), generator=g, dtype=torch.uint8)


def joined(results) -> torch.Tensor:
    return torch.cat([result.frames for result in results], 1)


class Recorder:
    """A memory that shows nothing and notes what it is asked."""

    def __init__(self) -> None:
        self.reads, self.writes = [], []

    def __len__(self) -> int:
        return 0

    def write(self, latents, depth, cameras, mask=None, frames=None) -> int:
        self.writes.append(SimpleNamespace(latents=latents, depth=depth, cameras=cameras, mask=mask, frames=frames))
        return 0


def test_scale_is_the_median_ratio_and_one_where_too_little_is_seen():
    g = torch.Generator().manual_seed(0)
    remembered = 1 + 3 * torch.rand(3, 4, 6, generator=g)
    estimated = remembered / torch.tensor([1.7, 0.6, 1.0])[:, None, None]
    visible = torch.rand(3, 4, 6, generator=g) < 0.7
    estimated[0, :2, :2] *= 20  # outliers: the memory shows something else there
    visible[2] = False
    pixels = estimated.repeat_interleave(8, 1).repeat_interleave(8, 2)
    torch.testing.assert_close(align_scale(pixels, remembered, visible), torch.tensor([1.7, 0.6, 1.0]))


def test_pictures_survive_the_way_to_the_model_and_back():
    image = images(1)
    assert torch.equal(as_frames(as_pixels(image)), image)


@pytest.mark.parametrize("temporal", [False, True])
def test_each_latent_frame_is_written_once_at_its_own_pose(temporal):
    parts, memory = models(temporal), Recorder()
    stride = 4 if temporal else 1
    cameras, image = walk(5 * stride + 1), images(1)
    assert new_frames_per_segment(parts) == 2 * stride
    results = list(rollout(parts, [memory], image, [cameras], seeds=[0]))
    frames, latents = joined(results)[0], torch.cat([r.latents for r in results], 2)[0]
    assert frames.shape == (len(cameras), *SIZE, 3) and latents.shape[1] == 6
    assert torch.equal(frames[0], image[0]), "the video begins with the image as it was given"
    written = Cameras.cat([w.cameras for w in memory.writes])
    assert torch.equal(written.c2w, cameras.c2w[::stride])
    assert torch.equal(torch.cat([w.latents for w in memory.writes]), latents.transpose(0, 1).half()), "as generated"
    shown = as_frames(torch.cat([w.frames for w in memory.writes]))
    assert torch.equal(shown, frames[::stride]), "an RGB memory gets the frame that the latent's pose belongs to"
    assert [set(r.seconds) for r in results] == [set(STAGES)] * 3


def test_what_the_generator_is_given_for_each_segment():
    parts, calls, cameras = models(), [], walk(5)
    parts.transformer.register_forward_pre_hook(lambda m, args: calls.append([a.clone() for a in args]))
    memory = make_memory("latent")
    results = list(rollout(parts, [memory], images(1), [cameras], seeds=[7], num_inference_steps=2))
    begins = [frame_encoder(parts.vae)(as_pixels(images(1))), results[0].latents[:, :, -1]]
    for segment, (latents, _, control) in enumerate(calls[::2]):
        assert torch.equal(latents[:, :, 0], begins[segment]), "the last latent of the segment before"
        assert torch.equal(latents[0, :, 1:], segment_noise(7, segment, latents.shape[1:])[:, 1:])
        views = cameras[[2 * segment + k for k in range(3)]].downscale(8)
        assert torch.equal(control, memory_control(results[segment].readouts, [views]))


def test_a_batch_equals_its_scenes_one_by_one():
    parts, image = models(), images(2)
    cameras = [walk(5), walk(5, "pan_left+push_in")]
    depth = torch.stack([box_depth(c) for c in cameras])

    def run(which):
        memories = [make_memory("latent") for _ in which]
        chosen = [cameras[i] for i in which]
        results = list(
            rollout(parts, memories, image[which], chosen, seeds=[11 + i for i in which], depth=depth[which])
        )
        return torch.cat([r.latents for r in results], 2), results[-1].tokens

    together, tokens = run([0, 1])
    for scene in (0, 1):
        alone, count = run([scene])
        torch.testing.assert_close(together[scene], alone[0], atol=0.05, rtol=0.05)  # sums in bfloat16
        assert abs(count[0] - tokens[scene]) <= 1
    assert (together[0] - together[1]).abs().mean() > 0.2, "the scenes must differ for this to say anything"


@pytest.mark.parametrize("policy", ["keep_first", "finest"])
def test_the_image_is_remembered_between_its_cells_for_a_camera_that_looks_from_there(policy):
    parts, image, cameras = models(), images(1), walk(9, "push_in")
    depth, stride = box_depth(cameras)[None], spatial_stride(parts.vae)
    encode = frame_encoder(parts.vae)

    def run(shifts: int):
        memory = LatentGrid(policy=policy)
        options = dict(seeds=[3], depth=depth, image_shifts=shifts)
        return next(rollout(parts, [memory], image, [cameras], **options)), memory

    (_, plain), (result, dense), (again, _) = run(1), run(4), run(4)
    h, w = result.latents.shape[-2:]
    whole = h * w + 3 * (h * (w - 1) + w * (h - 1)) + 9 * (h - 1) * (w - 1)  # what a shift brings in is no cell's
    assert torch.equal(dense.positions[: h * w], plain.positions[: h * w]), "the image's own tokens come first"
    assert (dense.written[:whole] == 0).all() and dense.written[whole:].all(), "all are of the first frame, given"
    assert dense.frames == plain.frames and dense.policy == policy and torch.equal(again.frames, result.frames)
    step = stride // 4
    height, width = image.shape[1:3]
    between = cameras[:1].crop(step, 3 * step, (height - stride, width - stride))
    readout = dense.read(between)
    assert readout.visibility.all() and readout.offset.abs().max() < 1e-3
    cut = as_pixels(image)[:, :, step:, 3 * step :]
    moved = torch.nn.functional.pad(cut, (0, 3 * step, 0, step), mode="replicate")
    torch.testing.assert_close(readout.latents, encode(moved).half()[:, :, : h - 1, : w - 1])
    assert plain.read(between).offset.abs().max() > 0.2, "without, it reads tokens of other places"
    with pytest.raises(ValueError, match=f"image_shifts: expected a divisor of {stride}, got 3"):
        run(3)


def test_a_look_ahead_is_remembered_and_leaves_the_video_its_clock():
    parts, image, cameras = models(), images(1), walk(25, "pan_left", degrees_per_frame=6.0)
    depth = box_depth(cameras)[None]
    each = new_frames_per_segment(parts)
    options = dict(seeds=[3], depth=depth, references=2)

    def run(distance: int, takes: int = 1):
        memory = make_memory("latent")
        return list(rollout(parts, [memory], image, [cameras], lookahead=distance, takes=takes, **options)), memory

    (plain, alone), (ahead, memory) = run(0), run(4 * each)
    shown = [results[3].readouts[0].visibility[-1].float().mean() for results in (plain, ahead)]
    assert shown[1] > shown[0] + 0.1, "what lies ahead was in the memory before the segment that comes there"
    assert joined(ahead).shape == joined(plain).shape and memory.frames == alone.frames == 25
    again, _ = run(4 * each)
    assert torch.equal(joined(again), joined(ahead))
    chosen = [joined(run(4 * each, takes)[0]) for takes in (2, 3, 3)]
    assert torch.equal(chosen[1], chosen[2]) and not all(torch.equal(c, joined(ahead)) for c in chosen)
    with pytest.raises(ValueError, match="takes"):
        run(4 * each, 0)
    nothing = list(rollout(parts, [make_memory("none")], image, [cameras], lookahead=4 * each, **options))
    assert not any(r.visibility.any() for r in nothing)
    # The way back shows nothing new, so nobody looks ahead.
    cameras = walk(25)
    depth = box_depth(cameras)[None]
    memory, calls = make_memory("latent"), []
    write = memory.write
    memory.write = lambda *args, **more: calls.append(len(args[0])) or write(*args, **more)
    list(rollout(parts, [memory], image, [cameras], lookahead=4 * each, **options | {"depth": depth}))
    assert calls[0] == 1 and calls.count(1) == 2, "the image and one view ahead; the rest are whole segments"


@torch.no_grad()
def test_looking_ahead_what_no_memory_shows_is_made_of_the_first_frame():
    torch.manual_seed(0)
    parts, image, cameras = SimpleNamespace(**build_micro(memory_prior=True)), images(1), walk(9, "pan_left")
    torch.nn.init.normal_(parts.transformer.proj_out.weight, std=0.3)
    first = frame_encoder(parts.vae)(as_pixels(image))[0].flatten(1).T

    def pieces(memory: str, distance: int) -> list[float]:
        """The share of each segment's new cells that are cells of the first frame, for all one can tell."""
        options = dict(seeds=[3], depth=box_depth(cameras)[None], lookahead=distance)
        results = rollout(parts, [make_memory(memory)], image, [cameras], **options)
        made = [r.latents[0, :, -2:].flatten(1).T for r in results]
        return [(torch.cdist(cells, first).amin(1) < 1e-2).float().mean().item() for cells in made]

    each = new_frames_per_segment(parts)
    assert max(pieces("latent", 4 * each)) > 0.1
    assert max(pieces("latent", 0) + pieces("none", 4 * each)) < 0.01


def test_memory_cannot_look_ahead_of_compressed_time():
    for temporal, distance, told in ((False, 3, "a multiple of 2"), (True, 8, "compresses time")):
        parts, cameras = models(temporal), walk(17)
        with pytest.raises(ValueError, match=f"lookahead: .*{told}"):
            rollout(parts, [make_memory("latent")], images(1), [cameras], seeds=[0], lookahead=distance)


@pytest.mark.parametrize("temporal", [False, True])
def test_memory_and_no_memory_get_the_same_noise_but_see_different_things(temporal):
    parts, image = models(temporal), images(1)
    cameras = walk(17 if temporal else 9)
    depth, made = box_depth(cameras)[None], {}
    for name in ("latent", "rgb", "none"):
        memory = make_memory(name, **({"encode": frame_encoder(parts.vae)} if name == "rgb" else {}))
        made[name] = list(rollout(parts, [memory], image, [cameras], seeds=[3], depth=depth))
    assert not any(r.readouts[0].visibility.any() for r in made["none"])
    last = {name: results[-1] for name, results in made.items()}
    assert last["latent"].readouts[0].visibility.float().mean() > 0.9, "the way back leads through what was seen"
    assert last["latent"].tokens[0] > 0 == last["none"].tokens[0]
    assert last["rgb"].readouts[0].visibility.float().mean() > 0.9
    for other in ("none", "rgb"):
        assert not torch.equal(joined(made["latent"]), joined(made[other]))
    first = made["latent"][0].readouts[0]
    encoded = frame_encoder(parts.vae)(as_pixels(image))[0]
    seen = first.visibility[0]
    torch.testing.assert_close(first.latents[0].float()[:, seen], encoded[:, seen], atol=1e-2, rtol=1e-2)


@pytest.mark.parametrize("temporal", [False, True])
def test_what_moves_is_not_written(temporal):
    parts, memory = models(temporal), Recorder()
    cameras = walk(9)
    moving = torch.zeros(1, 9, *SIZE, dtype=torch.bool)
    moving[0, 3, 8:16, 0:8] = True  # one cell, in frame 3 only
    depth = torch.full((1, 9, *SIZE), 2.0)
    list(rollout(parts, [memory], images(1), [cameras], seeds=[0], depth=depth, moving=moving))
    masks = torch.cat([w.mask for w in memory.writes])
    left_out = (~masks).nonzero().tolist()
    # With stride 4, frame 3 is one of those that latent frame 1 stands for.
    assert left_out == [[1 if temporal else 3, 1, 0]]


def test_depth_edges_and_unknown_depth_are_not_written():
    memory, depth = Recorder(), torch.full((1, 5, *SIZE), 4.0)
    depth[..., 20:] = 2.0  # an edge through the cells of column 2
    depth[:, :, :8, :8] = 0
    list(rollout(models(), [memory], images(1), [walk(5)], seeds=[0], depth=depth))
    mask = memory.writes[1].mask[0]
    assert not mask[:, 2].any() and not mask[0, 0] and mask[1:, 0].all() and mask[:, 4:].all()


def test_estimated_depth_takes_the_scale_of_the_given_first_one():
    parts, cameras, wall = (
        models(),
        Cameras(camera_path("push_in", 5, metres_per_frame=0.2), [40.0, 42, 25, 15], SIZE),
        3.0,
    )
    true = (wall - cameras.centers[:, 2])[:, None, None].expand(-1, *SIZE).contiguous()
    calls = []

    def predict(pixels, intrinsics):
        calls.append(len(pixels))
        first = 1 + 2 * (len(calls) - 1)
        return (
            true[first : first + 2] * torch.tensor([0.4, 1.9])[:, None, None]
        )  # its scale differs from frame to frame

    parts.depth_estimator = SimpleNamespace(predict=predict)
    results = list(rollout(parts, [make_memory("latent")], images(1), [cameras], seeds=[0], depth=true[None, 0]))
    assert calls == [2, 2], "the given frame needs no estimate"
    torch.testing.assert_close(torch.cat([r.depth for r in results], 1)[0], true, rtol=1e-3, atol=0)


def test_a_walk_goes_on_in_the_scale_of_the_memory_it_is_given():
    parts, cameras = models(), walk(3)
    true, memory = box_depth(cameras), make_memory("latent")
    list(rollout(parts, [memory], images(1), [cameras], seeds=[0], depth=true[None]))
    parts.depth_estimator = SimpleNamespace(predict=lambda pixels, intrinsics: 3.0 * true[: len(pixels)])
    first = next(rollout(parts, [memory], images(1), [cameras], seeds=[0]))
    assert ((first.depth[0, 0] / true[0]).log().abs() < 0.03).all()


def test_a_frame_of_nothing_but_sky_is_no_obstacle():
    depth = torch.full((1, 5, *SIZE), 2.0)
    depth[:, 0] = 0
    memory = make_memory("latent")
    results = list(rollout(models(), [memory], images(1), [walk(5)], seeds=[0], depth=depth))
    assert not results[0].readouts[0].visibility.any() and results[1].readouts[0].visibility.any()


def test_a_hook_sees_every_step_and_may_replace_the_latents():
    seen = []

    def on_step(segment, step, timestep, latents):
        seen.append((segment, step))
        return torch.zeros_like(latents)

    results = list(
        rollout(models(), [Recorder()], images(1), [walk(5)], seeds=[0], num_inference_steps=3, on_step=on_step)
    )
    assert seen == [(i, j) for i in range(2) for j in range(3)]
    assert not results[1].latents.any()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(seeds=[0, 1]), "cameras: expected 1 scenes"),
        (dict(cameras=[walk(5).resize((16, 24))]), "cameras: expected the image's size 32x48"),
        (dict(depth=torch.ones(1, 3, *SIZE)), "depth: expected"),
        (dict(moving=torch.zeros(1, 1, *SIZE, dtype=torch.bool)), "moving: expected"),
        (
            dict(models=SimpleNamespace(**{**build_micro(), "depth_estimator": None})),
            "depth: there is no depth estimator",
        ),
        (dict(models=models(temporal=True), cameras=[walk(6)]), "num_frames: .* 5 or 9"),
    ],
)
def test_inputs_that_do_not_fit_are_refused_by_the_call_itself(change, message):
    arguments = dict(models=models(), memories=[Recorder()], image=images(1), cameras=[walk(5)], seeds=[0]) | change
    with pytest.raises(ValueError, match=message):
        rollout(**arguments)
