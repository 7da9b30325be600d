"""Walks as the transformer's recipe needs them: latents, depth and cameras at latent resolution."""

from dataclasses import dataclass

import torch
from torch import Tensor
from tqdm import tqdm

from mirage_nb.cameras import Cameras
from mirage_nb.lifting import depth_to_latent
from mirage_nb.masking import writable
from mirage_nb.models.vae import frame_encoder, spatial_stride
from mirage_nb.training.data import Walks


@dataclass
class EncodedWalks:
    """R walks of T frames on a latent grid of h x w cells."""

    latents: Tensor  # (R, T, C, h, w) float16
    depth: Tensor  # (R, T, h, w) float16, exact z-depth in metres, 0 = unknown, the sky too
    estimate: Tensor  # (R, T, h, w) float16, the depth network's
    writable: Tensor  # (R, T, h, w) bool, nothing moves there
    c2w: Tensor  # (R, T, 4, 4)
    intrinsics: Tensor  # (R, T, 4) in cells

    def __len__(self) -> int:
        return len(self.latents)

    def cameras(self, walk: int, frames: Tensor) -> Cameras:
        """Cameras at latent size of some frames of a walk."""
        return Cameras(self.c2w[walk, frames], self.intrinsics[walk, frames], self.latents.shape[-2:])

    @staticmethod
    @torch.no_grad()
    def encode(walks: Walks, vae, depth_model) -> "EncodedWalks":
        """Encode all frames, with the frozen VAE and the depth network that is used to generate."""
        stride, device, rows = spatial_stride(vae), vae.device, []
        for walk in tqdm(range(len(walks)), desc="encode", disable=None):
            cameras = walks.cameras(walk)
            parts = walks.pixels(walk, slice(None)), walks["depth"][walk].float(), walks["moving"][walk]
            pixels, exact, moving = (part.to(device) for part in parts)
            estimate = depth_model.predict(pixels, cameras.intrinsics)
            depth = (depth_to_latent(d, stride).half() for d in (exact, estimate))
            allowed, grid = writable(estimate, moving, stride=stride), cameras.downscale(stride)
            row = (frame_encoder(vae)(pixels).half(), *depth, allowed, grid.c2w, grid.intrinsics)
            rows.append([tensor.cpu() for tensor in row])
        return EncodedWalks(*map(torch.stack, zip(*rows)))
