"""The race at the paper's scale: 704 x 1280 pixels, chunks of 33 frames, and the VAE of Wan2.2-TI2V-5B.

What is raced is the conditioning path, from the memory to what the generator is shown: a readout of 9 latent frames
on the one side, a render of 33 full-size frames and their VAE encode on the other. On a GPU the rest of a chunk is
measured as well. Weights are random: time and bytes do not depend on what they are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import SimpleNamespace

import torch
from torch import Tensor

from mirage_nb.benchmarks.measure import Peak, Results, measured, one_thread, timer_of
from mirage_nb.benchmarks.race import MEMORIES
from mirage_nb.cameras import Cameras, default_intrinsics
from mirage_nb.data.rooms.room import Room
from mirage_nb.masking import writable
from mirage_nb.memory.baselines import CODEC, as_picture, make_memory
from mirage_nb.models.vae import decode, encode, temporal_stride, use_frame_kernels
from mirage_nb.paths import camera_path
from mirage_nb.stitching import as_pixels, denoise

# The configuration of the VAE that Wan2.2-TI2V-5B comes with; the latents' statistics are left at 0 and 1.
WAN22_VAE = dict(
    base_dim=160, decoder_base_dim=256, z_dim=48, dim_mult=[1, 2, 4, 4], num_res_blocks=2, attn_scales=[],
    temperal_downsample=[False, True, True], is_residual=True, in_channels=12, out_channels=12, patch_size=2,
    scale_factor_temporal=4, scale_factor_spatial=16, latents_mean=[0.0] * 48, latents_std=[1.0] * 48,
)  # fmt: skip
# That of its transformer, with the memory's branch on every second block.
WAN22_TRANSFORMER = dict(
    patch_size=(1, 2, 2), num_attention_heads=24, attention_head_dim=128, in_channels=48, out_channels=48,
    text_dim=4096, freq_dim=256, ffn_dim=14336, num_layers=30, vace_layers=tuple(range(0, 30, 2)), vace_in_channels=96,
)  # fmt: skip
SIZES = {"paper": (704, 1280), "half": (352, 640)}
STEPS = 20  # denoising steps of a chunk (paper)
TEXT = 512  # text tokens


@dataclass(frozen=True)
class Scale:
    """What is raced: images of `size` pixels, chunks of `frames`, a latent cell every `stride` pixels and
    `temporal_stride` frames with `channels` channels; `keys` frames of a chunk are written into the memory."""

    size: tuple[int, int] = SIZES["paper"]
    chunks: int = 8
    frames: int = 33
    stride: int = 16
    temporal_stride: int = 4
    channels: int = 48
    keys: int = 2

    @property
    def new_frames(self) -> int:
        return self.frames - 1

    @property
    def grid(self) -> tuple[int, int]:
        return self.size[0] // self.stride, self.size[1] // self.stride

    @property
    def latent_frames(self) -> int:
        return self.new_frames // self.temporal_stride + 1


@dataclass
class World:
    """A path once around a room: cameras of all pixel frames, and for each chunk its key frames with exact depth."""

    cameras: Cameras
    pixels: list[Tensor]  # (keys, 3, H, W) in [-1, 1]
    depth: list[Tensor]  # (keys, H, W) metres
    views: list[Cameras]


def random_wan_vae(device: torch.device | str = "cpu", dtype: torch.dtype = torch.bfloat16, decoder: bool = True):
    """Wan2.2's VAE with random weights; its decoder, most of its weights, can be left out."""
    from diffusers import AutoencoderKLWan

    vae = _random(lambda: AutoencoderKLWan(**WAN22_VAE | ({} if decoder else {"decoder_base_dim": 8})), device, dtype)
    return use_frame_kernels(vae)


def random_wan_transformer(device: torch.device | str, dtype: torch.dtype = torch.bfloat16):
    """The 5B backbone with its memory branch, with random weights."""
    from mirage_nb.models.transformer import MirageTransformer3DModel

    return _random(lambda: MirageTransformer3DModel(**WAN22_TRANSFORMER), device, dtype)


