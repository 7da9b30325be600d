"""Widgets without a browser: what happens at a press, an undo, a click; and the still pictures that stand for them."""

from __future__ import annotations

import asyncio
import base64
import io

import ipywidgets
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure
from PIL import Image

from mirage_nb import LatentGrid, MiragePipeline
from mirage_nb.cameras import Cameras
from mirage_nb.models.presets import build_micro
from mirage_nb.trajectories import camera_path
from mirage_nb.trajectory_files import load_trajectory
from mirage_nb.trajectory_writers import WRITERS
from mirage_nb.video import latent_colours
from mirage_nb.widgets import (
    Compare,
    MemoryViewer,
    PathEditor,
    Walk,
    live,
    measure_steps,
    show,
    steps_curve,
)
from mirage_nb.widgets.memory_viewer import pca_colours
from mirage_nb.widgets.path_editor import CLEARANCE
from mirage_nb.widgets.paths import Move, compose, through, turned, yaw_of
from mirage_nb.widgets.walk import KEYS
from mirage_nb.worlds.rooms import Room
from tests.scenes import camera, pose, room_views

SIZE = (32, 48)
VIEW = "application/vnd.jupyter.widget-view+json"


@pytest.fixture(scope="module", params=[False, True], ids=["stride1", "stride4"])
def pipe(request):
    pipe = MiragePipeline(**build_micro(temporal=request.param))
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module")
def single():
    pipe = MiragePipeline(**build_micro())
    pipe.set_progress_bar_config(disable=True)
    return pipe


def image() -> torch.Tensor:
    return torch.randint(0, 256, (*SIZE, 3), generator=torch.Generator().manual_seed(2), dtype=torch.uint8)


def scene(frames: int = 6):
    """A memory written by a pan through the box room, its cameras, and frames that tell their cells apart."""
    cameras = camera(*camera_path("pan_left", frames, degrees_per_frame=6.0))
    latents, depth = room_views(cameras)
    memory = LatentGrid()
    memory.write(latents, depth, cameras)
    pixels = ((latents[:, :3] + 1) * 127).byte().repeat_interleave(8, 2).repeat_interleave(8, 3)
    return memory, cameras, pixels.movedim(1, -1).contiguous()


def rows_of(memory) -> dict[str, torch.Tensor]:
    return {name: getattr(memory, name).clone() for name in ("positions", "tokens", "footprints", "written", "views")}


def same(memory, rows) -> bool:
    return all(torch.equal(getattr(memory, name), value) for name, value in rows.items())


def is_shown(widget) -> Image.Image:
    """Checks the bundle of a widget and returns its still picture."""
    data = widget._repr_mimebundle_()
    assert data[VIEW]["model_id"] == widget.model_id and data["text/plain"]
    assert widget.css in widget._dom_classes
    picture = Image.open(io.BytesIO(base64.b64decode(data["image/png"])))
    assert min(picture.size) > 20 and len(np.unique(np.asarray(picture))) > 8
    return picture


# ------------------------------------------------------------------------------------------------------------- live


def test_live_draws_what_the_sliders_say_and_shows_the_first_picture_elsewhere():
    def draw(shade, flip, tint):
        return Image.new("RGB", (64, 40), (shade, 255 if flip else 0, {"none": 0, "full": 200}[tint]))

    widget = live(draw, shade=(0, 200, 50), flip=True, tint=["none", "full"])
    assert isinstance(widget.controls["shade"], ipywidgets.IntSlider)
    widget.controls["shade"].value = 120
    widget.controls["tint"].value = "full"
    now = Image.open(io.BytesIO(widget.image.value)).getpixel((3, 3))
    assert now == (120, 255, 200) and widget.draws == 3
    still = Image.open(io.BytesIO(base64.b64decode(widget._repr_mimebundle_()["image/png"])))
    assert still.getpixel((3, 3)) == (50, 255, 0)
    assert {"mirage-live"} <= set(widget._dom_classes) and "mirage-live-shade" in widget.controls["shade"]._dom_classes


def test_live_drops_stale_events_but_never_the_last():
    seen = []

    def draw(x):
        seen.append(x)
        return Figure(figsize=(1, 1))

    widget = live(draw, x=(0.0, 10.0, 1.0, 0.5))

    async def drag():
        for value in range(2, 10):
            widget.controls["x"].value = float(value)
        await asyncio.sleep(0.1)

    asyncio.run(drag())
    assert seen == [1.0, 9.0]


