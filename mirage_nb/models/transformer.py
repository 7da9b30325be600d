"""Wan's video transformer with a memory branch: the generator of the paper (section on conditioning).

Built from diffusers' own blocks, with the parameter names of `WanTransformer3DModel` and of its VACE sibling, so that
Wan backbones and VACE-style branches load as they are. What diffusers' VACE model lacks and this one has: a timestep
per latent frame, free temporal positions, reference frames that the branch does not see, and a form without text.
"""

from __future__ import annotations

import warnings

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.loaders import PeftAdapterMixin
from diffusers.models.modeling_outputs import Transformer2DModelOutput
from diffusers.models.modeling_utils import ModelMixin
from diffusers.models.normalization import FP32LayerNorm
from diffusers.models.transformers.transformer_wan import (
    WanRotaryPosEmbed,
    WanTimeTextImageEmbedding,
    WanTransformerBlock,
)
from torch import Tensor, nn

from mirage_nb.models.prior import MemoryPrior, prior_velocity

# torch's RMS norm says so where autocast hands it bf16 for float32 weights: right, only not fused.
warnings.filterwarnings("ignore", "Mismatch dtype between input and weight")


class MirageBlock(WanTransformerBlock):
    """Wan's block, modulated frame by frame instead of token by token, and with no cross-attention without a text.

    All tokens of a latent frame share one timestep, so its modulation is computed and kept once: (B, T, 6, D) rather
    than diffusers' (B, T * tokens, 6, D). The weights and the result are the same.
    """

    def __init__(self, dim: int, ffn_dim: int, heads: int, cross_attn_norm: bool, eps: float, text: bool) -> None:
        super().__init__(dim, ffn_dim, heads, "rms_norm_across_heads", cross_attn_norm, eps)
        if not text:
            self.attn2, self.norm2 = None, None

    def forward(self, hidden_states: Tensor, encoder_hidden_states: Tensor | None, temb: Tensor, rotary_emb) -> Tensor:
        """hidden_states (B, T * tokens, D), temb (B, T, 6, D)."""
        frames = temb.shape[1]
        shift, scale, gate, c_shift, c_scale, c_gate = (
            (self.scale_shift_table[:, None] + temb.float()).unsqueeze(3).unbind(2)
        )

        def modulate(x: Tensor, norm: nn.Module, shift: Tensor, scale: Tensor) -> Tensor:
            return torch.addcmul(shift, norm(x).unflatten(1, (frames, -1)), 1 + scale).flatten(1, 2)

        def gated(x: Tensor, change: Tensor, gate: Tensor) -> Tensor:
            return torch.addcmul(x.unflatten(1, (frames, -1)), change.unflatten(1, (frames, -1)), gate).flatten(1, 2)

        x = hidden_states.float()
        attention = self.attn1(modulate(x, self.norm1, shift, scale).to(hidden_states.dtype), None, None, rotary_emb)
        x = gated(x, attention.float(), gate)
        if self.attn2 is not None:
            x = x + self.attn2(self.norm2(x).to(hidden_states.dtype), encoder_hidden_states, None, None).float()
        feed = self.ffn(modulate(x, self.norm3, c_shift, c_scale).to(hidden_states.dtype))
        return gated(x, feed.float(), c_gate).to(hidden_states.dtype)


class MirageBranchBlock(MirageBlock):
    """A block of the memory branch: what it finds is handed to the backbone through a zero-initialised projection.

    Its projections run inside of its forward, so that hooks on blocks (group offloading, device maps) find them.
    """

    def __init__(self, *args, first: bool = False) -> None:
        super().__init__(*args)
        dim = self.scale_shift_table.shape[-1]
        self.proj_in = nn.Linear(dim, dim) if first else None
        self.proj_out = nn.Linear(dim, dim)
        nn.init.zeros_(self.proj_out.weight)
        nn.init.zeros_(self.proj_out.bias)

    def forward(self, control: Tensor, hidden_states: Tensor, *condition) -> tuple[Tensor, Tensor]:
        """The branch's next state, and its hint for the backbone, both (B, tokens, D).

        hidden_states: the backbone's input, which the first block adds to the control.
        """
        if self.proj_in is not None:
            control = self.proj_in(control) + hidden_states
        control = super().forward(control, *condition)
        return control, self.proj_out(control)


