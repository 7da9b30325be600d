"""Context: clean past frames that the generator sees in addition to the memory (paper: reference and preceding frames).

The paper's generator sees up to four past latent frames that show the same place as the segment, and the two frames
that precede it, all at timestep 0. The voxels that a frame sees tell which past frames show the same place.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from mirage_nb.cameras import Cameras
from mirage_nb.lifting import Rows, depth_to_latent, nearest_around
from mirage_nb.memory.voxels import voxel_keys
from mirage_nb.reprojection import Readout

VOXEL = 0.1  # metres, at least (paper: the same)
MIN_OVERLAP = 0.04  # IoU below which a frame says nothing about the target (paper: the same)


@dataclass
class Past:
    """What one video showed so far: lists with an item for each latent frame, all at latent size."""

    latents: list[Tensor] = field(default_factory=list)  # (C, h, w) each
    depth: list[Tensor] = field(default_factory=list)  # (h, w), z-depth in metres
    nearest: list[Tensor] = field(default_factory=list)  # (h, w), `nearest_around` of the depth
    cameras: list[Cameras] = field(default_factory=list)  # one camera each

    def __len__(self) -> int:
        return len(self.depth)

    def add(self, latents: Tensor, depth: Tensor, cameras: Cameras) -> None:
        """Add frames: latents (N, C, h, w), depth (N, H, W) and N cameras at the size of the image."""
        stride = cameras.size[0] // latents.shape[2]
        self.latents += list(latents)
        self.depth += list(depth_to_latent(depth, stride))
        self.nearest += list(nearest_around(depth, stride))
        self.cameras += [cameras[n].downscale(stride) for n in range(len(cameras))]


@dataclass(frozen=True)
class Context(Rows):
    """Clean latent frames next to the noisy ones, in the paper's order: references, target, preceding."""

    references: Tensor  # (B, C, r, h, w), which the memory branch does not see
    preceding: Tensor  # (B, C, p, h, w), which it does

    @staticmethod
    def none(target: Tensor) -> "Context":
        """No context, for a target (B, C, t, h, w)."""
        return Context(target[:, :, :0], target[:, :, :0])

    @staticmethod
    def stack(contexts: "Sequence[Context]") -> "Context":
        """Contexts of equal counts as one batch."""
        return Context(torch.cat([c.references for c in contexts]), torch.cat([c.preceding for c in contexts]))

    def add_to(self, target: Tensor, timestep: Tensor) -> tuple[Tensor, Tensor, dict]:
        """The transformer's input for a target (B, C, t, h, w) at timesteps (B, t): latents (B, C, r + t + p, h, w),
        their timesteps (0 for the context), and the arguments that say how the frames stand in time."""
        r, p = self.counts
        if not r and not p:
            return target, timestep, {}
        whole = torch.cat([self.references, target, self.preceding], 2)
        layout = {"frame_positions": self.positions(target.shape[2]), "num_references": r}
        return whole, torch.nn.functional.pad(timestep, (r, p)), layout

    @property
    def counts(self) -> tuple[int, int]:
        """r and p, how many frames there are of each kind."""
        return self.references.shape[2], self.preceding.shape[2]

    def of_target(self, whole: Tensor) -> Tensor:
        """The target's frames of (B, C, r + t + p, h, w)."""
        return whole[:, :, self.counts[0] : whole.shape[2] - self.counts[1]]

    def positions(self, frames: int) -> Tensor:
        """(r + t + p,) temporal positions: first the references, then the preceding frames, then the t target frames.
        So all are distinct, the order in time is kept, and the target's frames stay neighbours."""
        r, p = self.counts
        order = [*range(r), *range(r + p, r + p + frames), *range(r, r + p)]
        return torch.tensor(order, device=self.references.device)


def visible_voxels(depth: Tensor, cameras: Cameras, where: Tensor | None = None, voxel_size: float = VOXEL) -> Tensor:
    """Sorted keys (K,) of the voxels, `voxel_size` metres wide, that N views see together.

    Args:
        depth: (N, h, w) z-depth in metres of N cameras of that size; 0 or non-finite = unknown, which sees nothing.
        where: (N, h, w) bool, the cells that count; by default all.
    """
    measured = torch.isfinite(depth) & (depth > 0)
    measured = measured if where is None else measured & where
    points = cameras.unproject(torch.where(measured, depth, 0.0))[measured]
    level_0 = torch.full_like(points[:, 0], 2 * voxel_size)  # footprints that give all voxels the same size
    return voxel_keys(points, level_0, voxel_size).unique()


def shared_voxel_size(depth: Tensor, cameras: Cameras) -> float:
    """Edge in metres at which two views of one surface share voxels: VOXEL, or two cells where cells are coarser.

    Cells that lie farther apart than a voxel is wide hit the same voxels only by chance. The depth (N, h, w), in metres
    and 0 where unknown, is that of N cameras of that size.
    """
    footprints = (depth / cameras.intrinsics[:, 0, None, None])[depth > 0]
    return max(VOXEL, 2 * footprints.median().item()) if len(footprints) else VOXEL


def overlap(a: Tensor, b: Tensor) -> float:
    """Intersection over union of two sets of voxels, distinct keys (K,) each; 0 where both are empty."""
    both = int(torch.isin(a, b).sum())
    return both / max(1, len(a) + len(b) - both)


def choose_references(target: Tensor, past: Sequence[Tensor], count: int = 4) -> list[int]:
    """Which past frames overlap the target most: at most `count` of their indices (paper: 4), the best first.

    Frames are given as the keys of the voxels that they see. Those that overlap by less than MIN_OVERLAP are never
    chosen; ties go to the earlier frame.
    """
    values = [overlap(target, frame) for frame in past]
    ranked = sorted(range(len(past)), key=lambda index: (-values[index], index))
    return [index for index in ranked if values[index] >= MIN_OVERLAP][:count]


def find_context(
    past: Sequence[Past], readouts: Sequence[Readout], cameras: Sequence[Cameras], references: int, preceding: int
) -> tuple[Context, list[list[int]], list[int]]:
    """The clean frames that the generator sees next to a segment, for B scenes.

    The last past frame is the segment's own first one, so it is no context. The target is not made yet: its voxels are
    those that the memory shows. All scenes take as many references as the scene that has the fewest.

    Args:
        past, readouts, cameras: for each scene its past, the readout of the segment, and its cameras at latent size.
        references, preceding: how many frames of each kind at most.

    Returns:
        The context; B lists of the references' frame numbers; the preceding frames' numbers.
    """
    before = len(past[0]) - 1
    precede = list(range(max(0, before - preceding), before))
    chosen: list[list[int]] = [[] for _ in past]
    if references:
        for scene, (frames, readout, views) in enumerate(zip(past, readouts, cameras)):
            size = shared_voxel_size(readout.depth, views)
            target = visible_voxels(readout.depth, views, readout.visibility, size)
            candidates = list(zip(frames.depth, frames.cameras))[: before - len(precede)]
            voxels = [visible_voxels(depth[None], camera, None, size) for depth, camera in candidates]
            chosen[scene] = choose_references(target, voxels, references)
    count = min(map(len, chosen))
    chosen = [scene[:count] for scene in chosen]

    def stack(indices: list[list[int]]) -> Tensor:  # (B, C, n, h, w)
        return torch.stack([torch.stack(frames.latents)[i].transpose(0, 1) for frames, i in zip(past, indices)])

    return Context(stack(chosen), stack([precede] * len(past))), chosen, precede
