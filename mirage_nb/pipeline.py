"""`MiragePipeline`: the whole system as a diffusers pipeline."""

from collections.abc import Callable
from pathlib import Path

import torch
from diffusers import DiffusionPipeline
from torch import Tensor

from mirage_nb import checks
from mirage_nb.denoising import MirageModel
from mirage_nb.generation import MirageOutput, generate
from mirage_nb.memory import Memory
from mirage_nb.models import depth as _depth  # noqa: F401, diffusers loads classes only from modules that are imported
from mirage_nb.models import text
from mirage_nb.models import transformer as _transformer  # noqa: F401
from mirage_nb.models.vae import use_frame_kernels
from mirage_nb.models.wan import WAN, load_wan


class MiragePipeline(DiffusionPipeline):
    """Image and camera path to video, with a spatial memory of latents (arXiv 2606.09828).

    Args:
        vae: `AutoencoderKLWan`.
        transformer: `MirageTransformer3DModel`.
        scheduler: a flow-matching scheduler, UniPC for the bundled model.
        depth_estimator: a `depth_alignment.DepthEstimator`; without it, depth must be given for every frame.
        text_encoder, tokenizer: only for a transformer with text.
        autocast: compute float32 weights in bfloat16; without it everything runs in the precision it was loaded in.
        references, preceding: clean past latent frames that the transformer was trained to see (paper: 4 and 2).
        mask_estimator: see `VideoModel`, such as `TransformersSegmentation`; not saved with the pipeline.
    """

    model_cpu_offload_seq = "text_encoder->transformer->vae->depth_estimator"
    _optional_components = ["depth_estimator", "text_encoder", "tokenizer"]
    _callback_tensor_inputs = ["latents"]

    def __init__(
        self, vae, transformer, scheduler, depth_estimator=None, text_encoder=None, tokenizer=None,
        autocast: bool = True, references: int = 0, preceding: int = 0, mask_estimator=None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.register_to_config(autocast=autocast, references=references, preceding=preceding)
        vae.autocast = transformer.autocast = autocast
        self.mask_estimator = mask_estimator
        transformer.has_branch  # asked now, while its weights are here: offloaded ones can't be asked
        self.register_modules(
            vae=use_frame_kernels(vae), transformer=transformer, scheduler=scheduler, depth_estimator=depth_estimator,
            text_encoder=text_encoder, tokenizer=tokenizer,
        )  # fmt: skip

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, **kwargs):
        """diffusers' own, with safetensors only, and the files checked first.

        Raises:
            FileNotFoundError: the folder or a part of it is missing.
            ValueError: a weights file is truncated, lacks weights, or holds some that are not finite.
        """
        checks.check_model_folder(pretrained_model_name_or_path)
        options = {"use_safetensors": True} | kwargs | {"trust_remote_code": False}
        pipe = super().from_pretrained(pretrained_model_name_or_path, **options)
        if "device_map" not in kwargs:
            checks.check_weights(pipe.components)
        return pipe

    @classmethod
    def from_wan(cls, source=WAN, branch=None, lora=None, depth_estimator=None, torch_dtype=torch.bfloat16, **options):
        """The full-size system: a diffusers Wan2.2-TI2V model with the memory branch added (paper: the backbone).

        Args:
            source: a name on the hub or a local folder, in diffusers' layout.
            branch: a safetensors file with the branch's weights (and, perhaps, LoRA), in the paper's names or ours;
                without it the memory is shown to the backbone by guidance.
            lora: a safetensors file with the backbone's LoRA.
            depth_estimator: see the class; `TransformersDepth.from_transformers(...)` for photos.
            torch_dtype: of the weights; the VAE stays in float32.
            options: handed to diffusers' `from_pretrained`, such as `quantization_config` and `revision`.

        Raises:
            FileNotFoundError: the model, a part of it, or a file is not there, or the hub can't be reached.
            ValueError: another kind of model, a file that does not fit, or too little memory.
        """
        parts = load_wan(source, branch, lora, depth_estimator, torch_dtype, **options)
        context = {} if branch is None else {"references": 4, "preceding": 2}
        return cls(**parts, autocast=False, **context)

    @torch.no_grad()
    def __call__(
        self, image, prompt: str | None = None, negative_prompt: str | None = None, *, c2w, intrinsics=None,
        depth=None, moving=None, memory: str | Memory = "latent", num_inference_steps: int = 2,
        guidance_scale: float = 1.0, conditioning: str | None = None, generator: torch.Generator | int | None = None,
        callback_on_step_end: Callable | None = None, callback_on_step_end_tensor_inputs: list[str] = ["latents"],
        output_type: str = "pil", output_dir: str | Path | None = None,
    ) -> MirageOutput:  # fmt: skip
        """Walk through the scene of an image.

        Args:
            image, c2w, intrinsics, depth, moving, memory, generator, output_type, output_dir: see `generate`.
            prompt, negative_prompt: for a model with text; the negative one only counts with guidance.
            num_inference_steps: denoising steps a segment: 2 suffice for what the bundled model remembers, 4 or 8
                sharpen what it invents; 20 are the paper's for Wan.
            guidance_scale: of classifier-free guidance; 1, the paper's default, is none. More costs twice the time.
            conditioning: how the generator gets the memory: "branch" (the paper's, trained), "guidance" (it is shown
                the memory while it samples, see `guidance`) or "both". By default the branch where the transformer has
                a trained one, otherwise guidance.
            callback_on_step_end: called as `callback(pipe, step, timestep, {"latents": ...})`, as everywhere in
                diffusers; steps count through all segments. What it returns may replace the latents.
            callback_on_step_end_tensor_inputs: names of the tensors that the callback gets; `latents` is the only one.

        Raises: what `generate` raises.
        """
        for name in callback_on_step_end_tensor_inputs:
            checks.one_of("callback_on_step_end_tensor_inputs", name, self._callback_tensor_inputs)

        def on_step(segment: int, step: int, timestep: Tensor, latents: Tensor) -> Tensor:
            given = {name: latents for name in callback_on_step_end_tensor_inputs}
            replaced = callback_on_step_end(self, segment * num_inference_steps + step, timestep, given)
            return (replaced or {}).get("latents", latents)

        model = self.video_model(
            prompt, negative_prompt, num_inference_steps=num_inference_steps, guidance_scale=guidance_scale,
            conditioning=conditioning, on_step=on_step if callback_on_step_end else None,
        )  # fmt: skip
        output = generate(
            model, image, c2w=c2w, intrinsics=intrinsics, depth=depth, moving=moving, memory=memory,
            generator=generator, output_type=output_type, output_dir=output_dir, progress_bar=self.progress_bar,
        )  # fmt: skip
        self.maybe_free_model_hooks()
        output.report |= {"num_inference_steps": num_inference_steps, "conditioning": model.conditioning}
        return output

    @torch.no_grad()
    def video_model(
        self, prompt: str | None = None, negative_prompt: str | None = None, *, num_inference_steps: int = 2,
        guidance_scale: float = 1.0, conditioning: str | None = None, **options,
    ) -> MirageModel:  # fmt: skip
        """This pipeline's models as a `VideoModel`, for `rollout` and `generate`.

        Args: see `__call__`; options are others of `MirageModel`, such as `guidance` and `references`.
        """
        checks.integer("num_inference_steps", num_inference_steps, 1)
        text.check_prompt(self, prompt, negative_prompt, guidance_scale)
        prompts = (prompt,) if guidance_scale == 1 else (prompt, negative_prompt)
        options = {"references": self.config.references, "preceding": self.config.preceding} | options
        return MirageModel(
            self, num_inference_steps, conditioning=conditioning, guidance_scale=guidance_scale,
            encode_prompts=lambda: [text.encode_prompt(self, words) for words in prompts],
            device=self._execution_device, **options,
        )  # fmt: skip
