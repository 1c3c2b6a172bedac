"""`python -m tools.pipeline`: draw the pipeline, once for the README and once for each notebook, its own box marked.

Boxes have a fill of their own and arrows a middle grey, so that the picture is readable on light and dark pages.
"""

from __future__ import annotations

from html import escape
from pathlib import Path

from cookbook import runs, storage
from tools.publish import every

BOXES = (  # title in one or two lines, notebook, what comes out
    ("photo and\ninstruction", "", ""),
    ("prepare", "01", "checked\nclips, photos"),
    ("post-train", "02", "a checkpoint"),
    ("convert", "03", "weights,\nverified"),
    ("generate", "03", "videos"),
    ("judge\nand filter", "04", "kept videos"),
    ("actions", "05", "joint targets"),
    ("policy", "06", "a success rate"),
)
BESIDE = ("check the\nmachine", "00", 0), ("train the\ncritic", "07", 5)  # and the box under which it stands
WIDTH, HEIGHT, GAP, TOP, LOW = 96, 62, 20, 26, 150
FILL, EDGE, INK, LINE, HERE = "#dbe9f9", "#1f5fa8", "#14283f", "#6e7f8f", "#c96a00"
FOLDER = runs.ASSETS / "pictures"


def text(x: float, y: float, words: str, size: int, colour: str, weight: str = "normal") -> str:
    """One line of centred text."""
    return f'<text x="{x:g}" y="{y:g}" font-size="{size}" fill="{colour}" font-weight="{weight}">{escape(words)}</text>'


def box(x: int, y: int, title: str, number: str, here: str) -> list[str]:
    """A box with its title and the number of its notebook; filled with the accent where the reader is."""
    fill, ink = (EDGE, "white") if number and number == here else (FILL, INK)
    lines, centre = title.split("\n"), x + WIDTH / 2
    first = y + (31 if number else 36) - 8 * (len(lines) - 1) - (4 if number else 0)
    shape = f'<rect x="{x}" y="{y}" width="{WIDTH}" height="{HEIGHT}" rx="9" fill="{fill}" stroke="{EDGE}"/>'
    parts = [shape, *(text(centre, first + 17 * row, line, 15, ink, "bold") for row, line in enumerate(lines))]
    parts += [text(centre, y + HEIGHT - 8, number, 13, ink)] if number else []
    if number and number == here:
        parts.append(text(centre, y - 9 if y == TOP else y + HEIGHT + 17, "you are here", 13, HERE, "bold"))
    return parts


def draw(here: str = "") -> str:
    """The SVG, with the boxes of notebook `here` marked."""
    places = [GAP // 2 + column * (WIDTH + GAP) for column in range(len(BOXES))]
    parts = []
    for x, (title, number, out) in zip(places, BOXES, strict=True):
        parts += box(x, TOP, title, number, here)
        below = enumerate(out.split("\n"))
        parts += [text(x + WIDTH / 2, TOP + HEIGHT + 18 + 15 * n, line, 12, LINE) for n, line in below]
        if x > places[0]:
            parts.append(f'<path d="M{x - GAP + 2} {TOP + HEIGHT / 2:g}h{GAP - 5}" class="arrow"/>')
    for title, number, column in BESIDE:
        parts += box(places[column], LOW, title, number, here)
    parts.append(f'<path d="M{places[5] + WIDTH / 2:g} {LOW - 2}v-20" class="arrow"/>')
    size = places[-1] + WIDTH + GAP // 2, LOW + HEIGHT + 24
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {size[0]} {size[1]}" width="{size[0]}" '
        'font-family="Helvetica, Arial, sans-serif" text-anchor="middle">',
        f"<title>From photo and instruction to a policy{escape(f'; here: notebook {here}') if here else ''}</title>",
        f"<style>.arrow {{ stroke: {LINE}; stroke-width: 2.5; fill: none; marker-end: url(#tip) }}</style>",
        f'<marker id="tip" viewBox="0 0 6 6" refX="4" refY="3" markerWidth="4" markerHeight="4" orient="auto">'
        f'<path d="M0 0L6 3L0 6z" fill="{LINE}"/></marker>',
    )
    return "\n".join([*head, *parts, "</svg>\n"])


def files() -> dict[Path, str]:
    """Each picture's file and its content."""
    numbers = [path.stem[:2] for path in every()]
    return {FOLDER / f"pipeline{f'_{number}' if number else ''}.svg": draw(number) for number in ("", *numbers)}


if __name__ == "__main__":
    for place, picture in files().items():
        with storage.replacing(place) as temporary:
            temporary.write_text(picture)
