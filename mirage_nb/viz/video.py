"""What one watches: MP4 files, contact sheets, and videos side by side.

Frames are (T, H, W, 3) uint8 everywhere, tensors or arrays.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from mirage_nb.memory.io import write_aside
from mirage_nb.models.vae import as_uint8, decode, precision
from mirage_nb.viz.base import small
from mirage_nb.viz.figures import table
from mirage_nb.viz.space import board


def as_array(frames: Tensor | np.ndarray, name: str = "frames") -> np.ndarray:
    """Frames as a numpy array.

    Raises:
        ValueError: they are not (T, H, W, 3) uint8, or there is none.
    """
    array = frames.detach().cpu().numpy() if isinstance(frames, Tensor) else np.asarray(frames)
    if array.ndim != 4 or array.shape[3] != 3 or array.dtype != np.uint8 or not array.size:
        raise ValueError(f"{name}: expected (T, H, W, 3) uint8, got {array.dtype} of shape {array.shape}")
    return array


@torch.no_grad()
def decoded(vae, latents: Tensor) -> Tensor:
    """Latents (C, t, h, w) as frames (T, H, W, 3) uint8, as `rollout` decodes them."""
    with precision(vae, latents.device):
        return as_uint8(decode(vae, latents[None].float())[0].transpose(0, 1)).cpu()


def mp4_bytes(frames: Tensor | np.ndarray, fps: int = 12, quality: int = 17) -> bytes:
    """An MP4 (H.264, 4:2:0) of frames (T, H, W, 3) uint8.

    A last row or column is repeated where the size is odd, since 4:2:0 halves it.

    Args:
        fps: frames per second.
        quality: H.264's constant rate factor; lower is better and larger.
    """
    import av

    frames = as_array(frames)
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
    """Write frames as an MP4, in one step; small frames are enlarged until `min_side` pixels (see `enlarge`)."""
    write_aside(path, mp4_bytes(enlarge(frames, min_side), fps))
    return Path(path)


def write_png(path: str | Path, picture: Image.Image) -> Path:
    """Write a picture as PNG, in one step."""
    buffer = io.BytesIO()
    picture.save(buffer, "png", optimize=True)
    write_aside(path, buffer.getvalue())
    return Path(path)


def enlarge(frames: Tensor | np.ndarray, min_side: int) -> np.ndarray:
    """Frames enlarged by the smallest whole factor that makes their shorter side at least `min_side` pixels."""
    frames = as_array(frames)
    height, width = frames.shape[1:3]
    factor = -(-min_side // min(height, width))
    if factor <= 1:
        return frames
    size = (width * factor, height * factor)
    return np.stack([np.asarray(Image.fromarray(f).resize(size, Image.Resampling.LANCZOS)) for f in frames])


def spread(total: int, count: int) -> list[int]:
    """At most `count` frame numbers spread over `total` frames: first, last and, if odd, the middle."""
    return sorted({round(i) for i in np.linspace(0, total - 1, min(count, total))})


def contact_sheet(
    videos: Mapping[str, Tensor | np.ndarray], columns: int = 9, title: str = "", tile: int = 128
) -> Image.Image:
    """A labelled sheet: a row for each video, a column for each of `columns` frames spread over its length.

    Args:
        videos: name -> (T, H, W, 3) uint8, all of one length and size. Names in `base.COLOURS` get their colour.
        title: a line below, left out if empty.
        tile: height of a frame on the sheet, in pixels.
    """
    videos = _of_one_shape(videos)
    chosen = spread(len(next(iter(videos.values()))), columns)
    numbers = [f"frame {index}" if not column else str(index) for column, index in enumerate(chosen)]
    return table({name: frames[chosen] for name, frames in videos.items()}, numbers, tile, title)


def side_by_side(videos: Mapping[str, Tensor | np.ndarray], min_side: int = 256) -> np.ndarray:
    """One video (T, H', W', 3) of several, next to each other under their names: they cannot get out of step."""
    videos = {name: enlarge(frames, min_side) for name, frames in _of_one_shape(videos).items()}
    pages = ({name: Image.fromarray(f) for name, f in zip(videos, row)} for row in zip(*videos.values()))
    return np.stack([np.asarray(board(page, columns=len(videos))) for page in pages])


def show_videos(videos: Mapping[str, Tensor | np.ndarray], fps: int = 12, columns: int = 7) -> None:
    """Show videos in step: a player, and below it a strip of frames for pages that play no video."""
    from IPython.display import HTML, display

    data = base64.b64encode(mp4_bytes(side_by_side(videos), fps, quality=26)).decode()
    source = f'src="data:video/mp4;base64,{data}"'
    display(HTML(f'<video controls autoplay loop muted playsinline style="max-width:100%" {source}></video>'))
    display(small(contact_sheet(videos, columns, tile=104)))


def _of_one_shape(videos: Mapping[str, Tensor | np.ndarray]) -> dict[str, np.ndarray]:
    arrays = {name: as_array(frames, name) for name, frames in videos.items()}
    if len({a.shape for a in arrays.values()}) != 1:
        shapes = ", ".join(f"{name} {a.shape}" for name, a in arrays.items())
        raise ValueError(f"videos: expected one length and size, got {shapes or 'none'}")
    return arrays
