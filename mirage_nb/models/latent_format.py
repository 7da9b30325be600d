"""How the video pipelines of diffusers lay out, scale and pack their latents: what a memory must know of them, since it
holds what the denoiser works on. Strides and statistics come from the pipeline and its VAE."""

from dataclasses import dataclass

import torch
from torch import Tensor

from mirage_nb.models.vae import statistics

# By class: "bcthw", "btchw", or "packed" (a row of patches, by the pipeline's own _pack_latents). All are tested.
LAYOUTS = {
    "WanPipeline": "bcthw",
    "WanImageToVideoPipeline": "bcthw",
    "SkyReelsV2ImageToVideoPipeline": "bcthw",
    "HunyuanVideoImageToVideoPipeline": "bcthw",
    "SanaImageToVideoPipeline": "bcthw",
    "CogVideoXImageToVideoPipeline": "btchw",
    "StableVideoDiffusionPipeline": "btchw",
    "LTXImageToVideoPipeline": "packed",
    "LTX2ImageToVideoPipeline": "packed",
}
TEMPORAL = ("vae_scale_factor_temporal", "vae_temporal_compression_ratio")  # names that pipelines give their strides
SPATIAL = ("vae_scale_factor_spatial", "vae_spatial_compression_ratio", "vae_scale_factor")


@dataclass(frozen=True)
class LatentFormat:
    """The form of one pipeline's latents."""

    pipe: object
    layout: str  # one of the values of LAYOUTS
    stride: int  # pixels along the edge of a latent cell
    latent_step: int  # pixel frames per latent frame

    @staticmethod
    def of(pipe) -> "LatentFormat":
        """The form of a pipeline's latents; ValueError for a class that is not in LAYOUTS."""
        layout = next((LAYOUTS[kind.__name__] for kind in type(pipe).__mro__ if kind.__name__ in LAYOUTS), None)
        if layout is None:
            raise ValueError(f"pipe: {type(pipe).__name__} is not known; expected one of {', '.join(LAYOUTS)}")
        spatial = next(getattr(pipe, key) for key in SPATIAL if hasattr(pipe, key))
        temporal = next((getattr(pipe, key) for key in TEMPORAL if hasattr(pipe, key)), 1)
        return LatentFormat(pipe, layout, int(spatial), int(temporal))

    @property
    def _config(self) -> dict:
        """The transformer's configuration; a U-Net has none."""
        return getattr(getattr(self.pipe, "transformer", None), "config", {})

    @property
    def size_multiple(self) -> int:
        """What a video's height and width must be a multiple of, in pixels: a patch of the denoiser."""
        patch = self._config.get("patch_size") or 1
        return self.stride * (patch if isinstance(patch, int) else patch[-1])

    @property
    def channels(self) -> int:
        config = self.pipe.vae.config
        return int(config.get("z_dim") or config.get("latent_channels"))

    def extra_frames(self, latent_frames: int) -> int:
        """Latent frames that the pipeline puts before those of the video, and drops when it decodes."""
        if self.layout == "btchw" and (patch := self._config.get("patch_size_t")):
            return -latent_frames % patch  # CogVideoX 1.5 fills up patches of time
        return int(self._config.get("image_condition_type") == "latent_concat")  # Hunyuan's image

    def asked_frames(self, num_frames: int) -> int:
        """How many frames to ask the pipeline for, to get num_frames: Hunyuan counts those of its image as well."""
        if self.layout != "bcthw":  # CogVideoX fills up by itself
            return num_frames
        return num_frames + self.extra_frames((num_frames - 1) // self.latent_step + 1) * self.latent_step

    def unpack(self, latents: Tensor, num_frames: int, size: tuple[int, int]) -> Tensor:
        """The pipeline's latents of a video of num_frames and (height, width) as (B, C, t, h, w); ValueError where they
        are not what such a video has."""
        t, h, w = (num_frames - 1) // self.latent_step + 1, size[0] // self.stride, size[1] // self.stride
        extra, unpacked = self.extra_frames(t), latents.transpose(1, 2) if self.layout == "btchw" else latents
        if self.layout == "packed":
            space, time = self._patches
            if latents.ndim == 3 and latents.shape[1] * space**2 * time == t * h * w:
                unpacked = self.pipe._unpack_latents(latents, t, h, w, space, time)
        if tuple(unpacked.shape[1:]) != (self.channels, t + extra, h, w):
            raise ValueError(
                f"cameras: they are of a video of {t} latent frames of {h}x{w} cells, but the pipeline's latents have "
                f"shape {tuple(latents.shape)} ({self.layout}); give one camera a frame, at the size of the video"
            )
        return unpacked[:, :, extra:]

    def pack(self, latents: Tensor, like: Tensor) -> Tensor:
        """The inverse of `unpack`; `like` are the pipeline's latents that were unpacked."""
        latents = latents.to(like.dtype)
        if self.layout == "packed":
            return self.pipe._pack_latents(latents, *self._patches)
        latents = latents.transpose(1, 2) if self.layout == "btchw" else latents
        time = 1 if self.layout == "btchw" else 2
        extra = like.narrow(time, 0, like.shape[time] - latents.shape[time])
        return torch.cat([extra, latents], time)

    @property
    def _patches(self) -> tuple[int, int]:
        """Cells along the edge of a patch, and latent frames."""
        return self.pipe.transformer_spatial_patch_size, self.pipe.transformer_temporal_patch_size

    def encode(self, pixels: Tensor) -> Tensor:
        """Single frames (N, 3, H, W) in [-1, 1] to the generator's latents (N, C, h, w), the posterior's mean."""
        vae = self.pipe.vae
        video = next(weight.ndim for weight in vae.encoder.parameters() if weight.ndim > 3) == 5  # else frame by frame
        frames = pixels.to(self.pipe._execution_device, vae.dtype)  # where an offloaded VAE will be, too
        latents = vae.encode(frames[:, :, None] if video else frames).latent_dist.mode().float()
        latents = latents[:, :, 0] if video else latents
        mean, deviation, factor = statistics(vae, latents)
        return (latents - mean) * (factor / deviation)
