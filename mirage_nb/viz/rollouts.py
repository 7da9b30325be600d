"""Pictures of stages 4 and 5: what is masked, what a ghost is, what a segment does, and how a walk drifts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from mirage_nb.cameras import Cameras
from mirage_nb.reprojection import Readout
from mirage_nb.viz.base import drawn, small
from mirage_nb.viz.cloud import fewer, frustum, stations
from mirage_nb.viz.video import COLOURS, INK, QUIET, title_of

MASKED, TINT = COLOURS["hole"], 0.6


def tinted(frames: Tensor, mask: Tensor, colour: str = MASKED, share: float = TINT) -> Tensor:
    """Frames (T, H, W, 3) uint8 with a colour laid over a mask, per pixel (T, H, W) or per cell (T, h, w) bool."""
    cell = frames.shape[1] // mask.shape[1]
    mask = mask.repeat_interleave(cell, 1).repeat_interleave(cell, 2)[..., None]
    paint = 255 * torch.tensor(to_rgb(colour))
    return torch.where(mask, (1 - share) * frames.float() + share * paint, frames.float()).round().byte()


def pictures(
    rows: Mapping[str, Sequence], columns: Sequence[str] = (), size: float = 1.55, note: str = ""
) -> Image.Image:
    """A table of pictures: a named row each, (T, H, W, 3) uint8 or (T, H, W) values, with a title a column.

    Values are drawn with one scale a row; NaN and None stay white.
    """
    count = max(len(row) for row in rows.values())
    figure = Figure(figsize=(size * count + 1.3, size * len(rows) + 0.25 + 0.3 * bool(note)), layout="constrained")
    axes = figure.subplots(len(rows), count, squeeze=False)
    for line, (name, row) in zip(axes, rows.items()):
        values = [np.asarray(x) for x in row if x is not None]
        flat = values[0].ndim == 2
        limits = {"vmin": np.nanmin(values), "vmax": np.nanmax(values)} if flat and values[0].dtype != bool else {}
        for axis, picture in zip(line, list(row) + [None] * (count - len(row))):
            axis.set(xticks=[], yticks=[])
            axis.spines[:].set_color(COLOURS.get(name, QUIET))
            if picture is None:
                axis.spines[:].set_visible(False)
                continue
            axis.imshow(np.asarray(picture), cmap="viridis", **limits)
        line[0].set_ylabel(title_of(name).replace(", ", ",\n"), color=COLOURS.get(name, INK), fontsize=9, rotation=0)
        line[0].yaxis.set_label_coords(-0.06, 0.5)
        line[0].yaxis.label.set(horizontalalignment="right", verticalalignment="center")
    for axis, title in zip(axes[0], columns):
        axis.set_title(title, color=INK, fontsize=9)
    if note:
        figure.supxlabel(note, fontsize=9, color=QUIET)
    return small(drawn(figure, dpi=84))


def ghost_plan(memories: Mapping[str, tuple[Tensor, Tensor, Tensor]], cameras: Cameras) -> Image.Image:
    """Memories from above, side by side, their ghosts marked.

    Args:
        memories: name -> positions (P, 3), colours (P, 3) uint8, and which are ghosts (P,) bool.
        cameras: of the walk.
    """
    figure = Figure(figsize=(3.3 * len(memories), 3.9), layout="compressed")
    axes = figure.subplots(1, len(memories), squeeze=False, sharex=True, sharey=True)[0]
    for axis, (name, (positions, colours, ghost)) in zip(axes, memories.items()):
        _plan(axis, positions, colours, ghost, cameras, stations(cameras))
        count = int(ghost.sum())
        text = f"{name}\n{len(positions):,} tokens, {count} ghosts"
        axis.set_title(text, color=MASKED if count else INK, fontsize=10)
    return small(drawn(figure))


def memory_step(
    seen: Tensor, spoken: Tensor, positions: Tensor, colours: Tensor, ghost: Tensor, cameras: Cameras, frame: int
) -> Image.Image:
    """One moment of a walk: a frame with what is left out, what the memory says of the view, and its tokens from above.

    seen, spoken: (H, W, 3) uint8; positions (P, 3), colours (P, 3) uint8 and ghost (P,) bool as in `ghost_plan`.
    """
    figure = Figure(figsize=(9, 3.2), layout="constrained")
    left, middle, plan = figure.subplots(1, 3, width_ratios=(1, 1, 1.15))
    for axis, picture, title in (
        (left, seen, f"frame {frame}, left out: orange"),
        (middle, spoken, "what the memory says"),
    ):
        axis.imshow(np.asarray(picture))
        axis.set(xticks=[], yticks=[])
        axis.set_title(title, color=INK, fontsize=10)
    _plan(plan, positions, colours, ghost, cameras, [frame])
    plan.set_title(
        f"{len(positions):,} tokens, {int(ghost.sum())} ghosts", color=MASKED if ghost.any() else INK, fontsize=10
    )
    return drawn(figure, dpi=80)


def _plan(axis, positions: Tensor, colours: Tensor, ghost: Tensor, cameras: Cameras, views: list[int]) -> None:
    """Tokens from above, the higher ones on top, ghosts ringed, and the path with some of its views."""
    points, rgb, _ = fewer(positions, colours)
    points, rgb = points.cpu().numpy(), rgb.cpu().numpy() / 255
    order = np.argsort(-points[:, 1])
    axis.scatter(points[order, 0], points[order, 2], c=rgb[order], s=9, linewidths=0)
    marked = positions[ghost].cpu().numpy()
    axis.scatter(marked[:, 0], marked[:, 2], s=26, facecolors="none", edgecolors=MASKED, linewidths=1)
    path = cameras.centers.cpu().numpy()
    axis.plot(path[:, 0], path[:, 2], color=COLOURS["camera"], linewidth=2)
    for i in views:
        line = frustum(cameras[i])
        axis.plot(line[:, 0], line[:, 2], color=COLOURS["camera"], linewidth=1)
    axis.set_aspect("equal")
    axis.set_xlabel("metres", fontsize=9)
    axis.spines[["top", "right"]].set_visible(False)


def lines(
    curves: Mapping[str, Sequence[float]], xlabel: str, ylabel: str, x: Sequence[float] | None = None,
    marks: Mapping[float, str] | None = None, size: tuple[float, float] = (8.0, 3.0),
) -> Image.Image:  # fmt: skip
    """Named curves over x (by default 0, 1, 2, ...), labelled in their colours, with named vertical marks."""
    figure = Figure(figsize=size, layout="constrained")
    axis = figure.subplots()
    spare = iter(["#0072b2", "#cc79a7", "#56b4e9", "#e69f00", "#7b8494"])
    for name, values in curves.items():
        y = np.asarray(values, dtype=float)
        y[np.isinf(y)] = np.nan
        style = {"marker": "o", "markersize": 4} if len(y) < 20 else {}
        colour = COLOURS.get(name) or next(spare)
        axis.plot(np.arange(len(y)) if x is None else x, y, color=colour, linewidth=2, label=title_of(name), **style)
    for at, text in (marks or {}).items():
        axis.axvline(at, color=QUIET, linewidth=1, linestyle=":")
        axis.annotate(
            text, (at, 1), (4, -4), xycoords=("data", "axes fraction"), textcoords="offset points", va="top",
            color=QUIET, fontsize=9,
        )  # fmt: skip
    axis.set(xlabel=xlabel, ylabel=ylabel)
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(axis="y", color=QUIET, alpha=0.25)
    axis.legend(frameon=False, labelcolor="linecolor", fontsize=9)
    return drawn(figure)


def plan_picture(segments) -> Image.Image:
    """The plan of a walk: a bar a segment, its overlap frame dark and its new frames light."""
    figure = Figure(figsize=(8, 0.42 * len(segments) + 0.8), layout="constrained")
    axis = figure.subplots()
    for segment in segments:
        new = segment.new
        axis.barh(segment.index, len(new), left=new.start - 0.5, height=0.62, color=COLOURS["memory"], alpha=0.55)
        if segment.index:
            axis.barh(segment.index, 1, left=segment.start - 0.5, height=0.62, color=COLOURS["truth"])
        for frame in range(segment.start, segment.stop):
            dark = segment.index and frame == segment.start
            axis.text(frame, segment.index, frame, ha="center", va="center", fontsize=8, color="white" if dark else INK)
    axis.invert_yaxis()
    axis.set(yticks=range(len(segments)), yticklabels=[f"segment {s.index}" for s in segments], xticks=[])
    axis.set_xlabel("frames: dark was made by the segment before, green is new", color=QUIET, fontsize=9)
    axis.spines[:].set_visible(False)
    return drawn(figure)


def segment_sheet(
    result, readout_frames: Tensor, latent_rgb: Tensor, truth: Tensor | None = None, scene: int = 0
) -> Image.Image:
    """One segment opened up: what was read, generated, decoded, measured and written, a column a latent frame.

    Args:
        result: a `SegmentResult`.
        readout_frames: (t, H, W, 3) uint8, the readout of the new latent frames, decoded alone.
        latent_rgb: (t, h, w, 3) uint8, the generated latents as colours.
        truth: (t, H, W, 3) uint8 of the same frames.
    """
    frames, readout = result.frames[scene], result.readouts[scene]
    new = len(readout) - 1  # the given image, which the first segment counts as its own, is left out
    stride = (len(frames) - (result.index == 0)) // new
    frames = frames[(result.index == 0) :][stride - 1 :: stride]
    written = result.written[scene][-new:]
    rows = {
        "read from\nthe memory": holes(readout_frames, readout[1:]),
        "depth of\nthe readout": [shown(x) for x in readout.depth[1:]],
        "generated\nlatents": list(latent_rgb),
        "decoded": list(frames),
        "estimated\ndepth": list(result.depth[scene][-new:]),
        "written\n(orange: not)": list(tinted(frames, ~written)),
    }
    if truth is not None:
        rows = {"truth": list(truth)} | rows
    return pictures(rows, [f"latent frame {i + 1}" for i in range(new)], size=1.3)


def holes(frames: Tensor, readout: Readout) -> list:
    """Decoded readouts (t, H, W, 3), white where the memory shows nothing."""
    cell = frames.shape[1] // readout.visibility.shape[1]
    seen = readout.visibility.repeat_interleave(cell, 1).repeat_interleave(cell, 2)[..., None].cpu()
    return list(torch.where(seen, frames, 255))


def shown(depth: Tensor) -> np.ndarray:
    """A depth map with NaN, drawn as white, where it is unknown."""
    return torch.where(depth > 0, depth, torch.nan).cpu().numpy()
