"""Wan's video transformer with a memory branch: the generator of the paper (section on conditioning).

Parameters have the names of diffusers' `WanTransformer3DModel` and its VACE sibling. New are one timestep per latent
frame, free temporal positions, reference frames that the branch does not see, and a form without text.
"""

import copy
import functools
import warnings

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.loaders import PeftAdapterMixin
from diffusers.models.modeling_outputs import Transformer2DModelOutput
from diffusers.models.modeling_utils import ModelMixin
from diffusers.models.normalization import FP32LayerNorm
from diffusers.models.transformers import transformer_wan as wan
from torch import Tensor, nn

from mirage_nb.models.prior import MemoryPrior, prior_velocity

# torch's RMS norm warns when autocast gives it bfloat16 inputs with float32 weights. The result is right.
warnings.filterwarnings("ignore", "Mismatch dtype between input and weight")


class MirageBlock(wan.WanTransformerBlock):
    """Wan's block with one modulation per latent frame, which diffusers repeats for every token; same weights, same
    results. Without cross-attention if the model reads no text."""

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
    """A block of the memory branch. A zero-initialised projection hands its result to the backbone; it runs inside of
    the block's forward, where hooks on blocks (group offloading) find it."""

    def __init__(self, *args, first: bool = False) -> None:
        super().__init__(*args)
        dim = self.scale_shift_table.shape[-1]
        self.proj_in = nn.Linear(dim, dim) if first else None
        self.proj_out = _zeroed(nn.Linear(dim, dim))

    def forward(self, control: Tensor, hidden_states: Tensor, *condition) -> tuple[Tensor, Tensor]:
        """The branch's next state and its hint for the backbone, both (B, tokens, D)."""
        if self.proj_in is not None:  # the first block adds the backbone's input
            control = self.proj_in(control) + hidden_states
        control = super().forward(control, *condition)
        return control, self.proj_out(control)