def test_live_tells_of_an_error_and_goes_on():
    widget = live(lambda x: Image.new("RGB", (8 // x, 8)), x=(0, 4, 2))
    widget.controls["x"].value = 0
    assert "ZeroDivisionError" in widget.status.words
    widget.controls["x"].value = 4
    assert not widget.status.words and widget.draws == 2
    with pytest.raises(ZeroDivisionError):
        live(lambda x: 1 / x, x=(0, 4, 0))


@pytest.mark.parametrize("spec", [(0, 1), (0, 1, 2), [], "a", (1, 1, 1)])
def test_live_names_a_slider_that_is_none(spec):
    with pytest.raises(ValueError, match="^yaw: expected"):
        live(lambda yaw: Image.new("RGB", (8, 8)), yaw=spec)


def test_show_gives_any_widget_a_picture(monkeypatch):
    shown = []
    monkeypatch.setattr("mirage_nb.widgets.base.display", lambda data, raw: shown.append(data))
    show(ipywidgets.IntSlider(), Image.new("RGB", (9, 9)))
    assert {VIEW, "image/png", "text/plain"} == set(shown[0])
    with pytest.raises(TypeError, match="^picture: expected"):
        show(ipywidgets.IntSlider(), "no picture")


# ---------------------------------------------------------------------------------------------------- memory viewer


def test_a_clicked_token_says_where_and_when_it_was_seen():
    memory, cameras, frames = scene()
    viewer = MemoryViewer(memory, cameras, frames)
    row = int((memory.written == memory.written.max()).nonzero()[0])
    viewer._clicked([row])
    about = viewer.describe(row)
    assert about["written"] == about["frame"] == int(memory.written.max()) > 0
    assert np.allclose(about["position"], memory.positions[row], atol=1e-3)
    assert viewer.figure.data[1].x[0] == about["position"][0]
    index = memory.read(cameras).index
    assert about["shown_in"] == [i for i in range(len(cameras)) if (index[i] == row).any()] and about["shown_in"]
    assert f"token {row}" in viewer.about.value and viewer.seen.value
    assert viewer.crop(row) is not None and MemoryViewer(memory, cameras).crop(row) is None
    with pytest.raises(ValueError, match="^row:"):
        viewer.describe(len(memory))


def test_decoded_colours_are_those_of_the_cell_that_wrote_the_token():
    memory, cameras, frames = scene()
    colours = MemoryViewer(memory, cameras, frames).rgb("decoded RGB")
    expected = ((memory.tokens[:, :3] + 1) * 127).byte()
    assert torch.equal(colours, expected)
    mapped = MemoryViewer(memory, colours=latent_colours(room_views(cameras)[0], frames)).rgb("decoded RGB")
    assert (mapped.int() - expected.int()).abs().max() <= 2


def test_every_colour_can_be_chosen_and_drawn():
    memory, cameras, frames = scene()
    viewer = MemoryViewer(memory, cameras, frames)
    for colour in viewer.colour.options:
        viewer.colour.value = colour
        assert len(viewer.figure.data[0].marker.color) == len(memory)
        assert viewer.rgb(colour).shape == (len(memory), 3)
    assert viewer.colour.value == "number of views"
    assert torch.equal(torch.tensor(viewer.figure.data[0].marker.color), memory.views.float())
    is_shown(viewer)
    is_shown(MemoryViewer(memory, colour="time written"))


def test_many_tokens_are_thinned_evenly_and_it_says_so():
    memory, cameras, _ = scene()
    viewer = MemoryViewer(memory, cameras, most=50)
    assert len(viewer.figure.data[0].x) == len(viewer.rows) <= 50
    assert viewer.rows.diff().unique().numel() == 1
    assert f"of {len(memory):,} tokens" in viewer.label and viewer.label == viewer.status.words
    viewer._clicked([3])
    assert f"token {int(viewer.rows[3])}<" in viewer.about.value, "a click means the token, not its place in the sample"


def test_the_viewer_refuses_what_it_cannot_show():
    memory, cameras, frames = scene()
    for match, arguments in {
        "^memory:": (LatentGrid(),),
        "^frames:": (memory, cameras, frames[1:]),
    }.items():
        with pytest.raises(ValueError, match=match):
            MemoryViewer(*arguments)
    with pytest.raises(ValueError, match="^colour:"):
        MemoryViewer(memory, colour="decoded RGB")


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 40), st.integers(1, 8), st.integers(0, 99))
def test_pca_colours_do_not_depend_on_a_shift_or_scale_of_all_tokens(count, channels, seed):
    tokens = torch.randn(count, channels, generator=torch.Generator().manual_seed(seed))
    colours = pca_colours(tokens)
    assert colours.shape == (count, 3) and colours.dtype == torch.uint8
    assert torch.equal(colours, pca_colours(tokens.clone()))
    if count > channels + 2:
        assert (pca_colours(4 * tokens + 8).int() - colours.int()).abs().max() <= 2


# -------------------------------------------------------------------------------------------------------------- walk


def test_presses_are_one_rollout(pipe):
    walk = Walk(pipe, image(), seed=5)
    new = [walk.press(key) for key in ("left", "forward", "step-right")]
    assert len(walk.frames) == len(walk.cameras) == 1 + sum(map(len, new))
    assert torch.equal(walk.frames[1:], torch.cat(new)) and len(walk.seconds) == 3
    once = pipe(image(), c2w=walk.cameras.c2w, seed=5, output_type="uint8")
    assert torch.equal(once.frames, walk.frames) and same(walk.memory, rows_of(once.memory))
    is_shown(walk)


def test_undo_is_exact_and_what_follows_is_as_if_nothing_had_been(single):
    walk = Walk(single, image(), seed=1)
    walk.press("left")
    rows, frames, count = rows_of(walk.memory), walk.frames.clone(), walk.memory.frames
    held = walk.memory
    walk.press("forward")
    assert not torch.equal(walk.frames[: len(frames)], walk.frames[-len(frames) :]) and walk.memory.frames > count
    assert walk.undo() and held is walk.memory
    assert same(walk.memory, rows) and torch.equal(walk.frames, frames) and walk.memory.frames == count
    assert len(walk.cameras) == len(frames) and walk.presses == ["left"]
    walk.press("right")
    other = Walk(single, image(), seed=1)
    other.press("left"), other.press("right")
    assert torch.equal(other.frames, walk.frames) and same(walk.memory, rows_of(other.memory))
    walk.undo(), walk.undo()
    assert not len(walk.memory) and torch.equal(walk.frames, image()[None])
    assert not walk.undo() and "nothing to undo" in walk.status.words


def test_a_walk_goes_on_in_a_stored_world(single, tmp_path):
    walk = Walk(single, image())
    walk.press("left")
    paths = walk.save(tmp_path / "deep" / "world")
    memory = LatentGrid.load(paths["memory"])
    c2w, intrinsics = load_trajectory(paths["trajectory"])
    assert same(memory, rows_of(walk.memory)) and paths["frames"].stat().st_size
    assert torch.allclose(c2w, walk.cameras.c2w, atol=1e-6) and torch.allclose(intrinsics, walk.cameras.intrinsics)
    rows = rows_of(memory)
    on = Walk(single, walk.frames[-1], start=c2w[-1], memory=memory)
    on.press("back")
    assert len(memory) >= len(rows["tokens"]) and on.memory is memory and memory.frames > int(rows["written"].max())
    on.undo()
    assert same(memory, rows)


def test_a_failed_press_leaves_the_world_as_it_was(single, monkeypatch):
    walk = Walk(single, image())
    walk.press("left")
    rows, frames = rows_of(walk.memory), walk.frames.clone()
    original = LatentGrid.write

    def broken(self, *args, **kwargs):
        original(self, *args, **kwargs)
        raise RuntimeError("the disk is full")

    monkeypatch.setattr(LatentGrid, "write", broken)
    with pytest.raises(RuntimeError):
        walk.press("forward")
    assert same(walk.memory, rows) and torch.equal(walk.frames, frames) and walk.presses == ["left"]
    walk._event("forward")
    assert "disk is full" in walk.status.words


def test_a_wall_stops_the_walk(single):
    room = Room(900001)
    ahead = compose(room.start(), [Move("push_in", 200, 2.0)])
    walk = Walk(single, room, start=ahead[room.blocked(ahead) - 1], size=SIZE)
    assert walk.press("forward") is None and "wall" in walk.status.words
    assert len(walk.frames) == 1 and not len(walk.memory)


def test_keys_and_buttons_press(single):
    walk = Walk(single, image())
    walk.view.pressed = ["ArrowLeft", 1]
    walk.buttons["forward"].click()
    assert walk.presses == ["left", "forward"] and walk.view.frames == len(walk.frames)
    assert Image.open(io.BytesIO(walk.view.picture)).n_frames == len(walk.frames) // 2
    walk.view.pressed = ["d", 2]
    walk.buttons["undo"].click()
    assert walk.presses == ["left", "forward"]
    assert {f"mirage-walk-{key}" for key in (*KEYS, "undo", "save")} == {
        name for button in walk.buttons.values() for name in button._dom_classes
    }
    assert "http" not in walk.view._esm, "nothing is fetched"
    with pytest.raises(ValueError, match="^key:"):
        walk.press("up")


def test_steps_are_measured_on_closed_walks(single):
    rows = measure_steps(single, seeds=[900001], steps=(1, 2), presses=("left", "right"))
    assert [row["steps"] for row in rows] == [1, 2] and all(row["seconds"] > 0 for row in rows)
    assert all(np.isfinite(row["closed_loop_psnr"]) and np.isfinite(row["psnr_to_truth"]) for row in rows)
    assert rows[0]["closed_loop_psnr"] != rows[1]["closed_loop_psnr"]
    assert steps_curve(rows, chosen=2).width > 300


# ------------------------------------------------------------------------------------------------------ path editor


def test_moves_follow_each_other():
    start = pose((1.0, -1.5, 2.0), (0.1, 0.4, 0.0))
    path = compose(start, [Move("push_in", 10, 2.0), Move("pan_left", 5)])
    assert path.shape == (16, 4, 4) and torch.equal(path[0], start)
    assert torch.allclose((path[10, :3, 3] - start[:3, 3]).norm(), torch.tensor(10 * 2 * 0.02), atol=1e-5)
    assert torch.allclose(path[10:, :3, 3], path[10, :3, 3], atol=1e-6) and not torch.equal(path[10], path[15])
    for move in (Move("pull_up", 3), Move("push_in", 0), Move("push_in", 3, -1.0)):
        with pytest.raises(ValueError):
            compose(start, [move])


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000), st.integers(2, 5))
def test_a_path_passes_its_keys_and_stays_between_them(seed, count):
    g = torch.Generator().manual_seed(seed)
    draw = lambda: torch.randn(3, generator=g).tolist()  # noqa: E731
    keys = torch.stack([pose(draw(), draw()) for _ in range(count)])
    at = [7 * i for i in range(count)]
    path = through(keys, at)
    assert len(path) == at[-1] + 1 and torch.allclose(path[at], keys, atol=1e-6)
    Cameras(path, torch.tensor([1.0, 1.0, 0.5, 0.5]), (1, 1))  # rigid
    for i in range(count - 1):
        low, high = torch.minimum(keys[i], keys[i + 1])[:3, 3], torch.maximum(keys[i], keys[i + 1])[:3, 3]
        leg = path[at[i] : at[i + 1] + 1, :3, 3]
        assert (leg >= low - 1e-5).all() and (leg <= high + 1e-5).all()


