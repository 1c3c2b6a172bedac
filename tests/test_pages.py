"""`python -m tools.pages` on a small project: pages with their videos, and no link that leads nowhere."""

from __future__ import annotations

import re
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from cookbook.errors import UserError
from tools.pages import build

VIDEO = '<video controls><source src="data:video/mp4;base64,AAAA" type="video/mp4"></video>'


@pytest.fixture
def project(tmp_path) -> Path:
    """A README, a hidden folder that it links to, and a notebook with a picture, a video and a link to each."""
    root = tmp_path / "project"
    for file, text in {
        "README.md": "# Kit\n[lesson](notebooks/a.ipynb#what-moves) [folder](.tools/) [code](.tools/b.py)",
        ".tools/b.py": 'print("<b>")',
        "docs/c.svg": "<svg/>",
    }.items():
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).write_text(text)
    top = new_markdown_cell(
        "# A `lesson`\n## What moves?\n![c](../docs/c.svg) [up](../README.md#kit) [web](https://a.b)"
    )
    code = new_code_cell("show()", outputs=[new_output("display_data", {"text/html": VIDEO})])
    (root / "notebooks").mkdir()
    nbformat.write(new_notebook(cells=[top, code]), root / "notebooks" / "a.ipynb")
    return root


def test_each_linked_file_has_a_page_and_links_lead_to_it(project, tmp_path):
    (tmp_path / "run" / "report").mkdir(parents=True)
    (tmp_path / "run" / "report" / "report.html").write_text("all is well")
    out = tmp_path / "out"
    assert len(build(out, tmp_path / "run", project)) == 5
    lesson = (out / "notebooks" / "a.html").read_text()
    assert "data:video/mp4;base64,AAAA" in lesson and "require.min.js" not in lesson
    links = re.findall(r'<(?:a|img)[^>]* (?:href|src)="([^"]+)"', lesson)
    assert links == ["../index.html", "../report.html", "../docs/c.svg", "../index.html#kit", "https://a.b"]
    assert (out / "report.html").read_text() == "all is well" and (out / "docs" / "c.svg").exists()
    index = (out / "index.html").read_text()
    assert all(f'href="{link}"' in index for link in ("notebooks/a.html#what-moves", "tools/index.html"))
    assert 'href="b.py.html"' in (out / "tools" / "index.html").read_text()
    assert "&lt;b&gt;" in (out / "tools" / "b.py.html").read_text()


@pytest.mark.parametrize(
    "text", ["[x](gone.md)", "[x](#gone)", "[x](.tools/b.py#gone)", "[x](../out)", '<video src="gone.mp4"></video>']
)
def test_a_link_or_video_that_leads_nowhere_is_named(text, project, tmp_path):
    with open(project / "README.md", "a") as page:
        page.write(f"\n\n{text}")
    with pytest.raises(UserError, match=r"1 links lead nowhere: README.md: (.*gone|\.\./out)"):
        build(tmp_path / "out", root=project)


def test_a_run_without_report_is_named(project, tmp_path):
    with pytest.raises(UserError, match="report.html is missing"):
        build(tmp_path / "out", tmp_path, project)
