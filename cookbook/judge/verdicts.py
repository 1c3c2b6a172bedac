"""From clips to scores, in batches of fixed make-up, so that a killed and resumed run gives the same scores.

While the model works on one batch, the next are decoded and made ready in other threads, so that a GPU does not wait
for videos; no more than these few are held in memory.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from threading import Lock
from typing import Any

import numpy as np

from cookbook.errors import UserError
from cookbook.judge.scoring import QUESTIONS, ask, expected, parse_answer, prompt_hash
from cookbook.models.critic import Critic, Sampled, answer, explain, look

BATCH = 8  # clips per forward pass
TOGETHER = 3  # batches in hand: one in the model, the others being decoded and made ready
READERS = min(16, os.cpu_count() or 1)  # clips decoded at a time


@dataclass(frozen=True)
class Task:
    """One clip to be scored."""

    sample: Callable[[float, int, int], Sampled]  # the frames to show for fps, most tokens, and a token's edge
    prompts: dict[str, str | None]  # question -> instruction; only what is asked
    done: frozenset[str] = frozenset()  # questions that have their row already
    tag: Any = field(default=None, compare=False)


Answers = dict[tuple[int, str], dict]  # (place in the batch, question) -> answer


class Judge:
    """A critic that scores batches of clips. May be called from several threads: they take turns with the model."""

    def __init__(self, critic: Critic, fps: float, tokens: int, explained: bool = False) -> None:
        self.critic, self.explained, self.size = critic, explained, (fps, tokens, critic.token_edge)
        self.told = {q: {"prompt_sha256": prompt_hash(q), "critic": critic.fingerprint} for q in QUESTIONS}
        self._turn, self._readers = Lock(), ThreadPoolExecutor(READERS)

    def __call__(self, batch: Sequence[Task]) -> Answers:
        """The answer to each question about each clip of a batch.

        An answer holds score, probabilities, digit, votes (digits of written answers), explanation, frames, fps,
        visual_tokens, prompt_sha256, critic and error. A clip that cannot be judged gets its error and no score, and
        the others go on.
        """
        answers: Answers = {}
        groups: dict[tuple, list[int]] = {}  # clips that share a pass: of one shape, and asked the same questions
        clips = list(self._readers.map(self._read, batch))
        for row, (task, clip) in enumerate(zip(batch, clips, strict=True)):
            if isinstance(clip, UserError):
                answers |= {(row, question): _unjudged(str(clip)) for question in task.prompts}
            elif task.prompts:
                groups.setdefault((clip.shape, tuple(task.prompts)), []).append(row)
        for (_, questions), rows in groups.items():
            asked = [[ask(question, batch[row].prompts[question]) for question in questions] for row in rows]
            watched = look(self.critic, [clips[row] for row in rows], asked)
            with self._turn:
                probabilities = answer(self.critic, watched)
                for place, row in enumerate(rows):
                    for column, question in enumerate(questions):
                        text = explain(self.critic, clips[row], asked[place][column]) if self.explained else None
                        facts = _judged(probabilities[place, column], text) | vars(watched.seen[place])
                        answers[row, question] = facts
        return {(row, question): facts | self.told[question] for (row, question), facts in answers.items()}

    def _read(self, task: Task) -> Sampled | UserError:
        try:
            return task.sample(*self.size)
        except UserError as error:
            return error


def score_tasks(judge: Callable[[Sequence[Task]], Answers], tasks: Sequence[Task]) -> Iterator[tuple[Task, str, dict]]:
    """Yield (task, question, answer) for every open question, in the order of `tasks`."""
    batches = [tasks[start : start + BATCH] for start in range(0, len(tasks), BATCH)]
    batches = [batch for batch in batches if any(task.prompts.keys() - task.done for task in batch)]
    threads = ThreadPoolExecutor(TOGETHER)
    try:
        for batch, answers in zip(batches, threads.map(judge, batches), strict=True):
            yield from open_answers(batch, answers)
    finally:
        threads.shutdown(cancel_futures=True)


def open_answers(batch: Sequence[Task], answers: Answers) -> Iterator[tuple[Task, str, dict]]:
    """Those answers of a batch that have no row yet."""
    for row, task in enumerate(batch):
        for question in task.prompts:
            if question not in task.done:
                yield task, question, answers[row, question]


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
