"""The rows of the judge's jsonl files, validated when they are read (docs/formats.md explains them)."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from cookbook import runs
from cookbook.errors import UserError

QuestionName = Literal["physics", "instruction"]
QUESTIONS: tuple[str, ...] = get_args(QuestionName)
Score = Annotated[float, Field(ge=1, le=5)]
Digit = Annotated[int, Field(ge=1, le=5)]
Probability = Annotated[float, Field(ge=0, le=1)]


class Row(BaseModel):
    """A line of JSON that holds these fields and no others."""

    model_config = ConfigDict(extra="forbid", strict=True)


class Answer(Row):
    """The critic's answer to a question about a clip; `error` is the reason where there is no score."""

    score: Score | None
    probabilities: Annotated[list[Probability], Field(min_length=5, max_length=5)] | None
    digit: Digit | None
    votes: list[Digit | None]
    explanation: str | None
    error: str | None
    frames: Annotated[int, Field(ge=1)] | None
    fps: Annotated[float, Field(ge=0)] | None
    visual_tokens: Annotated[int, Field(ge=1)] | None
    prompt_sha256: str
    critic: str
    question: QuestionName


class Verdict(Answer):
    """One line of verdicts.jsonl."""

    file: str
    model: str | None
    name: str
    prompt: str | None
    seed: int | None
    sha256: str | None


class CalibrationScore(Answer):
    """One line of calibration_clips.jsonl."""

    file: str
    kind: str
    prompt: str
    scene: str
    label: Literal[0, 1] | None
    made_from: str


class HumanRating(Row):
    """One line of ratings.jsonl: one person's rating of one clip for one question."""

    file: str
    sha256: str
    prompt: str | None
    question: QuestionName
    rating: Digit
    rater: str


def read_validated(path: Path, kind: type[Row]) -> list[dict]:
    """All rows of a file; none where the file does not exist.

    Raises:
        UserError: a row that is not of this kind, with its line number.
    """
    rows = runs.read_rows(path)
    for number, row in enumerate(rows, 1):
        try:
            kind.model_validate(row)
        except ValidationError as error:
            first = error.errors()[0]
            field = ".".join(map(str, first["loc"])) or "the row"
            raise UserError(
                f"{path}, line {number}: {field}: {first['msg'].lower()}; fix the line, or rebuild the file with --redo"
            ) from None
    return rows
