"""A picture that takes the keyboard: click it, and the arrow keys are yours. Its JavaScript comes with it, offline."""

from __future__ import annotations

import io

import anywidget
import traitlets
from PIL import Image
from torch import Tensor

_ESM = """
function render({ model, el }) {
  const box = document.createElement("div");
  box.tabIndex = 0;
  box.className = "mirage-walk-keys";
  box.setAttribute("data-lm-suppress-shortcuts", "true");  // JupyterLab has plans of its own for the arrow keys
  box.setAttribute("role", "application");
  box.setAttribute("aria-label", "The room: click, then walk with the arrow keys");
  const image = document.createElement("img");
  image.className = "mirage-walk-picture";
  box.appendChild(image);
  let url = null;
  function draw() {
    const old = url;
    url = URL.createObjectURL(new Blob([model.get("picture")]));
    image.src = url;
    image.dataset.frames = model.get("frames");
    if (old) URL.revokeObjectURL(old);
  }
  model.on("change:picture", draw);
  draw();
  box.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
    if (!model.get("listens").includes(key)) return;
    event.preventDefault();
    event.stopPropagation();
    // A trait and not a message: a held key is then sent once the press before it is done.
    model.set("pressed", [key, model.get("pressed")[1] + 1]);
    model.save_changes();
  });
  box.addEventListener("click", () => box.focus());
  el.appendChild(box);
  return () => { model.off("change:picture", draw); if (url) URL.revokeObjectURL(url); };
}
export default { render };
"""
_CSS = """
.mirage-walk-keys { display: inline-block; line-height: 0; border: 3px solid transparent; cursor: pointer; }
.mirage-walk-keys:focus { outline: none; border-color: #0072b2; }
.mirage-walk-picture { width: 384px; max-width: 100%; }
"""


class KeyboardPicture(anywidget.AnyWidget):
    """A picture (PNG or WebP bytes) that takes the keys in `listens` and tells the last one in `pressed`."""

    _esm, _css = _ESM, _CSS
    picture = traitlets.Bytes().tag(sync=True)
    frames = traitlets.Int(0).tag(sync=True)
    listens = traitlets.List().tag(sync=True)
    pressed = traitlets.List(default_value=["", 0]).tag(sync=True)


def animation(frames: Tensor, milliseconds: int = 90) -> bytes:
    """Frames (n, H, W, 3) uint8 as a WebP that plays once and stays at the last one."""
    pictures = [Image.fromarray(frame) for frame in frames.numpy()]
    buffer = io.BytesIO()
    options = {"save_all": True, "append_images": pictures[1:], "duration": milliseconds, "loop": 1}
    pictures[0].save(buffer, "webp", quality=90, method=0, **(options if len(pictures) > 1 else {}))
    return buffer.getvalue()
