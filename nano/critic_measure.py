"""How good the nano critic is on clips that it never saw, and what of that plain pixel statistics would do as well."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from cookbook.judge.scoring import ask
from cookbook.judge.statistics import auc, best_of, interval
from cookbook.models.critic import load_critic, score
from cookbook.models.frames import Sampled
from nano.critic_clips import UNSEEN, Clips, View, gather, plain_view
from nano.critic_draw import TRAINED, spoil
from nano.critic_forward import Reader

AT_ONCE = 32  # clips per forward pass
SHUFFLES = 20


@torch.no_grad()
def scores(reader: Reader, clips: Clips, view: View, asked: np.ndarray) -> np.ndarray:
    """Expected scores [B, 1 + K]: physics, then each instruction `asked` [B, K] about."""
    digits, found = torch.arange(1, 6, device=reader.device).float(), []
    for rows in torch.arange(len(asked)).split(AT_ONCE):
        part = View(*(value[rows.to(value.device)] for value in vars(view).values()))
        frames = gather(clips, part).permute(0, 1, 4, 2, 3).float()
        answers = reader.read(frames, torch.from_numpy(asked[rows.numpy()]).to(reader.device)).answers
        found.append(answers.softmax(-1) @ digits)
    return torch.cat(found).cpu().numpy()


def measure(reader: Reader, clips: Clips, limit: int | None = None) -> dict[str, float | None]:
    """AUC per question and per kind, for the clips as they are and, behind `vae:`, for their round trips.

    `physics` is over the kinds that were trained on, `physics/unseen` over the others; `controls` are spoilt copies.
    Sound for physics are all clips that are physically fine, for an instruction those that carried it out.
    """
    rows = np.arange(len(clips))
    if limit is not None:  # any of them: a stride might meet the same kind in every scene
        rows = np.sort(np.random.default_rng(0).permutation(rows)[:limit])
    told = [_asked(clips, row) for row in rows]
    asked = np.array([[reader.numbers[text] for text in texts] for texts in told])
    facts, plain = {}, None
    for name, offset in (("", 0), ("vae:", len(clips)))[: 1 + clips.softened]:
        found = scores(reader, clips, plain_view(clips, rows + offset), asked)
        facts |= {name + key: value for key, value in _aucs(clips, rows, found, told).items()}
        facts |= {name + key: value for key, value in _controls(reader, clips, rows, found, offset).items()}
        if plain is not None:
            for column, question in enumerate(("physics", "instruction")):
                facts[f"vae:moved {question}"] = float(np.abs(found[:, column] - plain[:, column]).mean())
                facts[f"vae:agreement {question}"] = float(np.corrcoef(found[:, column], plain[:, column])[0, 1])
        plain = found if plain is None else plain
    return {key: None if value is None else round(value, 4) for key, value in facts.items()}


def _asked(clips: Clips, row: int) -> tuple[str, ...]:
    """A clip's own instruction, that of another sound clip, and its own with another hand and another thing."""
    own, count = clips.prompts[row], len(clips)
    others = (number % count for number in range(row + 1, row + count))
    other = next((clips.prompts[k] for k in others if clips.kinds[k] == "real" and clips.prompts[k] != own), own)
    return own, other, *(clips.strangers[row] or (own, own))[:2]


def _aucs(clips: Clips, rows: np.ndarray, found: np.ndarray, told: Sequence[Sequence[str]]) -> dict[str, float | None]:
    done, dreamt = clips.instruction[rows], clips.kinds[rows] == "dream"
    facts = {"generated": auc(done[dreamt], found[dreamt, :2].mean(1))} if dreamt.any() else {}
    rows, found, told = rows[~dreamt], found[~dreamt], [told[number] for number in np.flatnonzero(~dreamt)]
    physics, kinds = clips.physics[rows], clips.kinds[rows]
    unseen = np.isin(kinds, UNSEEN)
    facts["physics"] = auc(physics[~unseen], found[~unseen, 0])
    facts["physics/unseen"] = auc(physics[unseen | (physics == 1)], found[unseen | (physics == 1), 0])
    for kind in sorted(set(kinds[physics == 0])):
        these = (physics == 1) | (kinds == kind)
        facts[f"physics/{kind}"] = auc(physics[these], found[these, 0])
    done = clips.instruction[rows]
    facts["instruction"] = auc(done[done >= 0], found[done >= 0, 1])
    for kind in sorted(set(kinds[done == 0])):
        these = (done == 1) | (kinds == kind)
        facts[f"instruction/{kind}"] = auc(done[these], found[these, 1])
    sound = kinds == "real"
    for column, name in ((1, "swapped"), (2, "other_hand"), (3, "one_word")):
        differs = sound & np.array([texts[column] != texts[0] for texts in told])
        right = found[sound, 1]
        wrong = found[differs, 1 + column]
        facts[f"instruction/{name}"] = auc(np.repeat([1, 0], [len(right), len(wrong)]), np.concatenate([right, wrong]))
    rng = np.random.default_rng(0)
    for column, (question, labels) in enumerate((("physics", physics), ("instruction", done))):
        known, mixed = labels >= 0, []
        for _ in range(SHUFFLES):
            mixed.append(auc(rng.permutation(labels[known]), found[known, column]))
        facts[f"shuffled {question}"] = None if None in mixed else float(np.mean(mixed))
    return facts


