"""What stage 5 knows of its scenes while their videos grow: memories, cameras, the past, and what may be written."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import product

import torch
from torch import Tensor
from torch.nn.functional import max_pool2d, pad

from mirage_nb.cameras import Cameras
from mirage_nb.context import Context, choose_references, shared_voxel_size, visible_voxels
from mirage_nb.depth_alignment import Fit, align_depth, align_scale
from mirage_nb.lifting import depth_to_latent
from mirage_nb.masking import inconsistent, looked_through, nearest_around, writable
from mirage_nb.models.vae import spatial_stride, temporal_stride
from mirage_nb.reprojection import Readout

__all__ = ["STAGES", "Clock", "Past", "Scenes", "align_scale", "find_moving"]
STAGES = ("read", "denoise", "decode", "depth", "write")
WINDOW = 16  # past latent frames that a new surface is held against
TOLERANCE = 0.1  # relative depth
EDGE_THRESHOLD = 0.05  # relative jump in depth
WITNESSES = 4  # new frames, at most, that must look through a token before it goes


@dataclass
class Past:
    """What a scene saw before, a latent frame each, at latent size: enough to tell what moves, and to refer to.

    latents (C, h, w), depth (h, w) and `nearest_around` of it (h, w), lists of n; cameras: n, at latent size.
    """

    latents: list[Tensor] = field(default_factory=list)
    depth: list[Tensor] = field(default_factory=list)
    behind: list[Tensor] = field(default_factory=list)
    cameras: list[Cameras] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.depth)

    def add(self, latents: Tensor, depth: Tensor, cameras: Cameras, stride: int) -> None:
        """Add frames: latents (N, C, h, w), depth (N, H, W) and N cameras at pixel size."""
        self.latents += list(latents)
        self.depth += list(depth_to_latent(depth, stride))
        self.behind += list(nearest_around(depth, stride))
        self.cameras += [cameras[i].downscale(stride) for i in range(len(cameras))]

    def sees_through(self, surface: Tensor, camera: Cameras) -> Tensor:
        """Cells (h, w) bool whose surface, z-depth (h, w) of one camera at latent size, stands before what any of these
        frames saw: nothing is there."""
        views = Cameras.cat(self.cameras)
        return looked_through(surface[None], camera, torch.stack(self.behind), views, TOLERANCE)[0]

    def voxels(self, size: float) -> list[Tensor]:
        """What each frame saw: sorted keys of voxels with edges of `size` metres."""
        return [visible_voxels(depth[None], camera, None, size) for depth, camera in zip(self.depth, self.cameras)]


def find_moving(past: Past, readout: Readout, depth: Tensor, stride: int) -> tuple[Tensor, Tensor]:
    """Stage 4 by geometry alone: what of the last N frames moves, and which tokens show what has moved away.

    A surface moves if it stands where at least two other recent frames saw something well behind; or the first one
    did, which is no guess: what hangs there was generated at a wrong depth, if it did not come since. A token has moved
    away if the new frames look through it, all of them (up to WITNESSES), for their depth may err. That a surface looks
    unlike its token is no evidence here: a token seen half a cell off its centre does, too (notebook 04 measures it).

    Args:
        past: the scene's frames, the N new ones last.
        readout: of N frames, what the memory shows to them before they are written.
        depth: (N, H, W) z-depth in metres of the new frames.
        stride: pixels per latent cell.

    Returns:
        moving (N, h, w) bool, and the rows of the memory (K,) that are to be deleted.
    """
    new, window = len(depth), slice(max(0, len(past) - len(depth) - WINDOW), None)
    views = Cameras.cat(past.cameras[window])
    surface, behind = torch.stack(past.depth[-new:]), torch.stack(past.behind[window])
    witnesses = min(2, len(views) - 1)
    if not witnesses:
        nothing = torch.zeros_like(surface, dtype=torch.bool)
        return nothing, readout.index[nothing]
    cameras = Cameras.cat(past.cameras[-new:])
    moving = looked_through(surface, cameras, behind, views, TOLERANCE, witnesses)
    moving |= looked_through(surface, cameras, past.depth[0][None], past.cameras[0], TOLERANCE)
    gone = inconsistent(depth, readout, tolerance=TOLERANCE)
    rows, counts = readout.index[gone & (readout.index >= 0)].unique(return_counts=True)
    return moving, rows[counts >= min(WITNESSES, new)]


@dataclass
class Scenes:
    """B scenes with what is known of them."""

    models: object
    memories: list
    cameras: list[Cameras]
    depth: Tensor | None
    moving: Tensor | None
    device: torch.device
    past: list[Past] = field(init=False)
    fits: list[list[Fit]] = field(init=False)  # how each estimated depth was aligned, frame by frame

    def __post_init__(self) -> None:
        self.past, self.fits = [Past() for _ in self.memories], [[] for _ in self.memories]
        self.stride = spatial_stride(self.models.vae)
        # Tokens from depth edges help a prior that was trained on them (`mirage-nb evaluate ablations`), and no other.
        learnt = getattr(self.models.transformer.config, "prior_width", 0)
        self.edges = {"stride": self.stride, "edge_threshold": None if learnt else EDGE_THRESHOLD}

    def first(self) -> Tensor:
        """Latents (B, C, h, w) of the frames that the videos began with."""
        return torch.stack([past.latents[0] for past in self.past]).float()

    def recall(self, latents: Tensor, depth: Tensor, at: list[int]) -> None:
        """Take up an interrupted run: latents (B, C, t, h, w) and depth (B, t, H, W) of its latent frames `at`."""
        for scene, past in enumerate(self.past):
            cameras = self.cameras[scene][at]
            past.add(latents[scene].transpose(0, 1).to(self.device), depth[scene].to(self.device), cameras, self.stride)

    def read(self, scene: int, at: list[int]) -> Readout:
        memory, cameras = self.memories[scene], self.cameras[scene][at]
        if not len(memory):
            return Readout.empty(cameras.downscale(self.stride), int(self.models.vae.config.z_dim))
        return memory.read(cameras.to(getattr(memory, "device", None) or self.device)).to(self.device)

    def given(self, readouts: list[Readout]) -> Tensor:
        """Which cells of readouts, one a scene, show a token of its first frame, not of one that was made: (B, t, h, w)
        bool. What a memory of another kind than `LatentGrid` shows counts as given."""
        shown = []
        for memory, readout in zip(self.memories, readouts):
            cells = readout.visibility
            if len(memory) and hasattr(memory, "written"):
                cells = cells & (memory.written.to(cells.device)[readout.index.clamp(min=0)] == 0)
            shown.append(cells)
        return torch.stack(shown)

    def remember(
        self, pixels: Tensor, latents: Tensor, at: list[int], known: list[Readout] | None, clock: Clock
    ) -> tuple[Tensor, Tensor]:
        """Find the depth of latent frames, find what moves, and write the rest.

        Args:
            pixels, latents: (B, 3, t, H, W) and (B, C, t, h, w) with the poses of the pixel frames `at`.
            known: what the memories show there; None reads them.

        Returns:
            Depth (B, t, H, W), and the cells that were allowed to be written, (B, t, h, w) bool.
        """
        pixels, written = pixels.transpose(1, 2), []
        with clock("depth"):
            known = [self.read(scene, at) for scene in range(len(self.memories))] if known is None else known
            depth = self._depth(pixels, at, known)
        with clock("write"):
            moving = None if self.moving is None else self._moving(at)
            for scene, memory in enumerate(self.memories):
                tokens, cameras = latents[scene].transpose(0, 1), self.cameras[scene][at]
                self.past[scene].add(tokens, depth[scene], cameras, self.stride)
                if moving is not None:
                    mask = writable(depth[scene], moving[scene], **self.edges)
                else:
                    mask = self._found(scene, pixels[scene], depth[scene], known[scene])
                written.append(mask)
                if not (depth[scene].isfinite() & (depth[scene] > 0)).any():
                    continue  # all sky: there is nothing to write
                # Half precision is far finer than what the VAE tells apart, and half the memory.
                memory.write(tokens.half(), depth[scene], cameras, mask, frames=pixels[scene])
        return depth, torch.stack(written)

    def remember_between(
        self, image: Tensor, shifts: int, depth: Tensor, written: Tensor, encode: Callable, clock: Clock
    ) -> None:
        """Write the first frames again, as cameras would have seen them whose cells lie between those there.

        They are pictures, not latents that were decoded: nothing is lost by encoding them once more, from some pixels
        further to the right and down. Their tokens are as coarse as the others, but wherever a cell of a camera that
        comes back ends up, one of them was made nearly there. All are kept, whatever the memory's policy.

        Args:
            image: (B, 3, H, W) in [-1, 1]. depth, written: what `remember` returned for it.
            shifts: places along the edge of a cell, of which the first one is there already.
            encode: frames (B, 3, H, W) to latents (B, C, h, w).
        """
        allowed = written.repeat_interleave(self.stride, 2).repeat_interleave(self.stride, 3).float()
        for y, x in list(product(range(0, self.stride, self.stride // shifts), repeat=2))[1:]:

            def moved(pictures: Tensor, mode: str = "constant") -> Tensor:
                return pad(pictures[..., y:, x:], (0, x, 0, y), mode)

            with clock("write"):
                latents, mask = encode(moved(image, "replicate")).half(), -max_pool2d(-moved(allowed), self.stride) > 0
                for scene, memory in enumerate(self.memories):
                    if mask[scene].any() and hasattr(memory, "policy"):  # one that keeps pixels has them all
                        camera = self.cameras[scene][0].crop(y, x, tuple(image.shape[2:]))
                        memory.frames -= 1  # it counts the video's own, and this is its first once more
                        policy, memory.policy = memory.policy, "append"
                        memory.write(latents[scene, None], moved(depth[scene]), camera, mask[scene])
                        memory.policy = policy

    def foresee(
        self, pixels: Tensor, latents: Tensor, frame: int, known: list[Readout], scenes: list[int], clock: Clock
    ) -> None:
        """Write a view ahead of the video, (B, 3, H, W) and (B, C, h, w) at the pose of pixel frame `frame`, to the
        memories of some scenes. It is no part of their past, and nothing is known to move in it. What would stand in
        the way of something that past frames saw was imagined too near, and isn't written."""
        with clock("depth"):
            depth = self._depth(pixels[:, None], [frame], known)
        with clock("write"):
            moving = None if self.moving is None else self._moving([frame])
            for scene in scenes:
                memory, camera = self.memories[scene], self.cameras[scene][frame]
                mask = writable(depth[scene], None if moving is None else moving[scene], **self.edges)
                surface = depth_to_latent(depth[scene], self.stride)[0]
                mask &= ~self.past[scene].sees_through(surface, camera.downscale(self.stride))
                if mask.any():
                    memory.write(latents[scene, None].half(), depth[scene], camera, mask, frames=pixels[scene, None])
                    memory.frames -= 1  # it counts the video's own

    def _found(self, scene: int, pixels: Tensor, depth: Tensor, known: Readout) -> Tensor:
        """What may be written where nobody gave a mask; what has moved away is deleted from the memory."""
        moving, sky = None, None
        if getattr(self.models, "mask_estimator", None) is not None:
            moving, sky = self.models.mask_estimator.predict(pixels)
        mask = writable(depth, moving, sky, **self.edges)
        found, rows = find_moving(self.past[scene], known, depth, self.stride)
        memory = self.memories[scene]
        if len(rows) and hasattr(memory, "delete"):
            gone = torch.zeros(len(memory), dtype=torch.bool, device=rows.device)
            memory.delete(gone.index_fill_(0, rows, True))
        return mask & ~found

    def _depth(self, pixels: Tensor, at: list[int], known: list[Readout]) -> Tensor:
        if self.depth is not None and at[-1] < self.depth.shape[1]:
            return self.depth[:, at].to(self.device, torch.float32)
        intrinsics = torch.cat([cameras.intrinsics[at] for cameras in self.cameras])
        depth = self.models.depth_estimator.predict(pixels.flatten(0, 1), intrinsics).unflatten(0, pixels.shape[:2])
        relative = getattr(self.models.depth_estimator, "relative", False)
        for scene, (readout, fits) in enumerate(zip(known, self.fits)):
            before = fits[-1] if fits else None
            depth[scene], new = align_depth(depth[scene], readout.depth, readout.visibility, relative, before)
            fits += new
        return depth

    def _moving(self, at: list[int]) -> Tensor:
        """(B, t, H, W) bool: a latent frame stands for all pixel frames since the one before."""
        stride = temporal_stride(self.models.vae)
        spans = [self.moving[:, max(0, frame - stride + 1) : frame + 1].any(1) for frame in at]
        return torch.stack(spans, 1).to(self.device)

    def context(
        self, readouts: list[Readout], at: list[int], references: int, preceding: int
    ) -> tuple[Context | None, list[list[int]], list[int]]:
        """Clean frames beside the segment `at`: a `Context`, which latent frames refer (B lists), which precede.

        The last past frame is the segment's own first one. The target is not made yet: its voxels are those that the
        memory shows. All scenes of a batch take as many references as the one that has the fewest.
        """
        if not references and not preceding:
            return None, [[] for _ in self.past], []
        before = len(self.past[0]) - 1
        precede = list(range(max(0, before - preceding), before))
        chosen = []
        for scene, (past, readout) in enumerate(zip(self.past, readouts)):
            views = self.cameras[scene][at].downscale(self.stride)
            size = shared_voxel_size(readout.depth, views)
            target = visible_voxels(readout.depth, views, readout.visibility, size)
            chosen.append(choose_references(target, past.voxels(size)[: before - len(precede)], references))
        fewest = min(map(len, chosen))
        chosen = [scene[:fewest] for scene in chosen]
        if not precede and not fewest:
            return None, chosen, precede

        def frames(indices: list[list[int]]) -> Tensor:
            return torch.stack(
                [torch.stack(past.latents)[which].transpose(0, 1) for past, which in zip(self.past, indices)]
            )

        return Context(frames(chosen), frames([precede] * len(self.past))), chosen, precede


class Clock:
    """Seconds by stage, with the work of an accelerator waited for: `with clock("read"): ...`.

    `timer` says what time it is: by default the wall's, the race takes the processor's.
    """

    timer = staticmethod(time.perf_counter)

    def __init__(self, device: torch.device) -> None:
        self.device, self.seconds = device, dict.fromkeys(STAGES, 0.0)

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return self.timer()

    @contextmanager
    def __call__(self, stage: str):
        start = self._now()
        try:
            yield
        finally:
            self.seconds[stage] += self._now() - start
