"""What to generate: rows of the published jsonl, the published batch_input.json, or a folder of photos.

Fields as in the recipe's `gr1_batch.jsonl` and cosmos-predict2.5's inference arguments. A file is checked as a whole:
all its problems are reported at once, by line and field, before any model is loaded.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Predicate
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from cookbook import storage
from cookbook.errors import UserError
from cookbook.layout import existing, read_photos, read_text, read_utf8
from cookbook.models import sizes
from cookbook.profiles import Profile
from cookbook.video import IMAGES, probe, read_image

# field -> its allowed values, as printed where a row has another
ALLOWED = {
    "inference_type": "image2world, video2world or text2world",
    "name": "letters, digits and _ - . only, at most 200 bytes, and each name once",
    "prompt": "a sentence, here or in the file prompt_path, not both",
    "prompt_path": "a UTF-8 text file, relative to this one, instead of prompt",
    "input_path": "relative to this file: an image, a video of 5 or more frames (video2world), none (text2world)",
    "num_output_frames": "1 + a multiple of 4",
    "resolution": '"height,width", both multiples of 16, for example "432,768"',
    "seed": "a whole number from 0 to 2**31",
    "guidance": "0 (none) or more",
    "num_steps": "a whole number from 1 to 1000",
    "shift": "more than 0",
    "negative_prompt": "a text, which may be empty",
}
BATCH = ("input_video", "prompt", "output_video")  # fields of batch_input.json
PARTS = 10  # times a profile's window that a clip may be long
NAME = 200  # bytes of a request's name: a file's may have 255, `_seed<k>.mp4` included
FitsFileName = Predicate(lambda name: len(name.encode(errors="surrogatepass")) <= NAME)
WholeLatents = Predicate(lambda frames: frames >= 1 and frames % 4 == 1)
WholePatches = Predicate(lambda sides: all(int(side) and int(side) % 16 == 0 for side in sides.split(",")))


class Request(BaseModel):
    """One clip to generate (several seeds are several clips of one request)."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, strict=True)  # true is no number, "9" is a text

    inference_type: Literal["image2world", "video2world", "text2world"] = "image2world"
    name: Annotated[str, Field(pattern=r"^[\w\-.]+$"), FitsFileName]
    prompt: str = Field(pattern=r"[\p{L}\p{N}]")
    input_path: str | None = None  # absolute once read
    num_output_frames: Annotated[int, WholeLatents]
    resolution: Annotated[str, Field(pattern=r"^\d+,\s*\d+$"), WholePatches]  # height,width
    seed: int = Field(0, ge=0, le=2**31)
    guidance: float = Field(ge=0)
    num_steps: int | None = Field(None, ge=1, le=1000)  # None, here and below: the profile's
    shift: float | None = Field(None, gt=0)
    negative_prompt: str | None = None

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        height, width = (int(part) for part in self.resolution.split(","))
        return height, width


def request_name(index: int, stem: str) -> str:
    """`000_…`: the published rule (unsafe characters to `_`, stem cut at 80), within NAME bytes."""
    name = f"{index:03d}_" + re.sub(r"[^\w\-.]", "_", stem)[:80]
    return name.encode()[:NAME].decode(errors="ignore").rstrip(".")


def from_photos(folder: Path, profile: Profile) -> list[Request]:
    """One image2world request per photo of an EVAL folder, in the order of their numbers."""
    defaults, photos = _defaults(profile), read_photos(folder)
    problems = [f"{p.image}: {problem}" for p in photos if (problem := _unreadable(p.image, "image2world"))]
    if problems:
        raise UserError("\n".join(problems))
    return [
        Request(name=request_name(i, p.name), prompt=p.prompt, input_path=str(p.image.resolve()), **defaults)
        for i, p in enumerate(photos)
    ]


def _defaults(profile: Profile) -> dict[str, Any]:
    """The fields that a row may leave out and that depend on the profile."""
    clip, guidance = profile.clip, profile.sampling.guidance
    return {"num_output_frames": clip.frames, "resolution": f"{clip.height},{clip.width}", "guidance": guidance}


def read_requests(path: Path, profile: Profile) -> list[Request]:
    """Requests from a folder of photos, a `.jsonl` of published rows, a `batch_input.json`, or one row as `.json`.

    Raises:
        UserError: with every problem of the file, one a line: file, line, field, its value, what is allowed.
    """
    if path.is_dir():
        return from_photos(path, profile)
    if not path.exists():
        raise UserError(f"{path}: no such file or folder")
    requests: list[Request] = []
    problems: list[str] = []
    first: dict[str, str] = {}  # name -> where it was first used
    for where, row in _rows(path):
        request, wrong = _check(row, path.parent, _defaults(profile))
        wrong += _too_large(request, profile) if request else []
        name = row.get("name") if isinstance(row, dict) else None
        if isinstance(name, str) and first.setdefault(name, where) != where:
            wrong.append(f"name: {name!r} is on {first[name]} too; allowed: {ALLOWED['name']}")
        problems += [f"{path}, {where}: {problem}" for problem in wrong]
        requests += [request] if request else []
    if problems:
        raise UserError("\n".join(problems))
    if not requests:
        raise UserError(f"{path}: no rows in it")
    return requests