def counts(reader: Reader, clips: Clips) -> dict[str, dict]:
    """Held-out clips per kind, and 95 % intervals of both AUCs over scenes."""
    rows = np.arange(len(clips))
    asked = np.array([[reader.numbers[text]] for text in clips.prompts])
    found, facts = scores(reader, clips, plain_view(clips, rows), asked), {}
    for column, question in enumerate(("physics", "instruction")):
        labels = getattr(clips, question)
        known = rows[(labels >= 0) & ~np.isin(clips.kinds, (*UNSEEN, "dream"))]
        facts[question] = interval(
            [clips.scenes[row] for row in known],
            lambda drawn, known=known, labels=labels, column=column: auc(
                labels[known[drawn]], found[known[drawn], column]
            ),
        )
    kinds, numbers = np.unique(clips.kinds, return_counts=True)
    return {"intervals": facts, "clips": dict(zip(kinds.tolist(), numbers.tolist(), strict=True))}


def dreams(reader: Reader, clips: Clips) -> dict[str, dict]:
    """By world model: how well the mean of both scores ranks its dreams, and what taking each photo's best one gains.

    The mean is what the filter ranks by, and a dream comes true only where neither fails. Dreams are named as
    `dream_clips` does, `<model>_<beginning>_<seed>`. Gains are shares of dreams that came true, over that of all;
    intervals are over beginnings.
    """
    rows = np.flatnonzero(clips.kinds == "dream")
    if not len(rows):
        return {}
    asked = np.array([[reader.numbers[clips.prompts[row]]] for row in rows])
    found = scores(reader, clips, plain_view(clips, rows), asked).mean(1)
    models: dict[str, dict[str, list[int]]] = {}
    for place, row in enumerate(rows):
        model, _, rest = clips.scenes[row].partition("_")
        models.setdefault(model, {}).setdefault(rest.rpartition("_")[0], []).append(place)
    return {model: _ranked(found, clips.instruction[rows], photos) for model, photos in models.items()}


def _ranked(found: np.ndarray, done: np.ndarray, photos: dict[str, list[int]]) -> dict:
    """`photos`: beginning -> places of its dreams among `found` (scores) and `done` (0 or 1)."""
    places, taken = np.concatenate(list(photos.values())), min(map(len, photos.values()))
    names = [name for name, group in photos.items() for _ in group]
    gains = np.array([best_of(found[g], taken, done[g]) - done[g].mean() for g in photos.values()])
    found, done = found[places], done[places]
    return {
        "n": len(places),
        "came_true": round(float(done.mean()), 4),
        "auc": auc(done, found),
        "auc_interval": interval(names, lambda drawn: auc(done[drawn], found[drawn])),
        "best_of": taken,
        "gain": round(float(gains.mean()), 4),
        "gain_interval": interval(list(photos), lambda drawn: float(gains[drawn].mean())),
    }


