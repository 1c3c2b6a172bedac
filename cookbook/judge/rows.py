"""The rows of the judge's jsonl files, checked when they are read (docs/formats.md explains them)."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from cookbook import runs
from cookbook.errors import UserError

Score = Annotated[float, Field(ge=1, le=5)]
Digit = Annotated[int, Field(ge=1, le=5)]
Share = Annotated[float, Field(ge=0, le=1)]
Question = Literal["physics", "instruction"]


class Row(BaseModel):
    """A line of JSON that holds these fields and no others."""

    model_config = ConfigDict(extra="forbid", strict=True)


class Answer(Row):
    """What the critic says to a question about a clip; `error` says why there is no score."""

    score: Score | None
    probabilities: Annotated[list[Share], Field(min_length=5, max_length=5)] | None
    digit: Digit | None
    votes: list[Digit | None]
    explanation: str | None
    error: str | None
    frames: Annotated[int, Field(ge=1)] | None
    fps: Annotated[float, Field(ge=0)] | None
    visual_tokens: Annotated[int, Field(ge=1)] | None
    prompt_sha256: str
    critic: str
    question: Question


class Verdict(Answer):
    """One line of verdicts.jsonl."""

    file: str
    model: str | None
    name: str
    prompt: str | None
    seed: int | None
    sha256: str | None


class Measured(Answer):
    """One line of calibration_clips.jsonl."""

    file: str
    kind: str
    prompt: str
    scene: str
    label: Literal[0, 1] | None
    made_from: str


class Mark(Row):
    """One line of ratings.jsonl: what a person says."""

    file: str
    sha256: str
    prompt: str | None
    question: Question
    mark: Digit
    rater: str


def read(path: Path, kind: type[Row]) -> list[dict]:
    """All rows of a file, or none where there is no file.

    Raises:
        UserError: a row that is not of this kind, with its line number.
    """
    rows = runs.read_rows(path)
    for number, row in enumerate(rows, 1):
        try:
            kind.model_validate(row)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"])) or "the row"
            raise UserError(f"{path}, line {number}: {where}: {first['msg'].lower()}; --redo makes it anew") from None
    return rows
