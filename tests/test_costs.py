"""The cost model: against counts by hand, against torch's own counters, and in its arithmetic."""

from __future__ import annotations

import math

import pytest
import torch
from scenes import camera, pose
from torch._subclasses import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode
from traffic import Traffic

from mirage_nb.benchmarks import predictions
from mirage_nb.benchmarks.costs import decoder_work, depth_work, encoder_work, layer, transformer_work
from mirage_nb.benchmarks.paper import WAN22_TRANSFORMER, WAN22_VAE, Scale, cameras_around
from mirage_nb.benchmarks.rates import Rates, Work, calibrate, interpolated
from mirage_nb.masking import writable
from mirage_nb.memory.baselines import make_memory
from mirage_nb.models.depth import MirageDepthModel
from mirage_nb.models.presets import TINY_TRANSFORMER
from mirage_nb.models.transformer import MirageTransformer3DModel
from mirage_nb.models.vae import TINY_VAE, use_frame_kernels

FLAT = Rates({1.0: 1e9}, {1.0: 1e9}, 1e9, 1e9, 1e9, 1e6)  # a machine whose rates do not depend on sizes


def counted(task) -> int:
    with FlopCounterMode(display=False) as counter:
        task()
    return counter.get_total_flops()


def test_a_layer_by_hand():
    """A 3 x 3 convolution from 2 to 5 channels at 10 positions: 2 * 9 * 2 * 5 * 10 operations, narrow as its 2."""
    work = layer(2, 5, 9, 10, passes=6, calls=3, functions=1)
    assert work.flops == {2.0: 1800} and work.moved == {40.0: 120} and work.functions == 20 and work.calls == 3
    assert FLAT.seconds(work) == pytest.approx(1800e-9 + 120e-9 + 20e-9 + 3e-6)


def test_work_adds_multiplies_and_divides():
    a, b = Work({4.0: 10.0}, {8.0: 100.0}, calls=1), Work({4.0: 1.0, 2.0: 5.0}, {16.0: 50.0}, scattered=3)
    both = sum([a, 2 * b])
    assert both.flops == {4.0: 12.0, 2.0: 10.0} and both.moved == {8.0: 100.0, 16.0: 100.0}
    assert (both.scattered, both.calls, both.total_flops, both.total_moved) == (6, 1, 22, 200)
    parts = a.in_parts(4)
    assert parts.moved == {2.0: 100.0} and parts.calls == 4 and parts.flops == a.flops


def test_rates_lie_between_what_was_measured():
    known = {16.0: 10.0, 64.0: 40.0}
    assert interpolated(known, 32) == pytest.approx(20) and interpolated(known, 64) == pytest.approx(40)
    assert interpolated(known, 1) == pytest.approx(10) and interpolated(known, 1e9) == 40


def test_calibration_gives_rates_above_zero():
    rates = calibrate(repeats=1)
    values = [
        *rates.flops.values(),
        *rates.moved.values(),
        rates.attention,
        rates.functions,
        rates.scattered,
        rates.calls,
    ]
    assert all(math.isfinite(x) and x > 1e3 for x in values)


