"""The VAE: diffusers' `AutoencoderKLWan`, and the few things that a memory needs in addition. Latents are always
normalised with the statistics in the VAE's config, as Wan's own pipelines do."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Stride 8, every frame its own latent: the tokens of a memory must not depend on the frames before theirs.
TINY_VAE = dict(
    base_dim=32, decoder_base_dim=32, dim_mult=[1, 2, 2], num_res_blocks=1, is_residual=True, z_dim=16, patch_size=2,
    in_channels=12, out_channels=12, temperal_downsample=[False, False], scale_factor_temporal=1,
    scale_factor_spatial=8, latents_mean=[0.0] * 16, latents_std=[1.0] * 16,
)  # fmt: skip


def build_vae(**overrides):
    """A small untrained `AutoencoderKLWan`. PyTorch's default initialisation stalls this network: Kaiming with a linear
    gain, and a residual block's last convolution at a tenth, do not."""
    from diffusers import AutoencoderKLWan

    vae = AutoencoderKLWan(**TINY_VAE | overrides)
    for name, module in vae.named_modules():
        if isinstance(module, (nn.Conv2d, nn.Conv3d)):
            nn.init.kaiming_normal_(module.weight, nonlinearity="linear")
            nn.init.zeros_(module.bias)
            if name.endswith(".conv2"):  # the last one of a residual block
                module.weight.data.mul_(0.1)
    return use_frame_kernels(vae)


def use_frame_kernels(vae):
    """Let single frames run through 2D convolutions; the same weights and result, many times faster on a CPU.

    A causal 3D convolution pads a lone frame with zeros in the past, so only the last slice of its kernel matters.
    """
    from diffusers.models.autoencoders.autoencoder_kl_wan import WanCausalConv3d

    class FrameConv3d(WanCausalConv3d):
        def forward(self, x: Tensor, cache_x: Tensor | None = None) -> Tensor:
            if cache_x is not None or x.shape[2] != 1 or self.stride[0] != 1:
                return super().forward(x, cache_x)
            frame = x[:, :, 0].contiguous(memory_format=torch.channels_last)
            padding = (self._padding[2], self._padding[0])
            return F.conv2d(frame, self.weight[:, :, -1], self.bias, self.stride[1:], padding).unsqueeze(2)

    for module in vae.modules():
        if type(module) is WanCausalConv3d:
            module.__class__ = FrameConv3d
    return vae


def spatial_stride(vae) -> int:
    """Pixels along the edge of a latent cell."""
    return int(vae.config.scale_factor_spatial)


def precision(module, device: torch.device):
    """The autocast to bfloat16 for our own float32 weights; none for a module whose `autocast` is False (Wan's)."""
    return torch.autocast(device.type, torch.bfloat16, enabled=getattr(module, "autocast", True))


def statistics(vae, latents: Tensor) -> tuple[Tensor, Tensor, float]:
    """Mean and deviation, (C or 1, 1, 1) float32, of the latents of any of diffusers' VAEs, and the factor that scales
    them: a generator works on (latents - mean) / deviation * factor."""
    known = {**vae.config, **dict(vae.named_buffers(recurse=False))}  # LTX keeps them as buffers
    mean, deviation, factor = (known.get(key) for key in ("latents_mean", "latents_std", "scaling_factor"))
    values = known.get("shift_factor") or 0.0 if mean is None else mean, 1.0 if deviation is None else deviation
    mean, deviation = (torch.as_tensor(v).to(latents).reshape(-1, 1, 1) for v in values)
    return mean, deviation, factor or 1.0


@torch.no_grad()
def encode(vae, video: Tensor) -> Tensor:
    """Videos (B, 3, T, H, W) in [-1, 1] to normalised latents (B, C, t, h, w), the posterior's mean."""
    batch, _, frames = video.shape[:3]
    alone = vae.config.scale_factor_temporal == 1  # every frame is encoded on its own
    if alone:
        video = video.transpose(1, 2).flatten(0, 1).unsqueeze(2)  # (B * T, 3, 1, H, W)
    latents = vae.encode(video.to(vae.dtype)).latent_dist.mode().float()
    mean, deviation, _ = statistics(vae, latents)
    latents = (latents - mean[:, None]) / deviation[:, None]
    return latents.squeeze(2).unflatten(0, (batch, frames)).transpose(1, 2) if alone else latents


@torch.no_grad()
def decode(vae, latents: Tensor) -> Tensor:
    """Normalised latents (B, C, t, h, w) to videos (B, 3, T, H, W) in [-1, 1], T = (t - 1) * temporal stride + 1."""
    batch, _, frames = latents.shape[:3]
    mean, deviation, _ = statistics(vae, latents)
    latents = (latents * deviation[:, None] + mean[:, None]).to(vae.dtype)
    if vae.config.scale_factor_temporal > 1:
        return vae.decode(latents).sample.float()
    video = vae.decode(latents.transpose(1, 2).flatten(0, 1).unsqueeze(2)).sample.float()  # (B * t, 3, 1, H, W)
    return video.squeeze(2).unflatten(0, (batch, frames)).transpose(1, 2)


def visible_latents(vae, frames: int, size: tuple[int, int], device: torch.device) -> Tensor:
    """Latents (C, frames, h, w) of a video in which all is visible (white), the constant half of the layout `wan`.
    The VAE is causal: the first latent frames of a long video are those of a short one, so one call serves all."""
    video = torch.ones(1, 3, (frames - 1) * vae.config.scale_factor_temporal + 1, *size, device=device)
    with precision(vae, device):
        return encode(vae, video)[0]


def frame_encoder(vae) -> Callable[[Tensor], Tensor]:
    """A function that encodes single frames, (N, 3, H, W) in [-1, 1] to latents (N, C, h, w), for `RGBPointCloud`."""

    def encode_frames(pixels: Tensor) -> Tensor:
        with precision(vae, pixels.device):
            return encode(vae, pixels[:, :, None])[:, :, 0].float()

    return encode_frames


def as_pixels(frames: Tensor) -> Tensor:
    """uint8 (..., H, W, 3) to float (..., 3, H, W) in [-1, 1]."""
    return frames.movedim(-1, -3).float() / 127.5 - 1


def as_uint8(pixels: Tensor) -> Tensor:
    """Float (..., 3, H, W) in [-1, 1] to uint8 (..., H, W, 3)."""
    return ((pixels.clamp(-1, 1) + 1) * 127.5).round().byte().movedim(-3, -1)
