"""The widgets as a reader meets them: JupyterLab in a real browser, played with from the keyboard.

Pictures of the page are kept in build/browser when a test fails.
"""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook

sync_api = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed: pip install playwright")

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
CHROMIUM = next(filter(None, map(shutil.which, NAMES)), None)
ROOT = Path(__file__).resolve().parents[3]
SHOTS = ROOT / "build" / "browser"
TOKEN = secrets.token_hex(16)
PATIENCE = 120_000  # milliseconds until a notebook has run, on a busy machine
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason=f"no browser found, none of {', '.join(NAMES)}")

PIPE = """
from diffusers.utils import logging
from mirage_nb import MiragePipeline, Room, viz
from micro import build_micro
logging.disable_progress_bar()
pipe = MiragePipeline(**build_micro())
pipe.set_progress_bar_config(disable=True)
room = Room(900007)
"""
CELLS = [
    PIPE,
    "from PIL import Image\nviz.live(lambda shade: Image.new('RGB', (200, 80), (shade, 0, 0)), shade=(0, 200, 50))",
    "walk = viz.Walk(pipe, room)\nwalk.press('left')\nwalk",
    "viz.PathEditor(room, walk.memory)",
]
# Of an <img>: the bytes it shows. Their address changes even when the picture does not.
BYTES = "async (image) => btoa(String.fromCharCode(...new Uint8Array(await (await fetch(image.src)).arrayBuffer())))"
CHANGED = f"async ([image, before]) => image.src && await ({BYTES})(image) !== before"
# The notebook is open and its kernel answers. Cells that are run earlier are lost.
READY = """async (name) => {
    const panel = window.jupyterapp && window.jupyterapp.shell.currentWidget;
    if (!panel || !panel.sessionContext || panel.context.path !== name) return false;
    await panel.context.ready;
    await panel.sessionContext.ready;
    return Boolean(panel.sessionContext.session && await panel.sessionContext.session.kernel.info);
}"""
# Every cell was run, or one has failed: asked from the notebook, as the page may not hold what is out of view.
DONE = """() => {
    const cells = [...window.jupyterapp.shell.currentWidget.content.widgets].filter(cell => cell.model.type === "code");
    const failed = cell => cell.model.outputs.toJSON().some(output => output.output_type === "error");
    return cells.some(failed) || cells.every(cell => cell.model.executionCount);
}"""
ERRORS = """() => window.jupyterapp.shell.currentWidget.content.model.toJSON().cells
    .flatMap(cell => cell.outputs || []).filter(output => output.output_type === "error")
    .map(output => output.evalue)"""


class Lab(NamedTuple):
    """A running JupyterLab, and the folder it shows."""

    url: str
    folder: Path


@pytest.fixture(scope="module")
def lab(tmp_path_factory) -> Iterator[Lab]:
    """JupyterLab on a free port of this machine, with settings of its own."""
    base = tmp_path_factory.mktemp("lab")
    folder, settings = base / "notebooks", base / "settings" / "@jupyterlab" / "apputils-extension"
    folder.mkdir(), settings.mkdir(parents=True)
    quiet = '{"fetchNews": "false", "checkForUpdates": false, "doNotDisturbMode": true}'
    (settings / "notification.jupyterlab-settings").write_text(quiet)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    env = {key: value for key, value in os.environ.items() if not key.startswith(("JUPYTER", "IPYTHON"))}
    env |= {
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")]),
        "JUPYTER_PREFER_ENV_PATH": "1",
        "HF_HUB_OFFLINE": "1",
        "JUPYTERLAB_SETTINGS_DIR": str(base / "settings"),
        "JUPYTERLAB_WORKSPACES_DIR": str(base / "workspaces"),
        "JUPYTER_NO_CONFIG": "1",
    }
    env |= {f"JUPYTER_{name}_DIR": str(base / name.lower()) for name in ("CONFIG", "DATA", "RUNTIME")}
    env["IPYTHONDIR"] = str(base / "ipython")
    command = [
        sys.executable,
        "-m",
        "jupyterlab",
        "--no-browser",
        "--allow-root",
        f"--ServerApp.root_dir={folder}",
    ]
    command += ["--ServerApp.ip=127.0.0.1", f"--ServerApp.port={port}", "--ServerApp.port_retries=0"]
    command += [f"--IdentityProvider.token={TOKEN}", "--LabApp.expose_app_in_browser=True"]
    # As `make lab` does: else a dialog asks to rebuild JupyterLab, for an extension of dash that comes with Open3D.
    command += ["--ServerApp.tornado_settings={'page_config_data': {'buildCheck': False, 'buildAvailable': False}}"]
    with (base / "log").open("w") as log:
        server = subprocess.Popen(command, env=env, cwd=folder, stdout=log, stderr=subprocess.STDOUT)
        try:
            url = f"http://127.0.0.1:{port}"
            wait_for(f"{url}/api/status?token={TOKEN}", server, base / "log")
            yield Lab(url, folder)
        finally:
            server.terminate()  # shuts its kernels down, too
            try:
                server.wait(30)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait()


