"""Recipe 1: the VAE, on crops of single frames. First encoder and decoder, then the decoder alone for PSNR."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from diffusers.models.autoencoders.autoencoder_kl_wan import patchify, unpatchify
from torch import Tensor, nn

from mirage_nb.training.data import Walks, device_of

KL_WEIGHT = 5e-4  # keeps the latents smooth; more of it costs PSNR
EDGE_WEIGHT = 0.3  # of the L1 between gradients, which keeps edges sharp


def moments(vae: nn.Module, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and log variance (B, C, 1, h, w) of the posterior of single frames (B, 3, H, W)."""
    both = vae.quant_conv(vae.encoder(patchify(pixels.unsqueeze(2), vae.config.patch_size))).float()
    mean, logvar = both.chunk(2, 1)
    return mean, logvar.clamp(-20, 10)


def reconstruct(vae: nn.Module, latents: Tensor) -> Tensor:
    """Decode (B, C, 1, h, w) to (B, 3, H, W) without the clamp of `vae.decode`, which would stop gradients."""
    video = unpatchify(vae.decoder(vae.post_quant_conv(latents), first_chunk=True), vae.config.patch_size)
    return video[:, :, 0].float()


def only_decoder(vae: nn.Module) -> None:
    """From now on the decoder alone learns, so the latents stay what they are."""
    for name, parameter in vae.named_parameters():
        parameter.requires_grad_(name.startswith(("decoder", "post_quant_conv")))


def vae_loss(walks: Walks, batch: int = 16, crop: int = 64, decoder_only: bool = False):
    """The `batch_loss` of `loop.fit` for the VAE.

    Every third crop is a collage: some cells come from another crop, because a memory's readout puts latents of
    different views side by side, and the decoder looks at neighbouring cells.

    Args:
        crop: height and width in pixels.
        decoder_only: the loss is the logarithm of the squared error of each crop, which is PSNR, and the decoder sees
            the posterior's mean, as it does in use. Otherwise L1 + gradients + KL, with noise from the posterior.
    """

    def batch_loss(vae: nn.Module, generator: torch.Generator, part: slice = slice(None)):
        which = walks.draw_frames(batch, generator)
        pixels = walks.pixels(*which)
        corners = torch.randint(pixels.shape[-1] - crop + 1, (batch, 2), generator=generator).tolist()
        pixels = torch.stack([p[:, y : y + crop, x : x + crop] for p, (y, x) in zip(pixels, corners)])
        flip = torch.rand(batch, 1, 1, 1, generator=generator) < 0.5
        pixels = torch.where(flip, pixels.flip(-1), pixels)
        others, cells = pixels.roll(1, 0), crop // vae.config.scale_factor_spatial
        swapped = _patches(batch, cells, generator) & (torch.arange(batch) % 3 == 0)[:, None, None, None]
        pixels, others, swapped = (x[part].to(device_of(vae)) for x in (pixels, others, swapped))

        mean, logvar = moments(vae, pixels)
        mixed = torch.where(swapped[:, :, None], moments(vae, others)[0], mean)  # (B, C, 1, h, w)
        target = torch.where(F.interpolate(swapped.float(), size=crop) > 0, others, pixels)
        if decoder_only:
            error = (reconstruct(vae, mixed) - target).square().mean((1, 2, 3)).clamp(min=1e-6).log()
            return error.mean(), {}
        noise = torch.randn(batch, *mean.shape[1:], generator=generator)[part].to(mean)
        out = reconstruct(vae, mixed + noise * torch.exp(0.5 * logvar))
        kl = 0.5 * (mean**2 + logvar.exp() - 1 - logvar).mean()
        l1 = (out - target).abs().mean()
        edges = sum(
            (F.avg_pool2d(out, scale).diff(dim=dim) - F.avg_pool2d(target, scale).diff(dim=dim)).abs().mean()
            for scale in (1, 2)
            for dim in (-1, -2)
        )
        return l1 + EDGE_WEIGHT * edges + KL_WEIGHT * kl, {"l1": l1.item(), "kl": kl.item()}

    return batch_loss


def _patches(batch: int, cells: int, generator: torch.Generator) -> Tensor:
    """Masks (B, 1, cells, cells) of patches that cover half of the cells, from one cell to a quarter of the crop."""
    coarse = int(torch.randint(2, cells + 1, (), generator=generator))
    field = torch.rand(batch, 1, coarse, coarse, generator=generator)
    return F.interpolate(field, size=cells, mode="bilinear") > 0.5


@torch.no_grad()
def vae_psnr(vae, held_out: Walks, frames: int = 32) -> dict[str, float]:
    """Mean PSNR in dB of held-out frames, encoded to the posterior's mean and decoded."""
    pixels = held_out.pixels(*held_out.draw_frames(frames, torch.Generator().manual_seed(0))).to(device_of(vae))
    with torch.autocast(pixels.device.type, torch.bfloat16):
        out = torch.cat([reconstruct(vae, moments(vae, p)[0]).clamp(-1, 1) for p in pixels.split(8)])
    mse = ((out - pixels) / 2).square().mean((1, 2, 3))
    return {"psnr": (-10 * mse.log10()).mean().item()}


@torch.no_grad()
def set_statistics(vae, walks: Walks, frames: int = 512) -> None:
    """Write the mean and standard deviation of each latent channel into the VAE's config."""
    frames = min(frames, len(walks) * walks.num_frames)
    pixels = walks.pixels(*walks.draw_frames(frames, torch.Generator().manual_seed(0))).to(device_of(vae))
    with torch.autocast(pixels.device.type, torch.bfloat16):
        latents = torch.cat([moments(vae, p)[0] for p in pixels.split(16)])
    mean, deviation = latents.mean((0, 2, 3, 4)), latents.std((0, 2, 3, 4))
    vae.register_to_config(latents_mean=mean.tolist(), latents_std=deviation.tolist())
