"""The published folder layouts: GR1-100 (clips with captions) and EVAL-175 (photos with instructions), quirks included.

Layouts and quirks: https://huggingface.co/datasets/nvidia/GR1-100 and nvidia/EVAL-175, and the parsers
`scripts/create_prompts_for_gr1_dataset.py` and `scripts/prepare_batch_input_json.py` of cosmos-predict2.5.
"""

import csv
import io
import os
import re
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple
from unicodedata import normalize

from cookbook import storage
from cookbook.errors import UserError
from cookbook.video import IMAGES

VIDEOS = (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".wmv", ".flv", ".gif")
TEXTS = (".txt",)


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


def files(folder: Path, suffixes: tuple[str, ...] = ()) -> list[Path]:
    """Files of a folder with one of these suffixes, in any case; sorted, without hidden ones and those of systems."""
    found = (path for path in (folder.iterdir() if folder.is_dir() else ()) if not path.is_dir())
    visible = (path for path in found if not re.search(storage.BOOKKEEPING, f"/{path.name}"))
    return sorted(path for path in visible if not suffixes or path.suffix.lower() in suffixes)


def plain(name: str) -> str:
    """A name as it looks: macOS writes `é` as two code points, other systems as one, and tables may have spaces."""
    return normalize("NFC", name).strip()


def existing(path: Path) -> Path:
    """The path, or where it is missing the file beside it whose name looks the same."""
    if path.exists() or not path.parent.is_dir():
        return path
    return next((other for other in path.parent.iterdir() if plain(other.name) == plain(path.name)), path)


def find_videos(*folders: Path) -> list[Path]:
    """The videos of these folders, sorted.

    Raises:
        UserError: two have the same stem, so that one caption would serve both and one copy replace the other.
    """
    found: dict[str, Path] = {}
    for video in (video for folder in folders for video in files(folder, VIDEOS)):
        if (other := found.setdefault(plain(video.stem), video)) is not video:
            raise UserError(f"{other} and {video} have the same name; rename or delete one of them")
    return sorted(found.values())


def says_something(text: str) -> bool:
    """Whether a text has a letter or digit: a text of zero-width characters looks empty."""
    return any(map(str.isalnum, text))


def require_utf8(paths: Iterable[Path]) -> None:
    """Raise a UserError for a file that tables could not name: its name is not UTF-8, or has a line break."""
    for path in paths:
        if os.fsencode(path.name).decode(errors="replace") != path.name or len(path.name.splitlines()) > 1:
            raise UserError(f"{path.parent}: the name {path.name!a} is not UTF-8, or has a line break; rename the file")


