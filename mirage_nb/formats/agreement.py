"""Whether depth and poses agree; and where they do not, which other reading of the same numbers does.

Numbers alone do not say whether a matrix is c2w or w2c, whose axes it has, or what unit a depth has. Geometry does:
a surface that is lifted from one frame lies, in another frame, at the depth that was measured there.
"""

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from mirage_nb.cameras import Cameras

GAPS = (2, 4, 8, 16, 32)  # frames between two views: small steps overlap, large ones have parallax
POINTS = 1200  # of each view
TOLERANCES = (0.02, 0.05, 0.1)  # relative differences in depth at which a point still agrees: sensors differ
MIN_LANDED = 0.2  # share of the points that must land in the other views: a few may fit by chance
# Another reading is taken where it fits this well, better by so much, and misses less than so much of what was missed:
# noise and what moves must not decide. Measured: right readings 0.90 (Kinect) to 1.00, wrong ones up to 0.93.
FITS, MIN_GAIN, MISSES = 0.6, 0.03, 0.5
SURE = 0.98  # share within the smallest of TOLERANCES from which no other reading is tried
ROUGHLY = 0.4  # share that must fit within the largest of TOLERANCES, where no reading is better


@dataclass(frozen=True)
class Reading:
    """How the numbers of a file are meant.

    Args:
        axes: of the camera: "opencv" (x right, y down, z forward) or "opengl" (x right, y up, z back).
        w2c: whether matrices are world-to-camera.
        pose_unit: units of a position in a metre: 1 for metres, 1000 for millimetres.
        depth_unit: units of a depth in a metre.
        depth_kind: "z" (along the optical axis), "ray" (along the pixel's ray), or "inverse" (1 / z).
    """

    axes: Literal["opencv", "opengl"] = "opencv"
    w2c: bool = False
    pose_unit: float = 1.0
    depth_unit: float = 1000.0
    depth_kind: Literal["z", "ray", "inverse"] = "z"

    def __post_init__(self) -> None:
        known = self.axes in ("opencv", "opengl") and self.depth_kind in ("z", "ray", "inverse")
        if not known or not 0 < min(self.pose_unit, self.depth_unit) < float("inf"):
            raise ValueError(f"expected known axes and depth_kind, and positive units, got {self}")

    def options(self, other: "Reading") -> str:
        """The options of the command line that change another reading to this one."""
        changed = {name: value for name, value in vars(self).items() if value != getattr(other, name)}
        flags = {True: "--w2c", False: "--no-w2c"}
        return " ".join(flags[v] if k == "w2c" else f"--{k.replace('_', '-')} {v}" for k, v in changed.items())


CHANGES = (
    *({"axes": axes, "w2c": w2c} for axes in ("opencv", "opengl") for w2c in (False, True)),
    {"pose_unit": 1000}, {"pose_unit": 100}, *({"depth_unit": u} for u in (1, 100, 256, 1000, 5000, 6553.5, 10000)),
    {"depth_kind": "ray"}, *({"depth_kind": "inverse", "depth_unit": unit} for unit in (1, 1000, 10000)),
)  # fmt: skip


def read_as(reading: Reading, native: Reading, depth: Tensor, cameras: Cameras) -> tuple[Tensor, Cameras]:
    """Depth in metres and cameras, of stored depth (T, H, W) and of the cameras that another reading gave."""
    c2w = cameras.w2c if reading.w2c != native.w2c else cameras.c2w.clone()
    if reading.axes != native.axes:
        c2w = c2w * c2w.new_tensor([1.0, -1.0, -1.0, 1.0])
    depth = torch.where(depth.isfinite() & (depth > 0), depth, 0.0) / reading.depth_unit
    if reading.depth_kind == "inverse":
        depth = torch.where(depth > 0, 1 / depth, 0.0)
    elif reading.depth_kind == "ray":
        depth = depth / cameras.rays()[1].norm(dim=-1)
    return depth, moved(Cameras(c2w, cameras.intrinsics, cameras.size), native.pose_unit / reading.pose_unit)