@settings(max_examples=20, deadline=None)
@given(st.floats(-179, 179), st.floats(-1, 1))
def test_turning_a_camera_keeps_its_place_and_tilt(yaw, tilt):
    c2w = pose((1.0, 2.0, 3.0), (tilt, 0.0, 0.0))
    new = turned(c2w, yaw)
    assert yaw_of(new) == pytest.approx(yaw, abs=1e-2)
    assert torch.equal(new[:3, 3], c2w[:3, 3]) and torch.allclose(new[1, :3], c2w[1, :3], atol=1e-6)


def test_a_path_is_edited_by_moves_and_by_keys():
    editor = PathEditor(Room(900001), size=SIZE)
    editor.append("pan_left", 10)
    editor.buttons["append"].click()
    assert [m.name for m in editor.moves] == ["pan_left", "push_in"] and len(editor.cameras()) == 27
    by_moves = editor.cameras().c2w
    editor.to_keys(4)
    assert torch.allclose(editor.cameras().c2w[editor.at], by_moves[editor.at], atol=1e-6)
    editor.move_key(2, x=1.5, yaw=30.0)
    moved = editor.cameras().c2w[editor.at[2]]
    assert moved[0, 3] == 1.5 and yaw_of(moved) == pytest.approx(30.0, abs=1e-3)
    assert torch.allclose(moved[1:3, 3], by_moves[editor.at[2], 1:3, 3])
    editor.key.value = "3"
    editor.fields["z"].value = 2.0
    assert editor.key_cameras[3, 2, 3] == 2.0
    with pytest.raises(ValueError, match="^index:"):
        editor.move_key(0, x=1.0)
    editor.remove()
    assert editor.key_cameras is None and [m.name for m in editor.moves] == ["pan_left"]
    editor.remove(), editor.remove()
    assert len(editor.cameras()) == 1
    editor.buttons["keys"].click()
    assert "append a move first" in editor.status.words
    with pytest.raises(ValueError, match="push_in"):
        editor.append("push_inn")
    assert not editor.moves, "a move that is none is not kept"


