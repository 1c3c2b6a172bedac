"""Links of all pages and notebooks, offline: files exist, and so do the headings that anchors name."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import unquote

import nbformat
import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted(
    path
    for pattern in ("*.md", "docs/*.md", "assets/**/*.md", "notebooks/*.ipynb", "notebooks/*.py")
    for path in ROOT.glob(pattern)
)
LINK = re.compile(r"!?\[[^\]\n]*\]\(([^)\s]+)\)|<(?:a|img|video)\b[^>]*?(?:href|src)=[\"']([^\"']+)[\"']")


def prose(path: Path) -> str:
    """The Markdown of a page, of a notebook or of its .py twin, without what stands in code."""
    if path.suffix == ".ipynb":
        cells = nbformat.read(path, as_version=4).cells
        text = "\n\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    elif path.suffix == ".py":
        text = "\n".join(re.sub(r"^# ?", "", line) for line in path.read_text().splitlines() if line.startswith("#"))
    else:
        text = path.read_text()
    return without_code(text)


def without_code(text: str) -> str:
    """Code blocks left out, and in code between backquotes whatever could pass for a link."""
    text = re.sub(r"```.*?```", "", text, flags=re.S)
    return re.sub(r"`[^`\n]*`", lambda code: re.sub(r"[\[\]()]", "", code[0]), text)


def anchors(path: Path) -> set[str]:
    """What a code host calls the headings of a page: lower case, without punctuation, spaces to hyphens."""
    found: set[str] = set()
    for heading in re.findall(r"^#{1,6} +(.*?) *#*$", prose(path), re.M):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading.strip())
        slug = re.sub(r"[^\w\- ]", "", plain.lower()).replace(" ", "-")
        number = sum(name == slug or re.fullmatch(rf"{re.escape(slug)}-\d+", name) is not None for name in found)
        found.add(f"{slug}-{number}" if number else slug)
    return found


def broken(path: Path, text: str) -> list[str]:
    """Links of a page that lead nowhere, each with what is missing."""
    problems = []
    for link in (first or second for first, second in LINK.findall(text)):
        if re.match(r"(https?|mailto|data):", link):
            continue
        target, _, anchor = unquote(link).partition("#")
        page = (path.parent / target).resolve() if target else path
        if not page.exists() or not page.is_relative_to(ROOT):
            problems.append(f"{link}: no such file")
        elif anchor and page.suffix in (".md", ".ipynb") and anchor not in anchors(page):
            problems.append(f"{link}: no such heading")
    return problems


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(path):
    assert broken(path, prose(path)) == []


def test_all_kinds_of_pages_are_looked_at():
    assert {path.suffix for path in PAGES} == {".md", ".ipynb", ".py"}
    assert any(LINK.search(prose(path)) for path in PAGES if path.suffix == ".ipynb")


def test_broken_links_are_found():
    page = ROOT / "README.md"
    text = "[a](setup.md#one-gpu) [b](setup.md#two-gpus) [c](nowhere.md) [d](../outside.md) <img src='x.png'> [e](#no)"
    assert broken(page, text) == [
        "setup.md#two-gpus: no such heading",
        "nowhere.md: no such file",
        "../outside.md: no such file",
        "x.png: no such file",
        "#no: no such heading",
    ]
    assert broken(page, without_code("[web](https://example.org/nowhere) `[code](nowhere.md)`")) == []


def test_every_document_is_linked_from_another():
    linked = {
        (path.parent / unquote(link).partition("#")[0]).resolve()
        for path in PAGES
        for link in (first or second for first, second in LINK.findall(prose(path)))
        if not link.startswith("http")
    }
    lonely = [path.name for path in ROOT.glob("docs/*.md") if path not in linked]
    assert lonely == []
