"""The race at the paper's scale: 704 x 1280 pixels, chunks of 33 frames, and the VAE of Wan2.2-TI2V-5B.

It races the memory's own path: writing key frames, and reading for the next chunk. Weights are random, since time and
bytes do not depend on their values.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mirage_nb.benchmarks.measure import machine, one_thread
from mirage_nb.benchmarks.race import MEMORIES, summarise
from mirage_nb.cameras import Cameras, default_intrinsics
from mirage_nb.data.clip import Clip
from mirage_nb.data.rooms.room import Room
from mirage_nb.masking import writable
from mirage_nb.memory import RGBPointCloud, make_memory
from mirage_nb.models.presets import WAN22_FRAMES, WAN22_SIZE, WAN22_VAE
from mirage_nb.models.vae import as_pixels, encode, use_frame_kernels
from mirage_nb.paths import camera_path
from mirage_nb.segments import Clock

ROOM = 900007  # a held-out room with much to see all around
RENDERED = 3  # frames of a chunk that an RGB memory renders on the CPU; their time is scaled to all frames


@dataclass(frozen=True)
class Scale:
    """`chunks` of `frames` images of `size` pixels, latents with one cell for `stride` pixels and `temporal_stride`
    frames, and `keys` frames of each chunk that are written."""

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
    """A turn around in a room: the cameras of all pixel frames and of one chunk more, and each chunk's key frames."""
    room, total = Room(ROOM, moving=0), scale.chunks * scale.new_frames
    c2w = camera_path("pan_left", total + scale.frames, room.start(), degrees_per_frame=360 / total)
    cameras, step, clips = Cameras(c2w, default_intrinsics(scale.size), scale.size), scale.new_frames // scale.keys, []
    for chunk in range(scale.chunks):
        at = [chunk * scale.new_frames + step * (k + 1) for k in range(scale.keys)]
        clips.append(room.render(cameras[at], torch.zeros(len(at))))
    return cameras, clips


def walk(name: str, scale: Scale, cameras: Cameras, clips: Sequence[Clip], device: torch.device) -> list[dict]:
    """Write the key frames of chunk after chunk, and after each read for the chunk that follows.

    The read of an RGB memory is its render; its VAE encode is measured once for all chunks, by `race`.

    Returns:
        For each chunk its `frames`, `seconds` of write and read, bytes and tokens.
    """

    def no_encode(frames: Tensor) -> Tensor:
        return frames.new_zeros(len(frames), scale.channels, *scale.latent_shape[2:])

    memory = make_memory(name, no_encode, stride=scale.stride, channels=scale.channels)
    every = scale.temporal_stride
    if isinstance(memory, RGBPointCloud):
        every = 1 if device.type == "cuda" else max(1, scale.new_frames // (RENDERED - 1))
    chunks, generator = [], torch.Generator().manual_seed(0)
    for chunk, clip in enumerate(clips):
        latents = torch.randn(len(clip.frames), scale.channels, *scale.latent_shape[2:], generator=generator)
        latents, pixels = latents.half().to(device), as_pixels(clip.frames).to(device)
        views, depth = clip.cameras.to(device), clip.depth.to(device)
        first = (chunk + 1) * scale.new_frames
        ahead, clock = cameras[list(range(first, first + scale.frames, every))].to(device), Clock(device)
        with clock("write"):
            memory.write(latents, depth, views, writable(depth, stride=scale.stride), frames=pixels)
        with clock("read"):
            memory.read(ahead)
        seconds = {stage: clock.seconds[stage] for stage in ("read", "write")}
        if isinstance(memory, RGBPointCloud):
            seconds["read"] *= scale.frames / len(ahead)
        chunks.append({"frames": scale.new_frames, "seconds": seconds, "bytes": memory.nbytes, "tokens": len(memory)})
    return chunks


@torch.no_grad()
def race(
    scale: Scale = Scale(), runs: int = 5, device: torch.device = torch.device("cpu"), vae=None,
    track: Callable[[Iterable], Iterable] = iter,
) -> dict:  # fmt: skip
    """Race the memories' paths, on one thread; the report is as that of `race.race`.

    Args:
        vae: by default `random_wan_vae`.
        track: goes through the runs, for example with a progress bar.
    """
    raw: dict[str, list[dict]] = {name: [] for name in MEMORIES}
    with one_thread():
        about, vae, (cameras, clips) = machine(device), vae or random_wan_vae(device), once_around(scale)
        video = torch.rand(1, 3, scale.frames, *scale.size, device=device) * 2 - 1
        for run in track(range(runs)):
            clock, encoded = Clock(device), device.type == "cuda" or run == 0
            if encoded:
                with clock("read"):
                    encode(vae, video)
            for name in MEMORIES:
                chunks = walk(name, scale, cameras, clips, device)
                if encoded and name.startswith("rgb"):
                    chunks = [c | {"seconds": c["seconds"] | {"encode": clock.seconds["read"]}} for c in chunks]
                raw[name].append({"chunks": chunks})
    notes = [
        f"A camera turns once around a ray-cast room; {scale.keys} key frames a chunk are written into every memory, "
        f"with exact depth. The latent memories read {scale.latent_shape[1]} latent frames, the RGB ones render "
        f"{scale.frames} frames and encode them. Times are per new frame, without denoising, decoding and depth."
    ]
    if device.type != "cuda":
        notes.append(
            f"On the CPU the encode was measured once, and a render took {RENDERED} frames, scaled. A GPU speeds up "
            "the encode more than the readout, so the ratio of the times is a processor's; that of the bytes is not."
        )
    settings = {"runs": runs, **vars(scale)}
    return {"scale": "paper", "settings": settings, "machine": about, "notes": notes, "memories": summarise(raw)}
