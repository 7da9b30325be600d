"""Any image-to-video pipeline of diffusers as a `VideoModel`, so that stage 5 can walk with it."""

import inspect
import time

import torch
from PIL import Image
from torch import Tensor

from mirage_nb.cameras import Cameras
from mirage_nb.depth_alignment import DepthEstimator
from mirage_nb.guidance import GuidanceOptions, MemoryGuidance
from mirage_nb.models.latent_format import LatentFormat
from mirage_nb.reprojection import Readout
from mirage_nb.runs import digest, model_digest
from mirage_nb.segments import segment_seed
from mirage_nb.video_model import Sample, SegmentInputs


class DiffusersModel:
    """An image-to-video pipeline with a memory: each segment is one call, which is shown the memory by guidance.

    Args:
        pipe: such as `WanImageToVideoPipeline`; see `latent_format.LAYOUTS` for those that are known.
        depth_estimator: see `DepthEstimator`; `TransformersDepth.from_transformers(...)` for photos. Without one, depth
            must be given for every frame.
        mask_estimator: names what moves and the sky, see `VideoModel`.
        num_frames: pixel frames of one call, the given one included: temporal stride * k + 1.
        guidance: how the memory is shown.
        options: of the pipeline's call: prompt, num_inference_steps, guidance_scale, ...

    Raises:
        ValueError: the pipeline is not known, num_frames does not fit, or an option is one that this class sets itself.
    """

    SET_HERE = (
        "image", "height", "width", "num_frames", "frames", "generator", "output_type", "return_dict", "latents",
        "callback_on_step_end", "callback_on_step_end_tensor_inputs", "num_videos_per_prompt",
    )  # fmt: skip

    def __init__(
        self, pipe, depth_estimator: DepthEstimator | None = None, *, num_frames: int, mask_estimator=None,
        guidance: GuidanceOptions = GuidanceOptions(), **options,
    ) -> None:  # fmt: skip
        self.pipe, self.form, self.guidance, self.options = pipe, LatentFormat.of(pipe), guidance, options
        self.depth_estimator, self.mask_estimator = depth_estimator, mask_estimator
        self.stride, self.latent_step, self.channels = self.form.stride, self.form.latent_step, self.form.channels
        self.size_multiple, self.new_frames = self.form.size_multiple, num_frames - 1
        arguments = inspect.signature(pipe.__call__).parameters
        if "callback_on_step_end" not in arguments or "image" not in arguments:
            raise ValueError(f"pipe: {type(pipe).__name__} takes no image or no callback_on_step_end")
        self._length = "num_frames" if "num_frames" in arguments else "frames"
        if "use_resolution_binning" in arguments:  # Sana would choose a size of its own
            self.options = {"use_resolution_binning": False} | options
        # CogVideoX decodes latent frames in pairs after the first one: it makes other counts than it is asked for.
        multiple = self.latent_step * (2 if self.form.layout == "btchw" and self.latent_step > 1 else 1)
        if self.new_frames < multiple or self.new_frames % multiple:
            raise ValueError(f"num_frames: expected {multiple} * k + 1, k of at least 1, got {num_frames}")
        for name in options:
            if name in self.SET_HERE:
                raise ValueError(f"{name}: it is set for each segment, so it can't be an option")

    @property
    def device(self) -> torch.device:
        return self.pipe._execution_device

    def encode(self, pixels: Tensor) -> Tensor:
        return self.form.encode(pixels).to(pixels.device)

    @torch.no_grad()
    def sample(self, inputs: SegmentInputs) -> Sample:
        """One call of the pipeline for each scene."""
        start, seeds = time.perf_counter(), [segment_seed(seed, inputs.index) for seed in inputs.seeds]
        latents, videos = zip(*map(self._call, inputs.image, inputs.cameras, inputs.readouts, seeds))
        seconds = {"denoise": time.perf_counter() - start, "decode": 0.0}  # the pipeline decodes within its call
        return Sample(torch.cat(latents), torch.stack(videos), seconds, [[] for _ in latents])

    def _call(self, image: Tensor, cameras: Cameras, readout: Readout, seed: int) -> tuple[Tensor, Tensor]:
        """Latents (1, C, t, h, w) and the new frames (T, 3, H, W) in [-1, 1] of one scene's segment."""
        count, t = self.new_frames + 1, len(readout)
        # A model makes videos of the length that it was trained for: a shorter last segment is made whole, then cut.
        whole = cameras[torch.arange(count).clamp(max=len(cameras) - 1)]
        shown = readout[torch.arange(self.new_frames // self.latent_step + 1, device=self.device).clamp(max=t - 1)]
        guidance = MemoryGuidance(shown, whole, seed=seed, **vars(self.guidance))
        output = self.pipe(
            image=Image.fromarray(image.cpu().numpy()), **{self._length: self.form.asked_frames(count)},
            generator=torch.Generator().manual_seed(seed), output_type="pt", callback_on_step_end=guidance,
            callback_on_step_end_tensor_inputs=["latents"], height=cameras.size[0], width=cameras.size[1],
            **self.options,
        )  # fmt: skip
        frames = output.frames[0]  # (count, 3, H, W) in [0, 1]
        if tuple(frames.shape) != (count, 3, *cameras.size):
            found = f"{tuple(frames.shape)}; num_frames or the size does not suit it"
            raise ValueError(f"pipe: expected {count} frames of {cameras.size} pixels, it made {found}")
        latents, video = guidance.latents[:, :, :t].float(), frames[1 : len(cameras)].float().to(self.device)
        return latents, video * 2 - 1

    def fingerprint(self) -> dict[str, str]:
        options = [part for option in sorted(self.options.items()) for part in option]  # names and values
        options = digest(*options, self.guidance, self.new_frames)
        return {"options": options, "model": model_digest(self.pipe.components)}
