"""Context beside a segment's memory: which past frames a generator may look at as they are (paper: reference frames).

A token of the memory is one cell; a past frame is a whole picture. The paper's generator sees up to four past latent
frames that show the same place as the segment, and the two that precede it, all clean, at timestep 0. Which ones show
the same place is told by the voxels that they see.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mirage_nb.cameras import Cameras
from mirage_nb.memory.voxels import contains, voxel_keys

VOXEL = 0.1  # metres, at least (paper: the same)
LEAST_OVERLAP = 0.04  # IoU below which a frame says nothing of the target (paper: the same)


@dataclass(frozen=True)
class Context:
    """Clean latent frames beside the noisy ones, in the paper's order: references, target, preceding.

    references: (B, C, r, h, w), which the memory branch does not see. preceding: (B, C, p, h, w), which it does.
    """

    references: Tensor
    preceding: Tensor

    @staticmethod
    def stack(contexts: Sequence[Context]) -> Context:
        """Contexts of equal counts as one batch."""
        return Context(torch.cat([c.references for c in contexts]), torch.cat([c.preceding for c in contexts]))

    def arguments(self, target: Tensor, timestep: Tensor) -> tuple[Tensor, Tensor, dict]:
        """What the transformer takes for a target (B, C, t, h, w) at timesteps (B, t): all latents
        (B, C, r + t + p, h, w), their timesteps, 0 for the context, and how they stand in time."""
        r, p = self.references.shape[2], self.preceding.shape[2]
        if not r and not p:
            return target, timestep, {}
        whole = torch.cat([self.references, target, self.preceding], 2)
        options = {"frame_positions": self.positions(target.shape[2]), "num_references": r}
        return whole, torch.nn.functional.pad(timestep, (r, p)), options

    def of_target(self, whole: Tensor) -> Tensor:
        """The way back: the target's frames of (B, C, r + t + p, h, w)."""
        r, p = self.references.shape[2], self.preceding.shape[2]
        return whole[:, :, r : whole.shape[2] - p]

    def positions(self, frames: int) -> Tensor:
        """(r + t + p,) temporal positions: first the references, then what precedes the target of t frames, then it.

        So all are distinct, the order in time is kept, and the target's frames stay neighbours.
        """
        r, p = self.references.shape[2], self.preceding.shape[2]
        order = [*range(r), *range(r + p, r + p + frames), *range(r, r + p)]
        return torch.tensor(order, device=self.references.device)


def visible_voxels(depth: Tensor, cameras: Cameras, where: Tensor | None = None, voxel_size: float = VOXEL) -> Tensor:
    """Sorted keys (K,) of the voxels that N views see together.

    Args:
        depth: (N, h, w) z-depth in metres; 0 or non-finite = unknown, which sees nothing.
        cameras: N cameras of that size.
        where: (N, h, w) bool, the cells that count; by default all.
        voxel_size: edge in metres.
    """
    known = torch.isfinite(depth) & (depth > 0)
    known = known if where is None else known & where
    points = cameras.unproject(torch.where(known, depth, 0.0))[known]
    level_0 = torch.full_like(points[:, 0], 2 * voxel_size)  # all voxels of one size, whatever the footprint
    return voxel_keys(points, level_0, voxel_size).unique()


def shared_voxel_size(depth: Tensor, cameras: Cameras) -> float:
    """Edge in metres at which two views of one surface share voxels: `VOXEL`, or two cells of N views where these are
    coarser than that.

    Cells that lie further apart than a voxel is wide hit the same ones only by chance.

    Args:
        depth: (N, h, w) z-depth in metres, 0 = unknown. cameras: N of that size.
    """
    footprints = (depth / cameras.intrinsics[:, 0, None, None])[depth > 0]
    return max(VOXEL, 2 * footprints.median().item()) if len(footprints) else VOXEL


def overlap(a: Tensor, b: Tensor) -> float:
    """Intersection over union of two sets of voxels, sorted keys (K,) each; 0 where both are empty."""
    both = int(contains(a, b).sum())
    return both / max(1, len(a) + len(b) - both)


def choose_references(
    target: Tensor, past: Sequence[Tensor], count: int = 4, least: float = LEAST_OVERLAP
) -> list[int]:
    """Which past frames overlap the target most: at most `count` of their indices, the best first.

    Args:
        target: sorted keys of the voxels that the target sees.
        past: the same of every past frame.
        count: how many at most (paper: 4).
        least: smallest intersection over union that counts. Ties go to the earlier frame.
    """
    values = [overlap(target, frame) for frame in past]
    ranked = sorted(range(len(past)), key=lambda index: (-values[index], index))
    return [index for index in ranked if values[index] >= least][:count]