@pytest.mark.parametrize(
    "config, frames, size", [(WAN22_VAE, 33, (704, 1280)), (WAN22_VAE, 9, (64, 96)), (TINY_VAE, 1, (128, 128))]
)
def test_the_vae_as_torch_counts_it(config, frames, size):
    from diffusers import AutoencoderKLWan

    stride, time = config["scale_factor_spatial"], config["scale_factor_temporal"]
    with torch.device("meta"):
        vae = use_frame_kernels(AutoencoderKLWan(**config))
        video = torch.empty(1, 3, frames, *size)
        latents = torch.empty(1, config["z_dim"], (frames - 1) // time + 1, size[0] // stride, size[1] // stride)
        encode, decode = counted(lambda: vae._encode(video)), counted(lambda: vae._decode(latents))
    assert encoder_work(config, frames, size).total_flops == pytest.approx(encode, rel=1e-6)
    assert decoder_work(config, frames, size).total_flops == pytest.approx(decode, rel=2e-3)


@pytest.mark.parametrize(
    "config, frames, grid, text",
    [(TINY_TRANSFORMER | {"patch_size": (1, 2, 2)}, 5, (16, 16), 0), (WAN22_TRANSFORMER, 9, (44, 80), 512)],
    ids=["tiny", "5B"],
)
def test_the_transformer_as_torch_counts_it(config, frames, grid, text):
    """Torch does not count attention on a CPU; that part is compared with 4 * queries * keys * width."""
    with torch.no_grad(), FakeTensorMode():
        model = MirageTransformer3DModel(**config)
        shape = (1, config["in_channels"], frames, *grid)
        control = torch.empty(1, config["vace_in_channels"], frames, *grid)
        words = torch.empty(1, text, config["text_dim"]) if text else None
        linear = counted(lambda: model(torch.empty(shape), torch.empty(1, frames), control, words))
    work, dim = (
        transformer_work(config, frames, grid, text),
        config["num_attention_heads"] * config["attention_head_dim"],
    )
    tokens, blocks = frames * grid[0] * grid[1] // 4, config["num_layers"] + len(config["vace_layers"])
    assert work.attention == pytest.approx(blocks * 4 * tokens * (tokens + text) * dim)
    assert work.total_flops - work.attention == pytest.approx(linear, rel=5e-3)


def test_the_depth_network_as_torch_counts_it():
    model = MirageDepthModel()
    pixels, intrinsics = torch.rand(2, 3, 64, 96), torch.tensor([[80.0, 80.0, 48.0, 32.0]]).expand(2, 4)
    assert depth_work(model.config, 2, (64, 96)).total_flops == pytest.approx(
        counted(lambda: model(pixels, intrinsics)), rel=0.03
    )


def test_headings_by_hand():
    """Of views turned by a quarter of the field of view, three quarters overlap, and a quarter is new."""
    fov = 2 * math.atan(48 / 80)
    views = camera(*(pose((0, 0, 0), (0, k * fov / 4, 0)) for k in range(6)))
    assert predictions.novelty(views).tolist() == pytest.approx([1, 0.25, 0.25, 0.25, 0.25, 0.25], abs=1e-3)
    assert predictions.share_in_view(views[[0]], views[[0]]) == pytest.approx(1)
    assert predictions.share_in_view(views[[0]], views[[1, 2]]) == pytest.approx((0.75 + 0.5) / 2, abs=1e-3)
    assert predictions.share_in_view(views[[0]], views[[5]]) == 0  # too far round
    assert predictions.kept_views(torch.tensor([1.0, 0, 0])) == pytest.approx(1)  # the same view again adds nothing
    assert predictions.kept_views(torch.tensor([1.0, 1.0])) == pytest.approx(2)
    assert predictions.kept_views(torch.tensor([1.0, 0.5, 0.5])) == pytest.approx(2 * math.log(0.5 + math.e))


def test_bytes_by_hand():
    assert predictions.held_bytes(10, 48) == 10 * (96 + 28)
    cameras = camera(pose())
    depth, latents = torch.full((1, 64, 96), 2.0), torch.zeros(1, 16, 8, 12).half()
    for name, expected in (("append", predictions.held_bytes(96, 16)), ("rgb", 64 * 96 * predictions.POINT_BYTES)):
        memory = make_memory(name, lambda frames: frames)
        memory.write(latents, depth, cameras, frames=torch.zeros(1, 3, 64, 96))
        assert memory.nbytes == expected, name


@pytest.mark.parametrize("name", ["append", "rgb"])
def test_the_readout_moves_about_what_is_counted(name):
    """Bytes and values out of order, by torch's dispatcher, within a factor of two of the model's."""
    scale = Scale(size=(352, 640), keys=2)
    cameras, keys = cameras_around(scale, torch.eye(4))
    views, ahead = cameras[keys[0]], cameras[list(range(32, 65, 8))]
    memory = make_memory(name, lambda frames: frames, stride=16, channels=48)
    depth, frames = torch.full((2, 352, 640), 3.0) + torch.linspace(0, 1, 640), torch.zeros(2, 3, 352, 640)
    with Traffic() as write:
        memory.write(torch.randn(2, 48, *scale.grid).half(), depth, views, writable(depth, stride=16), frames=frames)
    with Traffic() as read:
        memory.read(ahead) if name == "append" else memory.render(ahead)
    share = predictions.share_in_view(views, ahead)
    kind = (scale.grid, 48, 2, True) if name == "append" else (scale.size, 3, 1, False)
    model = predictions.readout_work(len(memory), len(ahead), share, *kind)
    assert 0.5 < model.total_moved / read.moved < 2
    assert 0.4 < model.scattered / read.scattered < 2.5
    model = predictions.write_work(name, 2, scale.size, 0, 0, False)
    assert 0.4 < model.total_moved / write.moved < 2.5


def test_an_hour_and_a_city():
    beyond = predictions.beyond(Scale(), FLAT)
    flat, streets, city = beyond.values()
    assert flat["latent"] < streets["latent"] < city["latent"] and flat["rgb"] == streets["rgb"] < city["rgb"]
    # 3600 s of 24 frames, 32 a chunk, 2 key frames of 704 x 1280 points of 19 bytes
    assert flat["rgb"] == pytest.approx(3600 * 24 / 32 * 2 * 704 * 1280 * 19)
    patches = 500 / (3.0 * 16 / (640 / math.tan(math.radians(32)))) ** 2
    views = 3600 * 24 / 32 * 2 * 44 * 80 / patches
    assert flat["latent_tokens"] == pytest.approx(patches * math.log(views + math.e - 1), rel=1e-3)


def test_the_worst_prediction_is_found_on_both_sides():
    rows = [{"measured": 2.0, "predicted": p} for p in (2.1, 0.9, 3.0)]
    assert predictions.worst(rows)["predicted"] == 0.9
