"""`mirage-nb`: generate a walk, evaluate the memory, train the bundled model."""

from __future__ import annotations

import shlex
import sys
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from mirage_nb.cli.benchmark import app as benchmark
from mirage_nb.cli.console import one_line, write_json
from mirage_nb.cli.evaluate import app as evaluate
from mirage_nb.cli.notebooks import app as notebooks
from mirage_nb.cli.train import app as train

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, help=__doc__)
app.add_typer(evaluate, name="evaluate")
app.add_typer(benchmark, name="benchmark")
app.add_typer(notebooks, name="notebooks")
app.add_typer(train, name="train")


class Memory(str, Enum):
    """The memories by name."""

    latent, append, rgb, rgb_capped, none = "latent", "append", "rgb", "rgb_capped", "none"


Model = Annotated[str | None, typer.Option(help="Folder of a model; by default the bundled one.")]
Steps = Annotated[int, typer.Option(help="Denoising steps a segment.")]
Out = Annotated[Path, typer.Option(help="Folder for the results.")]


@app.command()
def generate(
    source: Annotated[
        str, typer.Argument(metavar="INPUT", help="room:17, an RGB-D folder, a posed photo's folder, or a photo.")
    ],
    out: Out = Path("walk"),
    prompt: Annotated[str | None, typer.Option(help="What the world is, for a model that reads text.")] = None,
    negative_prompt: Annotated[str | None, typer.Option(help="What it is not; needs --guidance.")] = None,
    guidance: Annotated[float, typer.Option(help="Classifier-free guidance; 1 is none.")] = 1.0,
    path: Annotated[str | None, typer.Option(help="A named path, as there_and_back:pan_left+push_in.")] = None,
    action: Annotated[str | None, typer.Option(help="Keystrokes, as 'w-32,j-48,l-48': wasd move, ijkl turn.")] = None,
    trajectory: Annotated[
        str | None, typer.Option(help="A trajectory (RealEstate10K, TUM, Spatia, COLMAP, transforms.json, .npz, ...).")
    ] = None,
    frames: Annotated[int, typer.Option(help="Frames of the video.")] = 49,
    segments: Annotated[int | None, typer.Option(min=1, help="Length in segments, in place of frames.")] = None,
    memory: Annotated[Memory, typer.Option(help="What remembers between segments.")] = Memory.latent,
    seed: Annotated[int, typer.Option(help="Of the noise.")] = 0,
    steps: Annotated[int | None, typer.Option(help="Denoising steps a segment; by default the model's.")] = None,
    model: Annotated[str | None, typer.Option(help="wan2.2, or a model's folder; by default the bundled one.")] = None,
    branch: Annotated[Path | None, typer.Option(help="Weights of Wan's memory branch (.safetensors).")] = None,
    lora: Annotated[Path | None, typer.Option(help="A LoRA for Wan (.safetensors).")] = None,
    depth_model: Annotated[str | None, typer.Option(help="A depth model of transformers, by name or folder.")] = None,
    segmentation: Annotated[
        str | None,
        typer.Option(help="A segmentation model of transformers; what moves, and sky, is not kept."),
    ] = None,
    masked: Annotated[
        str | None,
        typer.Option(help="What it masks, separated by commas; by default person, car, sky ..."),
    ] = None,
    size: Annotated[str | None, typer.Option(help="WIDTHxHEIGHT of the video; by default the model's.")] = None,
    fov: Annotated[float | None, typer.Option(help="A photo's horizontal field of view, in degrees.")] = None,
    export: Annotated[str | None, typer.Option(help="nerfstudio, colmap, or both: data to train a splat on.")] = None,
    given_depth: Annotated[bool, typer.Option(help="Use a recording's depth of every frame.")] = False,
) -> None:
    """Walk through the scene of an image: video, contact sheet, memory, and report."""
    with one_line():
        from mirage_nb.checks import one_of
        from mirage_nb.cli.models import choose_masks, choose_model, load_model
        from mirage_nb.data.inputs import choose_path, read_input
        from mirage_nb.formats.exports import EXPORTS, export_run
        from mirage_nb.models.text import check_guidance
        from mirage_nb.segments import plan_segments

        check_guidance(guidance)  # all that can be checked before a large model is loaded
        formats = tuple(one_of("export", name.strip(), EXPORTS) for name in export.split(",")) if export else ()
        choice, mask_estimator = choose_model(model, size), choose_masks(segmentation, masked)
        frames = choice.new_frames * segments + 1 if segments else frames
        way = choose_path(path, action, trajectory, frames)
        scene = read_input(source, way, frames=frames, size=choice.size, fov=fov)
        depth = scene.depth if scene.depth is None or given_depth else scene.depth[:1]
        plan_segments(len(scene.cameras), choice.new_frames, choice.stride)
        if scene.note:
            typer.echo(f"note: {scene.note}")
        pipe, where = load_model(choice, branch, lora, depth_model, depth is not None)
        if mask_estimator is not None:
            mask_estimator.model.to(pipe._execution_device)
            pipe.mask_estimator = mask_estimator
        if where != "the CPU" or choice.wan:
            typer.echo(f"running on {where}")
        result = pipe(
            scene.image, prompt or (scene.prompt if pipe.transformer.config.text_dim else None), negative_prompt,
            c2w=scene.cameras.c2w, intrinsics=scene.cameras.intrinsics, depth=depth, memory=memory.value,
            generator=seed, num_inference_steps=steps or choice.steps, guidance_scale=guidance, output_type="uint8",
            output_dir=out / "run",
        )  # fmt: skip
        report = _save_walk(out, scene, result, memory.value)
        cameras = scene.cameras[: len(result.frames)]
        export_run(out, result.frames, cameras, result.depth, formats)
        report |= {"input": source, "command": shlex.join(["mirage-nb", *sys.argv[1:]])}
        write_json(out / "report.json", report)
        for name in ("closed_loop_psnr", "psnr_to_truth"):
            if name in report:
                value = report[name]["mean"] if isinstance(report[name], dict) else report[name]
                typer.echo(f"{name.replace('_', ' ')}: {value:.1f} dB")
        fit = report["depth_fit"] or {}
        if "relative_error" in fit:
            words = f"{fit['fitted']} of {fit['frames']} frames fit the memory's, off by {fit['relative_error']:.1%}"
            typer.echo(f"depth: {words} (median)")
        typer.echo(f"{report['memory']['tokens']} tokens, {report['memory']['bytes'] / 1024:.0f} KiB of memory")
        typer.echo(f"see {out / 'video.mp4'}, {out / 'contact.png'}, {out / 'memory.ply'}, {out / 'report.json'}")


