"""`python -m tools.pages [RUN] OUT`: the README, the notebooks with their videos and the docs as static HTML pages.

The pages need no server and no installation. They begin at OUT/index.html, the README, and include every file of the
checkout that a page links to. With the folder of a finished run, its report is among them.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
from pathlib import Path
from urllib.parse import unquote

import nbformat
from bs4 import BeautifulSoup
from nbconvert import HTMLExporter

from cookbook import runs
from cookbook.errors import UserError, report_user_errors

ROOT = runs.ASSETS.parent
COPIED = (".jpeg", ".mp4", ".png", ".svg", ".webp")  # any other file that is linked becomes a page
STYLE = """<style>
main, nav { max-width: 72rem; margin: auto } img { max-width: 100% }
nav a { margin: 1rem; font: 14px sans-serif; color: #1f5fa8 }
</style>"""
WEB = re.compile(r"[a-z]+:|//")  # what a link to another place begins with; a data URI holds its content itself


def build(out: Path, run: Path | None = None, root: Path = ROOT) -> list[Path]:
    """Write the pages; returns the files that they were made from.

    Raises:
        UserError: links or videos that lead nowhere, or a run without a report.
    """
    out.mkdir(parents=True, exist_ok=True)
    bar = {"Contents": out / "index.html"}
    if run:
        if not (report := run / "report" / "report.html").exists():
            raise UserError(f"{report} is missing; type `cookbook run` first")
        bar["Report of a finished run"] = Path(shutil.copy(report, out))
    found, anchors, links = [root / "README.md"], {}, []
    for source in found:  # which grows
        target, anchors[source] = place(source, out, root), {""}
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.suffix in COPIED:
            shutil.copy(source, target)
            continue
        page = rendered(source)
        for tag in page(lambda tag: not WEB.match(tag.get("href", tag.get("src", "data:")))):
            key = "href" if "href" in tag.attrs else "src"
            path, _, anchor = unquote(link := tag[key]).partition("#")
            folder = source if source.is_dir() else source.parent
            linked = Path(os.path.normpath(folder / path)) if path else source
            links.append((linked, anchor, f"{source.relative_to(root)}: {link}"))
            if linked.exists() and linked.is_relative_to(root):
                found += [] if linked in found else [linked]
                tag[key] = relative(place(linked, out, root), target) + f"#{anchor}" * bool(anchor)
        nav = "".join(f'<a href="{relative(file, target)}">{title}</a>' for title, file in bar.items())
        page.body.insert(0, BeautifulSoup(f"{STYLE}<nav>{nav}</nav>", "html.parser"))
        target.write_text(str(page), encoding="utf-8")
        anchors[source] |= {tag["id"] for tag in page(id=True)}
    if dead := [link for linked, anchor, link in links if anchor not in anchors.get(linked, ())]:
        raise UserError(f"{len(dead)} links lead nowhere: {'; '.join(dead[:5])}")
    return found


def place(source: Path, out: Path, root: Path) -> Path:
    """Where the page of a file goes, or the copy of a picture. No part is hidden: GitHub Pages leaves those out."""
    path = out.joinpath(*(part.lstrip(".") for part in source.relative_to(root).parts))
    if source.is_dir() or source == root / "README.md":
        return (path if source.is_dir() else out) / "index.html"
    if source.suffix in COPIED:
        return path
    return path.with_suffix(".html") if source.suffix in (".md", ".ipynb") else path.with_name(f"{path.name}.html")


def relative(target: Path, page: Path) -> str:
    """The link from one page to another file of OUT."""
    return Path(os.path.relpath(target, page.parent)).as_posix()


def rendered(source: Path) -> BeautifulSoup:
    """A file of the checkout as HTML: a notebook with its outputs, Markdown, a folder's list, or plain text."""
    if source.suffix == ".ipynb":
        book = nbformat.read(source, as_version=4)
    else:
        book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell(markdown(source))])
    text, _ = HTMLExporter(exclude_anchor_links=True).from_notebook_node(book, {"metadata": {"name": source.name}})
    page = BeautifulSoup(text, "html.parser")
    for script in page("script"):
        if source.suffix != ".ipynb" or "mathjax" not in str(script).lower():
            script.decompose()  # diagrams and widgets are on no page, formulas in notebooks only
    for heading in page(re.compile("^h[1-6]$")):  # the anchors that code hosts make
        heading["id"] = re.sub(r"[^\w\- ]", "", heading.get_text().strip().lower()).replace(" ", "-")
    return page


def markdown(source: Path) -> str:
    """Any file but a notebook as Markdown."""
    if source.is_dir():
        return "\n".join(f"* [{path.name}]({path.name})" for path in sorted(source.glob("[!._]*")))
    text = source.read_text()
    return text if source.suffix == ".md" else f"~~~~~~{source.suffix[1:]}\n{text}\n~~~~~~"


if __name__ == "__main__":
    with report_user_errors():
        *run, out = map(Path, sys.argv[1:] or ["runs/pages"])
        print(f"{len(build(out, *run))} files linked from {out / 'index.html'}")
