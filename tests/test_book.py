"""The book: every link and file is there, no script comes from elsewhere, and pictures stand where widgets were."""

from __future__ import annotations

import html
import re
from pathlib import Path
from urllib.parse import unquote

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from mirage_nb import book
from mirage_nb import notebook_runs as runs

PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="  # 1 x 1, PNG


@pytest.fixture(scope="module")
def pages(tmp_path_factory) -> Path:
    return book.build_book(tmp_path_factory.mktemp("book")).parent


def markup(page: Path) -> str:
    """A page without what its scripts hold."""
    return re.sub(r"(<script[^>]*>).*?</script>", r"\1</script>", page.read_text(), flags=re.S)


def test_every_notebook_that_was_run_has_its_page(pages: Path) -> None:
    done = {path.stem for path in runs.find_notebooks() if runs.outputs(nbformat.read(path, as_version=4))}
    assert {page.stem for page in pages.glob("*.html")} == done | {"index"}
    index = markup(pages / "index.html")
    assert all(f'class="card" href="{name}.html"' in index for name in done)


def test_links_and_files_resolve(pages: Path) -> None:
    anchors = {page.name: set(re.findall(r'\bid="([^"]+)"', markup(page))) for page in pages.glob("*.html")}
    broken = []
    for page in pages.glob("*.html"):
        for target in re.findall(r'\b(?:href|src)="([^"]*)"', markup(page)):
            if target.startswith(("https://", "data:")):
                continue
            name, _, anchor = html.unescape(target).partition("#")
            name = name or page.name
            there = not anchor or {anchor, unquote(anchor)} & anchors.get(name, set())
            if not (page.parent / name).exists() or not there:
                broken.append(f"{page.name}: {target}")
    assert broken == []


def test_nothing_is_fetched_but_what_lies_beside_the_pages(pages: Path) -> None:
    for page in pages.glob("*.html"):
        text = markup(page)
        assert set(re.findall(r'<script[^>]*src="([^"]+)"', text)) <= {"plotly.min.js"}
        assert set(re.findall(r'<link[^>]*href="([^"]+)"', text)) == {"style.css"}
        assert not re.findall(r'<(?:img|video|iframe|source)[^>]*src="(?:https?:)?//', text)
        assert "plotly.min.js" in text or "Plotly.newPlot" not in page.read_text()
        assert page.read_text().count("@license") == 0  # plotly.js is in one file, not in the pages
    assert (pages / "plotly.min.js").stat().st_size > 1_000_000


def test_no_formula_is_left_to_a_script(pages: Path) -> None:
    """There is no MathJax in the book: notebooks write their formulas as code or in words."""
    for path in runs.find_notebooks():
        prose = [cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "markdown"]
        prose = [re.sub(r"```.*?```|`[^`]*`", "", text, flags=re.S) for text in prose]
        assert [text for text in prose if re.search(r"\$[^$\n]+\$|\\\(|\\\[|\\begin\{", text)] == [], path.name


def made(folder: Path, monkeypatch, *cells, name: str = "00_small") -> str:
    monkeypatch.setattr(runs, "NOTEBOOKS", folder)
    monkeypatch.setattr(book, "NOTEBOOKS", folder)
    first = new_markdown_cell("# 00 · A *small* one\n\nWhat it [says](00_small.ipynb) & does.\n\nMore.")
    nbformat.write(new_notebook(cells=[first, *cells]), folder / f"{name}.ipynb")
    return (book.build_book(folder / "out").parent / f"{name}.html").read_text()


def shown(data: dict, **metadata):
    return new_code_cell("pass", outputs=[new_output("display_data", data, metadata=metadata)])


def test_a_live_widget_is_its_picture_and_a_plot_is_drawn(tmp_path: Path, monkeypatch) -> None:
    figure = {"data": [{"x": [1], "name": "</script>"}], "layout": {"height": 300}}
    bundle = {book.PLOTLY: figure, "text/html": '<script src="https://cdn.plot.ly/plotly.js"></script>'}
    page = made(tmp_path, monkeypatch, shown({"image/png": PIXEL, "text/plain": "Live()"}, live=True), shown(bundle))
    assert f'src="data:image/png;base64,{PIXEL}"' in page and "<figcaption>Live in JupyterLab" in page
    assert "Live()" not in page and "cdn.plot.ly" not in page
    assert page.count("Plotly.newPlot(") == 1 and r'"name": "<\/script>"' in page
    index = (tmp_path / "out" / "index.html").read_text()
    assert "<b>00 · A small one</b>" in index and "<span>What it says &amp; does.</span>" in index


def test_links_are_seen_from_the_book(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "grid.py").write_text("")
    words = new_markdown_cell("[a](00_small.ipynb#part) [b](grid.py) [c](https://arxiv.org/abs/2606.09828) [d](#part)")
    page = made(tmp_path, monkeypatch, words, shown({"image/png": PIXEL}))
    assert all(f'href="{link}"' in page for link in ("00_small.html#part", "../grid.py", "#part"))
    assert 'href="https://arxiv.org/abs/2606.09828"' in page
    with pytest.raises(FileNotFoundError, match="nowhere.py"):
        made(tmp_path, monkeypatch, new_markdown_cell("[b](nowhere.py)"), shown({"image/png": PIXEL}))


def test_a_notebook_that_was_not_run_is_left_out_and_named(tmp_path: Path, monkeypatch) -> None:
    with pytest.warns(UserWarning, match="01_bare.ipynb was not run"), pytest.raises(ValueError, match="no notebook"):
        made(tmp_path, monkeypatch, new_code_cell("1"), name="01_bare")
