"""Training the nano critic on workshop clips and their twins: `python -m cookbook.workshop.critic train`.

Sound clips are answered with 5, broken ones with 1, by cross-entropy over the five digits behind the answer cue. Two
things make so small a model learn from so few clips: all questions share one pass over the frames, and for physics the
same question is also asked silently after each pair of frames (read at the end-of-vision token), whose answer
turns from 5 to 1 where the fault begins: thirteen answers a clip instead of one.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

from cookbook import store
from cookbook.errors import UserError
from cookbook.judge.scoring import ask
from cookbook.judge.statistics import auc
from cookbook.models.critic import (
    Critic,
    Sampled,
    chat,
    digit_logits,
    load_critic,
    remember,
    sample_frames,
    score,
    watch,
)
from cookbook.video import read_video

BATCH = 8
LEARNING_RATE = 1e-3
WARMUP = 40  # steps
HELD_OUT_PERCENT = 12
FPS, TOKENS = 8, 1024  # as the nano profile judges
STATE = "training.pt"
QUICK = 96  # held-out clips looked at on the way; all of them at the end


@dataclass(frozen=True)
class Example:
    """One labelled clip; labels are 1 sound, 0 broken, None where the question has no answer."""

    clip: Sampled
    kind: str
    prompt: str
    physics: int
    instruction: int | None
    breaks: int | None  # first frame in which physics is broken
    scene: str


def read_examples(folders: Sequence[Path], edge: int) -> list[Example]:
    """All clips of folders made by `cookbook.workshop.make`."""
    examples = []
    for folder in folders:
        rows = store.read_rows(folder / "manifest.jsonl")
        if not rows:
            raise UserError(f"{folder / 'manifest.jsonl'} is missing or empty: make clips with cookbook.workshop.make")
        for row in rows:
            frames, fps = read_video(folder / "videos" / f"{row['id']}.mp4")
            clip = sample_frames(frames, fps, FPS, TOKENS, edge)
            instruction = row["instruction"] if row["physics"] else None
            breaks = row["violation"][0] if row.get("violation") else None
            scene = row["twin_of"] or row["id"]
            examples.append(Example(clip, row["label"], row["prompt"], row["physics"], instruction, breaks, scene))
    return examples


def split(examples: Sequence[Example]) -> tuple[list[Example], list[Example]]:
    """(to train on, held out), whole scenes on one side, by a hash of the scene's name."""
    held = [int(store.digest_of(example.scene)[7:15], 16) % 100 < HELD_OUT_PERCENT for example in examples]
    return [e for e, out in zip(examples, held, strict=True) if not out], [
        e for e, out in zip(examples, held, strict=True) if out
    ]


