"""The race at the paper's scale: 704 x 1280 pixels, chunks of 33 frames, and the VAE of Wan2.2-TI2V-5B.

It races the memory's own path: writing key frames, and reading for the next chunk. A latent memory reads 9 latent
frames; an RGB memory renders 33 full-size frames and encodes them. Weights are random: time and bytes do not depend on
their values.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from mirage_nb.benchmarks.measure import clock_of, machine, one_thread
from mirage_nb.benchmarks.race import MEMORIES, summarise
from mirage_nb.cameras import Cameras, default_intrinsics
from mirage_nb.data.clip import Clip
from mirage_nb.data.rooms.room import Room
from mirage_nb.masking import writable
from mirage_nb.memory import RGBPointCloud, make_memory
from mirage_nb.models.presets import WAN22_FRAMES, WAN22_SIZE, WAN22_VAE
from mirage_nb.models.vae import as_pixels, encode, use_frame_kernels
from mirage_nb.paths import camera_path

STEPS = 20  # denoising steps of a chunk (paper)
TEXT_TOKENS = 512  # Wan pads its prompts to so many
ROOM = 900007  # a held-out room with much to see all around
RENDERED = 3  # frames of a chunk that an RGB memory renders on the CPU; their time is scaled to all frames


@dataclass(frozen=True)
class Scale:
    """What is raced: `chunks` of `frames` images of `size` pixels, and latents with one cell for `stride` pixels and
    `temporal_stride` frames. The memory is written `keys` frames of each chunk."""

    size: tuple[int, int] = WAN22_SIZE
    chunks: int = 8
    frames: int = WAN22_FRAMES
    stride: int = 16
    temporal_stride: int = 4
    channels: int = 48
    keys: int = 2

    @property
    def new_frames(self) -> int:
        return self.frames - 1

    @property
    def latent_shape(self) -> tuple[int, int, int, int]:
        """(C, t, h, w) of a chunk."""
        height, width = (n // self.stride for n in self.size)
        return self.channels, self.new_frames // self.temporal_stride + 1, height, width


def random_wan_vae(device: torch.device):
    """Wan2.2's VAE with random weights. Its decoder, most of its weights, is left tiny: only the encoder is timed."""
    from diffusers import AutoencoderKLWan

    torch.manual_seed(0)
    with torch.device(device):
        vae = AutoencoderKLWan(**WAN22_VAE | {"decoder_base_dim": 8})
    return use_frame_kernels(vae.eval().requires_grad_(False).to(torch.bfloat16))


def once_around(scale: Scale) -> tuple[Cameras, list[Clip]]:
    """A camera that turns once around in a room: the cameras of all pixel frames and of one chunk more, and the key
    frames of each chunk."""
    room, total = Room(ROOM, moving=0), scale.chunks * scale.new_frames
    c2w = camera_path("pan_left", total + scale.frames, room.start(), degrees_per_frame=360 / total)
    cameras, step, clips = Cameras(c2w, default_intrinsics(scale.size), scale.size), scale.new_frames // scale.keys, []
    for chunk in range(scale.chunks):
        at = [chunk * scale.new_frames + step * (k + 1) for k in range(scale.keys)]
        clips.append(room.render(cameras[at], torch.zeros(len(at)), chunk=1))
    return cameras, clips


