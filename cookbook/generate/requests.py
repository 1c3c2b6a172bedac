"""What to generate: rows of the published jsonl, the published batch_input.json, or a folder of photos.

Fields as in the recipe's `gr1_batch.jsonl` and cosmos-predict2.5's inference arguments.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from cookbook.errors import UserError
from cookbook.layout import read_photos
from cookbook.profiles import Profile


class Request(BaseModel):
    """One clip to make (several seeds are several clips of one request)."""

    model_config = ConfigDict(extra="allow")

    inference_type: Literal["image2world", "video2world", "text2world"] = "image2world"
    name: str
    prompt: str
    input_path: str | None = None  # relative to the jsonl file
    num_output_frames: int
    resolution: str  # "height,width"
    seed: int = 0
    guidance: float

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        height, width = (int(part) for part in self.resolution.split(","))
        return height, width


def request_name(index: int, stem: str) -> str:
    """`000_…`: the published rule (unsafe characters to `_`, stem cut at 80)."""
    return f"{index:03d}_" + re.sub(r"[^\w\-.]", "_", stem)[:80].rstrip(".")


def from_photos(folder: Path, profile: Profile) -> list[Request]:
    """One image2world request per photo of an EVAL folder, in the order of their numbers."""
    clip = profile.clip
    return [
        Request(
            name=request_name(index, photo.name),
            prompt=photo.prompt,
            input_path=str(photo.image.resolve()),
            num_output_frames=clip.frames,
            resolution=f"{clip.height},{clip.width}",
            guidance=profile.sampling.guidance,
        )
        for index, photo in enumerate(read_photos(folder))
    ]


def read_requests(path: Path, profile: Profile) -> list[Request]:
    """Requests from a folder of photos, a `.jsonl` of published rows, or a `batch_input.json`.

    Raises:
        UserError: with the file and line of the first row that cannot be used.
    """
    if path.is_dir():
        return from_photos(path, profile)
    if not path.exists():
        raise UserError(f"{path}: no such file or folder")
    if path.suffix == ".json":
        return _from_batch(path, profile)
    requests = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if line.strip():
            requests.append(_check(line, path, number, profile))
    if not requests:
        raise UserError(f"{path}: no rows in it")
    return requests


def _check(line: str, path: Path, number: int, profile: Profile) -> Request:
    where = f"{path}, line {number}"
    try:
        request = Request.model_validate_json(line)
        height, width = request.size
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"])) or "row"
        raise UserError(f"{where}: {field}: {first['msg']}") from None
    except ValueError:
        raise UserError(f'{where}: resolution: must be "height,width", for example "432,768"') from None
    if height % 16 or width % 16:
        raise UserError(f"{where}: resolution: {height} x {width} must be multiples of 16")
    if request.num_output_frames % 4 != 1:
        raise UserError(f"{where}: num_output_frames: {request.num_output_frames} must be 1 + a multiple of 4")
    if request.inference_type != "text2world":
        source = path.parent / (request.input_path or "")
        if not source.is_file():
            raise UserError(f"{where}: input_path: {source} does not exist")
        request = request.model_copy(update={"input_path": str(source.resolve())})
    return request


def _from_batch(path: Path, profile: Profile) -> list[Request]:
    """The published `batch_input.json`: a list of {input_video (in fact an image), prompt, output_video}."""
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
        pairs = [(path.parent / row["input_video"], row["prompt"]) for row in rows]
    except json.JSONDecodeError as error:
        raise UserError(f"{path}, line {error.lineno}: not JSON ({error.msg})") from None
    except (KeyError, TypeError) as error:
        raise UserError(f"{path}: every row needs input_video and prompt ({error} is missing)") from None
    requests = []
    for index, (image, prompt) in enumerate(pairs):
        row = {
            "name": request_name(index, image.stem),
            "prompt": prompt,
            "input_path": str(image.resolve()),
            "num_output_frames": profile.clip.frames,
            "resolution": f"{profile.clip.height},{profile.clip.width}",
            "guidance": profile.sampling.guidance,
        }
        requests.append(_check(json.dumps(row), path, index + 1, profile))
    return requests
