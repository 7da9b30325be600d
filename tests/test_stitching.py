"""Stage 5: the plan, the noise, and the loop, on models of a few thousand random parameters."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from micro import build_micro, micro_model
from scenes import box_depth, pose

from mirage_nb.cameras import Cameras
from mirage_nb.denoising import MirageModel
from mirage_nb.masking import writable
from mirage_nb.memory import LatentGrid, NoMemory, make_memory
from mirage_nb.models.control import memory_control
from mirage_nb.models.vae import as_pixels, as_uint8
from mirage_nb.paths import camera_path
from mirage_nb.segments import segment_noise
from mirage_nb.stitching import Resume, rollout

SIZE = (32, 48)


def walk(frames: int, name: str = "there_and_back", **speeds) -> Cameras:
    return Cameras(camera_path(name, frames, **speeds), torch.tensor([40.0, 42.0, 25.0, 15.0]), SIZE)


def images(count: int) -> torch.Tensor:
    g = torch.Generator().manual_seed(5)
    return torch.randint(0, 256, (count, *SIZE, 3), generator=g, dtype=torch.uint8)


def joined(results) -> torch.Tensor:
    return torch.cat([result.frames for result in results], 1)


class Recorder(NoMemory):
    """A memory that shows nothing and notes what it is asked."""

    def __init__(self) -> None:
        super().__init__()
        self.writes = []

    def write(self, latents, depth, cameras, mask=None, *, frames=None, time=None) -> int:
        self.writes.append(SimpleNamespace(latents=latents, depth=depth, cameras=cameras, mask=mask, frames=frames))
        return 0


def test_pictures_survive_the_way_to_the_model_and_back():
    image = images(1)
    assert torch.equal(as_uint8(as_pixels(image)), image)


@pytest.mark.parametrize("temporal", [False, True])
def test_each_latent_frame_is_written_once_at_its_own_pose(temporal):
    model, memory = micro_model(temporal), Recorder()
    stride = 4 if temporal else 1
    cameras, image = walk(5 * stride + 1), images(1)
    assert model.new_frames == 2 * stride
    results = list(rollout(model, [memory], image, [cameras], seeds=[0]))
    frames, latents = joined(results)[0], torch.cat([r.latents for r in results], 2)[0]
    assert frames.shape == (len(cameras), *SIZE, 3) and latents.shape[1] == 6
    assert torch.equal(frames[0], image[0]), "the video begins with the image as it was given"
    written = Cameras.cat([w.cameras for w in memory.writes])
    assert torch.equal(written.c2w, cameras.c2w[::stride])
    assert torch.equal(torch.cat([w.latents for w in memory.writes]), latents.transpose(0, 1).half()), "as generated"
    shown = as_uint8(torch.cat([w.frames for w in memory.writes]))
    assert torch.equal(shown, frames[::stride]), "an RGB memory gets the frame that the latent's pose belongs to"
    assert [set(r.seconds) for r in results] == [{"read", "denoise", "decode", "depth", "write"}] * 3


def test_what_the_generator_is_given_for_each_segment():
    model, calls, cameras = micro_model(), [], walk(5)
    model.parts.transformer.register_forward_pre_hook(lambda m, args: calls.append([a.clone() for a in args[:3]]))
    memory = make_memory("latent")
    results = list(rollout(model, [memory], images(1), [cameras], seeds=[7]))
    begins = [model.encode(as_pixels(images(1))), results[0].latents[:, :, -1]]
    for segment, (latents, _, control) in enumerate(calls[::2]):
        assert torch.equal(latents[:, :, 0], begins[segment]), "the last latent of the segment before"
        assert torch.equal(latents[0, :, 1:], segment_noise(7, segment, latents.shape[1:])[:, 1:])
        views = cameras[[2 * segment + k for k in range(3)]].downscale(8)
        assert torch.equal(control, memory_control(results[segment].readouts, [views]))


def test_a_batch_equals_its_scenes_one_by_one():
    model, image = micro_model(), images(2)
    cameras = [walk(5), walk(5, "pan_left+push_in")]
    depth = torch.stack([box_depth(c) for c in cameras])

    def run(which):
        memories = [make_memory("latent") for _ in which]
        chosen = [cameras[i] for i in which]
        results = list(
            rollout(model, memories, image[which], chosen, seeds=[11 + i for i in which], depth=depth[which])
        )
        return torch.cat([r.latents for r in results], 2), results[-1].tokens

    together, tokens = run([0, 1])
    for scene in (0, 1):
        alone, count = run([scene])
        torch.testing.assert_close(together[scene], alone[0], atol=0.05, rtol=0.05)  # sums in bfloat16
        assert abs(count[0] - tokens[scene]) <= 1
    assert (together[0] - together[1]).abs().mean() > 0.2, "the scenes must differ for this to say anything"


@pytest.mark.parametrize("temporal", [False, True])
def test_memory_and_no_memory_get_the_same_noise_but_see_different_things(temporal):
    model, image = micro_model(temporal), images(1)
    cameras = walk(17 if temporal else 9)
    depth, made = box_depth(cameras)[None], {}
    for name in ("latent", "rgb", "none"):
        memory = make_memory(name, **({"encode": model.encode} if name == "rgb" else {}))
        made[name] = list(rollout(model, [memory], image, [cameras], seeds=[3], depth=depth))
    assert not any(r.readouts[0].visibility.any() for r in made["none"])
    last = {name: results[-1] for name, results in made.items()}
    assert last["latent"].readouts[0].visibility.float().mean() > 0.9, "the way back leads through what was seen"
    assert last["latent"].tokens[0] > 0 == last["none"].tokens[0]
    assert last["rgb"].readouts[0].visibility.float().mean() > 0.9
    for other in ("none", "rgb"):
        assert not torch.equal(joined(made["latent"]), joined(made[other]))
    first = made["latent"][0].readouts[0]
    encoded = model.encode(as_pixels(image))[0]
    seen = first.visibility[0]
    torch.testing.assert_close(first.latents[0].float()[:, seen], encoded[:, seen], atol=1e-2, rtol=1e-2)


@pytest.mark.parametrize("temporal", [False, True])
def test_what_moves_is_not_written(temporal):
    model, memory = micro_model(temporal), Recorder()
    cameras = walk(9)
    moving = torch.zeros(1, 9, *SIZE, dtype=torch.bool)
    moving[0, 3, 8:16, 0:8] = True  # one cell, in frame 3 only
    depth = torch.full((1, 9, *SIZE), 2.0)
    list(rollout(model, [memory], images(1), [cameras], seeds=[0], depth=depth, moving=moving))
    masks = torch.cat([w.mask for w in memory.writes])
    left_out = (~masks).nonzero().tolist()
    # With stride 4, frame 3 is one of those that latent frame 1 stands for.
    assert left_out == [[1 if temporal else 3, 1, 0]]


def test_unknown_depth_is_not_written():
    memory, depth = Recorder(), torch.full((1, 5, *SIZE), 4.0)
    depth[:, :, :8, :8] = 0
    list(rollout(micro_model(), [memory], images(1), [walk(5)], seeds=[0], depth=depth))
    mask = memory.writes[1].mask[0]
    assert not mask[0, 0] and mask.sum() == mask.numel() - 1


def test_estimated_depth_takes_the_scale_of_the_given_first_one():
    model, cameras, wall = (
        micro_model(),
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

    model.depth_estimator = SimpleNamespace(predict=predict, relative=False)
    results = list(rollout(model, [make_memory("latent")], images(1), [cameras], seeds=[0], depth=true[None, 0]))
    assert calls == [2, 2], "the given frame needs no estimate"
    torch.testing.assert_close(torch.cat([r.depth for r in results], 1)[0], true, rtol=1e-3, atol=0)


def test_a_walk_goes_on_in_the_scale_of_the_memory_it_is_given():
    model, cameras = micro_model(), walk(3)
    true, memory = box_depth(cameras), make_memory("latent")
    list(rollout(model, [memory], images(1), [cameras], seeds=[0], depth=true[None]))
    model.depth_estimator = SimpleNamespace(
        predict=lambda pixels, intrinsics: 3.0 * true[: len(pixels)], relative=False
    )
    first = next(rollout(model, [memory], images(1), [cameras], seeds=[0]))
    assert ((first.depth[0, 0] / true[0]).log().abs() < 0.03).all()


def test_a_frame_of_nothing_but_sky_is_no_obstacle():
    depth = torch.full((1, 5, *SIZE), 2.0)
    depth[:, 0] = 0
    memory = make_memory("latent")
    results = list(rollout(micro_model(), [memory], images(1), [walk(5)], seeds=[0], depth=depth))
    assert not results[0].readouts[0].visibility.any() and results[1].readouts[0].visibility.any()


def test_the_loop_finds_what_moves_by_itself_and_masks_that_are_given_count_alone():
    model = micro_model()
    size = (32, 48)
    c2w = torch.eye(4).repeat(9, 1, 1)
    cameras = Cameras(c2w, torch.tensor([40.0, 40.0, 24.0, 16.0]), size)
    depth = torch.full((1, 9, *size), 4.0)
    for frame in range(9):  # two columns of cells slide to the right and out
        depth[0, frame, :, 8 * frame : 8 * frame + 16] = 2.0
    image = torch.randint(0, 256, (1, *size, 3), dtype=torch.uint8)
    left = {}
    for name, moving in (("found", None), ("none", torch.zeros(1, 9, *size, dtype=torch.bool))):
        memory = LatentGrid(stride=8, channels=4)
        results = list(rollout(model, [memory], image, [cameras], seeds=[0], depth=depth, moving=moving))
        left[name] = int((memory.positions[:, 2] < 3).sum())
        written = torch.cat([r.mask for r in results], 1)
        assert written.shape == (1, 9, 4, 6)
        if name == "none":
            assert torch.equal(written[0], writable(depth[0], stride=8))
    assert left["none"] >= 12 and left["found"] <= left["none"] / 3


def test_nothing_moves_in_a_box_of_six_walls():
    model = micro_model()
    cameras = Cameras(
        torch.stack([pose((0.05 * i, 0.0, 0.1 * i), (0.0, 0.1 * i, 0.0)) for i in range(9)]),
        torch.tensor([40.0, 40.0, 24.0, 16.0]),
        (32, 48),
    )
    depth, image = box_depth(cameras)[None], torch.randint(0, 256, (1, 32, 48, 3), dtype=torch.uint8)
    results = list(rollout(model, [LatentGrid(stride=8)], image, [cameras], seeds=[0], depth=depth))
    assert torch.equal(torch.cat([r.mask for r in results], 1)[0], writable(depth[0], stride=8))


@pytest.mark.parametrize("temporal", [False, True])
def test_a_rollout_goes_on_where_it_stopped(temporal):
    model, image = micro_model(temporal, references=2, preceding=1), images(1)
    cameras = walk(25 if temporal else 9)
    options = dict(seeds=[3], depth=box_depth(cameras)[None])
    memory = make_memory("latent")
    whole = list(rollout(model, [memory], image, [cameras], **options))
    again = make_memory("latent")
    first = [result for result, _ in zip(rollout(model, [again], image, [cameras], **options), range(2))]
    resume = Resume(2, torch.cat([r.latents for r in first], 2), torch.cat([r.depth for r in first], 1), [None])
    last = first[-1].frames[:, -1]
    rest = list(rollout(model, [again], last, [cameras], resume=resume, **options))
    assert torch.equal(joined(first + rest), joined(whole))
    assert torch.equal(again.positions, memory.positions) and torch.equal(again.tokens, memory.tokens)


def test_a_hook_sees_every_step_and_may_replace_the_latents():
    seen = []

    def on_step(segment, step, timestep, latents):
        seen.append((segment, step))
        return torch.zeros_like(latents)

    results = list(
        rollout(micro_model(num_inference_steps=3, on_step=on_step), [Recorder()], images(1), [walk(5)], seeds=[0])
    )
    assert seen == [(i, j) for i in range(2) for j in range(3)]
    assert not results[1].latents.any()


def test_latents_that_are_not_finite_are_told():
    rotten = rollout(
        micro_model(on_step=lambda *args: args[-1] * torch.nan), [Recorder()], images(1), [walk(5)], seeds=[0]
    )
    with pytest.raises(ValueError, match="latents: the generator made NaN or infinity in segment 0"):
        next(rotten)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(seeds=[0, 1]), "cameras: expected 1 scenes"),
        (dict(image=images(1)[0]), "image: expected"),
        (dict(image=images(1) / 255), "image: expected"),
        (dict(memories=["latent"]), "memory: expected a name or a Memory, got str"),
        (dict(memories=[LatentGrid(stride=4)]), "memory: holds latents of stride 4"),
        (dict(cameras=[walk(5).resize((16, 24))]), "cameras: expected the image's size 32x48"),
        (dict(depth=torch.ones(1, 3, *SIZE)), "depth: expected"),
        (dict(moving=torch.zeros(1, 1, *SIZE, dtype=torch.bool)), "moving: expected"),
        (
            dict(model=MirageModel(SimpleNamespace(**build_micro() | {"depth_estimator": None}, mask_estimator=None))),
            "depth: there is no depth estimator",
        ),
        (dict(model=micro_model(temporal=True), cameras=[walk(6)]), "num_frames: .* 5 or 9"),
    ],
)
def test_inputs_that_do_not_fit_are_refused_by_the_call_itself(change, message):
    arguments = dict(model=micro_model(), memories=[Recorder()], image=images(1), cameras=[walk(5)], seeds=[0]) | change
    with pytest.raises(ValueError, match=message):
        rollout(**arguments)
