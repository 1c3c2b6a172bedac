"""Questions and answers: rubrics as files, and scores from the probabilities of digits."""

from pathlib import Path

import numpy as np

from cookbook import storage
from cookbook.errors import UserError
from cookbook.judge.rows import QUESTIONS
from cookbook.layout import read_utf8
from cookbook.models.critic import Question

PROMPTS = Path(__file__).parent / "prompts"


def read_rubric(question: str) -> tuple[str, str]:
    """Text and answer cue of a rubric. The file's last line is the cue, such as `Score:`; the digit follows a space.

    Raises:
        UserError: no such file, not UTF-8, no cue, or an instruction rubric without the instruction.
    """
    path = PROMPTS / f"{question}.txt"
    if not path.exists():
        raise UserError(f"{path}: no such prompt file")
    text, _, cue = read_utf8(path).strip().rpartition("\n")
    if not text or not cue.endswith(":"):
        raise UserError(f"{path} has no answer cue: end it with a line such as `Score:`")
    if question == "instruction" and "{instruction}" not in text:
        raise UserError(f"{path} lacks {{instruction}}: add it where the clip's instruction belongs")
    return text, cue + " "


def ask(question: str, instruction: str | None) -> Question:
    """The question about one clip."""
    text, cue = read_rubric(question)
    return Question(text.replace("{instruction}", instruction or ""), cue)


def prompt_hashes() -> dict[str, str]:
    """Question -> hash of its rubric's file, kept in every verdict.

    Raises:
        UserError: a rubric that cannot be used.
    """
    for question in QUESTIONS:
        read_rubric(question)
    return {question: storage.digest(PROMPTS / f"{question}.txt") for question in QUESTIONS}


def expected(probabilities: np.ndarray) -> float:
    """Score 1 to 5: the mean of the digits under their probabilities [5]."""
    return float(np.dot(probabilities, np.arange(1, 6)))
