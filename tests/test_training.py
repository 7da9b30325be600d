"""Training: what is interrupted goes on as if it had not been, held-out rooms stay held out, recipes learn."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from diffusers import AutoencoderKLWan

from mirage_nb.models.presets import build_micro, bundled_model
from mirage_nb.training.data import HELD_OUT, Walks, write_walks
from mirage_nb.training.depth import depth_loss
from mirage_nb.training.encoded import EncodedWalks
from mirage_nb.training.loop import fit
from mirage_nb.training.memory import MemoryLoss, in_turn
from mirage_nb.training.tasks import Frames, beside, choose, draw_task, following, remember, spoil
from mirage_nb.training.tiny import Schedule, train_tiny
from mirage_nb.training.vae import moments, picture, vae_loss


@pytest.fixture(scope="module")
def walks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("walks")
    write_walks(folder, 2, num_frames=7)
    return Walks(folder)


def losses(folder) -> list[float]:
    return [json.loads(line)["loss"] for line in (folder / "log.jsonl").read_text().splitlines()]


def quadratic(model, step, generator, part=slice(None)):
    x = torch.randn(8, 4, generator=generator)[part]
    return (model(x) - x.sum(1, keepdim=True)).square().mean(), {}


def line(seed=0):
    torch.manual_seed(seed)
    return torch.nn.Linear(4, 1)


def test_killed_and_resumed_equals_uninterrupted(tmp_path):
    options = dict(steps=60, lr=1e-2, warmup=5, ema=0.9, progress=False, checkpoint_minutes=0)
    whole = fit(line(), quadratic, folder=tmp_path / "whole", **options)

    def killed_at_37(model, step, generator, part):
        if step == 37:
            raise KeyboardInterrupt
        return quadratic(model, step, generator)

    with pytest.raises(KeyboardInterrupt):
        fit(line(), killed_at_37, folder=tmp_path / "parts", **options)
    other = line(seed=9)  # the checkpoint's weights count, not these
    resumed = fit(other, quadratic, folder=tmp_path / "parts", **options)
    assert torch.equal(whole.weight, resumed.weight) and torch.equal(whole.bias, resumed.bias)
    assert losses(tmp_path / "whole")[-1] == losses(tmp_path / "parts")[-1]


def test_a_nan_stops_the_run_and_keeps_the_checkpoint(tmp_path):
    def broken(model, step, generator, part):
        loss, figures = quadratic(model, step, generator)
        return (loss * float("nan") if step == 5 else loss), figures

    with pytest.raises(FloatingPointError, match="step 5"):
        fit(line(), broken, steps=9, folder=tmp_path, lr=1e-2, progress=False, checkpoint_minutes=0)
    assert (tmp_path / "checkpoint.safetensors").exists()
    bad = json.loads((tmp_path / "bad_batch.json").read_text())
    assert bad["step"] == 5 and bad["generator_seed"] == 5  # whoever looks into it can draw the batch again


def test_held_out_seeds_are_refused(tmp_path):
    with pytest.raises(ValueError, match="held out"):
        write_walks(tmp_path, 5, first_seed=HELD_OUT - 2)
    with pytest.raises(FileNotFoundError, match="folder"):
        Walks(tmp_path)


def test_a_segment_never_remembers_its_own_future_on_the_way_out():
    g = torch.Generator().manual_seed(0)
    for _ in range(200):
        segment, before, known = choose(25, 5, False, g, before=2)
        step = int(segment[1] - segment[0])
        assert abs(step) == 1 and (segment.diff() == step).all()
        assert segment[0] in known and ((known - segment[0]) * step <= 0).all(), "remembers what it has yet to see"
        segment, before, known = choose(25, 5, True, g, before=2)
        assert len(known) >= 2 and 0 <= known.min() and known.max() < 25
        walked = torch.cat([before, segment])
        assert len(walked) == 7 and (walked.diff() == walked[1] - walked[0]).all() and 0 <= walked.min() <= 18


def test_a_leap_takes_frames_that_lie_apart():
    g, steps = torch.Generator().manual_seed(0), set()
    for returning in (False, True):
        for _ in range(100):
            segment, _, known = choose(13, 2, returning, g, leap=4)
            steps.add(int(segment[1] - segment[0]))
            assert 0 <= segment.min() and segment.max() < 13
            if not returning:
                assert ((known - segment[0]) * (segment[1] - segment[0]) <= 0).all(), "remembers what lies ahead"
    assert steps == {-4, -3, -2, -1, 1, 2, 3, 4}
    assert choose(7, 5, False, g, leap=9)[0].diff().abs().unique().tolist() == [1], "as far as the walk is long"


def test_a_sparse_walk_is_a_dense_one_with_frames_left_out(tmp_path):
    write_walks(tmp_path / "dense", 1, num_frames=5)
    write_walks(tmp_path / "sparse", 1, num_frames=3, every=2)
    dense, sparse = Walks(tmp_path / "dense"), Walks(tmp_path / "sparse")
    for name in ("frames", "c2w", "depth"):
        assert torch.equal(sparse[name], dense[name][:, ::2])
    write_walks(tmp_path / "small", 1, num_frames=3, every=2, size=64)
    small = Walks(tmp_path / "small")
    assert small["frames"].shape == (1, 3, 64, 64, 3) and torch.equal(small["c2w"], sparse["c2w"])
    assert torch.allclose(small["intrinsics"] * 2, sparse["intrinsics"])


def test_losses_take_turns():
    def loss(name):
        return lambda model, step, generator, part: (name, step)

    taken = [in_turn(loss("a"), loss("b"))(None, step, None) for step in range(3)]
    assert taken == [("a", 0), ("b", 1), ("a", 2)]


def test_mirrored_walks_are_the_walks_of_a_mirrored_world(walks):
    from mirage_nb.lifting import lift

    parts = build_micro()
    data = EncodedWalks.encode(walks, parts["vae"])
    plain, mirrored = data.cameras(0, torch.arange(7)), data.cameras(1, torch.arange(7))
    points = [
        lift(data.latents[r].float(), data.depths[0][r].float(), c).positions for r, c in enumerate((plain, mirrored))
    ]
    h, w = data.latents.shape[-2:]
    there = points[0].reshape(7, h, w, 3) * torch.tensor([-1.0, 1.0, 1.0])
    assert torch.allclose(points[1].reshape(7, h, w, 3).flip(2), there, atol=1e-3)
    assert len(EncodedWalks.encode(walks, parts["vae"], mirror=False).latents) == len(data.latents) // 2


def test_context_shows_what_overlaps_and_what_precedes(walks):
    data = EncodedWalks.encode(walks, build_micro()["vae"], mirror=False)
    g = torch.Generator().manual_seed(0)
    for _ in range(20):
        task = draw_task(data, 4, 0.0, True, 2, g)
        shown = beside(data, task, 4, g)
        assert shown.references.shape[2] == 4 and shown.preceding.shape[2] == 2
        truth = data.latents[task.room].float()
        distance = (truth[:, None] - shown.preceding[0].transpose(0, 1)[None]).square().mean((2, 3, 4))
        assert distance.argmin(0).tolist() == task.preceding.index.tolist()  # noisy, yet nearest to itself
        same = set(task.past.index.tolist()) & set(task.segment.tolist())
        best = shown.references[0, :, 0]
        if same:  # a view of the segment itself overlaps with it more than any other
            nearest = (truth - best).square().mean((1, 2, 3)).argmin().item()
            assert nearest in task.past.index.tolist() and abs(nearest - task.segment[1]) <= 2
        made = torch.randn(4, 3, *truth.shape[-2:])
        after = following(task, made, 7, g)
        assert torch.equal(after.first, made[:, -1])
        assert torch.equal(after.preceding.latents, made[:, -3:-1].transpose(0, 1))


@pytest.mark.parametrize("returning", [True, False])
def test_a_rehearsed_batch_sees_what_the_model_made(walks, returning):
    parts = build_micro()
    data = EncodedWalks.encode(walks, parts["vae"])
    calls, model = [], torch.nn.Sequential(parts["transformer"])

    def watched(noisy, timestep, control):
        out = parts["transformer"](noisy, timestep, control)
        calls.append((noisy, timestep, out.sample, control))
        return out

    model.forward = watched
    loss = MemoryLoss(data, batch=2, drop=0.0, rehearse=float(returning))
    if not returning:
        loss(model, 0, torch.Generator().manual_seed(1))
        assert len(calls) == 1
        return
    seed = next(s for s in range(99) if loss.sample(torch.Generator().manual_seed(s), model=model) and pure(calls))
    calls.clear()
    loss(model, 0, torch.Generator().manual_seed(seed))
    (noise, timestep, first, _), (halfway, later, second, _), (noisy, _, learnt, control) = calls
    assert not first.requires_grad and not second.requires_grad and learnt.requires_grad
    assert not timestep[:, 0].any() and not later[:, 0].any() and (later[:, 1:] == 750).all()
    torch.testing.assert_close(halfway[:, :, 1:], (noise - 0.25 * first)[:, :, 1:])  # a step from sigma 1 to 0.75
    made = (halfway - 0.75 * second)[:, :, -1]
    assert (noisy[:, :, 0] - made).abs().max() < 0.6, "the next segment begins with the generated frame"
    assert control[:, data.latents.shape[2]].mean() > 0.2, "and sees a memory"


def pure(calls) -> bool:
    """Whether the last rehearsal began, for all samples, from pure noise."""
    return bool((calls[-2][1][:, 1:] == 1000).all())


def test_a_rehearsal_from_the_noisy_truth_keeps_its_shapes(walks):
    data = EncodedWalks.encode(walks, build_micro()["vae"])
    batch = MemoryLoss(data, batch=2).sample(torch.Generator().manual_seed(0))
    truth = batch.noise - batch.clean

    class Perfect:
        """Its velocity is the true one, and off by a little."""

        def __call__(self, noisy, timestep, control, **_):
            return type("Output", (), {"sample": truth + 0.1})

    for start in (1.0, 0.5):
        made = batch.generate(Perfect(), torch.tensor([start, start]))
        first, second = 3 * start / (1 + 2 * start), 3 * start / (2 + 2 * start)  # the levels of the two steps, shifted
        error = 0.1 * ((1 - second) * first + second)
        torch.testing.assert_close(made, batch.clean[:, :, 1:] - error, atol=1e-4, rtol=0)


def test_the_past_errs_on_one_side_of_a_plane_and_the_truth_stays(walks):
    data = EncodedWalks.encode(walks, build_micro()["vae"], mirror=False)
    before, g, shares = data.latents.clone(), torch.Generator().manual_seed(0), []
    for _ in range(20):
        task = draw_task(data, 4, 0.0, True, 2, g)
        wrong = spoil(data, task, g)
        assert torch.equal(wrong.segment, task.segment) and torch.equal(wrong.known.index, task.known.index)
        assert torch.equal(data.latents, before)
        changed = (wrong.known.latents != task.known.latents).any(1)
        shares.append(changed.float().mean().item())
        cameras = data.cameras(task.room, task.known.index).resize(before.shape[-2:])
        points = cameras.unproject(data.depths[0][task.room, task.known.index].float())
        if 0.1 < shares[-1] < 0.9:  # two convex halves: their middles lie apart
            assert (points[changed].mean(0) - points[~changed].mean(0))[[0, 2]].norm() > 0.1
    assert 0.2 < sum(shares) / len(shares) < 0.8 and min(shares) < 0.3


@pytest.mark.parametrize("share", [0, 1])
def test_where_a_network_guesses_depth_a_window_is_remembered(walks, share):
    data = EncodedWalks.encode(walks, build_micro()["vae"], mirror=False)
    data.depths[0][:], data.cells[:] = 3.0, True
    data.depths[0][:, :, 4:8, 4:8], data.cells[:, :, 3:9, 3:9] = 0.0, False  # its sky, and the cells of its frame
    task = draw_task(data, 4, 0.0, False, 0, torch.Generator().manual_seed(0))
    only = task.segment[:1]
    task = replace(task, known=Frames(only, data.latents[task.room, only].float()))
    for seed in range(4):
        readout = remember(data, task, only, torch.Generator().manual_seed(seed), share)
        window = readout.visibility.reshape(data.latents.shape[-2:])[4:8, 4:8]
        assert window.float().mean() == 0 if not share else window.float().mean() > 0.8


@pytest.mark.parametrize("recipe", ["vae", "collages", "depth", "memory"])
def test_every_recipe_learns_on_a_fixed_batch(walks, recipe):
    parts = build_micro()
    if recipe == "vae":
        model, loss = parts["vae"], vae_loss(walks, batch=2, crop=16)
    elif recipe == "collages":
        model, loss = parts["vae"], vae_loss(walks, batch=4, crop=32, near=build_micro()["vae"], collages=True)
    elif recipe == "depth":
        model, loss = parts["depth_estimator"], depth_loss(walks, batch=2)
    else:
        model, loss = (
            parts["transformer"],
            MemoryLoss(EncodedWalks.encode(walks, parts["vae"], parts["depth_estimator"]), batch=2),
        )
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    values = []
    for _ in range(20):
        value, _ = loss(model, 0, torch.Generator().manual_seed(0))
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        values.append(value.item())
    assert values[-1] < values[0] - 0.1 * abs(values[0]), values


def test_a_collage_is_decoded_as_a_collage(walks):
    """Cells that know of what is beside them make mist of it when something else is put there: without training on
    collages, the step at the seam was 0.1 to 0.35 of the true one, and is 0.8 to 0.95."""
    vae = AutoencoderKLWan.from_pretrained(bundled_model(), subfolder="vae", torch_dtype=torch.float32)
    left = torch.arange(128) < 64
    with torch.no_grad():
        for frame in (0, 3, 6):
            one, other = (walks.pixels(torch.tensor([room]), torch.tensor([frame])) for room in (0, 1))
            latents = torch.where(left[::8], moments(vae, one)[0], moments(vae, other)[0])
            steps = [x[..., 64] - x[..., 63] for x in (picture(vae, latents), torch.where(left, one, other))]
            assert (steps[0] * steps[1]).sum() > 0.6 * steps[1].square().sum()


def test_one_command_goes_through_every_stage_and_again_from_what_is_there(tmp_path):
    from mirage_nb.pipeline import MiragePipeline

    folder = train_tiny(tmp_path, Schedule.quick(), compile=False)
    pipe = MiragePipeline.from_pretrained(folder)
    assert pipe.transformer.config.memory_prior and pipe.vae.config.latents_std != [1.0] * 16
    assert sum(f.stat().st_size for f in folder.rglob("*") if f.is_file()) < 60e6
    before = (folder / "transformer" / "diffusion_pytorch_model.safetensors").read_bytes()
    (tmp_path / "memory" / "checkpoint.safetensors").unlink()  # done again, the same comes out
    folder = train_tiny(tmp_path, Schedule.quick(), compile=False)
    assert (folder / "transformer" / "diffusion_pytorch_model.safetensors").read_bytes() == before