def disturb(frames: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Another camera: brightness, colour, noise, blur and a small shift; never a mirror, which would swap the hands."""
    gain, offset = rng.normal(1, 0.08, 3) * rng.normal(1, 0.1), rng.normal(0, 8)
    picture = frames * gain.astype(np.float32) + np.float32(offset)
    if rng.random() < 0.4:  # as soft as what a small autoencoder gives back
        share = np.float32(rng.uniform(0.3, 1))
        soft = (picture + np.roll(picture, 1, 1) + np.roll(picture, 1, 2) + np.roll(picture, (1, 1), (1, 2))) / 4
        picture = picture * (1 - share) + soft * share
    picture += rng.standard_normal(picture.shape, dtype=np.float32) * np.float32(rng.uniform(0, 3))
    rows, columns = rng.integers(0, 9, 2)
    padded = np.pad(picture, ((0, 0), (4, 4), (4, 4), (0, 0)), mode="edge")
    shifted = padded[:, rows : rows + frames.shape[1], columns : columns + frames.shape[2]]
    return np.clip(shifted, 0, 255).astype(np.uint8)


def batches(examples: Sequence[Example], seed: int) -> Iterator[list[Example]]:
    """Endless batches of three sound and five broken clips; each clip of a class comes once before any comes again."""
    rng = np.random.default_rng(seed)
    sound = [e for e in examples if e.kind == "real"]
    broken = [e for e in examples if e.kind != "real"]
    if not sound or not broken:
        raise UserError("the critic learns from sound and broken clips: the data hold only one of the two")
    streams = [_endless(sound, rng), _endless(broken, rng)]
    while True:
        yield [next(streams[index % 2 if index < 6 else 1]) for index in range(BATCH)]  # 3 sound, 5 broken


def _endless(items: Sequence[Example], rng: np.random.Generator) -> Iterator[Example]:
    while True:
        for index in rng.permutation(len(items)):
            yield items[index]


def loss_on(
    critic: Critic, batch: Sequence[Example], prompts: Sequence[str], rng: np.random.Generator
) -> dict[str, torch.Tensor]:
    """Losses of a batch: physics at the end and after each frame pair, its instruction, and a stranger's."""
    clips = [replace(e.clip, frames=disturb(e.clip.frames, rng)) for e in batch]
    physics = [chat(critic, ask("physics", None)) for _ in batch]
    cache, hidden = remember(critic, inputs := watch(critic, clips, [start for start, _ in physics]))
    length = cache.get_seq_length()
    device = hidden.device

    def answered(question: str, told: Sequence[str | None], labels: Sequence[int | None]) -> torch.Tensor:
        logits = digit_logits(critic, cache, [chat(critic, ask(question, text))[1] for text in told])
        cache.crop(length - cache.get_seq_length())
        known = torch.tensor([label is not None for label in labels], device=device)
        target = torch.tensor([4 * (label or 0) for label in labels], device=device)
        each = F.cross_entropy(logits, target, reduction="none") * known
        return each.sum() / known.sum().clamp(min=1)

    told = [e.prompt for e in batch]
    strangers = [prompts[rng.integers(len(prompts))] for _ in batch]
    wrong = [0 if e.kind == "real" and s != e.prompt else None for e, s in zip(batch, strangers, strict=True)]
    return {
        "physics": answered("physics", [None] * len(batch), [e.physics for e in batch]),
        "running": _running(critic, batch, inputs["input_ids"], hidden),
        "instruction": answered("instruction", told, [e.instruction for e in batch]),
        "stranger": answered("instruction", strangers, wrong),
    }


def _running(critic: Critic, batch: Sequence[Example], ids: torch.Tensor, hidden: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of the silent physics answers behind each frame pair: 5 until the fault begins, then 1."""
    ends = (ids == critic.processor.vision_end_token_id) & (ids.roll(1, 1) == critic.processor.video_token_id)
    logits = critic.model.lm_head(hidden[ends])[:, critic.digits].float()
    pairs = int(ends[0].sum())
    broken = torch.tensor(
        [[e.breaks is not None and 2 * pair + 1 >= e.breaks for pair in range(pairs)] for e in batch], device=ids.device
    )
    return F.cross_entropy(logits, torch.where(broken, 0, 4).flatten())


@torch.no_grad()
def measure(critic: Critic, held: Sequence[Example]) -> dict[str, float | None]:
    """AUC on held-out clips, per question and per kind of fault, and for instructions swapped between clips."""
    critic.model.eval()
    scores, swapped = {"physics": [], "instruction": []}, []
    for start in range(0, len(held), BATCH):
        part = held[start : start + BATCH]
        strangers = [held[(start + i + 7) % len(held)].prompt for i in range(len(part))]
        asked = [
            [ask("physics", None), ask("instruction", e.prompt), ask("instruction", s)]
            for e, s in zip(part, strangers, strict=True)
        ]
        digits = score(critic, [e.clip for e in part], asked)[0] @ np.arange(1, 6)
        for column, question in enumerate(scores):
            scores[question] += digits[:, column].tolist()
        swapped += [
            d for d, e, s in zip(digits[:, 2], part, strangers, strict=True) if e.kind == "real" and s != e.prompt
        ]
    result: dict[str, float | None] = {}
    for question, values in scores.items():
        labels, numbers = np.array([getattr(e, question) for e in held], object), np.array(values)
        known = np.array([label is not None for label in labels])
        good, bad = numbers[known & (labels == 1)], numbers[known & (labels == 0)]
        result[question] = _auc(good, bad)
        for kind in sorted({e.kind for e in held if getattr(e, question) == 0}):
            result[f"{question}/{kind}"] = _auc(good, numbers[[e.kind == kind for e in held]])
    real = np.array([value for value, e in zip(scores["instruction"], held, strict=True) if e.kind == "real"])
    result["instruction/swapped"] = _auc(real, np.array(swapped))
    return result


def _auc(good: np.ndarray, bad: np.ndarray) -> float | None:
    value = auc(np.r_[np.ones(len(good)), np.zeros(len(bad))], np.r_[good, bad])
    return None if value is None else round(value, 3)


def rate(step: int, spent: float) -> float:
    """Learning rate: a linear warm-up in steps, then a cosine over the share of the time that is spent."""
    return LEARNING_RATE * min(1, (step + 1) / WARMUP) * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * min(1, spent))))


def train(
    data: tuple[Path, ...], out: Path, minutes: float = 20, tokenizer: Path | None = None, device: str = "cpu"
) -> dict:
    """Train the critic in `out` (made first if there is none) for so many minutes in all, and save it there.

    A run that was stopped continues from `out/training.pt`, saved once a minute and at each measurement.

    Args:
        data: folders made by cookbook.workshop.make, with twins.
        tokenizer: for a new critic, a folder of `build_tokenizer`; None trains one.
        device: `cpu`, `cuda` or `cuda:<n>`.

    Returns:
        The last held-out measurement.
    """
    from cookbook.workshop.critic import init, save

    if not (out / "config.json").exists():
        init(out, tokenizer)
    critic = load_critic(out, torch.device(device))
    critic.model.float().requires_grad_(True)
    examples, held = split(read_examples(data, critic.token_edge))
    print(f"critic: {len(examples)} clips to train on, {len(held)} held out, {minutes:g} minutes on {device}")
    optimizer = torch.optim.AdamW(critic.model.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.98), weight_decay=0.05)
    state = {"step": 0, "seconds": 0.0}
    if (out / STATE).exists():
        saved = torch.load(out / STATE, weights_only=True, map_location=device)
        critic.model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        state = {key: saved[key] for key in state}
        print(f"critic: continuing at step {state['step']} after {state['seconds']:.0f} s")
    stream, prompts = batches(examples, 1000 + state["step"]), sorted({e.prompt for e in examples})
    result, told, started = {}, time.monotonic(), time.monotonic() - state["seconds"]
    marks = [share for share in (0.25, 0.5, 0.75, 1.0) if share > state["seconds"] / 60 / minutes]
    means: dict[str, float] = {}
    while marks:
        critic.model.train()
        rng = np.random.default_rng([7, state["step"]])
        spent = (time.monotonic() - started) / 60 / minutes
        for group in optimizer.param_groups:
            group["lr"] = rate(state["step"], spent)
        parts = loss_on(critic, next(stream), prompts, rng)
        (parts["physics"] + parts["running"] + parts["instruction"] + 0.5 * parts["stranger"]).backward()
        torch.nn.utils.clip_grad_norm_(critic.model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        state["step"] += 1
        means = {k: 0.95 * means.get(k, v.item()) + 0.05 * v.item() for k, v in parts.items()}
        state["seconds"] = time.monotonic() - started
        measured = state["seconds"] / 60 / minutes >= marks[0]
        if measured:
            marks = [mark for mark in marks if mark > state["seconds"] / 60 / minutes]
            result = measure(critic, held[:: max(1, len(held) // QUICK)] if marks else held)
            save(critic.model, critic.processor.tokenizer, out)
        if measured or time.monotonic() - told > 60:
            told = time.monotonic()
            _keep_state(out / STATE, critic, optimizer, state)
            row = {
                **state,
                "loss": {k: round(v, 4) for k, v in means.items()},
                "held_out": result if measured else None,
            }
            store.append_row(out / "train_log.jsonl", row)
            shown = " ".join(f"{k} {v}" for k, v in result.items()) if measured else ""
            print(
                f"step {state['step']} {state['seconds']:.0f} s loss",
                *(f"{k} {v:.3f}" for k, v in means.items()),
                shown,
                flush=True,
            )
    return result


def _keep_state(path: Path, critic: Critic, optimizer: torch.optim.Optimizer, state: dict) -> None:
    with store.replacing(path) as temporary:
        torch.save({"model": critic.model.state_dict(), "optimizer": optimizer.state_dict(), **state}, temporary)
