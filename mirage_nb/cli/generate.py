"""`mirage-nb generate`: a walk through the scene of an image."""

import re
from pathlib import Path
from typing import Annotated, Literal

import typer

from mirage_nb.cli.console import Overwrite, check_files, claim, one_line, quiet, save_report
from mirage_nb.models.folders import BUNDLED, check_model_folder

RESULTS = ("video.mp4", "contact.png", "report.json", "memory.safetensors", "memory.ply", "nerfstudio", "colmap", "run")
LONGEST = 100_000  # frames: more than two hours of video
Kind = Literal["latent", "append", "rgb", "rgb_capped", "none"]


def generate(
    source: Annotated[str, typer.Argument(metavar="INPUT", help="room:17, or an RGB-D folder, posed photo or photo.")],
    out: Annotated[Path, typer.Option(help="Folder for the results.")] = Path("walk"),
    prompt: Annotated[str | None, typer.Option(help="What the scene is, for a model that reads text.")] = None,
    negative_prompt: Annotated[str | None, typer.Option(help="What it is not; needs --guidance.")] = None,
    guidance: Annotated[float, typer.Option(min=1, max=100, help="Classifier-free guidance; 1 is none.")] = 1.0,
    path: Annotated[str | None, typer.Option(help="A named path, as there_and_back:pan_left+push_in.")] = None,
    action: Annotated[str | None, typer.Option(help="Keystrokes, as 'w-32,j-48,l-48': wasd move, ijkl turn.")] = None,
    trajectory: Annotated[str | None, typer.Option(help="A file or folder: COLMAP, transforms.json, TUM, ...")] = None,
    frames: Annotated[int, typer.Option(min=2, max=LONGEST, help="Frames of the video.")] = 49,
    memory: Annotated[Kind, typer.Option(help="What is kept between segments.")] = "latent",
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Of the noise.")] = 0,
    steps: Annotated[int | None, typer.Option(min=1, max=1000, help="Denoising steps a segment.")] = None,
    model: Annotated[str | None, typer.Option(help="wan2.2, or a model's folder; by default the bundled one.")] = None,
    branch: Annotated[Path | None, typer.Option(help="Weights of Wan's memory branch (.safetensors).")] = None,
    lora: Annotated[Path | None, typer.Option(help="A LoRA for Wan (.safetensors).")] = None,
    depth_model: Annotated[str | None, typer.Option(help="A depth model of transformers, by name or folder.")] = None,
    segmentation: Annotated[str | None, typer.Option(help="A model of transformers that masks what moves.")] = None,
    masked: Annotated[str | None, typer.Option(help="What it masks, as person,sky; by default the usual.")] = None,
    size: Annotated[str | None, typer.Option(help="WIDTHxHEIGHT of the video; by default the model's.")] = None,
    fov: Annotated[float | None, typer.Option(help="A photo's horizontal field of view, in degrees.")] = None,
    axes: Annotated[Literal["opencv", "opengl"] | None, typer.Option(help="The camera's, in a recording.")] = None,
    w2c: Annotated[bool | None, typer.Option(help="Whether a recording's matrices are world-to-camera.")] = None,
    pose_unit: Annotated[float | None, typer.Option(help="Units of a position in a metre.")] = None,
    depth_unit: Annotated[float | None, typer.Option(help="Units of a depth in a metre.")] = None,
    depth_kind: Annotated[Literal["z", "ray", "inverse"] | None, typer.Option(help="What the depth is.")] = None,
    scale: Annotated[float, typer.Option(min=1e-6, max=1e6, help="Metres of a unit of a path without depth.")] = 1.0,
    allow_collisions: Annotated[bool, typer.Option(help="Don't warn of a path through a surface.")] = False,
    export: Annotated[str | None, typer.Option(help="nerfstudio, colmap, or both: data to train a splat on.")] = None,
    overwrite: Overwrite = False,
) -> None:
    """Walk through the scene of an image: video, contact sheet, memory, and report."""
    with one_line(lambda: _kept(out / "run")):
        # All that can be checked comes before a large model is loaded, and paths before the libraries are.
        if not source.startswith("room:"):
            check_files(folders=True, INPUT=source)
        check_files(folders=True, trajectory=trajectory)
        check_files(branch=branch, lora=lora)
        if model != "wan2.2":
            check_model_folder(BUNDLED if model is None else model)
        count = frames if action is None else _keystrokes(action) + 1
        claim(out, RESULTS, overwrite)
        from mirage_nb.checks import one_of
        from mirage_nb.cli.models import check_work, choose_masks, choose_model, load_model
        from mirage_nb.data.inputs import choose_path, read_input, warn_collisions
        from mirage_nb.formats.exports import EXPORTS, export_run
        from mirage_nb.segments import plan_segments

        quiet()
        formats = [one_of("export", name.strip(), EXPORTS) for name in export.split(",")] if export else []
        choice = choose_model(model, size)
        check_work(choice, count, steps)
        mask_estimator = choose_masks(segmentation, masked)
        walked = choose_path(path, action, trajectory, frames, scale)
        reading = dict(axes=axes, w2c=w2c, pose_unit=pose_unit, depth_unit=depth_unit, depth_kind=depth_kind)
        options = dict(fov=fov, scale=scale, allow_collisions=allow_collisions, **reading)
        scene = read_input(source, walked, frames=frames, size=choice.size, **options)
        depth = None if scene.depth is None else scene.depth[:1]
        plan_segments(len(scene.cameras), choice.new_frames, choice.stride)
        if scene.note:
            typer.echo(f"note: {scene.note}")
        pipe, where = load_model(choice, branch, lora, depth_model, depth is not None)
        typer.echo(f"running on {where}")
        if mask_estimator is not None:
            mask_estimator.model.to(pipe._execution_device)
            pipe.mask_estimator = mask_estimator
        result = pipe(
            scene.image, prompt or (scene.prompt if pipe.transformer.config.text_dim else None), negative_prompt,
            c2w=scene.cameras.c2w, intrinsics=scene.cameras.intrinsics, depth=depth, memory=memory,
            generator=seed, num_inference_steps=steps or choice.steps, guidance_scale=guidance, output_type="uint8",
            output_dir=out / "run",
        )  # fmt: skip
        if depth is None and scene.truth is None and not allow_collisions:  # where it is known, this came before
            warn_collisions(result.depth[0].cpu(), scene.cameras)
        export_run(out, result.frames, scene.cameras[: len(result.frames)], result.depth, formats)
        report = _save_walk(out, result, scene.truth, memory)
        for name in ("closed_loop_psnr", "psnr_to_truth"):
            if name in report:
                value = report[name]["mean"] if isinstance(report[name], dict) else report[name]
                typer.echo(f"{name.replace('_', ' ')}: {value:.1f} dB")
        if "relative_error" in (fit := report["depth_fit"] or {}):
            words = f"{fit['fitted']} of {fit['frames']} frames fit the memory's, off by {fit['relative_error']:.1%}"
            typer.echo(f"depth: {words} (median)")
        typer.echo(f"{report['memory']['tokens']} tokens, {report['memory']['bytes'] / 1024:.0f} KiB")
        save_report(out / "report.json", report | {"input": source})


