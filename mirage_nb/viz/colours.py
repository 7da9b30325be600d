"""From values to colours: tokens, depth, masks and readouts, each as pixels (..., 3) uint8."""

import numpy as np
import torch
from matplotlib import colormaps
from matplotlib.colors import Normalize, to_rgb
from torch import Tensor

from mirage_nb.viz.base import COLOURS


def latent_colours(latents: Tensor, frames: Tensor) -> Tensor:
    """The linear map from latents (N, C, h, w) to the mean colours of their cells in the decoded frames, (N, H, W, 3)
    uint8, by least squares: only roughly what is decoded. (C + 1, 3), the last row a constant; for `token_colours`."""
    n, channels, h, w = latents.shape
    pixels = torch.as_tensor(frames).movedim(-1, 1).float() / 255
    means = torch.nn.functional.adaptive_avg_pool2d(pixels, (h, w)).permute(0, 2, 3, 1).reshape(-1, 3)  # (N*h*w, 3)
    rows = latents.cpu().float().permute(0, 2, 3, 1).reshape(-1, channels)
    rows = torch.cat([rows, torch.ones(len(rows), 1)], 1).double()  # (N*h*w, C+1)
    # A little ridge: too few cells to tell all channels apart have an answer as well.
    ridge = 1e-3 * len(rows) * torch.eye(channels + 1, dtype=torch.float64)
    return torch.linalg.solve(rows.T @ rows + ridge, rows.T @ means.double()).float()


def token_colours(tokens: Tensor, colours: Tensor) -> Tensor:
    """(P, 3) uint8 of tokens (P, C) by the map of `latent_colours`."""
    return ((tokens.float().cpu() @ colours[:-1] + colours[-1]).clamp(0, 1) * 255).round().byte()


def pca_colours(tokens: Tensor) -> Tensor:
    """(P, 3) uint8 of tokens (P, C): the three directions in which they differ most as red, green and blue, each over
    its middle 96%. Its sign is that of its largest component, so the same tokens get the same colours."""
    rows = tokens.detach().float().cpu()
    rows = rows - rows.mean(0)
    directions = torch.linalg.eigh(rows.T @ rows)[1].flip(1)[:, :3]
    largest = directions.gather(0, directions.abs().argmax(0, keepdim=True))
    parts = torch.nn.functional.pad(rows @ (directions * largest.sign()), (0, 3 - directions.shape[1]))  # (P, 3)
    low, high = parts.quantile(torch.tensor([0.02, 0.98]), 0, interpolation="nearest")
    return (((parts - low) / (high - low).clamp(min=1e-6)).clamp(0, 1) * 255).round().byte()


def heat(values: Tensor, low: float | None = None, high: float | None = None) -> np.ndarray:
    """Values of any shape, depth for example, as colours (..., 3), dark where they are low, white where unknown (not
    finite, or <= 0). The scale runs from `low` to `high`, by default the lowest and the highest measured value."""
    values = values.detach().float().cpu().numpy()
    measured = np.ma.masked_where(~np.isfinite(values) | (values <= 0), values)
    shades = colormaps["viridis"].with_extremes(bad="white")
    return shades(Normalize(low, high, clip=True)(measured), bytes=True)[..., :3]


def readout_cells(latents: Tensor, visible: Tensor, colours: Tensor) -> np.ndarray:
    """A readout (C, h, w), visible (h, w) bool, by the tokens' colours: (h, w, 3) uint8, holes orange."""
    rgb = token_colours(latents.flatten(1).T, colours).view(1, *visible.shape, 3)
    return tinted(rgb, ~visible[None].cpu(), share=1.0)[0].numpy()


def tinted(frames: Tensor, mask: Tensor, colour: str = COLOURS["hole"], share: float = 0.6) -> Tensor:
    """Frames (T, H, W, 3) uint8 with a share of a colour over a mask, (T, H, W) pixels or (T, h, w) cells."""
    cell = frames.shape[1] // mask.shape[1]
    pixels = mask.repeat_interleave(cell, 1).repeat_interleave(cell, 2)[..., None]  # (T, H, W, 1)
    mixed = (1 - share) * frames.float() + share * 255 * torch.tensor(to_rgb(colour))
    return torch.where(pixels, mixed, frames.float()).round().byte()
