"""The published folder layouts: GR1-100 (clips with captions) and EVAL-175 (photos with instructions), quirks included.

Layouts and quirks: https://huggingface.co/datasets/nvidia/GR1-100 and nvidia/EVAL-175, and the parsers
`scripts/create_prompts_for_gr1_dataset.py` and `scripts/prepare_batch_input_json.py` of cosmos-predict2.5.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from cookbook.errors import UserError
from cookbook.video import IMAGES


@dataclass(frozen=True)
class Clip:
    """A video and the instruction it carries out; in a training folder the profile's prefix stands before it."""

    video: Path
    prompt: str


@dataclass(frozen=True)
class Photo:
    """A held-out first frame and the instruction to carry out from it."""

    image: Path
    prompt: str
    name: str  # stem, as published: `<n>_<instruction>.`


def require_folder(folder: Path) -> None:
    """Raise a UserError where there is no such folder."""
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder")


def require_utf8(paths: Iterable[Path]) -> None:
    """Raise a UserError for a file whose name is not UTF-8: tables and manifests are, so they could not name it."""
    for path in paths:
        try:
            os.fsencode(path.name).decode()
        except UnicodeDecodeError:
            raise UserError(f"{path.parent}: the name {path.name!a} is not UTF-8; rename the file") from None


def read_utf8(path: Path) -> str:
    """A text file, without its byte order mark; a UserError where it is not UTF-8."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 (byte {error.start}); save it as UTF-8") from None


def read_text(path: Path) -> str:
    """A caption file, stripped.

    Raises:
        UserError: missing, empty, or not UTF-8.
    """
    try:
        text = read_utf8(path).strip()
    except FileNotFoundError:
        raise UserError(f"{path}: no such caption file; write one sentence into it") from None
    if not text:
        raise UserError(f"{path}: the caption is empty; write one sentence into it")
    return text


def read_metadata(path: Path) -> dict[str, str]:
    """`metadata.csv` (header `file,prompt`, prompts with a comma in double quotes) -> stem of the video: prompt.

    Unquoted commas belong to the prompt, as in upstream's parser.
    """
    lines = read_text(path).splitlines()
    if [cell.strip() for cell in lines[0].split(",")] != ["file", "prompt"]:
        raise UserError(f"{path}, line 1: the header is {lines[0]!r}; it must be file,prompt")
    prompts: dict[str, str] = {}
    for number, line in enumerate(lines[1:], 2):
        if not line.strip():
            continue
        cells = next(csv.reader([line]))
        if len(cells) < 2 or not ",".join(cells[1:]).strip():
            raise UserError(f"{path}, line {number}: no prompt after the file name; write file,prompt")
        prompts[Path(cells[0].strip()).stem] = ",".join(cells[1:]).strip()
    return prompts


def write_metadata(path: Path, rows: Iterable[tuple[str, str]]) -> None:
    """Write `metadata.csv` from (file name, prompt), quoting exactly the prompts that contain a comma."""
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["file", "prompt"])
        writer.writerows(rows)


def find_clips(folder: Path) -> list[tuple[Path, Path | str]]:
    """Videos of a folder in any of three layouts, sorted, each with its caption: a text, or the file to read it from.

    These are the downloaded GR1-100 (`gr1/*.mp4` and `metadata.csv`), a prepared folder (`videos/`, `metas/` or
    `metadata.csv`) and a plain folder of `<stem>.mp4` with `<stem>.txt`.

    Raises:
        UserError: the folder is missing or holds no mp4.
    """
    require_folder(folder)
    videos = sorted(p for sub in (folder, folder / "videos", folder / "gr1") if sub.is_dir() for p in sub.glob("*.mp4"))
    if not videos:
        raise UserError(
            f"{folder}: no mp4 in it, in its videos/ or its gr1/; `cookbook prepare --help` lists the layouts"
        )
    require_utf8(videos)
    tables = [p for p in (folder / "metadata.csv", folder / "gr1" / "metadata.csv") if p.exists()]
    prompts = read_metadata(tables[0]) if tables else {}
    captions = folder / "metas" if (folder / "metas").is_dir() else None
    return [(v, prompts.get(v.stem) or (captions or v.parent) / f"{v.stem}.txt") for v in videos]


def read_photos(folder: Path) -> list[Photo]:
    """Photos of an EVAL folder with their instructions, ordered by number, then name.

    A photo `12_Do this.png` is also paired with `12_Do this..txt`: one published pair has such names.

    Raises:
        UserError: no photos, or photos without a caption (the first five are named).
    """
    require_folder(folder)
    images = sorted((p for p in folder.iterdir() if p.suffix.lower() in IMAGES), key=_numbered)
    if not images:
        raise UserError(f"{folder}: no png or jpg in it")
    require_utf8(images)
    photos, orphans = [], []
    for image in images:
        stems = (image.stem, f"{image.stem}.", image.stem.rstrip("."))
        caption = next((path for stem in stems if (path := folder / f"{stem}.txt").exists()), None)
        if caption is None:
            orphans.append(image.name)
        else:
            photos.append(Photo(image, read_text(caption), caption.stem))
    if orphans:
        named = ", ".join(orphans[:5])
        raise UserError(f"{folder}: no .txt beside {named} ({len(orphans)} in all); write one for each")
    return photos


def _numbered(path: Path) -> tuple[int, str]:
    head = path.name.split("_")[0]
    return (int(head) if head.isdigit() else 10**9, path.name)
