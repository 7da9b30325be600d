"""From values to colours: tokens, depth, masks and readouts, each as pixels (..., 3) uint8."""

from __future__ import annotations

import numpy as np
import torch
from matplotlib import colormaps
from matplotlib.colors import to_rgb
from PIL import Image, ImageDraw
from torch import Tensor

from mirage_nb.reprojection import Readout
from mirage_nb.viz.base import COLOURS

VIRIDIS = (colormaps["viridis"](np.linspace(0, 1, 256))[:, :3] * 255).round().astype(np.uint8)
TINT = 0.6  # share of the colour where it is laid over a picture: the picture can still be recognised


def latent_colours(latents: Tensor, frames: Tensor) -> Tensor:
    """The linear map from a latent to the mean colour of its cell, by least squares.

    It is only roughly what the decoder shows: a decoder sees a token's neighbours, which a token in the memory lacks.

    Args:
        latents: (N, C, h, w).
        frames: (N, H, W, 3) uint8, what they decode to.

    Returns:
        (C + 1, 3), the last row is a constant; for `token_colours`.
    """
    n, channels, h, w = latents.shape
    pixels = torch.as_tensor(frames).movedim(-1, 1).float() / 255
    means = torch.nn.functional.adaptive_avg_pool2d(pixels, (h, w)).permute(0, 2, 3, 1).reshape(-1, 3)  # (N*h*w, 3)
    rows = latents.float().permute(0, 2, 3, 1).reshape(-1, channels)
    rows = torch.cat([rows, torch.ones(len(rows), 1)], 1).double()  # (N*h*w, C+1)
    # A little ridge, so that a run too short to tell all channels apart has an answer as well.
    ridge = 1e-3 * len(rows) * torch.eye(channels + 1, dtype=torch.float64)
    return torch.linalg.solve(rows.T @ rows + ridge, rows.T @ means.double()).float()


def token_colours(tokens: Tensor, colours: Tensor) -> Tensor:
    """(P, 3) uint8 of tokens (P, C) by the map of `latent_colours`."""
    return ((tokens.float().cpu() @ colours[:-1] + colours[-1]).clamp(0, 1) * 255).round().byte()


def pca_colours(tokens: Tensor) -> Tensor:
    """(P, 3) uint8 of tokens (P, C): the three directions in which they differ most as red, green and blue.

    Each runs over its middle 96%. Its sign is that of its largest component, so the same tokens get the same colours.
    """
    rows = tokens.detach().float().cpu()
    rows = rows - rows.mean(0)
    directions = torch.linalg.eigh(rows.T @ rows)[1].flip(1)[:, :3]
    largest = directions.gather(0, directions.abs().argmax(0, keepdim=True))
    parts = rows @ (directions * largest.sign())
    parts = torch.nn.functional.pad(parts, (0, 3 - parts.shape[1]))
    low, high = (parts.kthvalue(1 + round(q * (len(parts) - 1)), dim=0).values for q in (0.02, 0.98))
    return (((parts - low) / (high - low).clamp(min=1e-6)).clamp(0, 1) * 255).round().byte()


def heat(values: Tensor, low: float | None = None, high: float | None = None) -> np.ndarray:
    """Values of any shape, depth for example, as colours (..., 3): dark is low; unknown (not finite, or <= 0) is white.

    Args:
        values: one scale for all of them.
        low, high: the ends of the scale; by default the lowest and highest measured value.
    """
    values = values.detach().float().cpu().numpy()
    measured = np.isfinite(values) & (values > 0)
    low = low if low is not None else values[measured].min() if measured.any() else 0.0
    high = high if high is not None else values[measured].max() if measured.any() else 1.0
    scaled = np.clip((np.where(measured, values, low) - low) / max(high - low, 1e-6), 0, 1)
    return np.where(measured[..., None], VIRIDIS[(scaled * 255).astype(np.uint8)], np.uint8(255))


def readout_cells(latents: Tensor, visible: Tensor, colours: Tensor) -> np.ndarray:
    """A readout (C, h, w), visible (h, w) bool, by the tokens' colours: (h, w, 3) uint8, holes orange."""
    channels, h, w = latents.shape
    rgb = token_colours(latents.reshape(channels, -1).T, colours).reshape(h, w, 3).numpy()
    return np.where(visible.cpu().numpy()[..., None], rgb, _rgb(COLOURS["hole"]))


def holes(frames: Tensor, readout: Readout) -> Tensor:
    """Decoded readouts (N, H, W, 3) uint8, white where the memory shows nothing."""
    return torch.where(_per_pixel(readout.visibility.cpu(), frames), frames, 255)


def tinted(frames: Tensor, mask: Tensor, colour: str = COLOURS["hole"]) -> Tensor:
    """Frames (T, H, W, 3) uint8 with a colour laid over a mask, per pixel (T, H, W) or per cell (T, h, w) bool."""
    paint = 255 * torch.tensor(to_rgb(colour))
    mixed = (1 - TINT) * frames.float() + TINT * paint
    return torch.where(_per_pixel(mask, frames), mixed, frames.float()).round().byte()


def mark_cell(picture: np.ndarray | Tensor, cell: tuple[int, int], size: int, enlarge: int = 1) -> np.ndarray:
    """A picture (H, W, 3), enlarged, with a frame around one cell (row, column) of `size` pixels."""
    image = Image.fromarray(np.asarray(picture).repeat(enlarge, 0).repeat(enlarge, 1))
    x, y, edge = cell[1] * size * enlarge, cell[0] * size * enlarge, size * enlarge
    outline, width = COLOURS["picked"], max(1, enlarge // 2)
    ImageDraw.Draw(image).rectangle((x - 1, y - 1, x + edge, y + edge), outline=outline, width=width)
    return np.asarray(image)


def _per_pixel(mask: Tensor, frames: Tensor) -> Tensor:
    """A mask (N, h, w) of cells, or of pixels, as (N, H, W, 1)."""
    cell = frames.shape[1] // mask.shape[1]
    return mask.repeat_interleave(cell, 1).repeat_interleave(cell, 2)[..., None]


def _rgb(colour: str) -> np.ndarray:
    return np.array([round(255 * part) for part in to_rgb(colour)], dtype=np.uint8)