def _rows(path: Path) -> Iterator[tuple[str, Any]]:
    """(where, row) of each row; in place of a row that cannot be read, a UserError with the reason."""
    text = read_utf8(path)
    if path.suffix != ".json":
        yield from ((f"line {n}", _parse(line)) for n, line in enumerate(text.split("\n"), 1) if line.strip())
        return
    content = _parse(text)
    rows = [_from_batch(index, row) for index, row in enumerate(content)] if isinstance(content, list) else [content]
    yield from ((f"row {n}", row) for n, row in enumerate(rows, 1))


def _parse(text: str) -> Any:
    try:
        return storage.parse(text)
    except json.JSONDecodeError as error:
        line = f"line {error.lineno}, " if error.lineno > 1 else ""
        return UserError(f"{line}column {error.colno}: not JSON ({error.msg})")
    except ValueError as error:
        return UserError(f"not JSON ({error})")


def _from_batch(index: int, row: Any) -> Any:
    """A row of the published `batch_input.json` (its input_video is an image) as a request's."""
    if not isinstance(row, dict) or "input_video" not in row:
        return UserError(f"input_video: missing; allowed fields: {', '.join(BATCH)}")
    if unknown := sorted(row.keys() - set(BATCH)):
        return UserError(f"{', '.join(unknown)}: unknown field; allowed: {', '.join(BATCH)}")
    source = str(row["input_video"])
    return {"name": request_name(index, Path(source).stem), "input_path": source, "prompt": row.get("prompt")}


def _check(row: Any, folder: Path, defaults: dict[str, Any]) -> tuple[Request | None, list[str]]:
    """The request of a row, or all its problems."""
    if isinstance(row, UserError):
        return None, [str(row)]
    if not isinstance(row, dict):
        return None, [f"{_short(row)}: not a JSON object; allowed fields: {', '.join(ALLOWED)}"]
    row = {**defaults, **row}
    wrong, request = dict(_resolve(row, folder)), None  # field -> what is wrong with it
    try:
        request = Request.model_validate(row)
    except ValidationError as error:
        for item in error.errors():
            words = {"missing": "missing", "extra_forbidden": "unknown field"}
            wrong.setdefault(str(item["loc"][0]), words.get(item["type"]) or _short(item["input"]))
    fields = ", ".join(ALLOWED)
    problems = [f"{field}: {value}; allowed: {ALLOWED.get(field, fields)}" for field, value in wrong.items()]
    return (None if problems else request), problems


def _too_large(request: Request, profile: Profile) -> list[str]:
    """Pictures for which the network has no positions, and clips that fill the memory: found before models load."""
    most, frames, problems = sizes.longest(profile.world), PARTS * profile.clip.frames, []
    if request.num_output_frames > frames:
        problems.append(f"num_output_frames: {request.num_output_frames}; allowed: at most {frames}")
    if max(request.size) > 16 * most:
        problems.append(f"resolution: {_short(request.resolution)}; allowed: sides of at most {16 * most}")
    return problems


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "..."


def _resolve(row: dict[str, Any], folder: Path) -> Iterator[tuple[str, str]]:
    """Replace prompt_path by the text of that file, and input_path by the absolute path; (field, problem) of each."""
    text = row.pop("prompt_path", None)
    if text is not None and row.get("prompt") is not None:
        yield "prompt", "prompt_path is given too"
    elif text is not None:
        try:
            row["prompt"] = read_text(folder / str(text))
        except (UserError, OSError, ValueError) as error:
            row["prompt"] = "x"  # so that it is not reported as missing too
            yield "prompt_path", str(error) if isinstance(error, UserError) else _no_path(text, error)
    kind, value = row.get("inference_type", "image2world"), row.get("input_path")
    if kind == "text2world":
        if value is not None:
            yield "input_path", _short(value)
    elif not isinstance(value, str) or not value:
        yield "input_path", "missing" if value is None else _short(value)
    else:
        try:
            source = existing((folder / value).resolve())
            problem = _unreadable(source, kind)
        except (OSError, ValueError) as error:
            yield "input_path", _no_path(value, error)
            return
        row["input_path"] = str(source)
        if problem:
            yield "input_path", f"{source} {problem}"


def _no_path(value: Any, error: OSError | ValueError) -> str:
    return f"{_short(value)} cannot be a path ({getattr(error, 'strerror', None) or error})"


def _unreadable(source: Path, kind: str) -> str | None:
    """What is wrong with a picture or video; None where nothing is."""
    if not source.is_file():
        return "does not exist"
    try:
        if kind == "video2world" and source.suffix.lower() not in IMAGES:
            frames = len(probe(source).times)
            return f"has {frames} frames" if frames < 5 else None
        read_image(source)  # decoded whole: a file that was cut off opens without an error
    except UserError as error:
        return f"cannot be read ({str(error).removeprefix(f'{source}: ')})"
    return None
