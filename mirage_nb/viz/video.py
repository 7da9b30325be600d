"""What one watches: MP4 files, contact sheets, and videos side by side.

Frames are (T, H, W, 3) uint8 everywhere, tensors or arrays.
"""

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
from mirage_nb.viz.base import png
from mirage_nb.viz.figures import board, pictures, tile_of


def as_array(frames: Tensor | np.ndarray, name: str = "frames") -> np.ndarray:
    """Frames as a numpy array; a ValueError where they are not (T, H, W, 3) uint8, or there is none."""
    array = frames.detach().cpu().numpy() if isinstance(frames, Tensor) else np.asarray(frames)
    if array.ndim != 4 or array.shape[3] != 3 or array.dtype != np.uint8 or not array.size:
        raise ValueError(f"{name}: expected (T, H, W, 3) uint8, got {array.dtype} of shape {array.shape}")
    return array


@torch.no_grad()
def decoded(vae, latents: Tensor) -> Tensor:
    """Latents (C, t, h, w) as frames (T, H, W, 3) uint8, as `rollout` decodes them."""
    with precision(vae, latents.device):
        return as_uint8(decode(vae, latents[None].float())[0].transpose(0, 1)).cpu()


def mp4_bytes(frames: Tensor | np.ndarray, quality: int = 17) -> bytes:
    """An MP4 (H.264, 4:2:0, 12 frames a second) of frames (T, H, W, 3) uint8.

    A last row or column is repeated where the size is odd. A lower `quality`, H.264's constant rate factor, is better.
    """
    import av

    frames = as_array(frames)
    height, width = frames.shape[1:3]
    frames = np.pad(frames, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=12)
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], "yuv420p"
        # With several threads the bytes would depend on their number.
        stream.codec_context.options = {"crf": str(quality), "preset": "medium", "x264-params": "threads=1"}
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")))
        container.mux(stream.encode())
    return buffer.getvalue()


def write_mp4(path: str | Path, frames: Tensor | np.ndarray, min_side: int = 256) -> Path:
    """Write frames as an MP4, in one step; frames less than `min_side` pixels high are enlarged to that height."""
    frames = as_array(frames)
    side = max(min_side, frames.shape[1])
    write_aside(path, mp4_bytes(np.stack([np.asarray(tile_of(frame, side)) for frame in frames])))
    return Path(path)


def write_png(path: str | Path, picture: Image.Image) -> None:
    """Write a picture as PNG, in one step."""
    write_aside(path, png(picture))


def contact_sheet(
    videos: Mapping[str, Tensor | np.ndarray], columns: int = 9, title: str = "", tile: int = 128
) -> Image.Image:
    """A labelled sheet: a row for each video, a column for each of `columns` frames spread over its length.

    The videos (T, H, W, 3) uint8 are of one length and size. `title` is a line below, `tile` the height of a frame.
    """
    stack = _stacked(videos)
    chosen = np.linspace(0, stack.shape[1] - 1, min(columns, stack.shape[1])).round().astype(int)
    numbers = [f"frame {index}" if not column else str(index) for column, index in enumerate(chosen)]
    return pictures(dict(zip(videos, stack[:, chosen])), numbers, tile / 84, title)


def side_by_side(videos: Mapping[str, Tensor | np.ndarray], min_side: int = 256) -> np.ndarray:
    """One video (T, H', W', 3) of several, next to each other under their names: they cannot get out of step."""
    rows = _stacked(videos).swapaxes(0, 1)  # (T, videos, H, W, 3)
    side = max(min_side, rows.shape[2])
    return np.stack([np.asarray(board(dict(zip(videos, row)), side, len(videos))) for row in rows])


def show_videos(videos: Mapping[str, Tensor | np.ndarray]) -> None:
    """Show videos in step: a player, and below it a strip of frames for pages that play no video."""
    from IPython.display import HTML, display

    data = base64.b64encode(mp4_bytes(side_by_side(videos), quality=26)).decode()
    player = '<video controls autoplay loop muted playsinline style="max-width:100%"'
    display(HTML(f'{player} src="data:video/mp4;base64,{data}"></video>'))
    display(contact_sheet(videos, columns=7, tile=104))


def _stacked(videos: Mapping[str, Tensor | np.ndarray]) -> np.ndarray:
    """Videos of one length and size as (videos, T, H, W, 3)."""
    arrays = [as_array(frames, name) for name, frames in videos.items()]
    if len({array.shape for array in arrays}) != 1:
        raise ValueError(f"videos: expected one length and size, got {[array.shape for array in arrays]}")
    return np.stack(arrays)
