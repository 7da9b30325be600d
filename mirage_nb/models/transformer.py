"""Wan's video transformer with a memory branch: the generator of the paper (section on conditioning).

It is built from diffusers' own blocks and has the parameter names of `WanTransformer3DModel` and of its VACE sibling,
so Wan backbones and VACE-style branches load as they are. It adds to diffusers' VACE model: one timestep per latent
frame, free temporal positions, reference frames that the branch does not see, and a form without text.
"""

from __future__ import annotations

import copy
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

# torch's RMS norm warns when autocast gives it bfloat16 inputs with float32 weights. The result is right.
warnings.filterwarnings("ignore", "Mismatch dtype between input and weight")


class MirageBlock(WanTransformerBlock):
    """Wan's block with one modulation per latent frame, and without cross-attention if the model reads no text.

    All tokens of a latent frame share one timestep, so the modulation has shape (B, T, 6, D); diffusers repeats it for
    every token, (B, T * tokens, 6, D). Weights and results are the same.
    """

    def __init__(self, dim: int, ffn_dim: int, heads: int, cross_attn_norm: bool, eps: float, text: bool) -> None:
        super().__init__(dim, ffn_dim, heads, "rms_norm_across_heads", cross_attn_norm, eps)
        if not text:
            self.attn2, self.norm2 = None, None

    def forward(self, hidden_states: Tensor, encoder_hidden_states: Tensor | None, temb: Tensor, rotary_emb) -> Tensor:
        """hidden_states (B, T * tokens, D), temb (B, T, 6, D)."""
        frames = temb.shape[1]
        table = self.scale_shift_table[:, None] + temb.float()  # (B, T, 6, D)
        shift, scale, gate, c_shift, c_scale, c_gate = table.unsqueeze(3).unbind(2)  # (B, T, 1, D) each

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
    """A block of the memory branch. A zero-initialised projection hands its result to the backbone.

    The projections run inside the block's forward, where hooks on blocks (group offloading, device maps) find them.
    """

    def __init__(self, *args, first: bool = False) -> None:
        super().__init__(*args)
        dim = self.scale_shift_table.shape[-1]
        self.proj_in = nn.Linear(dim, dim) if first else None
        self.proj_out = _zeroed(nn.Linear(dim, dim))

    def forward(self, control: Tensor, hidden_states: Tensor, *condition) -> tuple[Tensor, Tensor]:
        """Returns the branch's next state and its hint for the backbone, both (B, tokens, D).

        The first block adds `hidden_states`, the backbone's input, to the control.
        """
        if self.proj_in is not None:
            control = self.proj_in(control) + hidden_states
        control = super().forward(control, *condition)
        return control, self.proj_out(control)