def _random(build: Callable, device: torch.device | str, dtype: torch.dtype):
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            torch.manual_seed(0)
            return build().eval().requires_grad_(False).to(device, dtype)
    finally:
        torch.set_default_dtype(before)


def cameras_around(scale: Scale, start: Tensor) -> tuple[Cameras, list[list[int]]]:
    """Cameras of all pixel frames on a path that turns once around over all chunks, and one chunk more; and which
    frames are the key frames of each chunk."""
    total = scale.chunks * scale.new_frames
    c2w = camera_path("pan_left", total + scale.frames, start, degrees_per_frame=360 / total)
    step = scale.new_frames // scale.keys
    keys = [[chunk * scale.new_frames + step * (k + 1) for k in range(scale.keys)] for chunk in range(scale.chunks)]
    return Cameras(c2w, default_intrinsics(scale.size), scale.size), keys


def once_around(scale: Scale, room: int = 900007, progress: Callable[[str], None] | None = None) -> World:
    """A camera that turns once around in a ray-cast room: new things come into view all the way, and a view shares only
    with its neighbours what they see both."""
    world = Room(room, moving=0)
    cameras, keys = cameras_around(scale, world.start())
    pixels, depth, views = [], [], []
    for chunk, at in enumerate(keys):
        if progress:
            progress(f"ray-casting chunk {chunk + 1} of {scale.chunks}")
        clip = world.render(cameras[at], torch.zeros(len(at)), chunk=1)
        pixels.append(as_pixels(clip.frames))
        depth.append(clip.depth)
        views.append(cameras[at])
    return World(cameras, pixels, depth, views)


@torch.no_grad()
def walk(name: str, scale: Scale, world: World, device: torch.device, timed: Sequence[int]) -> dict:
    """Write the key frames of chunk after chunk, and after each read for the chunk that follows.

    The RGB memories render the pixel frames `timed` of the chunk; their time is scaled to all of its frames.

    Returns:
        `chunks`, each with `frames`, `seconds` of write and read (an RGB memory's is its render), bytes, tokens and
        peak_bytes.
    """
    memory = make_memory(name, lambda frames: frames, stride=scale.stride, channels=scale.channels)
    clock, peak, chunks = timer_of(device), Peak(device), []
    generator = torch.Generator().manual_seed(0)
    for chunk in range(scale.chunks):
        views = world.views[chunk].to(device)
        latents = torch.randn(len(views), scale.channels, *scale.grid, generator=generator).half().to(device)
        pixels, depth = world.pixels[chunk].to(device), world.depth[chunk].to(device)
        first = (chunk + 1) * scale.new_frames
        ahead = (
            [first + k for k in timed] if name in CODEC else range(first, first + scale.frames, scale.temporal_stride)
        )
        cameras = world.cameras[list(ahead)].to(device)
        peak.reset()
        start = clock()
        memory.write(latents, depth, views, writable(depth, stride=scale.stride), frames=pixels)
        written = clock()
        if name in CODEC:
            as_picture(memory.render(cameras))
            read = (clock() - written) * scale.frames / len(timed)
        else:
            memory.read(cameras)
            read = clock() - written
        chunks.append({
            "frames": scale.new_frames, "seconds": {"read": read, "write": written - start},
            "bytes": int(memory.nbytes), "tokens": len(memory), "peak_bytes": peak.bytes(),
        })  # fmt: skip
    return {"chunks": chunks}


def measure_encode(vae, video: Tensor) -> dict[str, float]:
    """Encode one chunk (1, 3, T, H, W), with a bar: one step for the first frame, one for every four after it."""
    from tqdm.auto import tqdm

    steps = 1 + (video.shape[2] - 1) // temporal_stride(vae)
    with tqdm(total=steps, desc="VAE encode", unit="latent frame") as bar:

        def step(*_) -> None:  # a hook's result would take the place of the encoder's
            bar.update()

        hook = vae.encoder.register_forward_hook(step)
        try:
            figures, latents = measured(lambda: encode(vae, video), video.device)
        finally:
            hook.remove()
    return figures | {"frames": video.shape[2], "finite": bool(latents.isfinite().all())}