def test_the_editor_warns_of_walls_at_the_right_frame():
    room = Room(900001)
    editor = PathEditor(room, size=SIZE)
    editor.append("push_in", 60, 8.0)
    hit = editor.blocked()
    near = room.clearance(editor.cameras().centers) < CLEARANCE
    assert hit is not None and near[hit] and not near[:hit].any()
    assert f"frame {hit}" in editor.warning() == editor.status.words
    editor.remove()
    assert not editor.warning()


def test_without_a_room_the_memory_tells_of_walls():
    memory, cameras, _ = scene()
    editor = PathEditor(cameras[0], memory)
    editor.append("push_in", 20, 1.0)
    assert editor.blocked() is None
    editor.append("push_in", 60, 3.0)
    distance = (memory.positions - editor.cameras().centers[editor.blocked()]).norm(dim=1).min()
    assert distance < 0.15
    is_shown(editor)


def test_the_preview_is_the_readout_decoded(single):
    walk = Walk(single, image())
    walk.press("left")
    editor = PathEditor(walk.cameras[0], walk.memory, single)
    editor.append("pan_left", 20, 4.0)
    frames = editor.preview(5)
    assert frames.shape == (5, *SIZE, 3) and frames.dtype == torch.uint8
    path = editor.cameras()[[0, 5, 10, 15, 20]]
    seen = walk.memory.read(path).visibility.repeat_interleave(8, 1).repeat_interleave(8, 2)
    assert seen.any() and not seen.all()
    assert (frames[~seen] == 255).all() and not (frames[seen] == 255).all()
    editor.buttons["preview"].click()
    assert editor.film.value
    is_shown(editor)
    with pytest.raises(ValueError, match="^preview:"):
        PathEditor(walk.cameras[0]).preview()