def _keystrokes(action: str) -> int:
    """How many frames of keys there are, before their path takes memory."""
    count = sum(int(number[:12]) for number in re.findall(r"-(\d+)", action))
    if count >= LONGEST:
        raise ValueError(f"action: expected fewer than {LONGEST} frames in all, got {count}")
    return count


def _kept(run: Path) -> str:
    return f"the segments that are whole are kept in {run}; the same command goes on from there"


def _save_walk(out: Path, result, truth, name: str) -> dict:
    """Write the videos and the memory of a walk; returns its report, with what a true video and a closed path tell."""
    from mirage_nb.evaluation import as_pixel_mask, closed_loop_psnr, psnr
    from mirage_nb.viz.colours import latent_colours, token_colours
    from mirage_nb.viz.video import contact_sheet, side_by_side, write_mp4, write_png

    report, frames = dict(result.report), result.frames
    truth = None if truth is None else truth[: len(frames)]
    videos = {name: frames} if truth is None else {"truth": truth, name: frames}
    write_mp4(out / "video.mp4", side_by_side(videos) if len(videos) > 1 else frames)
    write_png(out / "contact.png", contact_sheet(videos))
    result.memory.save(out / "memory.safetensors")
    if name in ("latent", "append") and len(result.memory):
        every = max(1, (len(frames) - 1) // max(1, len(result.latents) - 1))  # pixel frames per latent frame
        colours = latent_colours(result.latents, frames[::every])
        result.memory.save_ply(out / "memory.ply", token_colours(result.memory.tokens, colours))
    if result.c2w[0].allclose(result.c2w[-1], atol=1e-5) and len(frames) > 1:
        report["closed_loop_psnr"] = closed_loop_psnr(frames)
    if truth is not None and len(frames) > 1:

        def figures(where=None) -> dict:
            each = psnr(frames[1:], truth[1:], where)  # NaN where the memory showed nothing of a frame
            return {"mean": each.nanmean().item(), "per_frame": [round(x, 3) for x in each.tolist()]}

        report["psnr_to_truth"] = figures() | {"covered": figures(as_pixel_mask(result.visibility, frames)[1:])}
    return report
