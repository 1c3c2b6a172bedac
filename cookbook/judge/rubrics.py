"""Questions and answers: rubrics as files, scores from probabilities, and a tolerant parser of written answers."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from cookbook import runs
from cookbook.errors import UserError
from cookbook.judge.rows import QUESTIONS
from cookbook.models.critic import Question

PROMPTS = Path(__file__).parent / "prompts"

_LABELLED = re.compile(r"(?i)(?:score|answer|rating)(?:\s*\([^)]*\))?\W{0,6}([1-5])(?![\d.]*\d)(?!\s*(?:to|-|–)\s*5)")
_OUT_OF_FIVE = re.compile(r"(?<![\d.])([1-5])(?:\.0)?\s*(?:/|out of)\s*5(?![\d.]*\d)")
_ALONE = re.compile(r"(?<![\d./])([1-5])(?:\.0)?(?![\d/]|\.\d)")


def read_rubric(question: str) -> tuple[str, str]:
    """Text and answer cue of a rubric. The file's last line is the cue, such as `Score:`; the digit follows a space.

    Raises:
        UserError: no such file, not UTF-8, no cue, or an instruction rubric without the instruction.
    """
    path = PROMPTS / f"{question}.txt"
    try:
        text, _, cue = path.read_text(encoding="utf-8").strip().rpartition("\n")
    except FileNotFoundError:
        raise UserError(f"{path}: no such prompt file") from None
    except UnicodeDecodeError:
        raise UserError(f"{path} is not UTF-8; save it as UTF-8") from None
    if not text or not cue.endswith(":"):
        raise UserError(f"{path} has no answer cue: end it with a line such as `Score:`")
    if question == "instruction" and "{instruction}" not in text:
        raise UserError(f"{path} lacks {{instruction}}: add it where the clip's instruction belongs")
    return text, cue + " "


def unusable_rubrics() -> dict[str, str]:
    """Question -> reason, for each question with a rubric that cannot be used."""
    reasons = {}
    for question in QUESTIONS:
        try:
            read_rubric(question)
        except UserError as error:
            reasons[question] = str(error)
    return reasons


def ask(question: str, instruction: str | None) -> Question:
    """The question about one clip."""
    text, cue = read_rubric(question)
    return Question(text.replace("{instruction}", instruction or ""), cue)


def prompt_hash(question: str) -> str:
    """Hash of the rubric's file, kept in every verdict."""
    return runs.digest(PROMPTS / f"{question}.txt")


def expected(probabilities: np.ndarray) -> float:
    """Score 1 to 5: the mean of the digits under their probabilities [5]."""
    return float(np.dot(probabilities, np.arange(1, 6)))


def parse_answer(text: str) -> int | None:
    """The digit 1 to 5 of a written answer ("4", "Score: 4", "4/5", "**4**"), or None where it is ambiguous.

    Reasoning before `</think>` is ignored. The last labelled digit ("Score: 4") wins; without a label, the answer must
    hold one digit only, or the same digit each time.
    """
    answer = text.rsplit("</think>", 1)[-1] if "</think>" in text else text
    if "<think>" in answer:  # the reasoning was cut off before the answer
        return None
    plain = answer.replace("*", "").replace("_", " ").replace("`", "")
    for pattern in (_LABELLED, _OUT_OF_FIVE):
        if digits := pattern.findall(plain):
            return int(digits[-1])
    alone = set(_ALONE.findall(plain))
    return int(alone.pop()) if len(alone) == 1 else None