@pytest.mark.parametrize("format", sorted(WRITERS))
def test_a_path_is_saved_in_every_format(format, tmp_path):
    editor = PathEditor(camera(pose((0.5, -1.0, 0.2), (0.0, 0.3, 0.0))))
    editor.append("pan_left+push_in", 6)
    endings = {"nerfstudio": "json", "worldscore": "json", "geometry": "npz", "colmap": "folder"}
    editor.format.value = format
    editor.file.value = str(tmp_path / f"new/w2c.{endings.get(format, 'txt')}")
    editor.buttons["save"].click()
    assert "saved" in editor.status.words
    c2w, _ = load_trajectory(editor.file.value)
    assert torch.allclose(c2w, editor.cameras().c2w, atol=1e-4)


# ---------------------------------------------------------------------------------------------------------- compare


def test_compare_shows_one_frame_of_all_and_its_psnr():
    truth = torch.full((5, 16, 24, 3), 100, dtype=torch.uint8)
    other = truth.clone()
    other[2] += 10
    compare = Compare({"truth": truth, "latent": other, "none": truth})
    assert set(compare.psnr) == {"latent", "none"}
    assert compare.psnr["latent"][2].item() == pytest.approx(-20 * np.log10(10 / 255), abs=1e-3)
    first = compare.image.value
    compare.slider.value = 2
    assert compare.image.value != first
    page = np.asarray(compare.frame(2))
    assert (page == 110).all(-1).any() and (page == 100).all(-1).any()
    assert compare.play.max == compare.slider.max == 4
    is_shown(compare)
    assert not Compare({"a": truth, "b": other}).psnr
    with pytest.raises(ValueError, match="^truth:"):
        Compare({"a": truth}, truth[1:])
