"""The rows of the judge's jsonl files, validated when they are read (docs/formats.md explains them)."""

from pathlib import Path
from typing import Annotated, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from cookbook import runs, storage
from cookbook.errors import UserError


class QuestionFacts(NamedTuple):
    """A question in the manifest of `judge` and in the rating widget."""

    rate: str  # `<rate>_rate_<model>` in the manifest of `judge`: share of the videos that reach the threshold
    scale: str  # beside the buttons of a human rating


QUESTIONS = {  # name, as of its file in prompts/ and of its label in `CalibrationClip`
    "physics": QuestionFacts("plausible", "Could this be real? 1 impossible … 5 natural"),
    "instruction": QuestionFacts("follow", "Was it done? 1 not at all … 5 fully"),
}
QuestionName = Literal[tuple(QUESTIONS)]
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


def require_video(run: Path, file: str) -> None:
    """Refuse a generated video that was deleted, with the command that makes it again."""
    path = run / file
    if not path.exists():
        flags = (runs.begun(path.parent) or {}).get("flags", ["--model", path.parent.name])
        raise UserError(f"{path} is missing: type {runs.command('generate', run, None, *flags)} to make it again")


def read_validated(path: Path, kind: type[Row]) -> list[dict]:
    """All rows of a file; none where the file does not exist.

    Raises:
        UserError: a row that is not of this kind, with its line number.
    """
    rows = storage.read_rows(path)
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