def read_utf8(path: Path) -> str:
    """A text file, without its byte order mark; a UserError where it is not UTF-8."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 (byte {error.start}); save it as UTF-8") from None
    if "\0" in text:
        raise UserError(f"{path}: not UTF-8 (it has zero bytes, as UTF-16 does); save it as UTF-8")
    return text


def read_text(path: Path) -> str:
    """A caption file, stripped.

    Raises:
        UserError: missing, empty, or not UTF-8.
    """
    try:
        text = read_utf8(existing(path)).strip()
    except FileNotFoundError:
        raise UserError(f"{path}: no such caption file; write one sentence into it") from None
    if not says_something(text):
        raise UserError(f"{path}: the caption is empty (no letter or digit in it); write one sentence into it")
    return text


class Row(NamedTuple):
    """A row of `metadata.csv`."""

    file: str
    prompt: str
    where: str  # the table and the line that the row begins on


def read_rows(path: Path) -> dict[str, Row]:
    """`metadata.csv` (header `file,prompt`, by the rules of csv) -> stem of the video: its row.

    Unquoted commas belong to the prompt, as in upstream's parser.

    Raises:
        UserError: with the line: not csv, another header, no prompt, or a file that has a row already.
    """
    rows: dict[str, Row] = {}
    line = 1  # that the next row begins on
    reader = csv.reader(io.StringIO(read_utf8(path), newline=""), strict=True)
    try:
        for cells in reader:
            where, head, line = f"{path}, line {line}", line == 1, reader.line_num + 1
            prompt = ",".join(cells[1:]).strip()
            if head and [cell.strip() for cell in cells] != ["file", "prompt"]:
                raise UserError(f"{where}: the header is {','.join(cells)!r}; it must be file,prompt")
            if head or not "".join(cells).strip():
                continue
            if not says_something(prompt):
                raise UserError(f"{where}: no prompt after the file name; write file,prompt")
            if re.match(r'\s+"', cells[1]):
                raise UserError(f"{where}: a space stands before the double quote; delete it")
            row = Row(cells[0], prompt, where)
            if (other := rows.setdefault(plain(Path(row.file).stem), row)) is not row:
                raise UserError(f"{where}: the file {row.file} has a row already ({other.where}); delete one of them")
    except csv.Error as error:
        fix = "put the prompt in double quotes, and write each of its own twice"
        raise UserError(f"{path}, line {line}: not csv ({error}); {fix}") from None
    if line == 1:
        raise UserError(f"{path} is empty; its first line must be file,prompt")
    return rows


def read_metadata(path: Path) -> dict[str, str]:
    """Stem of the video -> prompt; errors as in `read_rows`."""
    return {stem: row.prompt for stem, row in read_rows(path).items()}


def write_metadata(path: Path, rows: Iterable[tuple[str, str]]) -> None:
    """Write `metadata.csv` from (file name, prompt), quoting exactly the prompts with a comma, quote or line break."""
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["file", "prompt"])
        writer.writerows((name, re.sub("\r\n?", "\n", prompt)) for name, prompt in rows)  # it would not quote \r


def write_training(folder: Path, clips: Iterable[Clip], prefix: str) -> None:
    """Copy clips to `videos/`, write `metas/<stem>.txt` (prefix + instruction) and `metadata.csv`."""
    rows = []
    for clip in clips:
        video, caption = folder / "videos" / clip.video.name, folder / "metas" / f"{clip.video.stem}.txt"
        write_pair(clip.video, video, prefix + clip.prompt, caption)
        rows.append((clip.video.name, clip.prompt))
    with storage.replacing(folder / "metadata.csv") as temporary:
        write_metadata(temporary, rows)


def write_pair(source: Path, copy: Path, text: str, caption: Path) -> None:
    """Copy a clip or photo, and write its caption."""
    with storage.replacing(copy) as temporary:
        shutil.copyfile(source, temporary)
    with storage.replacing(caption) as temporary:
        temporary.write_text(text, encoding="utf-8")


def find_clips(folder: Path, prefix: str = "") -> list[tuple[Path, Path | str | UserError]]:
    """Clips of a folder in any of three layouts, sorted, each with its caption: a text, the file to read it from, or
    the reason why the clip cannot be used.

    The layouts are the downloaded GR1-100 (`gr1/*.mp4` and `metadata.csv`), a prepared folder (`videos/`, `metas/` or
    `metadata.csv`) and a plain folder of `<stem>.mp4` with `<stem>.txt`; any of `VIDEOS` may stand for mp4.

    Args:
        prefix: what may stand before the caption in a file and not in the table.

    Raises:
        UserError: the folder is missing or holds no video, two videos have the same name, or two tables differ.
    """
    require_folder(folder)
    places = [folder, folder / "videos", folder / "gr1"]
    if not (videos := find_videos(*places)):
        found = f"{folder}: no video ({', '.join(VIDEOS)}) in it, in its videos/ or its gr1/"
        raise UserError(f"{found}; `cookbook prepare --help` lists the layouts")
    require_utf8(videos)
    tables = [path for path in (folder / "metadata.csv", folder / "gr1" / "metadata.csv") if path.exists()]
    if len(set(map(read_utf8, tables))) > 1:
        raise UserError(f"{tables[0]} and {tables[1]} differ; delete one of them")
    rows = read_rows(tables[0]) if tables else {}
    metas = folder / "metas" if (folder / "metas").is_dir() else None
    written = [path for place in (metas, *places) if place for path in files(place, TEXTS)]
    texts = {(path.parent, plain(path.stem)): path for path in written}
    clips: dict[str, tuple[Path, Path | str | UserError]] = {}
    for video in videos:
        stem, place = plain(video.stem), metas or video.parent
        text = texts.get((place, stem), place / f"{video.stem}.txt")
        clips[stem] = video, _caption(rows.pop(stem, None), text, prefix)
    others = [path for place in places for path in files(place) if path.suffix.lower() not in (*VIDEOS, *TEXTS, ".csv")]
    for path in others:  # with a caption, so meant to be a clip
        stem = plain(path.stem)
        if stem not in clips and (rows.pop(stem, None) or (metas or path.parent, stem) in texts):
            clips[stem] = path, UserError(f"no video of a known kind ({', '.join(VIDEOS)}); convert it to mp4")
    for stem, row in rows.items():
        clips[stem] = folder / row.file, UserError(f"no such video; add it, or delete its row ({row.where})")
    return sorted(clips.values(), key=lambda clip: clip[0])


def _caption(row: Row | None, text: Path, prefix: str) -> Path | str | UserError:
    """The caption of a clip from its row and its text file; where they differ, that as an error."""
    if row is None or not text.exists():
        return row.prompt if row else text
    try:
        same = read_text(text).removeprefix(prefix).strip() == row.prompt.removeprefix(prefix).strip()
    except UserError as error:
        return error
    return row.prompt if same else UserError(f"{text} and {row.where} differ; correct or delete one of them")


def read_photos(folder: Path) -> list[Photo]:
    """Photos of an EVAL folder with their instructions, ordered by number, then name.

    A photo `12_Do this.png` is also paired with `12_Do this..txt`: one published pair has such names.

    Raises:
        UserError: no photos, photos without a caption (the first five are named), two with the same caption, or a
            picture of another kind with one.
    """
    require_folder(folder)
    images = sorted(files(folder, IMAGES), key=_numbered)
    if not images:
        raise UserError(f"{folder}: no png or jpg in it")
    require_utf8(images)
    texts = {plain(path.stem): path for path in files(folder, TEXTS)}
    photos: dict[Path, Photo] = {}  # by caption
    orphans = []
    for image in [*images, *(path for path in files(folder) if path.suffix.lower() not in (*IMAGES, *TEXTS))]:
        stems = (image.stem, f"{image.stem}.", image.stem.rstrip("."))
        caption = next((texts[stem] for stem in map(plain, stems) if stem in texts), None)
        if image.suffix.lower() not in IMAGES:
            if caption and caption not in photos:
                raise UserError(f"{image}: no picture of a known kind ({', '.join(IMAGES)}); convert it to png")
        elif caption is None:
            orphans.append(image.name)
        elif caption in photos:
            raise UserError(f"{photos[caption].image} and {image} share {caption.name}; rename or delete one of them")
        else:
            photos[caption] = Photo(image, read_text(caption), caption.stem)
    if orphans:
        named = ", ".join(orphans[:5])
        raise UserError(f"{folder}: no .txt beside {named} ({len(orphans)} in all); write one for each")
    return list(photos.values())


def _numbered(path: Path) -> tuple[int, str]:
    head = path.name.split("_")[0]
    return (int(head) if head.isdigit() else 10**9, path.name)
