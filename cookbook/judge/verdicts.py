"""From clips to scores, in batches of fixed make-up, so that a killed and resumed run gives the same scores.

While the model works on one batch, the next is made ready and the clips behind it are read, so that a GPU does not
wait for the decoding of videos; no more than that is held in memory.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, TypeVar

import numpy as np

from cookbook.errors import UserError
from cookbook.judge.scoring import QUESTIONS, ask, expected, parse_answer, prompt_hash
from cookbook.models.critic import Critic, Sampled, Watched, answer, explain, look, sample_frames

BATCH = 8  # clips per forward pass
READERS = min(16, os.cpu_count() or 1)

Item, Result = TypeVar("Item"), TypeVar("Result")


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
    batches = [tasks[start : start + BATCH] for start in range(0, len(tasks), BATCH)]
    batches = [batch for batch in batches if any(task.prompts.keys() - task.done for task in batch)]
    with ThreadPoolExecutor(READERS) as readers, ThreadPoolExecutor(1) as watcher:
        clips = _ahead(lambda task: _read(task, fps, tokens, critic.token_edge), chain(*batches), readers, 2 * READERS)
        read = ([next(clips) for _ in batch] for batch in batches)
        ready = _ahead(lambda pair: _gather(critic, *pair), zip(batches, read, strict=True), watcher, 1)
        for batch, (groups, failed) in zip(batches, ready, strict=True):
            answers = failed | _ask(critic, batch, groups, explained)
            for row, task in enumerate(batch):
                for question in task.prompts:
                    if question not in task.done:
                        told = {"prompt_sha256": hashes[question], "critic": critic.fingerprint}
                        yield task, question, answers[row, question] | told


def _ahead(
    work: Callable[[Item], Result], items: Iterable[Item], pool: ThreadPoolExecutor, depth: int
) -> Iterator[Result]:
    """`work(item)` of each item in order, `depth` of them under way before they are asked for."""
    queue = deque()
    for item in items:
        queue.append(pool.submit(work, item))
        if len(queue) > depth:
            yield queue.popleft().result()
    while queue:
        yield queue.popleft().result()


def _read(task: Task, fps: float, tokens: int, edge: int) -> Sampled | UserError:
    """The frames of a clip that the critic is to see, or why there are none."""
    try:
        return sample_frames(*task.load(), fps, tokens, edge)
    except UserError as error:
        return error


@dataclass(frozen=True)
class _Group:
    """Clips of a batch that share a pass: of one shape, and asked the same questions."""

    rows: list[int]  # places in the batch
    clips: list[Sampled]
    questions: tuple[str, ...]
    watched: Watched


def _gather(critic: Critic, batch: Sequence[Task], clips: Sequence[Sampled | UserError]) -> tuple[list[_Group], dict]:
    """The clips of a batch by shape and questions, made ready; and an answer for each that could not be read."""
    groups: dict[tuple, list[int]] = {}
    failed = {}
    for row, (task, clip) in enumerate(zip(batch, clips, strict=True)):
        if isinstance(clip, UserError):
            failed |= {(row, question): _unjudged(str(clip)) for question in task.prompts}
        elif task.prompts:
            groups.setdefault((clip.shape, tuple(task.prompts)), []).append(row)
    return [
        _Group(rows, chosen := [clips[row] for row in rows], questions, look(critic, chosen))
        for (_, questions), rows in groups.items()
    ], failed


def _ask(critic: Critic, batch: Sequence[Task], groups: Sequence[_Group], explained: bool) -> dict:
    """The answer to each question about each row of a batch."""
    answers = {}
    for group in groups:
        asked = [[ask(question, batch[row].prompts[question]) for question in group.questions] for row in group.rows]
        probabilities = answer(critic, group.watched, asked)
        for place, row in enumerate(group.rows):
            for column, question in enumerate(group.questions):
                text = explain(critic, group.clips[place], asked[place][column]) if explained else None
                answers[row, question] = _judged(probabilities[place, column], text) | vars(group.watched.seen[place])
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
