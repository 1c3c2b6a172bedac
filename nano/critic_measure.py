"""The nano critic's accuracy on held-out clips, beside that of a regression on plain pixel statistics."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from cookbook.judge.statistics import auc, best_of, interval
from nano.critic_clips import UNTRAINED, Clips, View, gather, plain_view
from nano.critic_draw import TRAINED, corrupt_view
from nano.critic_forward import BatchedCritic

BATCH = 32  # clips per forward pass
SHUFFLES = 20


@torch.no_grad()
def scores(batched: BatchedCritic, clips: Clips, view: View, instructions: np.ndarray) -> np.ndarray:
    """Expected scores [B, 1 + K]: physics, then each of `instructions` (their numbers) [B, K]."""
    digits, predicted = torch.arange(1, 6, device=batched.device).float(), []
    for rows in torch.arange(len(instructions)).split(BATCH):
        part = View(*(value[rows.to(value.device)] for value in vars(view).values()))
        frames = gather(clips, part).permute(0, 1, 4, 2, 3).float()
        answers = batched.forward(frames, torch.from_numpy(instructions[rows.numpy()]).to(batched.device)).answers
        predicted.append(answers.softmax(-1) @ digits)
    return torch.cat(predicted).cpu().numpy()


def measure(batched: BatchedCritic, clips: Clips) -> dict[str, float | None]:
    """AUC per question and per kind, for the clips as they are and, after `vae:`, for their VAE reconstructions.

    `physics` is over the kinds that were trained on, `physics/untrained` over the others; `corrupted` are copies that
    need no simulator. Valid for physics are all clips without a physics fault, for an instruction those that follow it.
    """
    rows = np.arange(len(clips))
    texts = [_instructions(clips, row) for row in rows]
    instructions = np.array([[batched.numbers[text] for text in own] for own in texts])
    facts = {}
    for name, offset in (("", 0), ("vae:", len(clips)))[: 1 + clips.reconstructed]:
        predicted = scores(batched, clips, plain_view(clips, rows + offset), instructions)
        facts |= {name + key: value for key, value in _aucs(clips, predicted, texts).items()}
        facts |= {name + key: value for key, value in _corruptions(batched, clips, predicted, offset).items()}
    return {key: None if value is None else round(value, 4) for key, value in facts.items()}


def _instructions(clips: Clips, row: int) -> tuple[str, ...]:
    """A clip's own instruction, that of another valid clip, its own with another hand and another thing."""
    own, count = clips.prompts[row], len(clips)
    others = (number % count for number in range(row + 1, row + count))
    other = next((clips.prompts[k] for k in others if clips.kinds[k] == "real" and clips.prompts[k] != own), own)
    return own, other, *(clips.negatives[row] or (own, own))[:2]


def _aucs(clips: Clips, predicted: np.ndarray, texts: Sequence[Sequence[str]]) -> dict[str, float | None]:
    done, is_generated = clips.instruction, clips.kinds == "generated"
    facts = {"generated": auc(done[is_generated], predicted[is_generated, :2].mean(1))} if is_generated.any() else {}
    rows = np.flatnonzero(~is_generated)
    predicted, texts = predicted[rows], [texts[row] for row in rows]
    physics, kinds = clips.physics[rows], clips.kinds[rows]
    untrained = np.isin(kinds, UNTRAINED)
    facts["physics"] = auc(physics[~untrained], predicted[~untrained, 0])
    facts["physics/untrained"] = auc(physics[untrained | (physics == 1)], predicted[untrained | (physics == 1), 0])
    for kind in sorted(set(kinds[physics == 0])):
        these = (physics == 1) | (kinds == kind)
        facts[f"physics/{kind}"] = auc(physics[these], predicted[these, 0])
    done = clips.instruction[rows]
    facts["instruction"] = auc(done[done >= 0], predicted[done >= 0, 1])
    for kind in sorted(set(kinds[done == 0])):
        these = (done == 1) | (kinds == kind)
        facts[f"instruction/{kind}"] = auc(done[these], predicted[these, 1])
    valid = kinds == "real"
    for column, name in ((1, "swapped"), (2, "other_hand"), (3, "one_word")):
        differs = valid & np.array([own[column] != own[0] for own in texts])
        facts[f"instruction/{name}"] = _against(predicted[valid, 1], predicted[differs, 1 + column])
    rng = np.random.default_rng(0)
    for column, (question, labels) in enumerate((("physics", physics), ("instruction", done))):
        labelled = labels >= 0
        mixed = [auc(rng.permutation(labels[labelled]), predicted[labelled, column]) for _ in range(SHUFFLES)]
        facts[f"shuffled {question}"] = None if None in mixed else float(np.mean(mixed))
    return facts


def counts(batched: BatchedCritic, clips: Clips) -> dict[str, dict]:
    """Held-out clips per kind, and 95 % intervals of both AUCs over scenes."""
    rows = np.arange(len(clips))
    instructions = np.array([[batched.numbers[text]] for text in clips.prompts])
    predicted, facts = scores(batched, clips, plain_view(clips, rows), instructions), {}
    for column, question in enumerate(("physics", "instruction")):
        labels = getattr(clips, question)
        labelled = rows[(labels >= 0) & ~np.isin(clips.kinds, (*UNTRAINED, "generated"))]
        scenes, truth, guess = [clips.scenes[row] for row in labelled], labels[labelled], predicted[labelled, column]
        facts[question] = interval(scenes, lambda drawn, truth=truth, guess=guess: auc(truth[drawn], guess[drawn]))
    kinds, numbers = np.unique(clips.kinds, return_counts=True)
    return {"intervals": facts, "clips": dict(zip(kinds.tolist(), numbers.tolist(), strict=True))}


