"""The paper's layout: the inputs of the transformer over a walk of three segments."""

from __future__ import annotations

import pytest
import torch
from tiny_wan import write_wan

from mirage_nb import MiragePipeline
from mirage_nb.models import vae as vaes
from mirage_nb.models.vae import visible_latents
from mirage_nb.paths import camera_path

SIZE, CPU = (64, 96), torch.device("cpu")


@pytest.fixture(scope="module")
def wan(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wan")
    write_wan(folder)
    parts = MiragePipeline.from_wan(folder, torch_dtype=torch.float32).components
    wan = MiragePipeline(**parts, autocast=False, references=4, preceding=2)  # as with a trained branch
    wan.set_progress_bar_config(disable=True)
    return wan


def test_a_visible_video_is_causal_so_short_ones_begin_long_ones(wan):
    long = visible_latents(wan.vae, 9, SIZE, CPU)
    assert long.shape == (6, 9, 4, 6)
    torch.testing.assert_close(visible_latents(wan.vae, 3, SIZE, CPU), long[:, :3], atol=1e-5, rtol=1e-4)


@pytest.fixture(scope="module")
def fed(wan):
    """What the transformer got, call by call, over three segments there and back, and what the VAE encoded."""
    calls, encoded, forward, encode = [], [], wan.transformer.forward, vaes.encode

    def spy(hidden_states, timestep, control, encoder_hidden_states=None, **options):
        calls.append(dict(x=hidden_states.clone(), timestep=timestep, control=control, **options))
        return forward(hidden_states, timestep, control, encoder_hidden_states, **options)

    def spy_encode(vae, video):
        encoded.append(tuple(video.shape))
        return encode(vae, video)

    patch = pytest.MonkeyPatch()
    patch.setattr(wan.transformer, "forward", spy)
    patch.setattr(vaes, "encode", spy_encode)
    picture = torch.randint(0, 256, (*SIZE, 3), generator=torch.Generator().manual_seed(2), dtype=torch.uint8)
    made = wan(
        picture, "a room", c2w=camera_path("there_and_back:pan_left", 97), depth=torch.full((97, *SIZE), 2.0),
        num_inference_steps=1, conditioning="branch", generator=5, output_type="uint8",
    )  # fmt: skip
    patch.undo()
    return calls, encoded, made


def test_segments_of_nine_latent_frames_with_references_before_and_preceding_after(fed):
    calls, _, made = fed
    assert [call["control"].shape[1] for call in calls] == [12] * 3, "readout and constant, as many channels each"
    references = [call.get("num_references", 0) for call in calls]
    assert [call["x"].shape[2] for call in calls] == [9, references[1] + 9 + 2, references[2] + 9 + 2]
    assert references[0] == 0 and references[2] > 0, "on the way back the same places are seen again"
    for call, r in zip(calls[1:], references[1:]):
        expected = [*range(r), *range(r + 2, r + 2 + 9), r, r + 1]
        assert call["frame_positions"].tolist() == expected, "references at their own positions, first"
        clean = [*range(r), r, r + 9, r + 10]  # references, the segment's first frame, the two before it
        assert [i for i, t in enumerate(call["timestep"][0]) if t == 0] == clean
        assert call["control"].shape[2] == 9 + 2, "the branch sees what precedes, and no references"
    for segment, r in ((1, references[1]), (2, references[2])):
        context = calls[segment]["x"][0, :, r + 9 :].transpose(0, 1)
        torch.testing.assert_close(context, made.latents[8 * segment - 2 : 8 * segment])


def test_the_constant_is_encoded_once_and_fed_to_every_segment(wan, fed):
    calls, encoded, _ = fed
    videos = [shape for shape in encoded if shape[2] > 1]
    assert videos == [(1, 3, 4 * 10 + 1, *SIZE)], "nine frames and two that precede, for all segments"
    constant = visible_latents(wan.vae, 11, SIZE, CPU)
    for call in calls:
        torch.testing.assert_close(call["control"][0, 6:], constant[:, : call["control"].shape[2]])


def test_unseen_cells_are_zero_in_the_readout_half(fed):
    first = fed[0][0]["control"][0, :6]
    seen = first.abs().sum(0) > 0
    assert seen[0].any() and not seen.all(), "the image was written, and the camera turns away from it"
