"""Recipe 1: the VAE, on crops of single frames."""

import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import unpatchify
from torch import Tensor, nn

from mirage_nb.training.data import Walks

KL_WEIGHT = 5e-4  # less than a tenth of a good reconstruction's L1, until latents grow beyond a deviation of 3


def posterior(vae: nn.Module, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and log variance (B, C, 1, h, w) of single frames (B, 3, H, W) in [-1, 1]."""
    latents = vae.encode(pixels[:, :, None]).latent_dist
    return latents.mean.float(), latents.logvar.float()


def reconstruct(vae: nn.Module, latents: Tensor) -> Tensor:
    """Decode (B, C, 1, h, w) to (B, 3, H, W) without the clamp of `vae.decode`, which would stop gradients."""
    video = unpatchify(vae.decoder(vae.post_quant_conv(latents), first_chunk=True), vae.config.patch_size)
    return video[:, :, 0].float()


def latent_cost(mean: Tensor, logvar: Tensor) -> Tensor:
    """Weighted KL divergence of the posterior from a standard Gaussian: it keeps the latents small and smooth."""
    return KL_WEIGHT * 0.5 * (mean**2 + logvar.exp() - 1 - logvar).mean()


def vae_loss(walks: Walks, batch: int = 16, crop: int = 64):
    """The `batch_loss` of `loop.fit` for the VAE: L1 and KL on square crops of `crop` pixels."""

    def batch_loss(vae: nn.Module, generator: torch.Generator):
        pixels = walks.pixels(*walks.draw_frames(batch, generator))
        corners = torch.randint(pixels.shape[-1] - crop + 1, (batch, 2), generator=generator).tolist()
        crops = [p[:, y : y + crop, x : x + crop] for p, (y, x) in zip(pixels, corners)]
        pixels = torch.stack(crops).to(vae.device)
        mean, logvar = posterior(vae, pixels)
        noise = torch.randn(mean.shape, generator=generator).to(mean)
        out = reconstruct(vae, mean + noise * torch.exp(0.5 * logvar))
        l1, cost = (out - pixels).abs().mean(), latent_cost(mean, logvar)
        return l1 + cost, {"l1": l1.item(), "latent_cost": cost.item()}

    return batch_loss


@torch.no_grad()
def set_statistics(vae, walks: Walks, frames: int = 512) -> None:
    """Write the mean and standard deviation of each latent channel into the VAE's config."""
    frames = min(frames, walks["c2w"].shape[:2].numel())
    which = walks.draw_frames(frames, torch.Generator().manual_seed(0))
    pixels = walks.pixels(*which).to(vae.device)
    with torch.autocast(pixels.device.type, torch.bfloat16):
        latents = torch.cat([posterior(vae, p)[0] for p in pixels.split(16)])
    mean, deviation = latents.mean((0, 2, 3, 4)), latents.std((0, 2, 3, 4))
    vae.register_to_config(latents_mean=mean.tolist(), latents_std=deviation.tolist())
