"""The memory for generators without one: what a pipeline of diffusers is shown, on tiny models with random weights."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from micro import micro_model
from PIL import Image
from scenes import box_depth
from tiny_pipelines import FACTS, PIPELINES, build

from mirage_nb import Cameras, DiffusersModel, GuidanceOptions, LatentGrid, MemoryGuidance, camera_path, generate
from mirage_nb.cameras import default_intrinsics
from mirage_nb.guidance import Shown, noise_level
from mirage_nb.models.latent_format import LatentFormat
from mirage_nb.reprojection import Readout

UNKNOWN = {"cosmos2": "its scheduler's scale_noise is not how its latents are noised"}
KNOWN = [name for name in PIPELINES if name not in UNKNOWN]


@pytest.fixture(scope="module", params=KNOWN)
def case(request, tmp_path_factory):
    """A pipeline, the arguments of its call, its facts, and still cameras, one a frame of its video."""
    pipe, kwargs = build(request.param, tmp_path_factory.mktemp(request.param))
    pipe.set_progress_bar_config(disable=True)
    facts, size = FACTS[request.param], (kwargs["height"], kwargs["width"])
    asked = facts.num_frames
    frames = asked - facts.temporal * facts.lead if request.param == "hunyuan" else asked
    cameras = Cameras(torch.eye(4).repeat(frames, 1, 1), default_intrinsics(size), size)
    image = Image.linear_gradient("L").convert("RGB").resize(size[::-1])
    call = dict(image=image, callback_on_step_end_tensor_inputs=["latents"], **kwargs)
    call[facts.frames_argument] = asked
    return SimpleNamespace(pipe=pipe, call=call, facts=facts, cameras=cameras, name=request.param)


def run(case, callback=None, **changes):
    """The latents after the last step, as (C, t, h, w), and what the pipeline returns."""
    seen = []

    def watch(pipe, step, time, given):
        given = given if callback is None else callback(pipe, step, time, given)
        seen.append(LatentFormat.of(pipe).unpack(given["latents"], len(case.cameras), case.cameras.size)[0].clone())
        return given

    made = case.pipe(**case.call | changes, generator=torch.Generator().manual_seed(0), callback_on_step_end=watch)
    return seen[-1].float(), made.frames


def remembered(case, seed: int = 1) -> LatentGrid:
    """A memory of one view with random tokens in the left half of its cells."""
    h, w = (side // case.facts.spatial for side in case.cameras.size)
    latents = torch.randn(1, case.facts.channels, h, w, generator=torch.Generator().manual_seed(seed))
    mask = torch.zeros(1, h, w, dtype=torch.bool)
    mask[:, :, : w // 2] = True
    memory = LatentGrid()
    memory.write(latents, torch.full((1, *case.cameras.size), 2.0), case.cameras[[0]], mask)
    return memory


def test_seen_cells_become_the_remembered_tokens(case):
    memory = remembered(case)
    free, _ = run(case)
    latents, _ = run(case, MemoryGuidance(memory, case.cameras))
    readout = memory.read(case.cameras[:: case.facts.temporal])
    seen = readout.visibility[1:]  # (t - 1, h, w); the first latent frame is the image's
    tokens, made = (x.movedim(1, 3) for x in (readout.latents[1:], latents.transpose(0, 1)[1:]))
    assert 0.3 < seen.float().mean() < 0.7
    torch.testing.assert_close(made[seen], tokens[seen], atol=0.02, rtol=0.02)  # some pipelines compute in bfloat16
    before = free.transpose(0, 1)[1:].movedim(1, 3)
    assert (before[seen] - tokens[seen]).abs().mean() > 0.3, "without guidance they are something else"
    assert not torch.equal(before[~seen], made[~seen]), "the rest goes with what is shown"


def test_an_empty_memory_changes_nothing_to_the_bit(case):
    free, video = run(case, output_type="pt")
    empty, same = run(case, MemoryGuidance(LatentGrid(), case.cameras), output_type="pt")
    assert torch.equal(free, empty) and torch.equal(video, same)


def test_each_camera_lands_on_its_own_latent_frame(case):
    """A marker stands still, and the camera moves by one cell a latent frame: its cell runs through the video."""
    step, stride, fx = case.facts.temporal, case.facts.spatial, case.cameras.intrinsics[0, 0].item()
    h, w = (side // stride for side in case.cameras.size)
    c2w = case.cameras.c2w.clone()
    c2w[:, 0, 3] = -torch.arange(len(c2w)) / step * stride / fx * 2.0  # depth 2: cells move to the right
    cameras = Cameras(c2w, case.cameras.intrinsics[0], case.cameras.size)
    mask = torch.zeros(1, h, w, dtype=torch.bool)
    mask[0, 1, 0] = True
    latents = torch.full((1, case.facts.channels, h, w), 9.0)
    memory = LatentGrid()
    memory.write(latents, torch.full((1, *cameras.size), 2.0), cameras[[0]], mask)
    made, _ = run(case, MemoryGuidance(memory, cameras))
    marked = (made - 9).abs().amax(0) < 0.1  # (t, h, w)
    found = [frame.nonzero().tolist() for frame in marked[1:]]
    assert found == [[[1, k]] for k in range(1, len(marked))]


def test_a_long_walk_returns_to_what_it_remembers(case):
    """Three segments there and back by the loop of stage 5, the last one shorter: what the memory showed is seen."""
    frames = len(case.cameras)
    options = {k: v for k, v in case.call.items() if k not in DiffusersModel.SET_HERE}
    model = DiffusersModel(case.pipe, num_frames=frames, **options)
    total = 2 * (frames - 1) + 2 * model.latent_step + 1
    c2w = camera_path("there_and_back:pan_left", total, degrees_per_frame=10 / total)
    depth = torch.full((total, *case.cameras.size), 2.0)
    image = case.call["image"]
    walk = dict(c2w=c2w, depth=depth, generator=3, output_type="uint8")
    made, again = generate(model, image, **walk), generate(model, image, **walk)
    assert torch.equal(made.frames, again.frames) and made.frames.shape[0] == total
    assert [len(s["seconds"]) for s in made.report["segments"]] == [5, 5, 5]
    readout = made.memory.read(Cameras(c2w[-1:], default_intrinsics(case.cameras.size), case.cameras.size))
    seen = readout.visibility[0] & made.visibility[-1]
    assert seen.float().mean() > 0.5
    last, tokens = (latents.movedim(0, 2)[seen].float() for latents in (made.latents[-1], readout.latents[0]))
    torch.testing.assert_close(last, tokens, atol=0.05, rtol=0.05)
    without = generate(model, image, memory="none", **walk)
    assert not torch.equal(without.frames, made.frames)


def test_a_walk_of_diffusers_resumes(tmp_path):
    pipe, kwargs = build("svd", tmp_path / "model")
    model = DiffusersModel(pipe, num_frames=5, **{k: v for k, v in kwargs.items() if k not in DiffusersModel.SET_HERE})
    size = (kwargs["height"], kwargs["width"])
    image = Image.linear_gradient("L").convert("RGB").resize(size[::-1])
    walk = dict(
        c2w=camera_path("there_and_back", 9), depth=torch.full((9, *size), 2.0), generator=3, output_type="uint8"
    )
    whole = generate(model, image, **walk)
    with pytest.raises(KeyboardInterrupt):
        calls, call = [], model.pipe.decode_latents

        def interrupt(*args):
            calls.append(0)
            if len(calls) == 2:
                raise KeyboardInterrupt
            return call(*args)

        pipe.decode_latents = interrupt
        generate(model, image, output_dir=tmp_path / "run", **walk)
    pipe.decode_latents = call
    assert torch.equal(generate(model, image, output_dir=tmp_path / "run", **walk).frames, whole.frames)


def test_text_to_video_is_guided_from_its_first_frame_on(tmp_path):
    from diffusers import WanPipeline

    image_pipe, kwargs = build("wan22", tmp_path)
    parts = {
        name: image_pipe.components[name] for name in ("vae", "transformer", "scheduler", "tokenizer", "text_encoder")
    }
    pipe, size = WanPipeline(**parts), (kwargs["height"], kwargs["width"])
    cameras = Cameras(torch.eye(4).repeat(13, 1, 1), default_intrinsics(size), size)
    memory = LatentGrid()
    tokens = torch.randn(1, 6, 8, 10, generator=torch.Generator().manual_seed(1))
    memory.write(tokens, torch.full((1, *size), 2.0), cameras[[0]])
    guidance = MemoryGuidance(memory, cameras, first_frame=True)
    pipe(num_frames=13, **kwargs, callback_on_step_end=guidance, callback_on_step_end_tensor_inputs=["latents"])
    torch.testing.assert_close(guidance.latents[0], tokens.transpose(0, 1).expand(-1, 4, -1, -1))
    with pytest.raises(ValueError, match="pipe: WanPipeline takes no image"):
        DiffusersModel(pipe, num_frames=13)


@pytest.mark.parametrize("name", UNKNOWN)
def test_a_pipeline_that_is_not_known_is_refused(name, tmp_path):
    pipe, _ = build(name, tmp_path)
    with pytest.raises(
        ValueError, match="pipe: Cosmos2VideoToWorldPipeline is not known; expected one of WanPipeline, "
    ):
        LatentFormat.of(pipe)


def test_the_noise_level_after_a_step_is_that_of_the_latents():
    from diffusers import (
        CogVideoXDDIMScheduler,
        DDIMScheduler,
        DPMSolverMultistepScheduler,
        EulerDiscreteScheduler,
        FlowMatchEulerDiscreteScheduler,
        UniPCMultistepScheduler,
    )

    flow = dict(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0)
    schedulers = [
        FlowMatchEulerDiscreteScheduler(shift=3.0), UniPCMultistepScheduler(**flow),
        DPMSolverMultistepScheduler(**flow), DDIMScheduler(clip_sample=False),
        CogVideoXDDIMScheduler(prediction_type="v_prediction"),
        EulerDiscreteScheduler(prediction_type="epsilon", use_karras_sigmas=True), DPMSolverMultistepScheduler(),
    ]  # fmt: skip
    for scheduler in schedulers:
        clean, noise = torch.randn(2, 1, 3, 4, 4, generator=torch.Generator().manual_seed(0))
        scheduler.set_timesteps(6)
        one, zero, time = torch.ones(1), torch.zeros(1), scheduler.timesteps[:1]
        if hasattr(scheduler, "add_noise"):
            a, s = scheduler.add_noise(one, zero, time).item(), scheduler.add_noise(zero, one, time).item()
        else:
            a, s = scheduler.scale_noise(one, time, zero).item(), scheduler.scale_noise(zero, time, one).item()
        latents, kind = a * clean + s * noise, scheduler.config.get("prediction_type", "flow_prediction")
        for step, time in enumerate(scheduler.timesteps):
            # A perfect model: it knows which clean latents and which noise these are.
            predicted = {"epsilon": noise, "v_prediction": a * noise - s * clean}.get(kind, noise - clean)
            inputs = scheduler.scale_model_input(latents, time) if hasattr(scheduler, "scale_model_input") else latents
            assert inputs.isfinite().all()
            latents = scheduler.step(predicted, time, latents).prev_sample
            a, s = noise_level(scheduler, step)
            torch.testing.assert_close(latents, a * clean + s * noise, atol=0.03, rtol=0.03, msg=f"{scheduler}, {step}")
        assert (a, s) == (1.0, 0.0)


def test_what_the_options_say():
    h, w = 2, 3
    readout = Readout(
        latents=torch.full((2, 1, h, w), 5.0), visibility=torch.ones(2, h, w, dtype=torch.bool),
        depth=torch.ones(2, h, w), offset=torch.zeros(2, 2, h, w), index=torch.zeros(2, h, w, dtype=torch.int64),
    )  # fmt: skip
    readout.offset[1, 1, 0, 0] = -0.55
    latents, noise = torch.zeros(1, 1, 2, h, w), torch.ones(1, 1, 2, h, w)

    def guided(a: float, s: float, first_frame: bool = False, **options) -> torch.Tensor:
        return Shown.of([readout], GuidanceOptions(**{"max_offset": 0.6} | options), first_frame).guide(
            latents, noise, a, s
        )[0, 0]

    assert not guided(0.5, 0.5)[0].any() and guided(0.5, 0.5, first_frame=True)[0].all()
    assert (guided(0.5, 0.5)[1] == 3).all() and (guided(1, 0)[1] == 5).all()
    near = guided(1, 0, max_offset=0.5)[1]
    assert near[0, 0] == 0 and near.sum() == 5 * 5
    assert (guided(1, 0, strength=0.4)[1] == 2).all()
    assert guided(0.5, 0.5, until=0.4).any() and not guided(0.7, 0.3, until=0.4).any()
    torch.testing.assert_close(guided(0.5, 0.5, fade=True, until=0.2)[1], torch.full((h, w), 3 * 0.3 / 0.8))
    assert torch.equal(guided(1, 0, fade=True), latents[0, 0]), "faded to nothing at the end"


@pytest.mark.parametrize("bad", [dict(max_offset=2), dict(until=-0.1), dict(strength=1.5), dict(strength="all")])
def test_options_out_of_range_are_refused(bad):
    with pytest.raises(ValueError, match=f"{next(iter(bad))}: expected a number from 0 to 1"):
        MemoryGuidance(LatentGrid(), None, **bad)


def test_cameras_and_memories_that_do_not_fit_are_refused(tmp_path):
    pipe, kwargs = build("wan21", tmp_path)
    pipe.set_progress_bar_config(disable=True)
    size = (kwargs["height"], kwargs["width"])
    call = dict(image=Image.new("RGB", size[::-1]), num_frames=13, **kwargs)

    def attempt(memory, cameras, inputs=("latents",)):
        guidance = MemoryGuidance(memory, cameras)
        pipe(**call, callback_on_step_end=guidance, callback_on_step_end_tensor_inputs=list(inputs))

    def cameras(count: int, size=size) -> Cameras:
        return Cameras(torch.eye(4).repeat(count, 1, 1), default_intrinsics(size), size)

    with pytest.raises(ValueError, match="cameras: they are of a video of 3 latent frames of 8x10 cells"):
        attempt(LatentGrid(), cameras(9))
    with pytest.raises(ValueError, match="cameras: they are of a video of 4 latent frames of 4x5 cells"):
        attempt(LatentGrid(), cameras(13, (32, 40)))
    other = LatentGrid()
    other.write(torch.zeros(1, 3, 8, 10), torch.ones(1, *size), cameras(1))
    with pytest.raises(ValueError, match=r"memory: it shows \(3, 4, 8, 10\) .* the pipeline makes \(6, 4, 8, 10\)"):
        attempt(other, cameras(13))
    with pytest.raises(ValueError, match="callback_on_step_end_tensor_inputs"):
        attempt(LatentGrid(), cameras(13), ["prompt_embeds"])
    for bad, message in (
        (dict(num_frames=12), "num_frames: expected 4"),
        (dict(num_frames=13, image=0), "image: it is"),
    ):
        with pytest.raises(ValueError, match=message):
            DiffusersModel(pipe, **bad)


def test_a_transformer_without_a_trained_branch_is_guided_and_the_branch_left_out():
    model = micro_model()
    assert model.conditioning == "branch"
    for block in model.parts.transformer.vace_blocks:
        torch.nn.init.zeros_(block.proj_out.weight)
    del model.parts.transformer.has_branch  # found out once
    calls = []
    model.parts.transformer.register_forward_pre_hook(lambda m, args: calls.append(args[2]))
    fresh = type(model)(model.parts)
    assert fresh.conditioning == "guidance"
    cameras = Cameras(camera_path("there_and_back", 5), default_intrinsics((32, 48)), (32, 48))
    depth = box_depth(cameras)
    made = generate(fresh, torch.zeros(32, 48, 3, dtype=torch.uint8), c2w=cameras.c2w, depth=depth, generator=0)
    assert calls and all(control is None for control in calls)
    readout = made.memory.read(cameras[[4]])
    seen = made.visibility[-1] & (readout.offset[0].abs().amax(0) <= 0.5)
    assert seen.float().mean() > 0.5
    with pytest.raises(ValueError, match="conditioning: expected one of branch, guidance, both, got 'none'"):
        type(model)(model.parts, conditioning="none")
