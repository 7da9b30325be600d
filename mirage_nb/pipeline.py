"""`MiragePipeline`: the whole system as a diffusers pipeline. An image and a camera path go in, a video that remembers
comes out. Its call is that of diffusers' camera-controlled video (`SanaWMPipeline`), with the memory added."""

from __future__ import annotations

import platform
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import diffusers
import torch
from diffusers import DiffusionPipeline
from diffusers.utils import BaseOutput
from PIL import Image
from torch import Tensor

import mirage_nb
from mirage_nb import checks
from mirage_nb.depth_alignment import Fit, fit_report
from mirage_nb.memory.baselines import RGBPointCloud, make_memory
from mirage_nb.models import depth as _depth  # noqa: F401, diffusers loads classes only from modules that are imported
from mirage_nb.models import text
from mirage_nb.models import transformer as _transformer  # noqa: F401
from mirage_nb.models.vae import spatial_stride, temporal_stride, use_frame_kernels
from mirage_nb.models.wan import WAN, load_wan
from mirage_nb.paths import actions_to_c2w
from mirage_nb.runs import TENSORS, Run, digest, draw_seed, model_digest
from mirage_nb.segments import plan_segments
from mirage_nb.stitching import frame_encoder, new_frames_per_segment, rollout

OUTPUT_TYPES = ("pil", "np", "pt", "uint8")
BESIDE = ("references", "preceding", "lookahead", "takes", "image_shifts")