class MirageRotaryPosEmbed(WanRotaryPosEmbed):
    """Wan's rotary tables at free temporal positions."""

    def forward(self, positions: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
        """Returns cosines and sines, (1, T * h * w, 1, D) each, for frames at the temporal positions (T,)."""
        tables = []
        for table in (self.freqs_cos, self.freqs_sin):
            t, y, x = table.to(positions.device).split([self.t_dim, self.h_dim, self.w_dim], dim=1)
            grid = (len(positions), height, width, -1)
            t = t[positions][:, None, None].expand(grid)  # (T, h, w, D_t)
            y = y[:height][None, :, None].expand(grid)  # (T, h, w, D_h)
            x = x[:width][None, None].expand(grid)  # (T, h, w, D_w)
            tables.append(torch.cat([t, y, x], -1).flatten(0, 2)[None, :, None].float())
        return tables[0], tables[1]


class MirageTransformer3DModel(ModelMixin, ConfigMixin, PeftAdapterMixin):
    """A Wan backbone and a branch that reads the memory.

    Args:
        patch_size, num_attention_heads, attention_head_dim, in_channels, out_channels, text_dim, freq_dim, ffn_dim,
        num_layers, cross_attn_norm, eps, rope_max_seq_len: as in diffusers' `WanTransformer3DModel`; `text_dim=None`
            leaves out text and cross-attention.
        vace_layers: backbone blocks that receive a hint of the branch (paper: 0, 2, ..., 28); the first must be 0.
        vace_in_channels: channels of the control input.
        memory_layout: what these channels are, see `control.LAYOUTS`.
        memory_prior: predict the difference to the velocity that the memory alone would give (`models.prior`). The
            bundled model does; Wan's weights predict the velocity itself.
        prior_width: channels of the prior's network; 0 for a plain formula.
        segment_latent_frames: latent frames of a segment, the clean first one included (paper: 9).
    """

    _supports_gradient_checkpointing = True
    _no_split_modules = ["MirageBlock", "MirageBranchBlock"]
    _repeated_blocks = ["MirageBlock", "MirageBranchBlock"]
    _keep_in_fp32_modules = ["time_embedder", "scale_shift_table", "norm1", "norm2", "norm3"]
    _skip_layerwise_casting_patterns = ["patch_embedding", "vace_patch_embedding", "condition_embedder", "norm"]

    @register_to_config
    def __init__(
        self, patch_size: tuple[int, int, int] = (1, 2, 2), num_attention_heads: int = 24,
        attention_head_dim: int = 128, in_channels: int = 48, out_channels: int = 48, text_dim: int | None = 4096,
        freq_dim: int = 256, ffn_dim: int = 14336, num_layers: int = 30, cross_attn_norm: bool = True,
        eps: float = 1e-6, rope_max_seq_len: int = 1024, vace_layers: tuple[int, ...] = tuple(range(0, 30, 2)),
        vace_in_channels: int = 96, memory_layout: str = "wan", memory_prior: bool = False, prior_width: int = 0,
        segment_latent_frames: int = 9,
    ) -> None:  # fmt: skip
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
        branch_channels = vace_in_channels + (in_channels if prior_width else 0)  # the prior's mean is an input too
        self.vace_patch_embedding = nn.Conv3d(branch_channels, dim, kernel_size=patch_size, stride=patch_size)
        self.vace_blocks = nn.ModuleList(MirageBranchBlock(*block, first=i == 0) for i in vace_layers)
        self.norm_out = FP32LayerNorm(dim, eps, elementwise_affine=False)
        self.proj_out = nn.Linear(dim, out_channels * patch_size[0] * patch_size[1] * patch_size[2])
        self.scale_shift_table = nn.Parameter(torch.randn(1, 2, dim) / dim**0.5)
        if memory_prior:  # at first, predict the prior's velocity
            _zeroed(self.proj_out)
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
            hidden_states: (B, C, T, h, w) latents: clean context frames (references first) and the noisy frames.
            timestep: (B, T) in [0, 1000], one per latent frame, 0 for clean context; or (B,), the same for all frames.
            control: (B, K, T - num_references, h, w), from `control.memory_control`.
            encoder_hidden_states: (B, L, text_dim) text embeddings, None for a model without text.
            frame_positions: (T,) temporal positions for the rotary embedding; by default 0, 1, 2, ...
            num_references: number of leading frames that are references, which the branch does not see.

        Returns:
            `.sample`, (B, C, T, h, w) in float32.
        """
        _, _, frames, height, width = hidden_states.shape
        p_t, p_h, p_w = self.config.patch_size
        grid = (frames // p_t, height // p_h, width // p_w)
        tokens = grid[1] * grid[2]  # of one frame
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
            with torch.no_grad():  # the prior is trained by likelihood alone, see `training.prior`
                guess = self.prior(control)
            control = torch.cat([control, guess[0]], 1) if self.config.prior_width else control
        x = self.patch_embedding(hidden_states.to(self.dtype)).flatten(2).transpose(1, 2).contiguous()  # (B, N, D)
        skip = num_references // p_t
        condition = (modulation[:, skip:], tuple(table[:, skip * tokens :] for table in rotary))
        c = self.vace_patch_embedding(control.to(self.dtype)).flatten(2).transpose(1, 2)  # (B, N - skip * tokens, D)
        start, hints = x[:, skip * tokens :], {}
        for layer, block in zip(self.config.vace_layers, self.vace_blocks):
            c, hints[layer] = self._run(block, c, start, text, *condition)
        for layer, block in enumerate(self.blocks):
            x = self._run(block, x, text, modulation, rotary)
            if layer in hints:
                hint = hints.pop(layer)
                x = x + (nn.functional.pad(hint, (0, 0, skip * tokens, 0)) if skip else hint)

        table = self.scale_shift_table[:, None] + temb.float().unsqueeze(2)  # (B, T, 2, D)
        shift, scale = table.unsqueeze(3).unbind(2)  # (B, T, 1, D) each
        x = torch.addcmul(shift, self.norm_out(x.float()).unflatten(1, (grid[0], -1)), 1 + scale).flatten(1, 2)
        x = self.proj_out(x.to(dtype)).float()  # (B, N, p_t * p_h * p_w * C)
        x = x.unflatten(1, grid).unflatten(-1, (p_t, p_h, p_w, -1))  # (B, T', h', w', p_t, p_h, p_w, C)
        x = x.permute(0, 7, 1, 4, 2, 5, 3, 6)  # (B, C, T', p_t, h', p_h, w', p_w)
        sample = x.flatten(6, 7).flatten(4, 5).flatten(2, 3)  # (B, C, T, h, w)
        if guess is not None:
            expected, deviation = prior_velocity(hidden_states, timestep, *guess)
            sample = expected + deviation * sample
        return Transformer2DModelOutput(sample=sample) if return_dict else (sample,)

    def _condition(self, timestep: Tensor, text: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
        """Returns the time embedding (B, T, D), its projection (B, T, 6, D), and the embedded text."""
        embedder = self.condition_embedder
        if (text is None) != (embedder.text_embedder is None):
            problem = "needs text embeddings" if text is None else "has no text input"
            raise ValueError(f"encoder_hidden_states: this model {problem}")
        frequencies = embedder.timesteps_proj(timestep.flatten()).unflatten(0, timestep.shape)
        temb = embedder.time_embedder(frequencies.to(self._input_dtype(embedder.time_embedder.linear_1)))
        modulation = embedder.time_proj(embedder.act_fn(temb).to(self._input_dtype(embedder.time_proj)))
        modulation = modulation.unflatten(-1, (6, -1))
        return temb, modulation, None if text is None else embedder.text_embedder(text.to(self.dtype))

    def _input_dtype(self, layer: nn.Module) -> torch.dtype:
        """The type of a linear layer's input: its weight's, or the model's if the layer is quantised to integers."""
        return layer.weight.dtype if layer.weight.is_floating_point() else self.dtype

    def _run(self, block: nn.Module, *args) -> Tensor:
        if torch.is_grad_enabled() and self.gradient_checkpointing:
            return self._gradient_checkpointing_func(block, *args)
        return block(*args)

    @classmethod
    def from_wan(cls, backbone, **changes) -> MirageTransformer3DModel:
        """Put a memory branch on a diffusers `WanTransformer3DModel`.

        The new model shares the backbone's modules. The branch begins with copies of the backbone's blocks, and its
        output projections are zero: a fresh branch changes nothing (paper: stage 1 trains from there).

        Args:
            backbone: with as many channels in as out (Wan2.2-TI2V-5B). A quantised backbone stays quantised; its
                branch has plain weights, random where the backbone's can't be copied, for a trained branch to load.
            changes: to the configuration, such as `vace_layers`; by default the paper's layout, a branch block for
                every second block.

        Raises:
            ValueError: another kind of backbone.
        """
        config = {key: value for key, value in backbone.config.items() if key in cls._get_init_keys(cls)}
        channels = config["in_channels"]
        if channels != config["out_channels"] or backbone.config.added_kv_proj_dim is not None:
            raise ValueError(
                f"backbone: expected one as Wan2.2-TI2V-5B, with as many channels in as out and no image encoder, got "
                f"{channels} in, {config['out_channels']} out, added_kv_proj_dim={backbone.config.added_kv_proj_dim}"
            )
        config |= dict(vace_layers=tuple(range(0, config["num_layers"], 2)), vace_in_channels=2 * channels)
        with torch.device("meta"):
            model = cls(**config | {"memory_layout": "wan"} | changes)
        for name in ("patch_embedding", "condition_embedder", "norm_out", "proj_out", "scale_shift_table"):
            setattr(model, name, getattr(backbone, name))
        model.rope = copy.copy(backbone.rope)
        model.rope.__class__ = MirageRotaryPosEmbed
        model.blocks = nn.ModuleList(copy.copy(block) for block in backbone.blocks)
        for block in model.blocks:
            block.__class__ = MirageBlock

        weight, generator = backbone.patch_embedding.weight, torch.Generator().manual_seed(0)

        def fresh(name: str, like: Tensor) -> Tensor:
            tensor = torch.zeros(like.shape)
            if like.ndim > 1 and "proj_out" not in name and not weight.is_meta:
                tensor.normal_(std=0.02, generator=generator)
            return tensor.to(weight)

        own = model.vace_patch_embedding.named_parameters()
        model.vace_patch_embedding.load_state_dict({name: fresh(name, p) for name, p in own}, assign=True)
        for layer, block in zip(model.config.vace_layers, model.vace_blocks):
            theirs = {name: p for name, p in backbone.blocks[layer].named_parameters() if _is_plain(p)}
            own = block.named_parameters()
            weights = {n: theirs[n].detach().clone() if n in theirs else fresh(n, p) for n, p in own}
            block.load_state_dict(weights, assign=True)
        if getattr(backbone, "hf_quantizer", None) is not None:
            model.hf_quantizer = backbone.hf_quantizer
        return model.train(backbone.training)


def _zeroed(layer: nn.Linear) -> nn.Linear:
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


def _is_plain(parameter: nn.Parameter) -> bool:
    """Whether the parameter holds numbers as they are; quantised ones are integers, or of another class."""
    return type(parameter) is nn.Parameter and type(parameter.data) is Tensor and parameter.is_floating_point()