@torch.no_grad()
def measure_generation(vae, transformer, scale: Scale, steps: int = STEPS) -> dict[str, dict]:
    """Denoise and decode one chunk from random numbers: {"denoise": ..., "decode": ...}, as `measured` gives them."""
    from mirage_nb.models.presets import build_scheduler

    device, config = next(transformer.parameters()).device, transformer.config
    shape = (1, scale.channels, scale.latent_frames, *scale.grid)
    noise = torch.randn(shape, device=device)
    control = torch.randn(1, config.vace_in_channels, *shape[2:], device=device)
    text = None if config.text_dim is None else torch.randn(1, TEXT, config.text_dim, device=device)
    models = SimpleNamespace(transformer=transformer, scheduler=build_scheduler(5.0))
    figures = {}
    figures["denoise"], latents = measured(lambda: denoise(models, noise[:, :, 0], noise, control, steps, text), device)
    figures["decode"], _ = measured(lambda: decode(vae, latents), device)
    return figures


def race(
    scale: Scale,
    results: Results,
    runs: int = 5,
    memories: Sequence[str] = MEMORIES,
    device: torch.device | str = "cpu",
    vae: Callable = random_wan_vae,
    transformer: Callable | None = random_wan_transformer,
    progress: Callable[[int, int, str], None] | None = None,
) -> dict[str, list[dict]]:
    """Race the conditioning paths; finished parts are kept in `results`.

    On the CPU, on one thread, one chunk is encoded once, a render takes three of its 33 frames, and there is no
    denoising and decoding: the transformer would take hours. On a GPU everything is measured in every run.

    Args:
        vae, transformer: called with the device to build them.

    Returns:
        The runs of each memory, as `race.race` returns them.
    """
    device = torch.device(device)
    everything = device.type == "cuda"
    last, parts = scale.frames - 1, runs * (len(memories) + 1)
    timed = range(scale.frames) if everything else (0, last // 2, last)
    world, raw = None, {name: [] for name in memories}

    def say(done: int, what: str) -> None:
        if progress:
            progress(done, parts, what)

    with one_thread():
        codec = generation = []
        say(0, "VAE encode")
        video = torch.rand(1, 3, scale.frames, *scale.size, device=device) * 2 - 1
        build = _lazy(lambda: vae(device, decoder=everything))
        network = _lazy(lambda: transformer(device))
        repeat = range(runs if everything else 1)
        codec = [results.once(f"{run}-encode", lambda: measure_encode(build(), video)) for run in repeat]
        if everything and transformer is not None:
            generation = [
                results.once(f"{run}-generation", lambda: measure_generation(build(), network(), scale))
                for run in repeat
            ]
        for run in range(runs):
            for index, name in enumerate(memories):
                done = runs + run * len(memories) + index

                def task() -> dict:
                    nonlocal world
                    world = world or once_around(scale, progress=lambda what: say(done, what))
                    return walk(name, scale, world, device, timed)

                say(done, f"run {run + 1}, {name}")
                raw[name].append(results.once(f"{run}-{name}", task))
    say(parts, "")
    for name, walks in raw.items():
        for run, result in enumerate(walks):
            for chunk in result["chunks"]:
                if name in CODEC:
                    chunk["peak_bytes"] = max(chunk["peak_bytes"], codec[min(run, len(codec) - 1)]["peak_bytes"])
                    if run < len(codec):
                        chunk["seconds"]["encode"] = codec[run]["seconds"]
                for stage in ("denoise", "decode") if generation else ():
                    chunk["seconds"][stage] = generation[run][stage]["seconds"]
    return raw


def _lazy(build: Callable) -> Callable:
    """A function that builds at its first call, since what is already measured needs no model."""
    made = []

    def get():
        if not made:
            made.append(build())
        return made[0]

    return get
