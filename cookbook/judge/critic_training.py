"""Post-training the critic on labelled clips, with the loop that trains the world model (`cookbook/engine`).

A label is a digit 1 to 5 for one question about one clip. The loss is the cross-entropy over the five digits after the
answer cue, the same position at which the score is computed. Questions and digits are drawn equally often.
"""

import csv
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from cookbook import engine, hardware, profiles, runs, show, storage
from cookbook.errors import UserError, require_whole
from cookbook.judge.calibration import Fault, sample_clip
from cookbook.judge.calibration_clips import CalibrationClip
from cookbook.judge.rows import QUESTIONS
from cookbook.judge.rubrics import ask, prompt_hashes
from cookbook.judge.scorer import Scorer, Task
from cookbook.judge.statistics import auc, interval
from cookbook.layout import existing, files
from cookbook.models import hub, qwen
from cookbook.models.critic import Critic, chat, critic_fingerprint, load_critic, process
from cookbook.models.frames import Sampled, sample_video

COLUMNS = {"pc": "physics", "sa": "instruction"}  # of VideoPhy-2: physical commonsense, semantic adherence


@dataclass(frozen=True)
class Example:
    """One question about one clip, and the right digit."""

    name: str
    sample: Callable[[float, int, int], Sampled]  # as in `Task`
    question: str
    prompt: str | None
    digit: int  # 1 to 5
    scene: str = ""  # clips of one scene resemble each other
    kind: str = ""  # the fault, `real` without one


def read_labelled(folder: Path) -> list[Example]:
    """The labelled clips of a folder in VideoPhy-2's layout: a table (one .csv) with the columns `video_url`, `caption`
    and `pc` or `sa` (1 to 5), and in `videos/` the files that the addresses end in.

    Raises:
        UserError: no table, or a row with a missing value or clip, with its line number.
    """
    tables = files(folder, (".csv",))
    if len(tables) != 1:
        raise UserError(f"{folder} holds {len(tables)} tables (.csv); one is needed")
    examples = []
    with open(tables[0], newline="", encoding="utf-8") as file:
        for line, row in enumerate(csv.DictReader(file), 2):
            clip = existing(folder / "videos" / Path(row.get("video_url") or "").name)
            digits = {question: row.get(column) for column, question in COLUMNS.items() if row.get(column)}
            if not clip.is_file() or not row.get("caption"):
                raise UserError(f"{tables[0]}, line {line}: no caption, or no such clip: {clip}")
            if not digits or not all(digit in "12345" and len(digit) == 1 for digit in digits.values()):
                raise UserError(f"{tables[0]}, line {line}: pc or sa must be a digit from 1 to 5")
            facts = clip.name, partial(sample_video, clip)
            examples += [Example(*facts, q, row["caption"], int(digit), clip.stem) for q, digit in digits.items()]
    return examples


def from_calibration_clips(clips: Sequence[CalibrationClip], questions: Iterable[str] = QUESTIONS) -> list[Example]:
    """The labels of calibration clips as digits: 5 for valid, 1 for invalid."""
    return [
        Example(c.name, partial(sample_clip, c), q, c.prompt, 5 if getattr(c, q) else 1, c.scene, c.kind)
        for c in clips
        for q in questions
        if getattr(c, q) is not None
    ]


def with_fault(kind: str, fault: Fault, clips: Sequence[CalibrationClip]) -> list[Example]:
    """Valid clips with a fault of your own: physics 1."""
    return [Example(c.name, partial(sample_clip, c, fault=fault), "physics", c.prompt, 1, c.scene, kind) for c in clips]


def scores(examples: Sequence[Example], critic: Path, profile: str = "nano") -> np.ndarray:
    """The score from 1 to 5 that a critic gives each example; nan for a clip that cannot be judged."""
    chosen = profiles.get(profile)
    tasks = [Task(e.sample, {e.question: e.prompt}, e.name) for e in examples]
    answers = show.progress(Scorer(critic, chosen.critic_fps, chosen.critic_tokens).score(tasks), "judging", len(tasks))
    return np.array([np.nan if answer["score"] is None else answer["score"] for *_, answer in answers])


def compare(examples: Sequence[Example], before: np.ndarray, after: np.ndarray) -> list[dict]:
    """Per kind of fault: AUC (valid examples against it) before and after training, and the gain.

    The gain has its 95 % CI over scenes, both critics on the same resamples. Examples are those of `scores`.
    """
    labels, kinds = np.array([e.digit > 3 for e in examples]), np.array([e.kind for e in examples])
    scored, table = ~np.isnan(before + after), []
    for kind in sorted(set(kinds[~labels])):
        rows = np.flatnonzero(scored & (labels | (kinds == kind)))

        def gain(some: np.ndarray, rows: np.ndarray = rows) -> float | None:
            first, last = (auc(labels[rows[some]], part[rows[some]]) for part in (before, after))
            return None if first is None else last - first

        first, last = (auc(labels[rows], part[rows]) for part in (before, after))
        edges = interval([examples[row].scene for row in rows], gain)
        facts = {"kind": str(kind), "n": int((~labels[rows]).sum()), "before": first, "after": last}
        table.append(facts | {"gain": None if first is None else last - first, "gain_interval": edges})
    return table