def generated(batched: BatchedCritic, clips: Clips) -> dict[str, dict]:
    """By world model: how well the mean of both scores ranks its generated videos, and the gain of each photo's best.

    The filter ranks by that mean. Videos are named as by `generate_clips`, `<model>_<photo>_<seed>`. A gain is the
    success rate of the best videos minus that of all; 95 % CIs are over photos. `other_words`: the AUC of the
    instruction's score of successful videos, their own against four that differ in the hand, the object or the place.
    """
    rows = np.flatnonzero(clips.kinds == "generated")
    if not len(rows):
        return {}
    texts = [(clips.prompts[row], *clips.negatives[row][:4]) for row in rows]
    instructions = np.array([[batched.numbers[text] for text in (*own, *[own[0]] * 4)[:5]] for own in texts])
    predicted = scores(batched, clips, plain_view(clips, rows), instructions)
    models: dict[str, dict[str, list[int]]] = {}
    for place, row in enumerate(rows):
        model, _, rest = clips.scenes[row].partition("_")
        models.setdefault(model, {}).setdefault(rest.rpartition("_")[0], []).append(place)
    return {model: _ranked(predicted, clips.instruction[rows], photos) for model, photos in models.items()}


def _ranked(scored: np.ndarray, done: np.ndarray, photos: dict[str, list[int]]) -> dict:
    """`photos`: photo -> places of its videos in `scored` (physics, own instruction, others) and `done` (0 or 1)."""
    predicted = scored[:, :2].mean(1)
    places, taken = np.concatenate(list(photos.values())), min(map(len, photos.values()))
    names = [name for name, group in photos.items() for _ in group]
    gains = np.array([best_of(predicted[g], taken, done[g]) - done[g].mean() for g in photos.values()])
    obeyed = scored[places][done[places] == 1]
    predicted, done = predicted[places], done[places]
    return {
        "n": len(places),
        "success_rate": round(float(done.mean()), 4),
        "auc": auc(done, predicted),
        "auc_interval": interval(names, lambda drawn: auc(done[drawn], predicted[drawn])),
        "other_words": _against(obeyed[:, 1], obeyed[:, 2:].ravel()),
        "best_of": taken,
        "gain": round(float(gains.mean()), 4),
        "gain_interval": interval(list(photos), lambda drawn: float(gains[drawn].mean())),
    }


def _corruptions(batched: BatchedCritic, clips: Clips, predicted: np.ndarray, offset: int) -> dict[str, float | None]:
    """AUC of valid clips against their corrupted copies, per question: by kind and over all."""
    rng, valid = np.random.default_rng(1), np.flatnonzero(clips.kinds == "real")
    if len(valid) < 2:
        return {}
    instructions = np.array([[batched.numbers[clips.prompts[row]]] for row in valid])
    facts, bad = {}, {"physics": [], "instruction": []}
    for kind, (_, *labels) in TRAINED.items():
        length = clips.frames - (clips.frames // 3 if kind == "dropped" else 0)
        when = np.broadcast_to(np.arange(length), (len(valid), length))
        view = plain_view(clips, valid, when, torch.device("cpu"))
        for row in range(len(valid)):
            corrupt_view(view, row, kind, int(valid[row - 1]), tuple(clips.pixels.shape[1:4]), rng)
        view.clip, view.other = view.clip + offset, view.other + offset
        corrupted = scores(batched, clips, view.to(clips.pixels.device), instructions)
        for column, (question, label) in enumerate(zip(bad, labels, strict=True)):
            if label == 0:
                bad[question].append(corrupted[:, column])
                facts[f"corrupted {question}/{kind}"] = _against(predicted[valid, column], corrupted[:, column])
    for column, (question, parts) in enumerate(bad.items()):
        facts[f"corrupted {question}"] = _against(predicted[valid, column], np.concatenate(parts))
    return facts


def _against(right: np.ndarray, wrong: np.ndarray) -> float | None:
    return auc(np.repeat([1, 0], [len(right), len(wrong)]), np.concatenate([right, wrong]))


def report(facts: dict[str, float | None]) -> str:
    """The figures in lines, one per question and kind of clip."""
    groups: dict[str, list[str]] = {}
    for key, value in facts.items():
        head, _, kind = key.partition("/")
        groups.setdefault(head, []).append(f"{kind + ' ' if kind else ''}{'-' if value is None else f'{value:.3f}'}")
    return "\n".join(f"  {head}: {', '.join(parts)}" for head, parts in groups.items())


def _statistics(clips: Clips) -> np.ndarray:
    """Brightness, contrast, sharpness and change over time of each clip, [N, F]."""
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
    training, new, facts = _statistics(clips), _statistics(held), {}
    rng = np.random.default_rng(0)
    for question in ("physics", "instruction"):
        labels, wanted = getattr(clips, question), getattr(held, question)
        learned, tested = (labels >= 0) & (clips.kinds != "generated"), (wanted >= 0) & (held.kinds != "generated")
        if question == "physics":
            learned, tested = learned & ~np.isin(clips.kinds, UNTRAINED), tested & ~np.isin(held.kinds, UNTRAINED)
        for name, target in ((question, labels[learned]), (f"shuffled {question}", rng.permutation(labels[learned]))):
            if len(set(target.tolist())) == 2:
                regression = LogisticRegression(C=0.1, max_iter=500, class_weight="balanced")
                model = make_pipeline(StandardScaler(), regression)
                value = auc(wanted[tested], model.fit(training[learned], target).predict_proba(new[tested])[:, 1])
                facts[name] = None if value is None else round(value, 4)
    return facts