@torch.no_grad()
def walk(name: str, scale: Scale, cameras: Cameras, clips: Sequence[Clip], device: torch.device, rendered: int) -> dict:
    """Write the key frames of chunk after chunk, and after each read for the chunk that follows.

    An RGB memory renders `rendered` frames of the chunk, and the time is scaled to all frames; its VAE encode is not
    part of this (`measure_encode`).

    Returns:
        `chunks`, each with `frames`, `seconds` of write and read, bytes and tokens.
    """

    def no_encode(frames: Tensor) -> Tensor:
        return frames.new_zeros(len(frames), scale.channels, *scale.latent_shape[2:])

    memory = make_memory(name, no_encode, stride=scale.stride, channels=scale.channels)
    clock, chunks, generator = clock_of(device), [], torch.Generator().manual_seed(0)
    for chunk, clip in enumerate(clips):
        latents = torch.randn(len(clip.frames), scale.channels, *scale.latent_shape[2:], generator=generator)
        latents, pixels = latents.half().to(device), as_pixels(clip.frames).to(device)
        views, depth = clip.cameras.to(device), clip.depth.to(device)
        first, every = (chunk + 1) * scale.new_frames, scale.temporal_stride
        if isinstance(memory, RGBPointCloud):
            every = max(1, scale.new_frames // (rendered - 1))
        ahead = cameras[list(range(first, first + scale.frames, every))].to(device)
        start = clock()
        memory.write(latents, depth, views, writable(depth, stride=scale.stride), frames=pixels)
        written = clock()
        memory.read(ahead)
        read = clock() - written
        if isinstance(memory, RGBPointCloud):
            read *= scale.frames / len(ahead)
        seconds = {"read": read, "write": written - start}
        chunks.append({"frames": scale.new_frames, "seconds": seconds, "bytes": memory.nbytes, "tokens": len(memory)})
    return {"chunks": chunks}


@torch.no_grad()
def measure_encode(vae, scale: Scale, device: torch.device) -> float:
    """Seconds to encode one chunk of random pixels."""
    video, clock = torch.rand(1, 3, scale.frames, *scale.size, device=device) * 2 - 1, clock_of(device)
    start = clock()
    encode(vae, video)
    return clock() - start


def race(
    scale: Scale = Scale(),
    runs: int = 5,
    memories: Sequence[str] = MEMORIES,
    device: torch.device = torch.device("cpu"),
    vae: Callable = random_wan_vae,
    track: Callable[[Iterable], Iterable] = iter,
) -> dict:
    """Race the memories' paths. On the CPU, on one thread, one chunk is encoded once, and a render takes 3 of its 33
    frames.

    Args:
        vae: called with the device to build it.
        track: goes through the runs, for example with a progress bar.

    Returns:
        A report as that of `race.race`.
    """
    gpu = device.type == "cuda"
    raw: dict[str, list[dict]] = {name: [] for name in memories}
    with one_thread():
        codec, (cameras, clips) = vae(device), once_around(scale)
        for run in track(range(runs)):
            encoding = {"encode": measure_encode(codec, scale, device)} if gpu or run == 0 else {}
            for name in memories:
                walked = walk(name, scale, cameras, clips, device, scale.frames if gpu else RENDERED)
                for chunk in walked["chunks"]:
                    chunk["seconds"] |= encoding if name.startswith("rgb") else {}
                raw[name].append(walked)
    notes = [
        f"A camera turns once around a ray-cast room in {scale.chunks} chunks of {scale.frames} frames; {scale.keys} "
        "key frames a chunk are written into every memory, with exact depth. The latent memories read "
        f"{scale.latent_shape[1]} latent frames, the RGB ones render {scale.frames} frames and encode them; times are "
        f"divided by the {scale.new_frames} new frames of a chunk. Denoising, decoding and depth are left out."
    ]
    if not gpu:
        notes.append(
            f"On the CPU the encode was measured once, and a render took {RENDERED} of the {scale.frames} frames, "
            "scaled. A GPU speeds up the encode more than the readout, so the ratio of their times is a processor's; "
            "that of the bytes is not."
        )
    settings = {"runs": runs, **vars(scale)}
    about, memories = machine(device, threads=1), summarise(raw)
    return {"scale": "paper", "settings": settings, "machine": about, "notes": notes, "memories": memories}


@torch.no_grad()
def chunk_operations(parts: Mapping[str, nn.Module], scale: Scale = Scale()) -> dict[str, int]:
    """Floating-point operations of one chunk, counted by torch on the real modules; a multiplication with its addition
    counts as two.

    Args:
        parts: `vae` and `transformer` on the meta device, from `full_size.full_size_parts`: no weights, no memory.

    Returns:
        `encode`, the VAE encode of all frames, which only an RGB memory needs; `step`, one denoising step without any
        past frames; and `decode`.
    """
    vae, transformer = parts["vae"], parts["transformer"]

    def counted(task: Callable[[], object]) -> int:
        with FlopCounterMode(display=False) as counter:
            task()
        return counter.get_total_flops()

    with torch.device("meta"):
        video, latents = torch.zeros(1, 3, scale.frames, *scale.size), torch.zeros(1, *scale.latent_shape)
        control = torch.zeros(1, transformer.config.vace_in_channels, *scale.latent_shape[1:])
        timesteps, text = torch.zeros(1, latents.shape[2]), torch.zeros(1, TEXT_TOKENS, transformer.config.text_dim)
        return {
            "encode": counted(lambda: vae.encode(video)),
            "step": counted(lambda: transformer(latents, timesteps, control, text)),
            "decode": counted(lambda: vae.decode(latents)),
        }