@runs.releasing
def train_critic(
    examples: Sequence[Example],
    out: Path,
    profile: str = "nano",
    steps: int = 30,
    batch: int = 4,
    learning_rate: float = 3e-4,
    seed: int = 0,
    redo: bool = False,
) -> dict:
    """Post-train the profile's critic into the folder `out`, which `judge` then accepts (one process).

    Args:
        examples: of `read_labelled`, `from_calibration_clips` or `with_fault`.
        batch: examples per step and process.
        learning_rate: its peak; NVIDIA's recipe (cosmos-rl) searched 2e-7 to 1e-5 for the real critics.

    Returns:
        The manifest, with the facts `loss_first`, `loss_last` (means over the first and last tenth), `weights_changed`.
    """
    require_whole(1, steps=steps, batch=batch)
    require_whole(0, seed=seed)
    if not examples:
        raise UserError("no labelled clips to train the critic on")
    chosen = profiles.get(profile)
    recipe = replace(
        chosen.recipe, name="critic", steps=steps, batch=batch, learning_rate=learning_rate, warmup=max(1, steps // 10),
        cycle=steps, save_every=steps, ema_rate=None, lora_rank=None, weight_decay=0.01, clip_norm=1.0,
    )  # fmt: skip
    source, group = hub.locate(chosen.critic), engine.Group(0, 1, hardware.device())
    listing = [[e.name, e.kind, e.question, e.prompt, e.digit] for e in examples]
    inputs = {"critic": critic_fingerprint(source), "examples": storage.digest_of(listing)}
    inputs["prompts"] = storage.digest_of([*prompt_hashes().values()])
    settings = {"steps": steps, "batch": batch, "learning_rate": learning_rate, "seed": seed}
    stage = runs.enter(out, "train-critic", chosen.name, inputs, settings, redo)
    if stage.done:
        return stage.manifest
    critic = load_critic(source, group.device)
    critic.model.float().requires_grad_(True).train()
    critic.model.model.visual.requires_grad_(False)  # only the language model is trained
    size = chosen.critic_fps, chosen.critic_tokens, critic.token_edge

    def batch_at(number: int) -> list[tuple[Sampled, str, int]]:
        drawn = [draw(examples, seed, number * batch + index) for index in range(batch)]
        return [(e.sample(*size), "".join(chat(critic.processor, ask(e.question, e.prompt))), e.digit) for e in drawn]

    dtype, loss = hardware.compute_dtype(group.device), partial(digit_loss, critic)
    trained = engine.fit(critic.model, loss, batch_at, recipe, out / "checkpoints", seed, group, dtype)
    critic.model.to(dtype).save_pretrained(out)
    for path in (*source.glob("*.json"), *source.glob("*.jinja"), *source.glob("*.txt")):  # tokenizer, processors
        if path.name != "config.json" and "safetensors" not in path.name:
            shutil.copyfile(path, out / path.name)
    outputs = [p for p in out.iterdir() if p.suffix in (".json", ".jinja", ".safetensors") and p.name != "started.json"]
    return stage.finish(outputs, examples=len(examples), weights_changed=trained.changed, **trained.ends())


def draw(examples: Sequence[Example], seed: int, number: int) -> Example:
    """Training example `number` = 0, 1, ...: a question, one of its digits, one of its clips, each equally likely."""
    rng, left = np.random.default_rng([seed, number]), list(examples)
    for key in ("question", "digit"):
        values = sorted({getattr(example, key) for example in left})
        chosen = values[rng.integers(len(values))]
        left = [example for example in left if getattr(example, key) == chosen]
    return left[rng.integers(len(left))]


def digit_loss(critic: Critic, model: nn.Module, batch: Sequence[tuple[Sampled, str, int]]) -> torch.Tensor:
    """Mean cross-entropy of the digits over a batch of (clip, chat up to the digit, right digit)."""
    groups: dict[tuple, list[tuple[Sampled, str, int]]] = {}
    for example in batch:
        groups.setdefault(example[0].shape, []).append(example)
    losses = []
    for members in groups.values():
        clips, texts, digits = zip(*members, strict=True)
        inputs = {name: value.to(critic.model.device) for name, value in process(critic, clips, list(texts)).items()}
        with qwen.patched(*qwen.EQUAL_CLIPS):
            logits = model(**inputs, logits_to_keep=1).logits[:, -1, critic.digits]
        wanted = torch.tensor(digits, device=logits.device) - 1
        losses.append(F.cross_entropy(logits.float(), wanted, reduction="sum"))
    return torch.stack(losses).sum() / len(batch)
