"""The race at the paper's scale, 704 x 1280 pixels, chunks of 33 frames and the VAE of Wan2.2-TI2V-5B, of the memory's
own path: writing key frames, reading for the next chunk. Weights are random: time and bytes do not depend on them."""

from collections.abc import Callable, Iterable, Sequence

import torch

from mirage_nb.benchmarks.race import MEMORIES, machine, one_thread, summarise
from mirage_nb.cameras import Cameras, default_intrinsics
from mirage_nb.data.clip import Clip
from mirage_nb.data.rooms.room import Room
from mirage_nb.masking import writable
from mirage_nb.memory import RGBPointCloud, make_memory
from mirage_nb.models.presets import WAN22_FRAMES, WAN22_SIZE, WAN22_VAE
from mirage_nb.models.vae import as_pixels, encode, spatial_stride, use_frame_kernels
from mirage_nb.paths import camera_path
from mirage_nb.segments import Clock

ROOM = 900007  # a held-out room with much to see all around
KEYS = 2  # frames of a chunk that are written
RENDERED = 3  # frames of a chunk that an RGB memory renders; their time is scaled to all frames


def random_wan_vae(device: torch.device):
    """Wan2.2's VAE with random weights. Its decoder, most of its weights, is left tiny: only the encoder is timed."""
    from diffusers import AutoencoderKLWan

    torch.manual_seed(0)
    with torch.device(device):
        vae = AutoencoderKLWan(**WAN22_VAE | {"decoder_base_dim": 8})
    return use_frame_kernels(vae.eval().requires_grad_(False).to(torch.bfloat16))


def once_around(chunks: int, frames: int, size: tuple[int, int]) -> tuple[Cameras, list[Clip]]:
    """A turn around in a room: the cameras of all pixel frames and of one chunk more, and each chunk's key frames."""
    room, new = Room(ROOM, moving=0), frames - 1
    c2w = camera_path("pan_left", chunks * new + frames, room.start(), degrees_per_frame=360 / (chunks * new))
    cameras = Cameras(c2w, default_intrinsics(size), size)
    keys = [[chunk * new + new // KEYS * (k + 1) for k in range(KEYS)] for chunk in range(chunks)]
    return cameras, [room.render(cameras[at], torch.zeros(KEYS)) for at in keys]


def walk(name: str, vae, cameras: Cameras, clips: Sequence[Clip], frames: int, device: torch.device) -> list[dict]:
    """Write the key frames of chunk after chunk, and after each read for the chunk that follows: for each its `frames`,
    `seconds` of write and read, bytes and tokens.

    The read of an RGB memory is its render; its VAE encode is measured for all chunks together, by `race`.
    """
    stride, channels, new = spatial_stride(vae), vae.config.z_dim, frames - 1
    shape = (channels, *(n // stride for n in cameras.size))
    memory = make_memory(name, lambda pixels: pixels.new_zeros(len(pixels), *shape), stride=stride, channels=channels)
    renders = isinstance(memory, RGBPointCloud)
    every = max(1, new // (RENDERED - 1)) if renders else vae.config.scale_factor_temporal
    chunks, generator = [], torch.Generator().manual_seed(0)
    for chunk, clip in enumerate(clips, 1):
        latents = torch.randn(KEYS, *shape, generator=generator).half().to(device)
        pixels, depth, views = as_pixels(clip.frames).to(device), clip.depth.to(device), clip.cameras.to(device)
        ahead, clock = cameras[list(range(chunk * new, chunk * new + frames, every))].to(device), Clock(device)
        with clock("write"):
            memory.write(latents, depth, views, writable(depth, stride=stride), frames=pixels)
        with clock("read"):
            memory.read(ahead)
        read = clock.seconds["read"] * (frames / len(ahead) if renders else 1)
        seconds = {"read": read, "write": clock.seconds["write"]}
        chunks.append({"frames": new, "seconds": seconds, "bytes": memory.nbytes, "tokens": len(memory)})
    return chunks


@one_thread()
@torch.no_grad()
def race(
    runs: int = 5, chunks: int = 8, device: torch.device = torch.device("cpu"), vae=None, frames: int = WAN22_FRAMES,
    size: tuple[int, int] = WAN22_SIZE, track: Callable[[Iterable], Iterable] = iter,
) -> dict:  # fmt: skip
    """Race the memories' paths, on one thread; arguments and report are those of `race.race`. New are the VAE (by
    default `random_wan_vae`), the frames of a chunk, and their size (height, width)."""
    raw, vae = {name: [] for name in MEMORIES}, vae or random_wan_vae(device)
    cameras, clips = once_around(chunks, frames, size)
    video = torch.rand(1, 3, frames, *size, device=device) * 2 - 1
    for run in track(range(runs)):
        clock, encoded = Clock(device), device.type == "cuda" or run == 0
        if encoded:
            with clock("read"):
                encode(vae, video)
        for name in MEMORIES:
            walked = walk(name, vae, cameras, clips, frames, device)
            for chunk in walked if encoded and name.startswith("rgb") else ():
                chunk["seconds"]["encode"] = clock.seconds["read"]
            raw[name].append({"chunks": walked})
    latent_frames = 1 + (frames - 1) // vae.config.scale_factor_temporal
    notes = [
        f"A camera turns once around a ray-cast room; {KEYS} key frames a chunk are written into every memory, with "
        f"exact depth. The latent memories read {latent_frames} latent frames, the RGB ones render {RENDERED} frames, "
        f"scaled to {frames}, and encode them. Times are per new frame, without denoising, decoding and depth.",
        "On a CPU the encode was measured once. A GPU speeds it up more than the readout, so there the ratio of the "
        "times is smaller; that of the bytes is the same.",
    ]
    settings = {"runs": runs, "chunks": chunks, "frames": frames, "size": list(size), "keys": KEYS}
    about = {"scale": "paper", "settings": settings, "machine": machine(device)}
    return about | {"notes": notes, "memories": summarise(raw)}