def _save_walk(out: Path, scene, result, name: str) -> dict:
    """Write what a walk made into its folder; returns the report with the figures that can be known."""
    import torch

    from mirage_nb import evaluation as ev
    from mirage_nb.viz.colours import latent_colours, token_colours
    from mirage_nb.viz.video import contact_sheet, side_by_side, write_mp4, write_png

    report, frames = dict(result.report), result.frames
    videos = {"truth": scene.truth[: len(frames)]} if scene.truth is not None else {}
    videos[name] = frames
    write_mp4(out / "video.mp4", side_by_side(videos) if len(videos) > 1 else frames)
    write_png(out / "contact.png", contact_sheet(videos))
    result.memory.save(out / "memory.safetensors")
    if name in ("latent", "append") and len(result.memory):
        every = max(1, (len(frames) - 1) // max(1, len(result.latents) - 1))  # pixel frames per latent frame
        colours = latent_colours(result.latents, frames[::every])
        result.memory.save_ply(out / "memory.ply", token_colours(result.memory.tokens, colours))
    if torch.allclose(result.c2w[0], result.c2w[-1], atol=1e-5) and len(frames) > 1:
        report["closed_loop_psnr"] = ev.closed_loop_psnr(frames)
    if scene.truth is not None and len(frames) > 1:
        each = ev.psnr(frames[1:], videos["truth"][1:])
        covered = ev.psnr(frames[1:], videos["truth"][1:], ev.as_pixel_mask(result.visibility, frames)[1:])
        report["psnr_to_truth"] = {
            "mean": each.mean().item(),
            "per_frame": [round(x, 3) for x in each.tolist()],
            # null where the memory showed nothing of a frame
            "covered": {
                "mean": covered.nanmean().item(),
                "per_frame": [round(x, 3) for x in covered.tolist()],
            },
        }
    return report


@app.command()
def doctor(
    model: Annotated[str | None, typer.Option(help="A folder of a Wan2.2 model, to be looked through as well.")] = None,
) -> None:
    """What this machine can run, what is missing, and what to do about it."""
    from mirage_nb.cli.doctor import examine, print_findings

    with one_line():
        if not print_findings(examine(model)):
            raise typer.Exit(1)


if __name__ == "__main__":
    app()
