"""The notebooks as a book: a static site that opens from disk, without a server, a network or a kernel.

nbconvert renders the cells and a page of our own is put around them. Jupyter Book would need node, and its pages want a
server; the pages of nbconvert fetch MathJax and RequireJS. Here the one script is plotly.js, a file beside the pages.
"""

from __future__ import annotations

import base64
import copy
import html
import io
import json
import os
import re
import shutil
import warnings
from dataclasses import dataclass
from pathlib import Path

import nbformat
from nbformat import NotebookNode

from mirage_nb.grid_io import write_aside
from mirage_nb.notebook_runs import NOTEBOOKS, ROOT, find_notebooks, outputs

PLOTLY = "application/vnd.plotly.v1+json"
HERE = Path(__file__).parent
LINK = re.compile(r'\b(href|src)="([^":#]+)(#[^"]*)?"')
HEADING = re.compile(r'<h2 id="([^"]+)">(.*?)<a class="anchor-link"', re.S)


@dataclass
class Chapter:
    """A notebook as a page."""

    name: str  # 03_reprojection
    title: str
    lead: str  # its first paragraph
    body: str
    sections: list[tuple[str, str]]  # anchor and words of its second headings
    picture: bytes | None  # its first one, small, as PNG
    moves: bool  # has plots that need plotly.js

    @property
    def page(self) -> str:
        return f"{self.name}.html"


def build_book(out: str | Path) -> Path:
    """Render the notebooks in notebooks/ as they are; returns the first page.

    Args:
        out: folder for the pages; made where it is missing. Files of the same names are replaced, others stay.

    Raises:
        FileNotFoundError: there are no notebooks, or one links to a file that is not there.
        ValueError: none of them was run.
    """
    from jinja2 import Environment, FileSystemLoader
    from plotly.offline import get_plotlyjs
    from pygments.formatters import HtmlFormatter

    out = Path(out).resolve()
    chapters = [made for path in find_notebooks() if (made := chapter(path, out))]
    if not chapters:
        raise ValueError("no notebook was run: mirage-nb notebooks run")
    out.mkdir(parents=True, exist_ok=True)
    environment = Environment(loader=FileSystemLoader(HERE), autoescape=True, trim_blocks=True, lstrip_blocks=True)
    for number, here in enumerate(chapters):
        before, after = chapters[number - 1] if number else None, chapters[number + 1 : number + 2]
        page = environment.get_template("chapter.html").render(
            chapters=chapters, here=here, before=before, after=after[0] if after else None
        )
        write_aside(out / here.page, page.encode())
        if here.picture:
            write_aside(out / f"{here.name}.png", here.picture)
    index = environment.get_template("index.html").render(chapters=chapters, here=None)
    shutil.copyfile(ROOT / "data" / "memory.gif", out / "memory.gif")
    style = (HERE / "style.css").read_text() + HtmlFormatter(style="friendly").get_style_defs(".highlight")
    write_aside(out / "style.css", style.encode())
    write_aside(out / "plotly.min.js", get_plotlyjs().encode())
    write_aside(out / "index.html", index.encode())
    return out / "index.html"


def chapter(path: Path, out: Path) -> Chapter | None:
    """A notebook rendered; its links are written as seen from the folder `out`. One that was not run is left out."""
    from nbconvert import HTMLExporter

    notebook = nbformat.read(path, as_version=4)
    if not outputs(notebook):
        warnings.warn(f"{path.name} was not run and is left out: mirage-nb notebooks run --only {path.stem[:2]}")
        return None
    title, lead = first_words(notebook)
    exporter = HTMLExporter(
        template_name="basic", exclude_input_prompt=True, exclude_output_prompt=True, exclude_anchor_links=False
    )
    body = relinked(exporter.from_notebook_node(still(notebook))[0], path.parent, out)
    sections = [(anchor, re.sub("<[^>]+>", "", words)) for anchor, words in HEADING.findall(body)]
    sections = [(anchor, html.unescape(words).strip()) for anchor, words in sections]
    moves = bool(outputs(notebook, PLOTLY))
    return Chapter(path.stem, title, lead, body, sections, thumbnail(notebook), moves)


def first_words(notebook: NotebookNode) -> tuple[str, str]:
    """The title, without marks, and the first paragraph below it, as plain text."""
    title, _, rest = notebook.cells[0].source.partition("\n")
    lead = rest.strip().partition("\n\n")[0]
    plain = [re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", text) for text in (title.lstrip("# "), lead)]
    title, lead = (" ".join(re.sub(r"[*`]|\b_|_\b", "", text).split()) for text in plain)
    return title, lead


def still(notebook: NotebookNode) -> NotebookNode:
    """A copy whose plots are drawn by the page's own plotly.js, and whose live widgets are pictures with a caption."""
    notebook = copy.deepcopy(notebook)
    for number, output in enumerate(outputs(notebook)):
        data = output.get("data", {})
        if output.get("metadata", {}).get("live") and "image/png" in data:
            words = "Live in JupyterLab: run the notebook, and this picture follows your hand."
            picture = f'<img src="data:image/png;base64,{data["image/png"].strip()}" alt="{words}">'
            output.data = NotebookNode({"text/html": f"<figure>{picture}<figcaption>{words}</figcaption></figure>"})
        elif PLOTLY in data:
            output.data = NotebookNode({"text/html": plot(data[PLOTLY], f"plot-{number}")})
    return notebook


def plot(figure: dict, name: str) -> str:
    """A plotly figure as a part of a page."""
    config = {"responsive": True, "displaylogo": False} | figure.get("config", {})
    parts = [json.dumps(part).replace("</", "<\\/") for part in (figure["data"], figure.get("layout", {}), config)]
    height = figure.get("layout", {}).get("height", 450)
    call = f'Plotly.newPlot("{name}", {", ".join(parts)})'
    return f'<div class="plot" id="{name}" style="height:{height}px"></div>\n<script>{call}</script>'


def thumbnail(notebook: NotebookNode, width: int = 480) -> bytes | None:
    """The first picture of a notebook as a small PNG."""
    from PIL import Image

    pictures = outputs(notebook, "image/png")
    if not pictures:
        return None
    picture = Image.open(io.BytesIO(base64.b64decode(pictures[0].data["image/png"]))).convert("RGB")
    picture.thumbnail((width, width))
    buffer = io.BytesIO()
    picture.save(buffer, "png", optimize=True)
    return buffer.getvalue()


def relinked(body: str, folder: Path, out: Path) -> str:
    """Links to notebooks become links to pages, those to the project's files are seen from the folder `out`.

    Raises:
        FileNotFoundError: a link leads nowhere.
    """

    def link(match: re.Match) -> str:
        attribute, target, anchor = match[1], match[2], match[3] or ""
        path = (folder / html.unescape(target)).resolve()
        if not path.exists():
            raise FileNotFoundError(f"{folder}: a notebook links to {target}, which is not there")
        page = path.suffix == ".ipynb" and path.parent == NOTEBOOKS.resolve()
        target = f"{path.stem}.html" if page else Path(os.path.relpath(path, out)).as_posix()
        return f'{attribute}="{target}{anchor}"'

    # Not in scripts: what looks like a link there is data.
    parts = re.split(r"(<script.*?</script>)", body, flags=re.S)
    return "".join(part if part.startswith("<script") else LINK.sub(link, part) for part in parts)
