"""The bundled model's depth network: of the colour of every pixel and the ray through it, so it fits any lens."""

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn

FOLD = 4  # pixels along each axis that become channels at the input, and pixels again at the output


class Residual(nn.Module):
    """Two convolutions of 3 x 3 added to their input; at first, the identity."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(8, channels)
        self.conv1, self.conv2 = (nn.Conv2d(channels, channels, 3, padding=1) for _ in range(2))
        nn.init.zeros_(self.conv2.weight)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(F.silu(self.conv1(F.silu(self.norm(x)))))


class MirageDepthModel(ModelMixin, ConfigMixin):
    """A convolutional U-Net with layers of attention at its coarsest level.

    `widths` are its channels at 1/4, 1/8 and 1/16 of the image's size, with so many residual `blocks` each.
    """

    relative = False  # it predicts metres

    @register_to_config
    def __init__(self, widths: tuple[int, ...] = (64, 128, 192), blocks: int = 2, attention_layers: int = 2) -> None:
        super().__init__()
        low, middle, high = widths
        self.stem = nn.Conv2d(5 * FOLD**2, low, 3, padding=1)
        self.down = nn.ModuleList([nn.Conv2d(low, middle, 2, 2), nn.Conv2d(middle, high, 2, 2)])
        self.encoder = nn.ModuleList(nn.Sequential(*(Residual(w) for _ in range(blocks))) for w in widths)
        layer = dict(nhead=4, dim_feedforward=2 * high, dropout=0.0, activation="gelu", batch_first=True)
        layers = (nn.TransformerEncoderLayer(high, **layer, norm_first=True) for _ in range(attention_layers))
        self.attention = nn.ModuleList(layers)
        self.up = nn.ModuleList([nn.Conv2d(high, middle, 1), nn.Conv2d(middle, low, 1)])
        self.decoder = nn.ModuleList(nn.Sequential(*(Residual(w) for _ in range(blocks))) for w in (middle, low))
        self.head = nn.Conv2d(low, FOLD**2, 3, padding=1)
        nn.init.normal_(self.head.weight, std=1e-3)
        nn.init.constant_(self.head.bias, 1.0)  # an untrained network predicts about e metres everywhere

    def forward(self, pixels: Tensor, intrinsics: Tensor) -> Tensor:
        """Log z-depth (N, H, W) of pixels (N, 3, H, W) in [-1, 1] with intrinsics (N, 4); H and W multiples of 16."""
        n, _, height, width = pixels.shape
        fx, fy, cx, cy = (p[:, None, None] for p in intrinsics.to(pixels.device, torch.float32).unbind(1))
        x = ((torch.arange(width, device=pixels.device) + 0.5 - cx) / fx).expand(n, height, width)
        y = ((torch.arange(height, device=pixels.device)[:, None] + 0.5 - cy) / fy).expand(n, height, width)
        inputs = torch.cat([pixels, torch.stack([x, y], 1).to(pixels)], 1).to(self.stem.weight.dtype)  # (N, 5, H, W)
        folded = F.pixel_unshuffle(inputs, FOLD).contiguous(memory_format=torch.channels_last)  # (N, 80, H/4, W/4)
        low = self.encoder[0](self.stem(folded))
        middle = self.encoder[1](self.down[0](low))  # H/8
        high = self.encoder[2](self.down[1](middle))  # H/16
        tokens = high.flatten(2).transpose(1, 2)  # (N, H/16 * W/16, widths[2])
        for layer in self.attention:
            tokens = layer(tokens)
        high = tokens.transpose(1, 2).unflatten(2, high.shape[2:])
        middle = self.decoder[0](middle + self.up[0](F.interpolate(high, scale_factor=2.0)))
        low = self.decoder[1](low + self.up[1](F.interpolate(middle, scale_factor=2.0)))
        return F.pixel_shuffle(self.head(low).float(), FOLD)[:, 0]  # (N, H, W)

    @torch.no_grad()
    def predict(self, pixels: Tensor, intrinsics: Tensor) -> Tensor:
        """z-depth in metres (N, H, W), float32, of pixels (N, 3, H, W) in [-1, 1] of any size."""
        height, width = pixels.shape[2:]
        padded = F.pad(pixels, (0, -width % 16, 0, -height % 16), mode="replicate")
        batches = zip(padded.split(16), intrinsics.expand(len(pixels), 4).split(16))  # at most 16 frames at once
        with torch.autocast(pixels.device.type, torch.bfloat16):
            log_depth = torch.cat([self(frames, lens) for frames, lens in batches])
        return log_depth[:, :height, :width].float().exp()