def moved(cameras: Cameras, factor: float) -> Cameras:
    """The cameras, or the trajectory, with all positions multiplied by a factor."""
    c2w = cameras.c2w.clone()
    c2w[:, :3, 3] *= factor
    return replace(cameras, c2w=c2w)


def agreement(depth: Tensor, cameras: Cameras) -> Tensor:
    """The shares, in [0, 1], of points lifted from a frame that lie at the depth which other frames measured there, up
    to each of the relative differences in TOLERANCES.

    depth is (N, H, W) z-depth of N cameras; 0 = unknown. What moved or was hidden counts as a miss. The shares are 0
    where hardly a point lands in another frame.
    """
    (height, width), count = cameras.size, len(depth)
    depth = torch.where(depth.isfinite() & (depth > 0), depth, 0.0)
    step = max(1, round((height * width / POINTS) ** 0.5))
    chosen = torch.zeros(height, width, dtype=torch.bool)
    chosen[step // 2 :: step, step // 2 :: step] = True
    gaps = {gap for gap in GAPS if gap < count} | {min(count - 1, GAPS[-1])} - {0}
    pairs = {(i, i + gap) for gap in gaps for i in (0, count - 1 - gap)}
    agreed, landed, total = torch.zeros(len(TOLERANCES)), 0, 0
    for i, j in sorted(pairs | {(j, i) for i, j in pairs}):
        both = cameras[[i, j]].relative_to(cameras.c2w[i])
        lifted = both[0].unproject(depth[i : i + 1])[0][chosen & (depth[i] > 0)]  # (P, 3) in i's axes
        uv, z = (x[0] for x in both[1].project(lifted))
        inside = (z > 0) & (uv >= 0).all(-1) & (uv[:, 0] < width) & (uv[:, 1] < height)
        column, row = uv[inside].long().unbind(1)
        there = depth[j][row, column]
        off = (z[inside] / there - 1).abs()[there > 0]
        agreed += (off < torch.tensor(TOLERANCES)[:, None]).sum(1)
        landed += len(off)
        total += len(z)
    return agreed / landed if landed > MIN_LANDED * total else torch.zeros(len(TOLERANCES))


def check_reading(
    depth: Tensor, cameras: Cameras, native: Reading, reading: Reading | None = None, where: str = ""
) -> None:
    """Raise ValueError where depth and poses disagree, with the options of the reading of CHANGES that fits.

    Args:
        depth: (T, H, W), the numbers that a file or an array holds; 0 = unknown.
        cameras: T, as `native` reads them.
        reading: what the user says, if not `native`.
        where: what the message begins with.
    """
    chosen, words, at = reading or native, "", -1

    def fit(change: dict) -> Tensor:
        return agreement(*read_as(replace(chosen, **change), native, depth, cameras))

    given = fit({})
    if given[0] < SURE:
        changes = [x for x in CHANGES if replace(chosen, **x) != chosen]
        share, change = max(((fit(x), x) for x in changes), key=lambda x: x[0].sum())
        # A unit that fits no better than a still camera is not told.
        bar = torch.maximum(given, fit({"pose_unit": 1e9})) if change.keys() <= {"pose_unit", "depth_unit"} else given
        better = (share > FITS) & (share > given + MIN_GAIN) & (1 - share < MISSES * (1 - bar))
        if better.any():
            at = int(better.nonzero()[0])  # where the depth is noisy, at the larger differences only
            options = replace(chosen, **change).options(native) or "the format's own reading"
            words = f" as they are read, {share[at]:.0%} do with {options}"
    metres, moving = read_as(chosen, native, depth, cameras)
    step, far = moving.centers.diff(dim=0).norm(dim=1), metres.max()
    if not words and len(step) and step.median() > far:
        raise ValueError(
            f"{where}the camera moves {step.median():.3g} m a frame and sees {far:.3g} m far (--pose-unit)"
        )
    if words or 0 < given[-1] < ROUGHLY:
        within = f"{given[at]:.0%} of the points fit within {TOLERANCES[at]:.0%}"
        raise ValueError(f"{where}depth and poses do not agree: {within}{words}")
