"""Work, and how fast a machine does it: the cost model's two halves.

A machine is described by rates that are measured on their own, by small programs that are no part of the race: of
multiplying bf16 matrices, of attention, of passes over tensors, of functions like GELU, of picking values from places
out of order, and of calls that do next to nothing. Predicted seconds are work over rate, added up.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from torch.nn.functional import gelu, scaled_dot_product_attention

from mirage_nb.benchmarks.measure import timer_of

WIDTHS = (16, 64, 256, 1024)  # of the layers that the multiplication is timed for
SIZES = tuple(1 << k for k in (16, 20, 22, 24, 26, 28))  # bytes of the tensors that moving is timed for
PLAIN = ("attention", "functions", "scattered", "calls")  # what has one rate


@dataclass(frozen=True)
class Work:
    """What a stage does.

    Attributes:
        flops: by width of the layer (channels, the smaller of in and out): narrow layers multiply slower.
        moved: bytes read and written by everything that is not a multiplication of matrices, by the size in bytes of
            the tensors it is done to: large ones leave the caches, and are new memory every time.
        attention: flops of attention, which has a kernel of its own.
        functions: values of SiLU, GELU and their like.
        scattered: values read from or written to places that are not in order.
        calls: operations started.
    """

    flops: Mapping[float, float] = field(default_factory=dict)
    moved: Mapping[float, float] = field(default_factory=dict)
    attention: float = 0.0
    functions: float = 0.0
    scattered: float = 0.0
    calls: float = 0.0

    def __add__(self, other: Work) -> Work:
        flops, moved = _joined(self.flops, other.flops), _joined(self.moved, other.moved)
        return Work(flops, moved, **{name: getattr(self, name) + getattr(other, name) for name in PLAIN})

    def __mul__(self, times: float) -> Work:
        flops = {width: value * times for width, value in self.flops.items()}
        moved = {size: value * times for size, value in self.moved.items()}
        return Work(flops, moved, **{name: getattr(self, name) * times for name in PLAIN})

    def __radd__(self, other: int) -> Work:
        return self  # sum() begins with 0

    __rmul__ = __mul__

    def in_parts(self, count: float) -> Work:
        """The same work done in so many parts, one after the other: smaller tensors, more calls."""
        return replace(
            self, moved={size / count: value for size, value in self.moved.items()}, calls=self.calls * count
        )

    @property
    def total_flops(self) -> float:
        return sum(self.flops.values()) + self.attention

    @property
    def total_moved(self) -> float:
        return sum(self.moved.values())


def _joined(a: Mapping[float, float], b: Mapping[float, float]) -> dict[float, float]:
    return {key: a.get(key, 0) + b.get(key, 0) for key in {*a, *b}}


@dataclass(frozen=True)
class Rates:
    """What a machine can do in a second: flops by width, bytes moved by size of the tensor, and the rest of `Work`."""

    flops: Mapping[float, float]
    moved: Mapping[float, float]
    attention: float
    functions: float
    scattered: float
    calls: float

    def seconds(self, work: Work) -> float:
        multiplying = sum(value / interpolated(self.flops, width) for width, value in work.flops.items())
        moving = sum(value / interpolated(self.moved, size) for size, value in work.moved.items())
        return multiplying + moving + sum(getattr(work, name) / getattr(self, name) for name in PLAIN)


def interpolated(known: Mapping[float, float], at: float) -> float:
    """A rate between those that were measured, straight in the logarithms; beyond the ends it is that of the end."""
    points = sorted((float(x), y) for x, y in known.items())
    x = math.log(min(max(at, points[0][0]), points[-1][0]))
    for (a, low), (b, high) in zip(points[:-1], points[1:]):
        if x <= math.log(b):
            share = (x - math.log(a)) / (math.log(b) - math.log(a))
            return low ** (1 - share) * high**share
    return points[-1][1]


def calibrate(device: torch.device | str = "cpu", repeats: int = 5) -> Rates:
    """Measure the rates of this machine with small programs that are no part of the race. A few seconds."""
    device = torch.device(device)
    clock = timer_of(device)

    def usual(task) -> float:
        task()
        times = []
        for _ in range(repeats):
            start = clock()
            task()
            times.append(clock() - start)
        return max(statistics.median(times), 1e-9)

    flops, moved = {}, {}
    for width in WIDTHS:  # as a 3 x 3 convolution is multiplied: rows of 9 neighbours
        rows = max(1024, (1 << 21) // width)
        a = torch.randn(rows, 9 * width, device=device, dtype=torch.bfloat16)
        b = torch.randn(9 * width, width, device=device, dtype=torch.bfloat16)
        flops[width] = 2 * rows * 9 * width * width / usual(lambda a=a, b=b: a @ b)
    for size in reversed(SIZES):  # the largest first: what they leave behind is used again, as in any longer run
        x, y = torch.rand(2, size // 4, device=device)

        def passes(x=x, y=y) -> None:  # 70 bytes a value
            ahead = x > y
            torch.where(ahead, x * y, x + y).floor().int()
            torch.add(x, 1.0)

        moved[size] = 70 * len(x) / usual(passes)
    heads = torch.randn(1, 4, 1024, 64, device=device, dtype=torch.bfloat16)
    attention = 4 * 1024**2 * 256 / usual(lambda: scaled_dot_product_attention(heads, heads, heads))
    values = torch.randn(1 << 20, device=device, dtype=torch.bfloat16)
    functions = len(values) / usual(lambda: gelu(values, approximate="tanh"))
    keys = torch.randint(1 << 40, (1 << 16,), device=device)
    some = torch.randperm(len(keys), device=device)[: len(keys) // 2].sort().values  # as a mask picks
    slots = torch.randint(1 << 15, (len(some),), device=device)

    def scatter() -> None:  # three picked for one scattered, 4 * len(some) in all
        for source in (keys, keys, keys):
            picked = source[some]
        picked.new_zeros(1 << 15).scatter_reduce_(0, slots, picked, "amin")

    scattered = 4 * len(some) / usual(scatter)
    few = torch.rand(256, 3, device=device)

    sweep = torch.rand(1 << 24, device=device)

    def small() -> float:  # 150 operations, as geometry is made of; at first the caches are cold, as after a network
        sweep.add_(1.0)
        start = clock()
        for _ in range(10):
            x, y, z = few.unbind(1)
            ahead = (z > 0.5) & (z < torch.inf)
            kept = torch.stack([x / z, y], -1)[ahead]
            row = torch.where(ahead, x, y).floor().long().clamp(min=0)
            row.new_zeros(256).scatter_reduce_(0, row, ahead.nonzero()[:1, 0].expand_as(row), "amin")
            torch.cat([kept, kept])
        return clock() - start

    calls = 150 / max(statistics.median(small() for _ in range(3 * repeats)), 1e-9)
    return Rates(flops, moved, attention, functions, scattered, calls)