def wait_for(url: str, server: subprocess.Popen, log: Path, seconds: float = 90) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end and server.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=10):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    pytest.fail(f"JupyterLab did not start:\n{log.read_text()[-3000:]}", pytrace=False)


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


def until(page, condition: str, arg=None) -> None:
    """Wait for a JavaScript function of `arg` to be true; it may be async, which `page.wait_for_function` is not."""
    page.evaluate(
        f"""async (arg) => {{
            const end = Date.now() + {PATIENCE};
            while (!await ({condition})(arg)) {{
                if (Date.now() > end) throw new Error("waited in vain");
                await new Promise(again => setTimeout(again, 100));
            }}
        }}""",
        arg,
    )


def run_all(page, lab: Lab, name: str) -> None:
    """Open a notebook of the lab's folder and run all its cells, without an error."""
    page.goto(f"{lab.url}/lab/tree/{name}?token={TOKEN}&reset")
    until(page, READY, name)
    page.evaluate("() => { window.jupyterapp.commands.execute('notebook:run-all-cells'); }")
    until(page, DONE)
    assert page.evaluate(ERRORS) == []


def picture_of(image) -> str:
    """The bytes of an image, once it has some."""
    image.scroll_into_view_if_needed()
    assert image.evaluate("image => image.decode().then(() => image.naturalWidth)") > 50
    return image.evaluate(BYTES)


def wait_for_change(page, image, before: str) -> None:
    until(page, CHANGED, [image.element_handle(), before])
    assert picture_of(image) != before


@pytest.fixture(scope="module")
def notebook(lab: Lab, browser) -> Iterator:
    """One page with all widgets, run once; its picture is kept when a test fails."""
    page = browser.new_page(viewport={"width": 1400, "height": 1000})
    page.set_default_timeout(PATIENCE)
    kernel = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
    content = new_notebook(cells=[new_code_cell(cell) for cell in CELLS], metadata=kernel)
    nbformat.write(content, lab.folder / "widgets.ipynb")
    run_all(page, lab, "widgets.ipynb")
    yield page
    page.close()


@pytest.fixture
def page(notebook, request):
    failed = request.session.testsfailed
    yield notebook
    if request.session.testsfailed > failed:
        SHOTS.mkdir(parents=True, exist_ok=True)
        notebook.screenshot(path=SHOTS / f"{request.node.name}.png")


def test_a_slider_changes_the_picture(page) -> None:
    image = page.locator(".mirage-live img.mirage-live-picture")
    before = picture_of(image)
    handle = page.locator(".mirage-live .mirage-live-shade .noUi-handle")
    handle.focus()
    handle.press("ArrowRight")
    wait_for_change(page, image, before)
    after = picture_of(image)
    handle.press("ArrowLeft")  # and back: the same values give the same picture
    wait_for_change(page, image, after)
    until(page, f"async ([image, was]) => await ({BYTES})(image) === was", [image.element_handle(), before])


def test_an_arrow_key_walks(page) -> None:
    image = page.locator(".mirage-walk .mirage-walk-keys img.mirage-walk-picture")
    before, frames = picture_of(image), int(image.get_attribute("data-frames"))
    keys = page.locator(".mirage-walk .mirage-walk-keys")
    keys.click()
    keys.press("ArrowLeft")
    until(page, "([image, n]) => Number(image.dataset.frames) > n", [image.element_handle(), frames])
    wait_for_change(page, image, before)
    status = page.locator(".mirage-walk .mirage-walk-status")
    status.get_by_text(f"{image.get_attribute('data-frames')} frames").wait_for()


def test_a_key_camera_is_chosen_after_adding_moves_and_moved(page) -> None:
    editor = page.locator(".mirage-path-editor")
    editor.scroll_into_view_if_needed()
    status, plan = editor.locator(".mirage-path-editor-status"), editor.locator("img.mirage-path-editor-plan")
    for count in (17, 33):
        editor.locator("button.mirage-path-editor-append").click()
        status.get_by_text(f"{count} frames").wait_for()
    choice = editor.locator(".mirage-path-editor-key select")
    until(page, "select => select.options.length === 2", choice.element_handle())
    choice.select_option("1")
    before = picture_of(plan)
    handle = editor.locator(".mirage-path-editor-yaw .noUi-handle")
    handle.focus()
    handle.press("ArrowRight")
    wait_for_change(page, plan, before)
    assert choice.input_value() == "1"