class MirageTransformer3DModel(ModelMixin, ConfigMixin, PeftAdapterMixin):
    """A Wan backbone and a branch that reads the memory.

    Args:
        patch_size, ..., rope_max_seq_len: as in diffusers' `WanTransformer3DModel`; a patch is one latent frame long.
            `text_dim=None` leaves out text and cross-attention.
        vace_layers: backbone blocks that receive a hint of the branch (paper: 0, 2, ..., 28); the first must be 0.
        vace_in_channels, memory_layout: channels of the control input, and what they are (`control.memory_control`).
        prior_width: channels of the learnt prior's network (`models.prior`), whose velocity the transformer then
            corrects; 0 for no prior, as in Wan.
        segment_latent_frames: latent frames of a segment, the clean first one included (paper: 9).
    """

    _supports_gradient_checkpointing = True
    _repeated_blocks = ["MirageBlock", "MirageBranchBlock"]
    _keep_in_fp32_modules = ["rope", "time_embedder", "scale_shift_table", "norm1", "norm2", "norm3"]
    _skip_layerwise_casting_patterns = ["patch_embedding", "vace_patch_embedding", "condition_embedder", "norm"]

    @register_to_config
    def __init__(
        self, patch_size: tuple[int, int, int] = (1, 2, 2), num_attention_heads: int = 24,
        attention_head_dim: int = 128, in_channels: int = 48, out_channels: int = 48, text_dim: int | None = 4096,
        freq_dim: int = 256, ffn_dim: int = 14336, num_layers: int = 30, cross_attn_norm: bool = True,
        eps: float = 1e-6, rope_max_seq_len: int = 1024, vace_layers: tuple[int, ...] = tuple(range(0, 30, 2)),
        vace_in_channels: int = 96, memory_layout: str = "wan", prior_width: int = 0, segment_latent_frames: int = 9,
    ) -> None:  # fmt: skip
        super().__init__()
        if not vace_layers or vace_layers[0] != 0 or max(vace_layers) >= num_layers:
            raise ValueError(f"vace_layers: expected 0 first and all below {num_layers}, got {tuple(vace_layers)}")
        dim = num_attention_heads * attention_head_dim
        block = (dim, ffn_dim, num_attention_heads, cross_attn_norm, eps, text_dim is not None)
        self.rope = wan.WanRotaryPosEmbed(attention_head_dim, patch_size, rope_max_seq_len)
        self.patch_embedding = nn.Conv3d(in_channels, dim, kernel_size=patch_size, stride=patch_size)
        self.condition_embedder = wan.WanTimeTextImageEmbedding(dim, freq_dim, dim * 6, text_dim or 1)
        if text_dim is None:
            self.condition_embedder.text_embedder = None
        self.blocks = nn.ModuleList(MirageBlock(*block) for _ in range(num_layers))
        self.prior = MemoryPrior(in_channels, prior_width) if prior_width else None
        branch_channels = vace_in_channels + (in_channels if prior_width else 0)  # the prior's mean is an input too
        self.vace_patch_embedding = nn.Conv3d(branch_channels, dim, kernel_size=patch_size, stride=patch_size)
        self.vace_blocks = nn.ModuleList(MirageBranchBlock(*block, first=i == 0) for i in vace_layers)
        self.norm_out = FP32LayerNorm(dim, eps, elementwise_affine=False)
        self.proj_out = nn.Linear(dim, out_channels * patch_size[1] * patch_size[2])
        self.scale_shift_table = nn.Parameter(torch.randn(1, 2, dim) / dim**0.5)
        if prior_width:  # at first, predict the prior's velocity
            _zeroed(self.proj_out)
        self.gradient_checkpointing = False

    def forward(
        self, hidden_states: Tensor, timestep: Tensor, control: Tensor | None = None,
        encoder_hidden_states: Tensor | None = None, frame_positions: Tensor | None = None, num_references: int = 0,
    ) -> Transformer2DModelOutput:  # fmt: skip
        """Predict the flow velocity, noise - clean.

        Args:
            hidden_states: (B, C, T, h, w) latents: clean context frames (references first) and the noisy frames.
            timestep: (B, T) in [0, 1000], one per latent frame, 0 for clean context.
            control: (B, K, T - num_references, h, w), from `memory_control`; None leaves the branch out, and only a
                model without a prior can do that.
            encoder_hidden_states: (B, L, text_dim) text embeddings, None for a model without text.
            frame_positions: (T,) temporal positions for the rotary embedding, below T; by default 0, 1, 2, ...
            num_references: number of leading frames that are references, which the branch does not see.

        Returns:
            `.sample`, (B, C, T, h, w) in float32.
        """
        frames, height, width = hidden_states.shape[2:]
        _, p_h, p_w = self.config.patch_size
        grid = (frames, height // p_h, width // p_w)
        rotary = tuple(table.float() for table in self.rope(hidden_states))  # cosines, sines: (1, N, 1, D_head)
        if frame_positions is not None:
            rotary = tuple(table.unflatten(1, (frames, -1))[:, frame_positions].flatten(1, 2) for table in rotary)
        temb, modulation, text = self._condition(timestep, encoder_hidden_states)

        if self.prior is not None:
            with torch.no_grad():  # the prior is trained by likelihood alone, see `training.memory`
                guess = self.prior(control)
            control = torch.cat([control, guess[0]], 1)
        x = self.patch_embedding(hidden_states.to(self.dtype)).flatten(2).transpose(1, 2).contiguous()  # (B, N, D)
        skip = num_references * grid[1] * grid[2]  # tokens of the references
        condition = (text, modulation[:, num_references:], tuple(table[:, skip:] for table in rotary))
        start, hints = x[:, skip:], {}
        if control is not None:
            c = self.vace_patch_embedding(control.to(self.dtype)).flatten(2).transpose(1, 2)  # (B, N - skip, D)
            for layer, block in zip(self.config.vace_layers, self.vace_blocks):
                c, hints[layer] = self._run(block, c, start, *condition)
        for layer, block in enumerate(self.blocks):
            x = self._run(block, x, text, modulation, rotary)
            if layer in hints:
                x = x + nn.functional.pad(hints.pop(layer), (0, 0, skip, 0))

        table = self.scale_shift_table[:, None] + temb.float().unsqueeze(2)  # (B, T, 2, D)
        shift, scale = table.unsqueeze(3).unbind(2)  # (B, T, 1, D) each
        x = torch.addcmul(shift, self.norm_out(x.float()).unflatten(1, (frames, -1)), 1 + scale).flatten(1, 2)
        x = self.proj_out(x.to(self.dtype)).float()  # (B, N, p_h * p_w * C)
        x = x.unflatten(1, grid).unflatten(-1, (p_h, p_w, -1))  # (B, T, h', w', p_h, p_w, C)
        sample = x.permute(0, 6, 1, 2, 4, 3, 5).flatten(5, 6).flatten(3, 4)  # (B, C, T, h, w)
        if self.prior is not None:
            expected, deviation = prior_velocity(hidden_states, timestep, *guess)
            sample = expected + deviation * sample
        return Transformer2DModelOutput(sample=sample)

    @functools.cached_property
    def has_branch(self) -> bool:
        """Whether the branch is trained: a fresh one's output projections are zero, and it changes nothing. It is
        found out once, since weights that are offloaded can't be asked."""
        return self.prior is not None or any(bool(block.proj_out.weight.any()) for block in self.vace_blocks)

    def _condition(self, timestep: Tensor, text: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
        """Returns the time embedding (B, T, D), its projection (B, T, 6, D), and the embedded text."""
        embedder = self.condition_embedder
        if (text is None) != (embedder.text_embedder is None):
            raise ValueError("encoder_hidden_states: expected text embeddings for a model with text, and only for that")
        frequencies = embedder.timesteps_proj(timestep.flatten()).unflatten(0, timestep.shape)
        temb = embedder.time_embedder(self._as_input(frequencies, embedder.time_embedder.linear_1))
        modulation = embedder.time_proj(self._as_input(embedder.act_fn(temb), embedder.time_proj))
        text = None if text is None else embedder.text_embedder(text.to(self.dtype))
        return temb, modulation.unflatten(-1, (6, -1)), text

    def _as_input(self, x: Tensor, layer: nn.Linear) -> Tensor:
        """In the layer's precision: its weight's, or the model's if the layer is quantised to integers."""
        return x.to(layer.weight.dtype if layer.weight.is_floating_point() else self.dtype)

    def _run(self, block: nn.Module, *args) -> Tensor:
        if torch.is_grad_enabled() and self.gradient_checkpointing:
            return self._gradient_checkpointing_func(block, *args)
        return block(*args)

    @classmethod
    def from_wan(cls, backbone) -> "MirageTransformer3DModel":
        """Put a memory branch on a diffusers `WanTransformer3DModel`, whose modules the new model shares.

        The branch begins with copies of every second block, and its output projections are zero: a fresh branch
        changes nothing (paper: stage 1 trains from there). A quantised backbone stays quantised; its branch has plain
        weights, zeros where the backbone's can't be copied. ValueError for other backbones than Wan2.2-TI2V-5B's.
        """
        config = {key: value for key, value in backbone.config.items() if key in cls._get_init_keys(cls)}
        channels, out = config["in_channels"], config["out_channels"]
        if channels != out or backbone.config.added_kv_proj_dim is not None:
            expected = "as many channels in as out and no image encoder"
            raise ValueError(f"backbone: expected {expected}, got {channels} in, {out} out")
        with torch.device("meta"):
            model = cls(**config, vace_layers=tuple(range(0, config["num_layers"], 2)), vace_in_channels=2 * channels)
        for name in ("rope", "patch_embedding", "condition_embedder", "norm_out", "proj_out", "scale_shift_table"):
            setattr(model, name, getattr(backbone, name))
        model.blocks = nn.ModuleList(copy.copy(block) for block in backbone.blocks)
        for block in model.blocks:
            block.__class__ = MirageBlock
        weight, generator = backbone.patch_embedding.weight, torch.Generator().manual_seed(0)
        control = model.vace_patch_embedding.to_empty(device=weight.device).to(weight.dtype)
        nn.init.zeros_(control.bias)
        control.weight.data.copy_(torch.empty(control.weight.shape).normal_(std=0.02, generator=generator))
        for layer, block in zip(model.config.vace_layers, model.vace_blocks):
            theirs, weights = dict(backbone.blocks[layer].named_parameters()), {}
            for name, p in block.to_empty(device=weight.device).to(weight.dtype).named_parameters():
                t = theirs.get(name)  # quantised ones are integers, or of another class
                plain = type(t) is nn.Parameter and type(t.data) is Tensor and t.is_floating_point()
                weights[name] = t.detach().clone() if plain else torch.zeros_like(p)
            block.load_state_dict(weights, assign=True)
        if hasattr(backbone, "hf_quantizer"):
            model.hf_quantizer = backbone.hf_quantizer
        return model.train(backbone.training)


def _zeroed(layer: nn.Linear) -> nn.Linear:
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer
