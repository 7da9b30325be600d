"""A cost model on paper: what the networks of a chunk do, as a function of resolution, stride, channels and frames.

Nothing in it is fitted to the race. Operations are counted from the configurations, bytes from the lines of diffusers'
blocks and ours; `rates` says how fast a machine does them, and `predictions` puts the answer beside what was measured.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from mirage_nb.benchmarks.rates import Work

HALF = 2  # bytes of a number in half precision


def layer(
    inputs: int,
    outputs: int,
    kernel: int,
    positions: float,
    passes: float = 0.0,
    calls: int = 3,
    functions: float = 0.0,
) -> Work:
    """A convolution or projection at so many positions; for each input value, `passes` bytes are moved around it, and
    so many functions applied."""
    values = inputs * positions
    flops = {float(min(inputs, outputs)): 2.0 * kernel * outputs * values}
    return Work(flops, {HALF * values: passes * values} if passes else {}, 0, functions * values, 0, calls)


# Around a convolution of Wan's VAE in bf16: to float32 (2 + 4), its norm (4), divide (4 + 4), back (4 + 2), two factors
# (2 + 2 each), SiLU (2 + 2); joined with the frames before (2 + 2), padded (2 + 2), read and written (2 + 2).
NORM_BYTES = 6 + 4 + 8 + 6 + 8 + 4
CONV_BYTES = 4 + 4 + 4


def _residual(inputs: int, outputs: int, positions: float, kernel: int = 27) -> Work:
    around = NORM_BYTES + CONV_BYTES
    work = layer(inputs, outputs, kernel, positions, around, 12, 1)
    work += layer(outputs, outputs, kernel, positions, around, 12, 1)
    return work + (layer(inputs, outputs, 1, positions, 4) if inputs != outputs else Work())


def _middle(width: int, cells: float, frames: float, kernel: int = 27) -> Work:
    """Two residual blocks around the attention of each frame's cells to each other."""
    attention = Work(attention=4.0 * cells * cells * width * frames, calls=10)
    attention += layer(width, 4 * width, 1, cells * frames, NORM_BYTES)
    return 2 * _residual(width, width, cells * frames, kernel) + attention


@dataclass(frozen=True)
class _Levels:
    """The levels of a VAE from fine to coarse: channels (in the encoder), cells and frames of each."""

    config: Mapping
    frames: int
    size: tuple[int, int]

    def __iter__(self):
        config, frames = self.config, self.frames
        cells = self.size[0] * self.size[1] / (config["patch_size"] or 1) ** 2
        down = list(config["temperal_downsample"]) + [None]
        for level, shrinks in enumerate(down):
            yield level, cells, frames, shrinks
            cells, frames = cells / 4, (frames - 1) // 2 + 1 if shrinks else frames


def encoder_work(config: Mapping, frames: int, size: tuple[int, int]) -> Work:
    """Encode one video of `frames` pixel frames with an `AutoencoderKLWan` of this config.

    The first frame meets a third of each kernel (`use_frame_kernels`); where every frame is its own latent, all do.
    """
    width, mult = config["base_dim"], list(config["dim_mult"])
    alone = not any(config["temperal_downsample"])
    widths = [width * m for m in [1] + mult]

    def kernel(frames: float) -> float:  # the mean over the frames
        return 9.0 if alone else 27 - 18 / frames

    work = Work()
    for level, cells, frames_here, shrinks in _Levels(config, frames, size):
        inputs, outputs, positions = widths[level], widths[level + 1], cells * frames_here
        if level == 0:
            work += layer(config["in_channels"], inputs, kernel(frames_here), positions, CONV_BYTES)
        work += _residual(inputs, outputs, positions, kernel(frames_here))
        work += (config["num_res_blocks"] - 1) * _residual(outputs, outputs, positions, kernel(frames_here))
        if shrinks is not None:
            work += layer(outputs, outputs, 9, positions / 4, 4 * CONV_BYTES)
            if shrinks:
                work += layer(outputs, outputs, 3, cells / 4 * ((frames_here - 1) // 2), 2 * CONV_BYTES)
    work += _middle(outputs, cells, frames_here, kernel(frames_here))
    z = 2 * config["z_dim"]
    work += layer(outputs, z, kernel(frames_here), positions, NORM_BYTES + CONV_BYTES)
    work += layer(z, z, 1, positions, 4)
    return work if alone else work.in_parts(1 + (frames - 1) // 4)  # frames go through in groups


def decoder_work(config: Mapping, frames: int, size: tuple[int, int]) -> Work:
    """Decode latents to one video of `frames` pixel frames."""
    width, mult = config["decoder_base_dim"] or config["base_dim"], list(config["dim_mult"])[::-1]
    alone = not any(config["temperal_downsample"])
    widths = [width * m for m in [mult[0]] + mult]
    levels = list(_Levels(config, frames, size))[::-1]

    def kernel(frames: float) -> float:
        return 9.0 if alone else 27 - 18 / frames

    work = Work()
    for i, (level, cells, frames_here, _) in enumerate(levels):
        inputs, outputs, positions = widths[i], widths[i + 1], cells * frames_here
        if i == 0:
            work += layer(config["z_dim"], config["z_dim"], 1, positions, 4)
            work += layer(config["z_dim"], inputs, kernel(frames_here), positions, CONV_BYTES)
            work += _middle(inputs, cells, frames_here, kernel(frames_here))
        work += _residual(inputs, outputs, positions, kernel(frames_here))
        work += config["num_res_blocks"] * _residual(outputs, outputs, positions, kernel(frames_here))
        if level > 0:
            finer = levels[i + 1]
            work += layer(outputs, outputs, 9, finer[1] * finer[2], CONV_BYTES + 12)  # float32 on the way up
            if finer[3]:
                work += layer(outputs, 2 * outputs, 3, cells * (frames_here - 1), CONV_BYTES)
    work += layer(outputs, config["out_channels"], kernel(frames_here), positions, NORM_BYTES + CONV_BYTES)
    return work if alone else work.in_parts(levels[0][2])


def transformer_work(config: Mapping, frames: int, grid: tuple[int, int], text: int = 0) -> Work:
    """One call of `MirageTransformer3DModel` on `frames` latent frames of grid cells, the memory's branch included."""
    dim, wide = config["num_attention_heads"] * config["attention_head_dim"], config["ffn_dim"]
    patch = math.prod(config["patch_size"])
    tokens = frames * grid[0] * grid[1] / patch
    block = layer(dim, 4 * dim, 1, tokens, 280, 70)  # queries, keys, values, output; norms and modulation in float32
    block += Work(attention=4.0 * tokens * tokens * dim)
    block += layer(dim, wide, 1, tokens) + layer(wide, dim, 1, tokens, 12, 3, 1)
    if config["text_dim"] is not None:
        block += layer(dim, 2 * dim, 1, tokens, 40, 20) + layer(dim, 2 * dim, 1, text)
        block += Work(attention=4.0 * tokens * text * dim)
    branch = len(config["vace_layers"])
    work = (config["num_layers"] + branch) * block + (branch + 1) * layer(dim, dim, 1, tokens, 6)
    channels, width = config["in_channels"], config.get("prior_width", 0)
    seen = config["vace_in_channels"] + (channels if width else 0)
    work += layer(channels * patch, dim, 1, tokens) + layer(seen * patch, dim, 1, tokens)
    if width:
        work += prior_work(channels, width, frames * grid[0] * grid[1])
    return work + layer(dim, config["out_channels"] * patch, 1, tokens, 30)


def prior_work(channels: int, width: int, cells: float, blocks: int = 3) -> Work:
    """`MemoryPrior` on so many cells."""
    work = layer(channels + 4, width, 9, cells) + layer(width, 2 * channels, 9, cells, 12, 3, 1)
    around = 40  # group norm and SiLU
    return work + blocks * (layer(width, width, 9, cells, around, 4, 1) + layer(width, width, 9, cells, 12, 3, 1))


def depth_work(config: Mapping, frames: int, size: tuple[int, int]) -> Work:
    """`MirageDepthModel`, the bundled network, on so many frames."""
    from mirage_nb.models.depth import FOLD

    low, middle, high = config["widths"]
    fine = frames * size[0] * size[1] / FOLD**2
    around = 40  # group norm and SiLU

    def residual(width: int, positions: float) -> Work:
        return 2 * layer(width, width, 9, positions, around, 4, 1)

    work = layer(5 * FOLD**2, low, 9, fine, around) + layer(low, FOLD**2, 9, fine, around)
    for width, positions, sides in ((low, fine, 2), (middle, fine / 4, 2), (high, fine / 16, 1)):
        work += config["blocks"] * sides * residual(width, positions)
    work += layer(low, middle, 4, fine / 4) + layer(middle, high, 4, fine / 16)
    work += layer(high, middle, 1, fine / 16) + layer(middle, low, 1, fine / 4)
    cells = fine / 16 / frames
    attention = layer(high, 4 * high, 1, fine / 16, around, 12) + 2 * layer(high, 2 * high, 1, fine / 16, around, 4)
    attention += Work(attention=4.0 * cells * cells * high * frames)
    return work + config["attention_layers"] * attention
