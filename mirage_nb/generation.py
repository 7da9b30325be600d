"""From an image and a camera path to a video that remembers, with any video model: `generate`."""

import platform
import secrets
from dataclasses import dataclass
from pathlib import Path

import diffusers
import torch
from diffusers.utils import BaseOutput
from PIL import Image
from torch import Tensor
from tqdm import tqdm

import mirage_nb
from mirage_nb import checks
from mirage_nb.cameras import Cameras
from mirage_nb.depth_alignment import Fit, fit_report
from mirage_nb.memory import MEMORIES, Memory, make_memory
from mirage_nb.runs import TENSORS, Run, digest
from mirage_nb.segments import plan_segments
from mirage_nb.stitching import Resume, rollout
from mirage_nb.video_model import VideoModel

OUTPUT_TYPES = {  # of (T, H, W, 3) uint8
    "pil": lambda frames: [Image.fromarray(frame) for frame in frames.numpy()],
    "np": lambda frames: frames.numpy().astype("float32") / 255,
    "pt": lambda frames: frames.movedim(3, 1).float() / 255,
    "uint8": lambda frames: frames,
}


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
            `memory.{kind,tokens,bytes}`, `seed`, `versions`; of a `MiragePipeline` `num_inference_steps` and
            `conditioning`, too.
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


def generate(
    model: VideoModel, image, *, c2w, intrinsics=None, depth=None, moving=None, memory: str | Memory = "latent",
    generator: torch.Generator | int | None = None, output_type: str = "pil", output_dir: str | Path | None = None,
    progress_bar=tqdm,
) -> MirageOutput:  # fmt: skip
    """Walk through the scene of an image: `rollout` of one scene, its arguments checked, resumable.

    Args:
        model: such as `DiffusersModel(pipe, ...)`, or `MiragePipeline.video_model()`.
        image: the first frame: a path, a PIL image, or (H, W, 3) uint8. Its size is the video's.
        c2w: (T, 4, 4) camera-to-world matrices (OpenCV axes, metres), one a frame, the image's first. T is
            temporal stride * k + 1. `camera_path` and `paths.actions_to_c2w` make some.
        intrinsics: fx, fy, cx, cy in pixels of the image, (4,) or (T, 4); by default 64 degrees across.
        depth: z-depth in metres, (H, W) of the image or (T, H, W) of all frames, 0 = unknown; by default estimated.
        moving: (T, H, W) bool, what must not be written; by default it is found, see `rollout`.
        memory: a name ("latent", "append", "rgb", "rgb_capped", "none", see `make_memory`), or a memory, which
            grows in place. To resume a run that began with one, pass it as it was then; the output holds another.
        generator: a `torch.Generator` or a seed makes the noise repeatable. The report holds the seed.
        output_type: "pil", "np", "pt" or "uint8", see `MirageOutput`.
        output_dir: where each whole segment and the memory are stored. The same call resumes from there.
        progress_bar: called with `total=`, the number of segments.

    Raises:
        FileNotFoundError, ValueError: an argument does not fit, in one line that names it, before any heavy work.
        OSError: the disk is full; what was stored stays.
    """
    checks.one_of("output_type", output_type, OUTPUT_TYPES)
    seed = checks.as_seed(generator)
    image, cameras, depth, moving = check_inputs(model, image, c2w, intrinsics, depth, moving)
    segments = plan_segments(len(cameras), model.new_frames, model.latent_step)
    name = memory if isinstance(memory, str) else type(memory).__name__
    memory = prepare_memory(model, memory)
    run, parts, first_frame, resume = None, [], image, None
    if output_dir is not None:
        seen = [memory.read(cameras).latents] if len(memory) else []  # two memories may be of one size
        masks = [getattr(model.mask_estimator, key, None) for key in ("name", "moving", "sky")]
        asked = {
            "image": digest(image), "c2w": digest(cameras.c2w), "intrinsics": digest(cameras.intrinsics),
            "depth": digest(depth), "moving": digest(moving, *masks),
            "memory": digest(name, memory.frames, len(memory), *seen),
        }  # fmt: skip
        run = Run(output_dir, asked | model.fingerprint(), seed)
        seed, parts = run.seed, run.results()
    seed = secrets.randbelow(2**31) if seed is None else seed
    if parts:
        memory, first_frame = run.memory(memory), parts[-1]["frames"][-1]
        latents = torch.cat([part["latents"] for part in parts], 1)[None]  # (1, C, n, h, w)
        fits = [Fit(*part["fits"][-1]) for part in parts[-1:] if part["fits"]] or [None]
        resume = Resume(len(parts), latents, torch.cat([part["depth"] for part in parts])[None], fits)

    results = rollout(
        model, [memory], first_frame[None], [cameras], seeds=[seed], resume=resume,
        depth=None if depth is None else depth[None], moving=None if moving is None else moving[None],
    )  # fmt: skip
    # An autocast around the call must not reach in: each part of a model chooses its own precision.
    with progress_bar(total=len(segments)) as progress, torch.autocast(model.device.type, enabled=False):
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
    made = {name: torch.cat([part[name] for part in parts], 1 if name == "latents" else 0) for name in TENSORS}
    made |= {"frames": OUTPUT_TYPES[output_type](made["frames"]), "latents": made["latents"].transpose(0, 1)}
    return MirageOutput(c2w=cameras.c2w, memory=memory, report=_report(parts, memory, seed), **made)


def check_inputs(
    model: VideoModel, image, c2w, intrinsics=None, depth=None, moving=None
) -> tuple[Tensor, Cameras, Tensor | None, Tensor | None]:
    """The geometric arguments of `generate`, checked: image (H, W, 3) uint8, T cameras, depth (T, H, W) of all frames
    or (1, H, W) of the first one or None, moving (T, H, W) bool or None. Raises what `generate` does."""
    image = checks.as_image(image, model.size_multiple)
    cameras = checks.as_cameras(c2w, intrinsics, tuple(image.shape[:2]))
    depth, moving = checks.as_depth(depth, cameras), checks.as_mask("moving", moving, cameras)
    if model.depth_estimator is None and (depth is None or len(depth) < len(cameras)):
        raise ValueError("depth: this pipeline has no depth estimator, so depth (T, H, W) of every frame is needed")
    return image, cameras, depth, moving


def prepare_memory(model: VideoModel, memory: str | Memory) -> Memory:
    """A new memory for a model by name, or the one given. ValueError where it is unknown, or of another model."""
    if isinstance(memory, str):
        checks.one_of("memory", memory, MEMORIES)
        return make_memory(memory, model.encode, stride=model.stride, channels=model.channels)
    checks.check_memory(memory, model.stride, model.channels)
    return memory


def _report(parts: list[dict], memory: Memory, seed: int) -> dict:
    versions = {"mirage_nb": mirage_nb.__version__, "torch": torch.__version__, "diffusers": diffusers.__version__}
    return {
        "depth_fit": fit_report([Fit(*fit) for part in parts for fit in part["fits"]]),
        "segments": [{"seconds": part["seconds"], "tokens": part["tokens"]} for part in parts],
        "memory": {"kind": type(memory).__name__, "tokens": len(memory), "bytes": int(memory.nbytes)},
        "seed": seed,
        "versions": {**versions, "python": platform.python_version()},
    }
