"""Files that survive a kill, a full disk, and the links of strangers: written in one step, rows appended whole."""

import hashlib
import json
import os
import re
import shlex
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from cookbook.errors import UserError, last_line, shortage

# No part of a folder's content: our own records, hidden files (macOS adds `._*`), and what systems add
BOOKKEEPING = r"/(\.|__MACOSX/|(manifest\.json|started\.json|Thumbs\.db|desktop\.ini)$)"
EARLIER = ".earlier"  # in a stage folder: what it held before --redo


def digest(path: Path) -> str:
    """SHA-256 of one file, as `sha256:<hex>`."""
    with open(path, "rb") as file:
        return "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()


def digest_of(value: Any) -> str:
    """SHA-256 of a JSON value, independent of the order of its keys."""
    return "sha256:" + hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()


def absolute(path: Path | str) -> Path:
    """A path that a user gave, made absolute; a UserError for `~` where no home folder is known."""
    try:
        return Path(path).expanduser().absolute()
    except RuntimeError:
        raise UserError(f"{path}: no home folder is known here; set HOME, or write the whole path") from None


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Write to the yielded temporary path. On success it is renamed to `path` in one step, on failure it is deleted."""
    path.parent.mkdir(parents=True, exist_ok=True)
    name = path.name if len(os.fsencode(path.name)) < 200 else digest_of(path.name)[7:47]  # a name has 255 bytes
    temporary = path.with_name(f".{name}.{os.getpid()}{path.suffix}")
    remove(temporary)  # a link of that name would be followed
    try:
        with one_line_if_full(path.parent):
            yield temporary
            if path.is_dir() and temporary.is_dir():  # no folder can take the place of another
                remove(path)
            os.replace(temporary, path)
    finally:
        remove(temporary)


def remove(path: Path) -> None:
    """Delete a file, a link (not its target), or a folder, even one that was copied from a read-only folder."""
    if path.is_symlink() or not path.is_dir():
        path.unlink(missing_ok=True)
        return
    for folder, _, _ in os.walk(path):
        os.chmod(folder, 0o700)
    shutil.rmtree(path)


def contents(folder: Path) -> list[Path]:
    """The files of a folder in order, without manifests and hidden files."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return [path for path in files if not re.search(BOOKKEEPING, f"/{path.relative_to(folder).as_posix()}")]


def set_aside(folder: Path) -> bool:
    """Move the content of a stage folder into its `.earlier/`; whether it is more than the record of its start.

    Where earlier results wait there already, the folder holds an unfinished attempt to replace them, which is deleted.
    The manifest is moved last: with it in place, a move that was killed is continued.
    """
    earlier, manifest = folder / EARLIER, folder / "manifest.json"
    replaced = earlier.exists() and not manifest.exists()
    held = [path for path in folder.iterdir() if path.name not in (".lock", EARLIER)]
    for path in sorted(held, key=manifest.__eq__):
        earlier.mkdir(exist_ok=True)
        remove(path) if replaced else os.replace(path, earlier / path.name)
    return len(held) > 1


@contextmanager
def one_line_if_full(folder: Path) -> Iterator[None]:
    """Within the block, a full disk raises a UserError that names it."""
    try:
        yield
    except Exception as error:
        if isinstance(error, UserError) or shortage(error) != "disk":
            raise
        free = shutil.disk_usage(folder).free / 1e9
        raise UserError(
            f"{folder}: its disk is full ({free:.2f} GB free); free some space, then the same command continues"
        ) from None


def refuse_links(*paths: Path) -> None:
    """A UserError for the first symbolic link among these: through it, we would write to files of somebody else."""
    if link := next((path for path in paths if path.is_symlink()), None):
        raise UserError(
            f"{link} is a symbolic link, and nothing is written through one; type `{shlex.join(['rm', str(link)])}`, "
            "or choose another folder with --run"
        )


def no_link(path: str, flags: int) -> int:
    """For `open`: fails where the file is a symbolic link."""
    return os.open(path, flags | os.O_NOFOLLOW, 0o666)


def sweep(folder: Path) -> None:
    """Delete temporary files of `replacing` that killed processes left behind."""
    for path in sorted(folder.rglob(".*")):
        if re.fullmatch(r"\..+\.\d+(\.\w+)?", path.name) and path.exists():
            remove(path)


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file in one step."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(value, indent=1, default=str) + "\n")


def write_rows(path: Path, rows: Iterable[dict]) -> None:
    """Write a jsonl file in one step."""
    with replacing(path) as temporary:
        temporary.write_text("".join(json.dumps(row, default=str) + "\n" for row in rows))


def append_row(path: Path, row: dict) -> None:
    """Append one line of JSON and force it to disk: a kill can truncate only the line being written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    refuse_links(path)
    with one_line_if_full(path.parent), open(path, "ab+", opener=no_link) as file:
        _complete_last_line(file)
        file.write(json.dumps(row, default=str).encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())


def _complete_last_line(file: IO[bytes]) -> None:
    """Add the missing line break to a last line, or cut the line off if it is not a whole row."""
    file.seek(max(0, file.seek(0, os.SEEK_END) - 1))
    if file.read() in (b"", b"\n"):
        return
    file.seek(0)
    content = file.read()
    start = content.rfind(b"\n") + 1
    try:
        _row(content[start:])
        file.write(b"\n")
    except ValueError:
        file.truncate(start)


def _row(line: bytes) -> dict:
    if not isinstance(row := parse(line), dict):
        raise ValueError("not an object")
    return row


def parse(text: str | bytes) -> Any:
    """The value of a JSON text.

    Raises:
        ValueError: the text is not JSON, not UTF-8, more deeply nested than can be read, or has a field twice.
    """
    try:
        return json.loads(text, object_pairs_hook=_fields)
    except RecursionError:
        raise ValueError("too deeply nested") from None


def _fields(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    for name, value in pairs:
        if name in fields:
            raise ValueError(f"the field {name!r} is there twice")
        fields[name] = value
    return fields


def read_json(path: Path) -> Any:
    """The content of a JSON file that came with the user's data or weights.

    Raises:
        UserError: it is missing or damaged.
    """
    try:
        return parse(path.read_bytes())
    except FileNotFoundError:
        raise UserError(f"{path} is missing; copy or download it again") from None
    except ValueError as error:
        raise UserError(f"{path} is damaged ({last_line(error)}); copy or download it again") from None


def read_rows(path: Path) -> list[dict]:
    """Rows of a jsonl file, without a last line truncated by a kill.

    Raises:
        UserError: any other line is not a row.
    """
    if not path.exists():
        return []
    lines = path.read_bytes().splitlines(keepends=True)
    rows = []
    for number, line in enumerate(lines, 1):
        try:
            rows.append(_row(line))
        except ValueError as error:
            if number < len(lines) or line.endswith(b"\n"):
                reason = getattr(error, "msg", error)
                raise UserError(f"{path}, line {number}: not JSON ({reason}); correct or delete that line") from None
    return rows