class MirageRotaryPosEmbed(WanRotaryPosEmbed):
    """Wan's rotary tables at free temporal positions, read in its own forward, where offloading hooks find them."""

    def forward(self, positions: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
        """Rotary tables (1, T * h * w, 1, D) for frames at the given temporal positions."""
        tables = []
        for table in (self.freqs_cos, self.freqs_sin):
            t, y, x = table.to(positions.device).split([self.t_dim, self.h_dim, self.w_dim], dim=1)
            grid = (len(positions), height, width, -1)
            t, y, x = t[positions][:, None, None], y[:height][None, :, None], x[:width][None, None]
            tables.append(
                torch.cat([t.expand(grid), y.expand(grid), x.expand(grid)], -1).flatten(0, 2)[None, :, None].float()
            )
        return tables[0], tables[1]


class MirageTransformer3DModel(ModelMixin, ConfigMixin, PeftAdapterMixin):
    """A Wan backbone and a branch that reads the memory.

    Args:
        patch_size, num_attention_heads, attention_head_dim, in_channels, out_channels, text_dim, freq_dim, ffn_dim,
        num_layers, cross_attn_norm, eps, rope_max_seq_len: as in diffusers' `WanTransformer3DModel`; `text_dim=None`
            leaves out text and cross-attention.
        vace_layers: backbone blocks that get the branch's findings (paper: 0, 2, ..., 28), the first must be 0.
        vace_in_channels: channels of the control input.
        memory_layout: what these channels are, see `control.LAYOUTS`.
        memory_prior: predict how the velocity differs from what the memory alone would make it (`models.prior`), for
            the bundled model; Wan's weights predict the velocity itself.
        prior_width: channels of the network that says what the memory alone tells; 0 for a plain formula.
        segment_latent_frames: latent frames of a segment, the clean first one included (paper: 9).
    """

    _supports_gradient_checkpointing = True
    _no_split_modules = ["MirageBlock", "MirageBranchBlock"]
    _repeated_blocks = ["MirageBlock", "MirageBranchBlock"]
    _keep_in_fp32_modules = ["time_embedder", "scale_shift_table", "norm1", "norm2", "norm3"]
    _skip_layerwise_casting_patterns = ["patch_embedding", "vace_patch_embedding", "condition_embedder", "norm"]

    @register_to_config
    def __init__(
        self,
        patch_size: tuple[int, int, int] = (1, 2, 2),
        num_attention_heads: int = 24,
        attention_head_dim: int = 128,
        in_channels: int = 48,
        out_channels: int = 48,
        text_dim: int | None = 4096,
        freq_dim: int = 256,
        ffn_dim: int = 14336,
        num_layers: int = 30,
        cross_attn_norm: bool = True,
        eps: float = 1e-6,
        rope_max_seq_len: int = 1024,
        vace_layers: tuple[int, ...] = tuple(range(0, 30, 2)),
        vace_in_channels: int = 96,
        memory_layout: str = "wan",
        memory_prior: bool = False,
        prior_width: int = 0,
        segment_latent_frames: int = 9,
    ) -> None:
        super().__init__()
        if not vace_layers or vace_layers[0] != 0 or max(vace_layers) >= num_layers:
            raise ValueError(
                f"vace_layers: expected to begin with 0 and stay below {num_layers}, got {tuple(vace_layers)}"
            )
        if prior_width % 8 or (prior_width and not memory_prior):
            raise ValueError(f"prior_width: expected a multiple of 8, and memory_prior with it, got {prior_width}")
        dim = num_attention_heads * attention_head_dim
        block = (dim, ffn_dim, num_attention_heads, cross_attn_norm, eps, text_dim is not None)
        self.rope = MirageRotaryPosEmbed(attention_head_dim, patch_size, rope_max_seq_len)
        self.patch_embedding = nn.Conv3d(in_channels, dim, kernel_size=patch_size, stride=patch_size)
        self.condition_embedder = WanTimeTextImageEmbedding(dim, freq_dim, dim * 6, text_dim or 1)
        if text_dim is None:
            self.condition_embedder.text_embedder = None
        self.blocks = nn.ModuleList(MirageBlock(*block) for _ in range(num_layers))
        self.prior = MemoryPrior(in_channels, prior_width) if memory_prior else None
        branch_channels = vace_in_channels + (in_channels if prior_width else 0)  # it sees the prior's mean as well
        self.vace_patch_embedding = nn.Conv3d(branch_channels, dim, kernel_size=patch_size, stride=patch_size)
        self.vace_blocks = nn.ModuleList(MirageBranchBlock(*block, first=i == 0) for i in vace_layers)
        self.norm_out = FP32LayerNorm(dim, eps, elementwise_affine=False)
        self.proj_out = nn.Linear(dim, out_channels * patch_size[0] * patch_size[1] * patch_size[2])
        self.scale_shift_table = nn.Parameter(torch.randn(1, 2, dim) / dim**0.5)
        if memory_prior:  # begin with what the memory alone says
            nn.init.zeros_(self.proj_out.weight)
            nn.init.zeros_(self.proj_out.bias)
        self.gradient_checkpointing = False

    def forward(
        self,
        hidden_states: Tensor,
        timestep: Tensor,
        control: Tensor,
        encoder_hidden_states: Tensor | None = None,
        frame_positions: Tensor | None = None,
        num_references: int = 0,
        return_dict: bool = True,
    ) -> Transformer2DModelOutput | tuple[Tensor]:
        """Predict the flow velocity, noise - clean.

        Args:
            hidden_states: (B, C, T, h, w) latents; clean context frames (references first) among noisy ones.
            timestep: (B, T) in [0, 1000], one a latent frame; 0 for clean context. Also (B,): the same for all.
            control: (B, K, T - num_references, h, w), from `control.memory_control`.
            encoder_hidden_states: (B, L, text_dim) text embeddings, None for a model without text.
            frame_positions: (T,) temporal positions for the rotary embedding; by default 0, 1, 2, ...
            num_references: how many leading frames are references, which the branch does not see.

        Returns:
            `.sample`, (B, C, T, h, w) in float32.
        """
        _, _, frames, height, width = hidden_states.shape
        p_t, p_h, p_w = self.config.patch_size
        grid = (frames // p_t, height // p_h, width // p_w)
        tokens = grid[1] * grid[2]
        if frame_positions is None:
            frame_positions = torch.arange(grid[0], device=hidden_states.device)
        rotary = self.rope(frame_positions, grid[1], grid[2])
        timestep = timestep[:, None].expand(-1, frames) if timestep.ndim == 1 else timestep
        temb, modulation, text = self._condition(timestep[:, ::p_t], encoder_hidden_states)

        kind, dtype = hidden_states.device.type, self.dtype
        if torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind):  # not on the meta device
            dtype = torch.get_autocast_dtype(kind)
        guess = None
        if self.prior is not None:
            with torch.no_grad():  # it learns by likelihood alone, see `training.prior`
                guess = self.prior(control)
            control = torch.cat([control, guess[0]], 1) if self.config.prior_width else control
        x = self.patch_embedding(hidden_states.to(self.dtype)).flatten(2).transpose(1, 2).contiguous()
        skip = num_references // p_t
        seen = (modulation[:, skip:], tuple(r[:, skip * tokens :] for r in rotary))
        c = self.vace_patch_embedding(control.to(self.dtype)).flatten(2).transpose(1, 2)
        start, hints = x[:, skip * tokens :], {}
        for layer, block in zip(self.config.vace_layers, self.vace_blocks):
            c, hints[layer] = self._run(block, c, start, text, *seen)
        for layer, block in enumerate(self.blocks):
            x = self._run(block, x, text, modulation, rotary)
            if layer in hints:
                hint = hints.pop(layer)
                x = x + (nn.functional.pad(hint, (0, 0, skip * tokens, 0)) if skip else hint)

        shift, scale = (self.scale_shift_table[:, None] + temb.float().unsqueeze(2)).unsqueeze(3).unbind(2)
        x = torch.addcmul(shift, self.norm_out(x.float()).unflatten(1, (grid[0], -1)), 1 + scale).flatten(1, 2)
        x = self.proj_out(x.to(dtype)).float()
        x = x.unflatten(1, grid).unflatten(-1, (p_t, p_h, p_w, -1))
        sample = x.permute(0, 7, 1, 4, 2, 5, 3, 6).flatten(6, 7).flatten(4, 5).flatten(2, 3)
        if guess is not None:
            expected, doubt = prior_velocity(hidden_states, timestep, *guess)
            sample = expected + doubt * sample
        return Transformer2DModelOutput(sample=sample) if return_dict else (sample,)

    def _condition(self, timestep: Tensor, text: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
        """Time embedding (B, T, D), its projection (B, T, 6, D), and the embedded text."""
        embedder = self.condition_embedder
        if (text is None) != (embedder.text_embedder is None):
            raise ValueError(
                "encoder_hidden_states: this model "
                + ("has no text input" if text is not None else "needs text embeddings")
            )
        frequencies = embedder.timesteps_proj(timestep.flatten()).unflatten(0, timestep.shape)
        temb = embedder.time_embedder(frequencies.to(self._input_dtype(embedder.time_embedder.linear_1)))
        modulation = embedder.time_proj(embedder.act_fn(temb).to(self._input_dtype(embedder.time_proj)))
        modulation = modulation.unflatten(-1, (6, -1))
        return temb, modulation, None if text is None else embedder.text_embedder(text.to(self.dtype))

    def _input_dtype(self, layer: nn.Module) -> torch.dtype:
        """What a linear layer is fed: its weight's type, unless that is a quantised layer's integers."""
        return layer.weight.dtype if layer.weight.is_floating_point() else self.dtype

    def _run(self, block: nn.Module, *args) -> Tensor:
        if torch.is_grad_enabled() and self.gradient_checkpointing:
            return self._gradient_checkpointing_func(block, *args)
        return block(*args)

    @classmethod
    def from_wan(cls, backbone, vace_layers=None, vace_in_channels=None, memory_layout="wan", segment_latent_frames=9):
        """Put a memory branch on a diffusers `WanTransformer3DModel`, whose modules are shared with it from then on.

        Each branch block starts as a copy of its backbone block, its output projection as zero: a fresh branch changes
        nothing (paper: stage 1 trains from there).

        Args:
            backbone: of equal channels in and out (Wan2.2-TI2V-5B); it may be quantised, and stays so.
            vace_layers: by default every second block.
            vace_in_channels: by default twice the backbone's, what `memory_layout` "wan" has.

        Raises:
            ValueError: another kind of backbone.
        """
        from mirage_nb.models.wan import put_branch_on

        return put_branch_on(cls, backbone, vace_layers, vace_in_channels, memory_layout, segment_latent_frames)
