"""Recipe 1: the VAE, on single frames. L1 + a gradient loss at two scales + a little KL; then PSNR, then collages."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mirage_nb.training.data import Walks, device_of


def moments(vae: nn.Module, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and log variance (B, C, 1, h, w) of the posterior of single frames (B, 3, H, W)."""
    from diffusers.models.autoencoders.autoencoder_kl_wan import patchify

    both = vae.quant_conv(vae.encoder(patchify(pixels.unsqueeze(2), vae.config.patch_size))).float()
    mean, logvar = both.chunk(2, 1)
    return mean, logvar.clamp(-20, 10)


def picture(vae: nn.Module, latents: Tensor) -> Tensor:
    """Decode (B, C, 1, h, w) without the clamp of `vae.decode`, which would kill gradients: (B, 3, H, W)."""
    from diffusers.models.autoencoders.autoencoder_kl_wan import unpatchify

    return unpatchify(vae.decoder(vae.post_quant_conv(latents), first_chunk=True), vae.config.patch_size)[
        :, :, 0
    ].float()


def gradient_loss(a: Tensor, b: Tensor) -> Tensor:
    """L1 between the finite differences of two batches of images."""
    return sum((a.diff(dim=d) - b.diff(dim=d)).abs().mean() for d in (-1, -2))


def vae_loss(walks: Walks, batch: int = 16, crop: int = 64, near: nn.Module | None = None, collages: bool = False):
    """The `batch_loss` of `loop.fit` for the VAE: random crops of random frames.

    Args:
        near: for the last stretches, a frozen copy of the VAE as it was before. The decoder then sees the posterior's
            mean, as it does in use, and the loss is the logarithm of the squared error a crop, which is PSNR; the
            latents are held near those of the copy, so that they keep the statistics that the KL term gave them, and
            a transformer trained on them stays of use.
        collages: with `near`, of every third crop some cells are another crop's of the same room. A memory's readout
            is such a collage, and what cells of two places decode to side by side no whole picture teaches: mist.
    """

    deviation = 1.0
    if near is not None:
        with torch.no_grad():
            some = torch.arange(32)
            pixels = walks.pixels(some % len(walks), some % walks.num_frames).to(device_of(near))
            deviation = moments(near, pixels)[0]
            deviation = deviation.std((0, 2, 3, 4), keepdim=True)

    def crops(rooms: Tensor, generator: torch.Generator, part: slice) -> Tensor:
        frames = torch.randint(walks.num_frames, (batch,), generator=generator)[part]
        pixels = walks.pixels(rooms, frames)
        free = pixels.shape[-1] - crop + 1
        corners = torch.randint(free, (batch, 2), generator=generator)[part].tolist()
        pixels = torch.stack([p[:, y : y + crop, x : x + crop] for p, (y, x) in zip(pixels, corners)])
        flip = torch.rand(batch, generator=generator)[part] < 0.5
        return torch.where(flip[:, None, None, None], pixels.flip(-1), pixels)

    def batch_loss(vae, step, generator, part=slice(None)):
        rooms = torch.randint(len(walks), (batch,), generator=generator)[part]
        pixels = crops(rooms, generator, part).to(device_of(vae))
        mean, logvar = moments(vae, pixels)
        if near is not None:
            with torch.no_grad():
                old_mean, old_logvar = moments(near, pixels)
            moved = ((mean - old_mean) / deviation).square().mean() + 0.01 * (logvar - old_logvar).square().mean()
            figures = {"moved": moved.item()}
            if collages:
                third = torch.arange(batch)[part] % 3 == 0
                others = crops(rooms, generator, part)[third].to(pixels)
                mask = _patches(batch, mean.shape[-1], generator)[part][third].to(pixels.device)
                mean, pixels = mean.clone(), pixels.clone()
                mean[third] = torch.where(mask[:, :, None], moments(vae, others)[0], mean[third])
                pixels[third] = torch.where(F.interpolate(mask.float(), size=crop) > 0, others, pixels[third])
            error = (picture(vae, mean) - pixels).square().mean((1, 2, 3)).clamp(min=1e-6).log()
            if collages:
                figures["collages"] = error[third].mean().item()
            return error.mean() + 3 * moved, figures
        noise = torch.randn(batch, *mean.shape[1:], generator=generator)[part].to(mean)
        out = picture(vae, mean + noise * torch.exp(0.5 * logvar))
        kl = 0.5 * (mean**2 + logvar.exp() - 1 - logvar).mean()
        half, half_out = F.avg_pool2d(pixels, 2), F.avg_pool2d(out, 2)
        l1 = (out - pixels).abs().mean()
        loss = l1 + 0.3 * (gradient_loss(out, pixels) + gradient_loss(half_out, half)) + 5e-4 * kl
        return loss, {"l1": l1.item(), "kl": kl.item()}

    return batch_loss


def _patches(batch: int, cells: int, generator: torch.Generator) -> Tensor:
    """Masks (B, 1, cells, cells) of patches, half of the cells: from a quarter of the picture to a cell in size."""
    coarse = int(torch.randint(2, cells + 1, (), generator=generator))
    field = torch.rand(batch, 1, coarse, coarse, generator=generator)
    return F.interpolate(field, size=cells, mode="bilinear") > 0.5


@torch.no_grad()
def vae_psnr(vae, held_out: Walks, frames: int = 64) -> dict[str, float]:
    """Mean PSNR in dB of held-out frames, encoded to the posterior's mean and decoded."""
    rooms = torch.arange(frames) % len(held_out)
    pixels = held_out.pixels(rooms, (torch.arange(frames) * 7) % held_out.num_frames).to(device_of(vae))
    with torch.autocast(pixels.device.type, torch.bfloat16):
        out = torch.cat([picture(vae, moments(vae, p)[0]).clamp(-1, 1) for p in pixels.split(8)])
    mse = ((out - pixels) / 2).square().mean((1, 2, 3))
    return {"psnr": (-10 * mse.log10()).mean().item()}


@torch.no_grad()
def set_statistics(vae, walks: Walks, frames: int = 512) -> None:
    """Measure the latents' mean and standard deviation a channel and put them into the VAE's config."""
    generator = torch.Generator().manual_seed(0)
    pixels = walks.pixels(
        torch.randint(len(walks), (frames,), generator=generator),
        torch.randint(walks.num_frames, (frames,), generator=generator),
    ).to(device_of(vae))
    with torch.autocast(pixels.device.type, torch.bfloat16):
        latents = torch.cat([vae.encode(p.unsqueeze(2)).latent_dist.mode().float() for p in pixels.split(16)])
    vae.register_to_config(
        latents_mean=latents.mean((0, 2, 3, 4)).tolist(), latents_std=latents.std((0, 2, 3, 4)).tolist()
    )
