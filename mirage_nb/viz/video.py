"""What one watches: MP4 files, contact sheets, videos side by side, and the colours of tokens.

Frames are (T, H, W, 3) uint8 everywhere, tensors or arrays. One visual language: `COLOURS` names what is drawn.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from mirage_nb.memory.io import write_aside

# Told apart by colour-blind eyes, too (after Okabe and Ito).
COLOURS = {
    "truth": "#3b4252",
    "camera": "#0072b2",
    "memory": "#009e73",
    "latent": "#009e73",
    "append": "#56b4e9",
    "rgb": "#cc79a7",
    "rgb_capped": "#e69f00",
    "none": "#d55e00",
    "hole": "#d55e00",
}
# What a method is called in pictures.
TITLES = {
    "truth": "truth",
    "latent": "latent memory",
    "append": "append-only memory",
    "rgb": "RGB point cloud",
    "rgb_capped": "RGB, last two chunks",
    "none": "no memory",
}
INK, PAPER, QUIET = "#22262e", "#ffffff", "#7b8494"


def as_frames(frames: Tensor | np.ndarray, name: str = "frames") -> np.ndarray:
    """(T, H, W, 3) uint8 as a numpy array, checked.

    Raises:
        ValueError: another shape or dtype, or no frame.
    """
    array = frames.detach().cpu().numpy() if isinstance(frames, Tensor) else np.asarray(frames)
    if array.ndim != 4 or array.shape[3] != 3 or array.dtype != np.uint8 or not array.size:
        raise ValueError(f"{name}: expected (T, H, W, 3) uint8, got {array.dtype} of shape {array.shape}")
    return array


def mp4_bytes(frames: Tensor | np.ndarray, fps: int = 12, quality: int = 17) -> bytes:
    """An MP4 (H.264, 4:2:0) of frames (T, H, W, 3) uint8.

    A last row or column is repeated where the size is odd, since 4:2:0 halves it.

    Args:
        fps: frames per second.
        quality: H.264's constant rate factor; lower is better and larger.
    """
    import av

    frames = as_frames(frames)
    height, width = frames.shape[1:3]
    frames = np.pad(frames, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=fps)
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], "yuv420p"
        stream.codec_context.options = {"crf": str(quality), "preset": "medium"}
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")))
        container.mux(stream.encode())
    return buffer.getvalue()


def write_mp4(path: str | Path, frames: Tensor | np.ndarray, fps: int = 12, min_side: int = 256) -> Path:
    """Write frames as an MP4, aside and renamed; small frames are enlarged by a whole factor to be seen at all.

    Args:
        min_side: frames are enlarged (Lanczos) until their shorter side has this many pixels.
    """
    write_aside(path, mp4_bytes(enlarge(frames, min_side), fps))
    return Path(path)


def write_animation(path: str | Path, frames: Tensor | np.ndarray, fps: int = 12) -> Path:
    """Write frames as an endless GIF or WebP, told by the name's ending: for pages that play no MP4."""
    pictures = [Image.fromarray(frame) for frame in as_frames(frames)]
    kind, buffer = Path(path).suffix.lstrip(".").lower(), io.BytesIO()
    if kind not in ("gif", "webp"):
        raise ValueError(f"path: expected a name that ends in .gif or .webp, got {Path(path).name}")
    if kind == "gif":  # one palette for all frames, or still surfaces flicker
        palette = Image.fromarray(np.concatenate([np.asarray(p) for p in pictures[:: max(1, len(pictures) // 8)]]))
        palette = palette.quantize(256, Image.Quantize.MEDIANCUT)
        pictures = [p.quantize(palette=palette, dither=Image.Dither.NONE) for p in pictures]
    options = {"quality": 80} if kind == "webp" else {"optimize": True}
    duration = round(1000 / fps)
    pictures[0].save(buffer, kind, save_all=True, append_images=pictures[1:], duration=duration, loop=0, **options)
    write_aside(path, buffer.getvalue())
    return Path(path)


def write_png(path: str | Path, picture: Image.Image) -> Path:
    """Write a picture as PNG, aside and renamed."""
    buffer = io.BytesIO()
    picture.save(buffer, "png", optimize=True)
    write_aside(path, buffer.getvalue())
    return Path(path)


def enlarge(frames: Tensor | np.ndarray, min_side: int) -> np.ndarray:
    """Frames enlarged by the smallest whole factor that makes their shorter side at least `min_side` pixels."""
    frames = as_frames(frames)
    height, width = frames.shape[1:3]
    factor = -(-min_side // min(height, width))
    if factor <= 1:
        return frames
    size = (width * factor, height * factor)
    return np.stack([np.asarray(Image.fromarray(f).resize(size, Image.Resampling.LANCZOS)) for f in frames])


def spread(total: int, count: int) -> list[int]:
    """At most `count` frame numbers spread over `total` frames: first, last and, if odd, the middle."""
    return sorted({round(i) for i in np.linspace(0, total - 1, min(count, total))})


def title_of(name: str) -> str:
    return TITLES.get(name, name)


def contact_sheet(
    videos: Mapping[str, Tensor | np.ndarray], columns: int = 9, title: str = "", tile: int = 128
) -> Image.Image:
    """A labelled sheet: a row for each video, a column for each of `columns` frames spread over its length.

    Args:
        videos: name -> (T, H, W, 3) uint8, all of one length and size. Names in `COLOURS` get their colour.
        title: a line above, left out if empty.
        tile: height of a frame on the sheet, in pixels.
    """
    videos = _alike(videos)
    length, height, width = next(iter(videos.values())).shape[:3]
    chosen, tile_width = spread(length, columns), round(tile * width / height)
    small, large = _font(13), _font(16)
    margin = 14 + max(round(small.getlength(title_of(name))) for name in videos) + 10
    top = (30 if title else 6) + 20
    sheet = Image.new("RGB", (margin + len(chosen) * (tile_width + 4) + 6, top + len(videos) * (tile + 4) + 4), PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.text((10, 8), title, INK, large)
    for column, index in enumerate(chosen):
        middle = margin + column * (tile_width + 4) + tile_width / 2
        draw.text((middle, top - 5), f"frame {index}" if not column else str(index), QUIET, small, "ms")
    for row, (name, frames) in enumerate(videos.items()):
        y = top + row * (tile + 4)
        draw.rectangle((3, y, 6, y + tile - 1), COLOURS.get(name, QUIET))
        draw.text((14, y + tile / 2), title_of(name), COLOURS.get(name, INK), small, "lm")
        for column, index in enumerate(chosen):
            picture = Image.fromarray(frames[index]).resize((tile_width, tile), Image.Resampling.LANCZOS)
            sheet.paste(picture, (margin + column * (tile_width + 4), y))
    return sheet


def stack_sheets(sheets: list[Image.Image]) -> Image.Image:
    """Pictures one below the other."""
    whole = Image.new("RGB", (max(s.width for s in sheets), sum(s.height + 8 for s in sheets) - 8), PAPER)
    for i, sheet in enumerate(sheets):
        whole.paste(sheet, (0, sum(s.height + 8 for s in sheets[:i])))
    return whole


def side_by_side(videos: Mapping[str, Tensor | np.ndarray], min_side: int = 256) -> np.ndarray:
    """One video (T, H', W', 3) of several, next to each other under their names: they cannot get out of step."""
    videos = {name: enlarge(frames, min_side) for name, frames in _alike(videos).items()}
    length, height, width = next(iter(videos.values())).shape[:3]
    banner, gap = 28, 6
    page = Image.new("RGB", (len(videos) * (width + gap) - gap, height + banner), PAPER)
    draw = ImageDraw.Draw(page)
    for column, name in enumerate(videos):
        x = column * (width + gap)
        draw.rectangle((x, banner - 4, x + width - 1, banner - 1), COLOURS.get(name, QUIET))
        draw.text((x + width / 2, banner - 10), title_of(name), COLOURS.get(name, INK), _font(16), "ms")
    whole = np.repeat(np.asarray(page)[None], length, 0)
    for column, frames in enumerate(videos.values()):
        whole[:, banner:, column * (width + gap) : column * (width + gap) + width] = frames
    return whole


def latent_colours(latents: Tensor, frames: Tensor) -> Tensor:
    """The linear map from a latent to the mean colour of its cell, by least squares: (C + 1, 3), last a constant.

    Simple and honest: a decoder sees a token's neighbours, which a token in the memory no longer has.

    Args:
        latents: (N, C, h, w). frames: (N, H, W, 3) uint8, what they decode to.
    """
    n, channels, h, w = latents.shape
    pixels = torch.as_tensor(frames).movedim(-1, 1).float() / 255
    means = torch.nn.functional.adaptive_avg_pool2d(pixels, (h, w)).permute(0, 2, 3, 1).reshape(-1, 3)
    rows = latents.float().permute(0, 2, 3, 1).reshape(-1, channels)
    rows = torch.cat([rows, torch.ones(len(rows), 1)], 1).double()
    # A little ridge, so that a run too short to tell all channels apart has an answer as well.
    ridge = 1e-3 * len(rows) * torch.eye(channels + 1, dtype=torch.float64)
    return torch.linalg.solve(rows.T @ rows + ridge, rows.T @ means.double()).float()


def token_colours(tokens: Tensor, colours: Tensor) -> Tensor:
    """(P, 3) uint8 of tokens (P, C) by the map of `latent_colours`."""
    return ((tokens.float().cpu() @ colours[:-1] + colours[-1]).clamp(0, 1) * 255).round().byte()


def _alike(videos: Mapping[str, Tensor | np.ndarray]) -> dict[str, np.ndarray]:
    arrays = {name: as_frames(frames, name) for name, frames in videos.items()}
    if len({a.shape for a in arrays.values()}) != 1:
        shapes = ", ".join(f"{name} {a.shape}" for name, a in arrays.items())
        raise ValueError(f"videos: expected one length and size, got {shapes or 'none'}")
    return arrays


def _font(size: int):
    return ImageFont.load_default(size)
