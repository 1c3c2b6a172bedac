"""From clips to scores, in batches of fixed composition, so that a killed and resumed run gives the same scores.

While the model works on one batch, the next ones are decoded and preprocessed in other threads, so that a GPU does not
wait for videos; only these few batches are held in memory.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from threading import Lock

import numpy as np

from cookbook import cluster, hardware, show, storage
from cookbook.errors import UserError
from cookbook.judge.rows import Answer, read_validated
from cookbook.judge.rubrics import ask, expected, prompt_hashes
from cookbook.models.critic import Critic, answer, critic_fingerprint, load_critic, preprocess
from cookbook.models.frames import Sampled

BATCH = 8  # clips per forward pass
IN_FLIGHT = 3  # batches in memory: one in the model, the others being decoded and preprocessed
UNKNOWN = dict.fromkeys(("score", "probabilities", "digit", "frames", "fps", "visual_tokens"))
READERS = min(16, os.cpu_count() or 1)  # clips decoded at a time


@dataclass(frozen=True)
class Task:
    """One clip to be scored."""

    sample: Callable[[float, int, int], Sampled]  # (fps, most tokens, a token's edge) -> the frames for the critic
    prompts: dict[str, str | None]  # question -> instruction; only the questions that apply
    name: str  # in messages
    rows: dict[str, dict] = field(default_factory=dict)  # question -> its row in a table, without the answer
    done: frozenset[str] = frozenset()  # questions that have their row already


Answers = dict[tuple[int, str], dict]  # (place in the batch, question) -> answer


class CriticWorker:
    """A critic that scores batches of clips: called by a single process, and by every actor of a cluster.

    Thread-safe: threads take turns with the model.

    Args:
        critic: loaded, or the folder to load.
    """

    def __init__(self, critic: Critic | Path, fps: float, tokens: int) -> None:
        self.critic = critic if isinstance(critic, Critic) else load_critic(critic, hardware.device())
        self.size = fps, tokens, self.critic.token_edge
        self.origin = {
            question: {"prompt_sha256": prompt, "critic": self.critic.fingerprint}
            for question, prompt in prompt_hashes().items()
        }
        self._model_lock, self._readers = Lock(), ThreadPoolExecutor(READERS)

    def __call__(self, batch: Sequence[Task]) -> Answers:
        """The answer to each question about each clip of a batch.

        An answer holds score, probabilities, digit, frames, fps, visual_tokens, prompt_sha256, critic and error. A clip
        that cannot be read gets an error and no score; the others are scored.
        """
        answers: Answers = {}
        groups: dict[tuple, list[int]] = {}  # clips of one shape and with the same questions share a forward pass
        clips = list(self._readers.map(self._read, batch))
        for row, (task, clip) in enumerate(zip(batch, clips, strict=True)):
            if isinstance(clip, UserError):
                answers |= {(row, question): UNKNOWN | {"error": str(clip)} for question in task.prompts}
            else:
                groups.setdefault((clip.shape, tuple(task.prompts)), []).append(row)
        for (_, names), rows in groups.items():
            questions = [[ask(name, batch[row].prompts[name]) for name in names] for row in rows]
            inputs = preprocess(self.critic, [clips[row] for row in rows], questions)
            with self._model_lock:
                probabilities = answer(self.critic, inputs)
            for place, row in enumerate(rows):
                for column, name in enumerate(names):
                    answers[row, name] = _scored(probabilities[place, column]) | inputs.stats[place]
        return {(row, name): facts | self.origin[name] for (row, name), facts in answers.items()}

    def _read(self, task: Task) -> Sampled | UserError:
        try:
            return task.sample(*self.size)
        except UserError as error:
            return error


class Scorer:
    """Scores clips in this process or on the workers of a Ray cluster.

    Args:
        critic: loaded, or the folder to load, as every machine of a cluster sees it.
        ray: address of the cluster, as in `cookbook generate`; None for this process.
    """

    def __init__(self, critic: Critic | Path, fps: float, tokens: int, ray: str | None = None) -> None:
        self.parts, self.ray = (critic, fps, tokens), ray
        self.fingerprint = critic.fingerprint if isinstance(critic, Critic) else critic_fingerprint(critic)

    @cached_property
    def here(self) -> CriticWorker:
        return CriticWorker(*self.parts)

    def score(self, tasks: Sequence[Task]) -> Iterator[tuple[Task, str, dict]]:
        """(task, question, answer) for every open question; in the order of `tasks`, except on a cluster."""
        batches = [tasks[start : start + BATCH] for start in range(0, len(tasks), BATCH)]
        jobs = [(batch,) for batch in batches if any(task.prompts.keys() - task.done for task in batch)]
        if not jobs:
            return
        worker = CriticWorker if self.ray else lambda *_: self.here
        for (batch,), answers in cluster.each(self.ray or None, worker, self.parts, jobs, _name, IN_FLIGHT):
            for row, task in enumerate(batch):
                for question in (q for q in task.prompts if q not in task.done):
                    yield task, question, answers[row, question]


def score_rows(
    path: Path, kind: type[Answer], scorer: Scorer, tasks: Sequence[Task], note: str
) -> tuple[list[dict], int]:
    """All rows of a table of answers, the missing ones scored now, and how many clips that took.

    A row is `task.rows[question]` and the answer; rows of other clips, or of what was changed, are taken out.
    """
    before = read_validated(path, kind)
    wanted = [row for task in tasks for row in task.rows.values()]
    names, keys = [*wanted[0]] if wanted else [], {tuple(row.values()) for row in wanted}
    rows = {key: row for row in before if (key := tuple(row[name] for name in names)) in keys}
    if len(rows) < len(before):
        storage.write_rows(path, rows.values())

    def done(task: Task) -> frozenset[str]:
        return frozenset(question for question, row in task.rows.items() if tuple(row.values()) in rows)

    tasks = [replace(task, done=done(task)) for task in tasks]
    left = [len(task.prompts.keys() - task.done) for task in tasks]
    for task, question, answered in show.progress(scorer.score(tasks), note, sum(left)):
        row = task.rows[question]
        storage.append_row(path, row | answered)
        rows[tuple(row.values())] = row | answered
    return list(rows.values()), sum(map(bool, left))


def _name(batch: Sequence[Task]) -> str:
    return f"{len(batch)} clips from {batch[0].name} on"


def _scored(probabilities: np.ndarray) -> dict:
    return {
        "score": round(expected(probabilities), 6),
        "probabilities": [round(float(p), 6) for p in probabilities],
        "digit": int(probabilities.argmax()) + 1,
        "error": None,
    }