def _controls(
    reader: Reader, clips: Clips, rows: np.ndarray, found: np.ndarray, offset: int
) -> dict[str, float | None]:
    """AUC of sound clips against their spoilt copies, by kind and over all, per question."""
    rng, place = np.random.default_rng(1), np.flatnonzero(clips.kinds[rows] == "real")
    sound = rows[place]
    if len(sound) < 2:
        return {}
    asked = np.array([[reader.numbers[clips.prompts[row]]] for row in sound])
    facts, bad = {}, {"physics": [], "instruction": []}
    for kind, (_, *labels) in TRAINED.items():
        length = clips.frames - (clips.frames // 3 if kind == "dropped" else 0)
        when = np.broadcast_to(np.arange(length), (len(sound), length))
        view = plain_view(clips, sound, when, torch.device("cpu"))
        for row in range(len(sound)):
            spoil(view, row, kind, int(sound[row - 1]), tuple(clips.pixels.shape[1:4]), rng)
        view.clip, view.other = view.clip + offset, view.other + offset
        spoilt = scores(reader, clips, view.to(clips.pixels.device), asked)
        for column, (question, label) in enumerate(zip(bad, labels, strict=True)):
            if label == 0:
                bad[question].append(spoilt[:, column])
                facts[f"controls {question}/{kind}"] = _against(found[place, column], spoilt[:, column])
    for column, (question, parts) in enumerate(bad.items()):
        facts[f"controls {question}"] = _against(found[place, column], np.concatenate(parts))
    return facts


def _against(right: np.ndarray, wrong: np.ndarray) -> float | None:
    return auc(np.repeat([1, 0], [len(right), len(wrong)]), np.concatenate([right, wrong]))


def report(facts: dict[str, float | None]) -> str:
    """The figures in lines, one per question and state of the clips."""
    groups: dict[str, list[str]] = {}
    for key, value in facts.items():
        head, _, kind = key.partition("/")
        groups.setdefault(head, []).append(f"{kind + ' ' if kind else ''}{'-' if value is None else f'{value:.3f}'}")
    return "\n".join(f"  {head}: {', '.join(parts)}" for head, parts in groups.items())


def _statistics(clips: Clips) -> np.ndarray:
    """What a clip shows without being looked at: brightness, contrast, sharpness, and change, over time [N, F]."""
    features = []
    for part in clips.pixels[: len(clips)].split(64):
        grey = part.float().mean(-1)
        change = (grey[:, 1:] - grey[:, :-1]).abs()
        second = (grey[:, 2:] - 2 * grey[:, 1:-1] + grey[:, :-2]).abs()
        cells = torch.nn.functional.avg_pool2d(change, 16)
        sharp = (grey[..., 1:] - grey[..., :-1]).abs().mean((2, 3))
        features.append(
            torch.cat(
                [
                    part.float().mean((1, 2, 3)), grey.std((2, 3)).mean(1, keepdim=True),
                    change.mean((2, 3)), cells.amax((2, 3)), second.mean((2, 3)).amax(1, keepdim=True),
                    sharp[:, [0, -1]], (grey[:, -1] - grey[:, 0]).abs().mean((1, 2))[:, None],
                ],
                1,
            )
        )  # fmt: skip
    return torch.cat(features).cpu().numpy()


def baseline(clips: Clips, held: Clips) -> dict[str, float | None]:
    """Held-out AUC of a logistic regression on pixel statistics, per question; and with labels shuffled in training."""
    known, new, facts = _statistics(clips), _statistics(held), {}
    rng = np.random.default_rng(0)
    for question in ("physics", "instruction"):
        labels, truth = getattr(clips, question), getattr(held, question)
        learned, asked = (labels >= 0) & (clips.kinds != "dream"), (truth >= 0) & (held.kinds != "dream")
        if question == "physics":
            learned, asked = learned & ~np.isin(clips.kinds, UNSEEN), asked & ~np.isin(held.kinds, UNSEEN)
        for name, target in ((question, labels[learned]), (f"shuffled {question}", rng.permutation(labels[learned]))):
            if len(set(target.tolist())) == 2:
                model = make_pipeline(
                    StandardScaler(), LogisticRegression(C=0.1, max_iter=500, class_weight="balanced")
                )
                value = auc(truth[asked], model.fit(known[learned], target).predict_proba(new[asked])[:, 1])
                facts[name] = None if value is None else round(value, 4)
    return facts


def check_saved(folder: Path, reader: Reader, clips: Clips, count: int = 8) -> dict[str, float]:
    """Largest difference of scores between the saved files, judged as the stage does it, and the model in memory."""
    rows = np.linspace(0, len(clips) - 1, count).astype(int)
    asked = np.array([[reader.numbers[clips.prompts[row]]] for row in rows])
    here = scores(reader, clips, plain_view(clips, rows), asked)
    critic = load_critic(folder, reader.device)
    seen = [Sampled(clips.pixels[row].cpu().numpy(), tuple(range(clips.frames)), 8.0) for row in rows]
    asked_for = [[ask("physics", None), ask("instruction", clips.prompts[row])] for row in rows]
    there = score(critic, seen, asked_for)[0] @ np.arange(1, 6)
    return {"largest difference": round(float(np.abs(here - there).max()), 5), "clips": count}
