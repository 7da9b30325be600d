"""`MiragePipeline`: the whole system as a diffusers pipeline. An image and a camera path go in, a video that remembers
comes out."""

from __future__ import annotations

import platform
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import diffusers
import torch
from diffusers import DiffusionPipeline
from diffusers.utils import BaseOutput
from PIL import Image
from torch import Tensor

import mirage_nb
from mirage_nb import checks
from mirage_nb.cameras import Cameras
from mirage_nb.depth_alignment import Fit, fit_report
from mirage_nb.memory import MEMORIES, Memory, make_memory
from mirage_nb.models import depth as _depth  # noqa: F401, diffusers loads classes only from modules that are imported
from mirage_nb.models import text
from mirage_nb.models import transformer as _transformer  # noqa: F401
from mirage_nb.models.vae import frame_encoder, spatial_stride, temporal_stride, use_frame_kernels
from mirage_nb.models.wan import WAN, load_wan
from mirage_nb.runs import TENSORS, Run, digest, model_digest
from mirage_nb.segments import new_frames_per_segment, plan_segments
from mirage_nb.stitching import Resume, rollout

OUTPUT_TYPES = ("pil", "np", "pt", "uint8")


@dataclass
class MirageOutput(BaseOutput):
    """What a call of the pipeline returns.

    Attributes:
        frames: T frames. `pil`: a list of PIL images. `np`: (T, H, W, 3) float in [0, 1]. `pt`: (T, 3, H, W) float in
            [0, 1]. `uint8`: a (T, H, W, 3) uint8 tensor, which the project's own tools take.
        c2w: (T, 4, 4) the path, in the memory's coordinates.
        memory: the memory after the walk; pass it to the next call to walk on.
        report: JSON-able. `depth_fit`: how well the estimated depth fits the memory's (`fit_report`), None where it was
            given. `segments[i].seconds.{read,denoise,decode,depth,write}`, `segments[i].tokens`,
            `memory.{kind,tokens,bytes}`, `seed`, `num_inference_steps`, `versions`.
        latents: (t, C, h, w) of the latent frames, the image's first.
        depth: (t, H, W) z-depth in metres of the latent frames, as it was written.
        visibility: (t, h, w) bool, the cells that the memory showed when a frame was made.
    """

    frames: list | Tensor
    c2w: Tensor
    memory: Memory
    report: dict
    latents: Tensor
    depth: Tensor
    visibility: Tensor


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
        mask_estimator: anything with `predict(pixels (N, 3, H, W) in [-1, 1]) -> moving, sky`, (N, H, W) bool each,
            such as `TransformersSegmentation`; not saved with the pipeline.
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
        self.register_modules(
            vae=use_frame_kernels(vae), transformer=transformer, scheduler=scheduler, depth_estimator=depth_estimator,
            text_encoder=text_encoder, tokenizer=tokenizer,
        )  # fmt: skip

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, **kwargs):
        """diffusers' own, with safetensors only, and the files checked first.

        Raises:
            FileNotFoundError: the folder or a part of it is missing.
            ValueError: a weights file is truncated.
        """
        checks.check_model_folder(pretrained_model_name_or_path)
        return super().from_pretrained(pretrained_model_name_or_path, **{"use_safetensors": True, **kwargs})

    @classmethod
    def from_wan(cls, source=WAN, branch=None, lora=None, depth_estimator=None, torch_dtype=torch.bfloat16, **options):
        """The full-size system: a diffusers Wan2.2-TI2V model with the memory branch added (paper: the backbone).

        Args:
            source: a name on the hub or a local folder, in diffusers' layout.
            branch: a safetensors file with the branch's weights (and, perhaps, LoRA), in the paper's names or ours;
                without it the branch is fresh, changes nothing, and the video is diffusers' own image-to-video.
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
        guidance_scale: float = 1.0, generator: torch.Generator | int | None = None,
        callback_on_step_end: Callable | None = None, callback_on_step_end_tensor_inputs: list[str] = ["latents"],
        output_type: str = "pil", output_dir: str | Path | None = None,
    ) -> MirageOutput:  # fmt: skip
        """Walk through the scene of an image.

        Args:
            image: the first frame: a path, a PIL image, or (H, W, 3) uint8. Its size is the video's.
            prompt, negative_prompt: for a model with text; the negative one only counts with guidance.
            c2w: (T, 4, 4) camera-to-world matrices (OpenCV axes, metres), one a frame, the image's first. T is
                temporal stride * k + 1. `camera_path` and `paths.actions_to_c2w` make some.
            intrinsics: fx, fy, cx, cy in pixels of the image, (4,) or (T, 4); by default 64 degrees across.
            depth: z-depth in metres, (H, W) of the image or (T, H, W) of all frames, 0 = unknown; by default estimated.
            moving: (T, H, W) bool, what must not be written; by default it is found, see `rollout`.
            memory: a name ("latent", "append", "rgb", "rgb_capped", "none", see `make_memory`), or a memory, which
                grows in place. To resume a run that began with one, pass it as it was then; the output holds another.
            num_inference_steps: denoising steps a segment: 2 suffice for what the bundled model remembers, 4 or 8
                sharpen what it invents; 20 are the paper's for Wan.
            guidance_scale: of classifier-free guidance; 1, the paper's default, is none. More costs twice the time.
            generator: a `torch.Generator` or a seed makes the noise repeatable. The report holds the seed.
            callback_on_step_end: called as `callback(pipe, step, timestep, {"latents": ...})`, as everywhere in
                diffusers; steps count through all segments. What it returns may replace the latents.
            callback_on_step_end_tensor_inputs: names of the tensors that the callback gets; `latents` is the only one.
            output_type: "pil", "np", "pt" or "uint8", see `MirageOutput`.
            output_dir: where each whole segment and the memory are stored. The same call resumes from there.

        Raises:
            FileNotFoundError, ValueError: an argument does not fit, in one line that names it, before any heavy work.
            OSError: the disk is full; what was stored stays.
        """
        checks.one_of("output_type", output_type, OUTPUT_TYPES)
        for name in callback_on_step_end_tensor_inputs:
            checks.one_of("callback_on_step_end_tensor_inputs", name, self._callback_tensor_inputs)
        checks.integer("num_inference_steps", num_inference_steps, 1)
        seed = checks.as_seed(generator)
        image, cameras, depth, moving = self.check_inputs(image, c2w, intrinsics, depth, moving)
        segments = plan_segments(len(cameras), new_frames_per_segment(self), temporal_stride(self.vae))
        text.check_prompt(self, prompt, negative_prompt, guidance_scale)

        prompt_embeds = text.encode_prompt(self, prompt)
        models = self if guidance_scale == 1 else text.guided(self, negative_prompt, guidance_scale)

        name = memory if isinstance(memory, str) else type(memory).__name__
        memory = self.prepare_memory(memory)
        run, parts, first_frame, resume = None, [], image, None
        if output_dir is not None:
            seen = [memory.read(cameras).latents] if len(memory) else []  # two memories may be of one size
            masks = [getattr(self.mask_estimator, key, None) for key in ("name", "moving", "sky")]
            asked = {
                "image": digest(image), "c2w": digest(cameras.c2w), "intrinsics": digest(cameras.intrinsics),
                "depth": digest(depth), "moving": digest(moving, *masks),
                "memory": digest(name, memory.frames, len(memory), *seen),
                "prompt": digest(prompt, negative_prompt, guidance_scale),
                "num_inference_steps": digest(num_inference_steps), "model": model_digest(self.components),
            }  # fmt: skip
            run = Run(output_dir, asked, seed)
            seed, parts = run.seed, run.results()
        seed = secrets.randbelow(2**31) if seed is None else seed
        if parts:
            memory, first_frame = run.memory(memory), parts[-1]["frames"][-1]
            latents = torch.cat([part["latents"] for part in parts], 1)[None]  # (1, C, n, h, w)
            resume = Resume(len(parts), latents, torch.cat([part["depth"] for part in parts])[None])

        def on_step(segment: int, step: int, timestep: Tensor, latents: Tensor) -> Tensor:
            given = {name: latents for name in callback_on_step_end_tensor_inputs}
            replaced = callback_on_step_end(self, segment * num_inference_steps + step, timestep, given)
            return (replaced or {}).get("latents", latents)

        results = rollout(
            models, [memory], first_frame[None], [cameras], seeds=[seed], num_inference_steps=num_inference_steps,
            depth=None if depth is None else depth[None], moving=None if moving is None else moving[None],
            prompt_embeds=prompt_embeds, on_step=on_step if callback_on_step_end else None,
            references=self.config.references, preceding=self.config.preceding,
            resume=resume, device=self._execution_device,
        )  # fmt: skip
        with self.progress_bar(total=len(segments)) as progress:
            progress.update(len(parts))
            for result in results:
                part = {name: getattr(result, name)[0].cpu() for name in TENSORS}
                figures = {"seconds": result.seconds, "tokens": result.tokens[0], "fits": result.fits[0]}
                if run is not None:
                    run.commit(result.index, part, figures, memory)
                parts.append(part | figures)
                progress.update()
        if run is not None:
            run.finish()
        self.maybe_free_model_hooks()
        return MirageOutput(
            frames=_frames_as(output_type, torch.cat([part["frames"] for part in parts])),
            c2w=cameras.c2w,
            memory=memory,
            report=_report(parts, memory, seed, num_inference_steps),
            latents=torch.cat([part["latents"] for part in parts], 1).transpose(0, 1),
            depth=torch.cat([part["depth"] for part in parts]),
            visibility=torch.cat([part["visibility"] for part in parts]),
        )

    def check_inputs(
        self, image, c2w, intrinsics=None, depth=None, moving=None
    ) -> tuple[Tensor, Cameras, Tensor | None, Tensor | None]:
        """The geometric arguments of `__call__`, checked: image (H, W, 3) uint8, T cameras, depth (T, H, W) of all
        frames or (1, H, W) of the first one or None, moving (T, H, W) bool or None.

        Raises:
            FileNotFoundError, ValueError: one does not fit; the message names it.
        """
        multiple = spatial_stride(self.vae) * self.transformer.config.patch_size[-1]
        image = checks.as_image(image, multiple)
        cameras = checks.as_cameras(c2w, intrinsics, tuple(image.shape[:2]))
        depth, moving = checks.as_depth(depth, cameras), checks.as_mask("moving", moving, cameras)
        if self.depth_estimator is None and (depth is None or len(depth) < len(cameras)):
            raise ValueError("depth: this pipeline has no depth estimator, so depth (T, H, W) of every frame is needed")
        return image, cameras, depth, moving

    def prepare_memory(self, memory: str | Memory) -> Memory:
        """A new memory by name, or the one given.

        Raises:
            ValueError: an unknown name, no memory, or one that holds latents of another VAE.
        """
        stride, channels = spatial_stride(self.vae), int(self.vae.config.z_dim)
        if isinstance(memory, str):
            checks.one_of("memory", memory, MEMORIES)
            return make_memory(memory, frame_encoder(self.vae), stride=stride, channels=channels)
        checks.check_memory(memory, stride, channels)
        return memory


def _report(parts: list[dict], memory: Memory, seed: int, steps: int) -> dict:
    versions = {"mirage_nb": mirage_nb.__version__, "torch": torch.__version__, "diffusers": diffusers.__version__}
    return {
        "depth_fit": fit_report([Fit(*fit) for part in parts for fit in part["fits"]]),
        "segments": [{"seconds": part["seconds"], "tokens": part["tokens"]} for part in parts],
        "memory": {"kind": type(memory).__name__, "tokens": len(memory), "bytes": int(memory.nbytes)},
        "seed": seed,
        "num_inference_steps": steps,
        "versions": {**versions, "python": platform.python_version()},
    }


def _frames_as(output_type: str, frames: Tensor):
    """(T, H, W, 3) uint8 in the form asked for."""
    if output_type == "pil":
        return [Image.fromarray(frame) for frame in frames.numpy()]
    if output_type == "np":
        return frames.numpy().astype("float32") / 255
    return frames.movedim(3, 1).float() / 255 if output_type == "pt" else frames
