"""The tiny pipelines run as their table says, and the same seed gives the same video."""

from __future__ import annotations

import pytest
import torch
from PIL import Image
from tiny_pipelines import FACTS, PIPELINES, build


@pytest.mark.parametrize("name", PIPELINES)
def test_callback_sees_what_the_table_says(name, tmp_path):
    pipe, kwargs = build(name, tmp_path)
    facts = FACTS[name]
    image = Image.linear_gradient("L").convert("RGB").resize((kwargs["width"], kwargs["height"]))

    def run(**options):
        seen = []
        result = pipe(
            image=image, generator=torch.Generator().manual_seed(0),
            callback_on_step_end=lambda pipe, step, t, state: seen.append(state["latents"].clone()) or {},
            **{facts.frames_argument: facts.num_frames}, **kwargs | options,
        )  # fmt: skip
        return result.frames, seen

    video, _ = run(output_type="pt")
    times = facts.lead + (video.shape[1] - 1) // facts.temporal + 1
    height, width = kwargs["height"] // facts.spatial, kwargs["width"] // facts.spatial
    shape = {
        "bcthw": (1, facts.channels, times, height, width),
        "btchw": (1, times, facts.channels, height, width),
        "packed": (1, times * height * width, facts.channels),
    }[facts.layout]
    assert len({facts.channels, times, height, width}) == 4
    assert video.shape[-2:] == (kwargs["height"], kwargs["width"])
    assert (video.shape[1] - 1) % facts.temporal == 0 and times - facts.lead >= 4

    latents, seen = run()
    again, seen_again = run()
    assert [x.shape for x in seen] == [shape] * kwargs["num_inference_steps"]
    assert all(torch.equal(a, b) for a, b in zip([latents, *seen], [again, *seen_again]))
    assert torch.isfinite(latents).all()

    def first_frame(latents):
        if latents.ndim == 3:
            return latents[:, : height * width]
        return latents[:, 0] if facts.layout == "btchw" else latents[:, :, 0]

    # A frame that is kept clean doesn't depend on the number of steps.
    fewer, _ = run(num_inference_steps=2)
    assert torch.allclose(first_frame(latents), first_frame(fewer), atol=0.02) == facts.clean_first
    assert not torch.allclose(latents, fewer, atol=0.02)
