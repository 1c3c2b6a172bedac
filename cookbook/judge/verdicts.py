"""From clips to scores, in batches of fixed make-up, so that a killed and resumed run gives the same scores."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from cookbook.errors import UserError
from cookbook.judge.scoring import QUESTIONS, ask, expected, parse_answer, prompt_hash
from cookbook.models.critic import Critic, Sampled, explain, sample_frames, score

BATCH = 8  # clips per forward pass


@dataclass(frozen=True)
class Task:
    """One clip to be scored."""

    load: Callable[[], tuple[np.ndarray, float]]  # frames uint8 [T, H, W, 3] and their rate
    prompts: dict[str, str | None]  # question -> instruction; only what is asked
    done: frozenset[str] = frozenset()  # questions that have their row already
    tag: Any = field(default=None, compare=False)


def score_tasks(
    critic: Critic, tasks: Sequence[Task], fps: float, tokens: int, explained: bool = False
) -> Iterator[tuple[Task, str, dict]]:
    """Yield (task, question, answer) for every open question, in the order of `tasks`.

    An answer holds score, probabilities, digit, votes (digits of written answers), explanation, frames, fps,
    visual_tokens, prompt_sha256, critic and error. A clip that cannot be judged gets its error and no score, and the
    others go on.
    """
    hashes = {question: prompt_hash(question) for question in QUESTIONS}
    for start in range(0, len(tasks), BATCH):
        batch = tasks[start : start + BATCH]
        if all(task.prompts.keys() <= task.done for task in batch):
            continue
        answers = _score_batch(critic, batch, fps, tokens, explained)
        for task, found in zip(batch, answers, strict=True):
            for question in task.prompts:
                if question not in task.done:
                    yield (
                        task,
                        question,
                        found[question] | {"prompt_sha256": hashes[question], "critic": critic.fingerprint},
                    )


def _score_batch(
    critic: Critic, batch: Sequence[Task], fps: float, tokens: int, explained: bool
) -> list[dict[str, dict]]:
    """Answers of each task by question; clips of one shape, asked the same questions, share a pass."""
    answers: list[dict[str, dict]] = [{} for _ in batch]
    groups: dict[tuple, list[tuple[int, Sampled]]] = {}
    for index, task in enumerate(batch):
        try:
            frames, rate = task.load()
            clip = sample_frames(frames, rate, fps, tokens, critic.token_edge)
        except UserError as error:
            answers[index] = {question: _unjudged(str(error)) for question in task.prompts}
            continue
        groups.setdefault((clip.shape, tuple(task.prompts)), []).append((index, clip))
    for (_, questions), members in groups.items():
        asked = [[ask(q, batch[index].prompts[q]) for q in questions] for index, _ in members]
        if not questions:
            continue
        probabilities, seen = score(critic, [clip for _, clip in members], asked)
        for row, (index, clip) in enumerate(members):
            for column, question in enumerate(questions):
                text = explain(critic, clip, asked[row][column]) if explained else None
                answers[index][question] = _judged(probabilities[row, column], text) | vars(seen[row])
    return answers


def _judged(probabilities: np.ndarray, text: str | None) -> dict:
    vote = parse_answer(text) if text else None
    return {
        "score": round(expected(probabilities), 6),
        "probabilities": [round(float(p), 6) for p in probabilities],
        "digit": int(probabilities.argmax()) + 1,
        "votes": [] if text is None else [vote],
        "explanation": text,
        "error": None,
    }


def _unjudged(reason: str) -> dict:
    empty = {"score": None, "probabilities": None, "digit": None, "votes": [], "explanation": None, "error": reason}
    return empty | {"frames": None, "fps": None, "visual_tokens": None}