@dataclass
class MirageOutput(BaseOutput):
    """What a call of the pipeline returns.

    Attributes:
        frames: T frames. `pil`: a list of PIL images. `np`: (T, H, W, 3) float in [0, 1]. `pt`: (T, 3, H, W) float in
            [0, 1]. `uint8`: a (T, H, W, 3) uint8 tensor, what the project's own tools take.
        c2w: (T, 4, 4) the path, in the memory's world.
        memory: what is remembered now; pass it to the next call to walk on.
        report: JSON-able. `depth_fit`: how well the estimated depth fits the memory's (`alignment.fit_report`), None
            where it was given. `segments[i].seconds.{read,denoise,decode,depth,write}`, `segments[i].tokens`,
            `memory.{tokens,bytes}`, `seed`, `versions`.
        latents: (t, C, h, w) of the latent frames, the image's first.
        depth: (t, H, W) z-depth in metres of the latent frames, as it was written.
        visibility: (t, h, w) bool, the cells that the memory showed when a frame was made.
    """

    frames: list | Tensor
    c2w: Tensor
    memory: object
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
        depth_estimator: anything with `predict(pixels (N, 3, H, W) in [-1, 1], intrinsics (N, 4)) -> (N, H, W)` metres;
            without it, depth must be given for every frame.
        text_encoder, tokenizer: only for a transformer with text.
        mask_estimator: anything with `predict(pixels (N, 3, H, W) in [-1, 1]) -> moving, sky`, (N, H, W) bool each,
            such as `TransformersSegmentation`; not saved with the pipeline.
        autocast: compute float32 weights in bfloat16; without it everything runs in the precision it was loaded in.
        references, preceding: clean past latent frames that the transformer was trained to be shown (paper: 4 and 2).
        lookahead: how many frames ahead it was trained to leap, see `stitching.rollout`; 0 for not at all.
        takes: how many versions of each view ahead to make, of which one is kept.
        image_shifts: at how many places along a cell's edge the image is remembered.
    """

    model_cpu_offload_seq = "text_encoder->transformer->vae->depth_estimator"
    _optional_components = ["depth_estimator", "text_encoder", "tokenizer"]
    _callback_tensor_inputs = ["latents"]

    def __init__(
        self, vae, transformer, scheduler, depth_estimator=None, text_encoder=None, tokenizer=None,
        autocast: bool = True, references: int = 0, preceding: int = 0, lookahead: int = 0,
        takes: int = 1, image_shifts: int = 1, mask_estimator=None,
    ) -> None:  # fmt: skip
        super().__init__()
        beside = dict(zip(BESIDE, (references, preceding, lookahead, takes, image_shifts)))
        self.register_to_config(autocast=autocast, **beside)
        vae.autocast = transformer.autocast = autocast
        self.mask_estimator = mask_estimator
        self.register_modules(
            vae=use_frame_kernels(vae),
            transformer=transformer,
            scheduler=scheduler,
            depth_estimator=depth_estimator,
            text_encoder=text_encoder,
            tokenizer=tokenizer,
        )

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
        """The full-size system: a diffusers Wan2.2-TI2V model with the memory branch put on (paper: the backbone).

        Args:
            source: a name on the hub or a local folder, in diffusers' layout.
            branch: a safetensors file with the branch's weights (and, perhaps, LoRA), the paper's names or ours;
                without it the branch is fresh, changes nothing, and the video is diffusers' own image-to-video.
            lora: a safetensors file with the backbone's LoRA.
            depth_estimator: see the class; `TransformersDepth.from_transformers(...)` for photos.
            torch_dtype: of the weights; the VAE stays in float32.
            options: as `quantization_config`, `revision`: handed to diffusers' `from_pretrained`.

        Raises:
            FileNotFoundError: the model, a part of it, or a file is not there, or the hub can't be reached.
            ValueError: another kind of model, a file that does not fit, or too little memory.
        """
        parts = load_wan(source, branch, lora, depth_estimator, torch_dtype, **options)
        beside = {} if branch is None else {"references": 4, "preceding": 2}
        return cls(**parts, autocast=False, **beside)

    @property
    def beside(self) -> dict[str, int]:
        """How a rollout goes beyond a memory that is written segment by segment: options of `rollout`."""
        return {name: self.config[name] for name in BESIDE}

    @torch.no_grad()
    def __call__(
        self,
        image,
        prompt: str | None = None,
        negative_prompt: str | None = None,
        *,
        c2w=None,
        action: str | None = None,
        intrinsics=None,
        depth=None,
        moving=None,
        memory="latent",
        num_frames: int | None = None,
        num_inference_steps: int = 2,
        lookahead: int | None = None,
        takes: int | None = None,
        image_shifts: int | None = None,
        guidance_scale: float = 1.0,
        seed: int | None = None,
        generator: torch.Generator | None = None,
        callback_on_step_end: Callable | None = None,
        callback_on_step_end_tensor_inputs: list[str] = ["latents"],
        output_type: str = "pil",
        output_dir: str | Path | None = None,
    ) -> MirageOutput:
        """Walk through the world of an image.

        Args:
            image: the first frame: a path, a PIL image, or (H, W, 3) uint8. Its size is the video's.
            prompt, negative_prompt: for a model with text; the negative one only counts with guidance.
            c2w: (T, 4, 4) camera-to-world matrices (OpenCV axes, metres), one a frame, the image's first. A longer path
                than num_frames is cut.
            action: instead of c2w, keystrokes as `"w-32,j-48,l-48"` (`trajectories.actions_to_c2w`).
            intrinsics: fx, fy, cx, cy in pixels of the image, (4,) or (T, 4); by default 64 degrees across.
            depth: z-depth in metres, (H, W) of the image or (T, H, W) of all frames, 0 = unknown; by default estimated.
            moving: (T, H, W) bool, what must not be remembered; by default it is found, see `stitching.rollout`.
            memory: a name (`make_memory`: "latent", "append", "rgb", "rgb_capped", "none"), or an existing memory,
                which grows in place. (To resume a run that began with one, pass it as it was then; the run goes on with
                what it stored.)
            num_frames: temporal stride * k + 1; by default as many as the path has.
            num_inference_steps: denoising steps a segment: 2 are enough for what the bundled model remembers, 4 or 8
                sharpen what it invents (notebook 05); 20 are the paper's for Wan.
            lookahead: how many frames ahead to imagine the path, by default as the model was trained; 0 goes strictly
                segment by segment, as somebody does who can't know the path (`stitching.rollout`).
            takes: how many versions of each view ahead to make, by default the model's own number: more of them cost
                time, and leave less fog where much must be invented.
            image_shifts: at how many places along a cell's edge to remember the image, by default the model's own
                number; a divisor of the VAE's stride. What is seen again is sharper (`stitching.rollout`).
            guidance_scale: of classifier-free guidance; 1, the paper's default, is none. More costs twice the time.
            seed, generator: one of them makes the noise repeatable. The seed that was used is in the report.
            callback_on_step_end: called as `callback(pipe, step, timestep, {"latents": ...})`, as everywhere in
                diffusers; steps count through all segments. What it returns may replace the latents.
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
        if seed is not None:
            checks.integer("seed", seed, 0)
            if generator is not None:
                raise ValueError("seed: expected either seed or generator, got both")
        if (c2w is None) == (action is None):
            raise ValueError("c2w: expected either c2w or action, " + ("got neither" if c2w is None else "got both"))
        stride = spatial_stride(self.vae)
        image = checks.as_image(image, stride * self.transformer.config.patch_size[-1])
        path = actions_to_c2w(action) if c2w is None else c2w
        cameras = checks.as_cameras(path, intrinsics, tuple(image.shape[:2]), num_frames)
        depth, moving = checks.as_depth(depth, cameras), checks.as_mask("moving", moving, cameras)
        if self.depth_estimator is None and (depth is None or len(depth) < len(cameras)):
            raise ValueError("depth: this pipeline has no depth estimator, so depth (T, H, W) of every frame is needed")
        segments = plan_segments(len(cameras), new_frames_per_segment(self), temporal_stride(self.vae))
        memory, beside = self._memory(memory), self.beside
        for name, value, least in (("lookahead", lookahead, 0), ("takes", takes, 1), ("image_shifts", image_shifts, 1)):
            if value is not None:
                checks.integer(name, value, least)
                beside[name] = value
        seed = draw_seed(generator) if generator is not None else seed
        text.check_prompt(self, prompt, negative_prompt, guidance_scale)

        run, masks = None, [getattr(self.mask_estimator, key, None) for key in ("name", "moving", "sky")]
        if output_dir is not None:
            inputs = {
                "image": digest(image), "c2w": digest(cameras.c2w), "intrinsics": digest(cameras.intrinsics),
                "depth": digest(depth), "moving": digest(moving, *masks),
                "prompt": digest(prompt, negative_prompt, guidance_scale),
                "memory": digest(type(memory).__name__, getattr(memory, "policy", None), memory.frames, len(memory)),
                "num_inference_steps": digest(num_inference_steps), "model": model_digest(self.components),
            } | {name: digest(beside[name]) for name in BESIDE}  # fmt: skip
            run = Run(output_dir, inputs, seed)
            seed = run.seed
        seed = draw_seed() if seed is None else seed
        parts, latents, past = [] if run is None else run.results(), None, None
        first = image[None]
        if parts:
            memory = run.memory(self._loader(memory))
            first = parts[-1]["frames"][None, -1]
            latents = parts[-1]["latents"][None, :, -1] if temporal_stride(self.vae) == 1 else None
            past = tuple(torch.cat([p[name] for p in parts], d)[None] for name, d in (("latents", 1), ("depth", 0)))

        def on_step(segment: int, step: int, timestep: Tensor, latents: Tensor) -> Tensor:
            given = {name: latents for name in callback_on_step_end_tensor_inputs}
            replaced = callback_on_step_end(self, segment * num_inference_steps + step, timestep, given)
            return (replaced or {}).get("latents", latents)

        models = self if guidance_scale == 1 else text.guided(self, negative_prompt, guidance_scale)
        results = rollout(
            models, [memory], first, [cameras], seeds=[seed], num_inference_steps=num_inference_steps,
            depth=None if depth is None else depth[None], moving=None if moving is None else moving[None],
            encoder_hidden_states=text.encode_prompt(self, prompt),
            on_step=on_step if callback_on_step_end else None,
            **beside,
            done=len(parts), latents=latents, past=past, device=self._execution_device,
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
        frames = _frames_as(output_type, torch.cat([part["frames"] for part in parts]))
        report = self._report(parts, memory, seed, num_inference_steps)
        return MirageOutput(
            frames=frames,
            c2w=cameras.c2w,
            memory=memory,
            report=report,
            latents=torch.cat([part["latents"] for part in parts], 1).transpose(0, 1),
            depth=torch.cat([part["depth"] for part in parts]),
            visibility=torch.cat([part["visibility"] for part in parts]),
        )

    def _memory(self, memory):
        """A memory by name, or the one given, checked."""
        stride, channels = spatial_stride(self.vae), int(self.vae.config.z_dim)
        if isinstance(memory, str):
            return make_memory(memory, frame_encoder(self.vae), stride=stride, channels=channels)
        checks.check_memory(memory, stride, channels)
        return memory

    def _loader(self, memory) -> Callable:
        kind = type(memory)
        return partial(kind.load, encode=memory.encode, decode=memory.decode) if kind is RGBPointCloud else kind.load

    def _report(self, parts: list[dict], memory, seed: int, steps: int) -> dict:
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
