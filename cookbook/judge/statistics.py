"""How far a score can be trusted: ROC, thresholds, and bootstrap intervals over scenes or prompts."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from math import comb

import numpy as np
from scipy.stats import DegenerateDataWarning, bootstrap
from sklearn.metrics import cohen_kappa_score, roc_auc_score, roc_curve

PRECISION = 0.75  # three of four clips that pass are sound, were sound and broken ones equally many
RESAMPLES = 500


def auc(labels: np.ndarray, scores: np.ndarray) -> float | None:
    """Area under the ROC curve: the chance that a sound clip scores above a broken one. None with one class only."""
    return float(roc_auc_score(labels, scores)) if len(set(labels.tolist())) == 2 else None


def interval(groups: Sequence[str], statistic: Callable[[np.ndarray], float | None]) -> list[float] | None:
    """95 % interval of `statistic(rows)`, whole groups redrawn together, as clips of one group resemble each other.

    A redraw on which the statistic is None is left out; None if there is but one group.
    """
    names = sorted(set(groups))
    if len(names) < 2:
        return None
    rows = {name: np.flatnonzero(np.asarray(groups) == name) for name in names}

    def on_groups(chosen: np.ndarray) -> float:
        value = statistic(np.concatenate([rows[names[index]] for index in chosen]))
        return np.nan if value is None else value

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DegenerateDataWarning)  # redraws without a value are left out below
        drawn = bootstrap(
            (np.arange(len(names)),),
            on_groups,
            vectorized=False,
            n_resamples=RESAMPLES,
            method="percentile",
            rng=np.random.default_rng(0),
        ).bootstrap_distribution
    known = drawn[~np.isnan(drawn)]
    return [round(float(edge), 4) for edge in np.quantile(known, (0.025, 0.975))] if len(known) else None


def threshold(labels: np.ndarray, scores: np.ndarray, wanted: float = PRECISION) -> dict:
    """The score that separates best (Youden's J), of those above which at least `wanted` of the clips are sound.

    Sound and broken clips count as equally many. Where no score reaches that (keeping at least 5 % of the sound clips),
    it is the one that separates best of all. The lowest score that fits would not do: below a good critic's scores of
    sound clips lies a wide gap, in which all scores do as well on planted fakes, and the lowest lets every dream pass.
    Returns threshold, precision, recall (share of sound clips kept), false_alarms (share of broken ones kept), rule.
    """
    false, true, cuts = roc_curve(labels, scores, drop_intermediate=False)
    false, true, cuts = false[1:], true[1:], cuts[1:]
    precision = true / np.maximum(true + false, 1e-12)
    fitting = np.flatnonzero((precision >= wanted) & (true >= 0.05))
    best = max(fitting if len(fitting) else range(len(cuts)), key=lambda place: true[place] - false[place])
    reached = f"precision {wanted:g}" if len(fitting) else f"precision {wanted:g} cannot be reached"
    return {
        "threshold": round(float(cuts[best]), 6),
        "precision": round(float(precision[best]), 4),
        "recall": round(float(true[best]), 4),
        "false_alarms": round(float(false[best]), 4),
        "rule": f"best separation, {reached}",
    }


def roc_points(labels: np.ndarray, scores: np.ndarray) -> list[list[float]]:
    """Corners of the ROC curve: [share of broken clips kept, share of sound clips kept]."""
    false, true, _ = roc_curve(labels, scores)
    return [[round(float(x), 4), round(float(y), 4)] for x, y in zip(false, true, strict=True)]


def histogram(scores: np.ndarray) -> list[int]:
    """Counts in 16 equal bins from 1 to 5."""
    return np.histogram(scores, bins=16, range=(1, 5))[0].tolist()


def measure(labels: np.ndarray, scores: np.ndarray, kinds: Sequence[str], scenes: Sequence[str]) -> dict:
    """Everything about one question: AUC with interval, AUC per kind of fault, threshold, ROC, histograms."""
    kinds, overall = np.asarray(kinds), auc(labels, scores)
    facts = {"n": len(labels), "sound": int(labels.sum()), "auc": None, "auc_interval": None, "per_kind": {}}
    if overall is None:
        return facts
    facts |= {
        "auc": round(overall, 4),
        "auc_interval": interval(scenes, lambda rows: auc(labels[rows], scores[rows])),
        **threshold(labels, scores),
        "roc": roc_points(labels, scores),
        "histogram": {"sound": histogram(scores[labels == 1]), "broken": histogram(scores[labels == 0])},
    }
    for kind in sorted(set(kinds[labels == 0])):
        rows = (labels == 1) | (kinds == kind)
        count = int(((kinds == kind) & (labels == 0)).sum())
        facts["per_kind"][str(kind)] = {"auc": round(auc(labels[rows], scores[rows]), 4), "n": count}
    return facts


def best_of(scores: Sequence[float], take: int, worth: Sequence[float] | None = None) -> float:
    """Mean over all subsets of `take` clips of the worth of the best-scored one: what the best of `take` yields.

    Unbiased for any number of clips (Chen et al. 2021 count the same subsets for pass@k). Without `worth`, a clip is
    worth its score. Among equal scores the choice is a draw, so they share their worth.
    """
    scores, worth = np.asarray(scores, float), np.asarray(scores if worth is None else worth, float)
    shared = np.array([worth[scores == score].mean() for score in scores])
    total = comb(len(scores), take)
    return sum(comb(rank, take - 1) / total * shared[row] for rank, row in enumerate(np.argsort(scores)))


def kappa(digits: Sequence[int], marks: Sequence[int]) -> float | None:
    """Cohen's kappa of two series of marks 1 to 5 with quadratic weights: 1 is agreement, 0 what chance alone gives.

    None where both series are one and the same constant, for which it is not defined.
    """
    if len(set(digits)) == len(set(marks)) == 1:
        return None
    return float(cohen_kappa_score(digits, marks, weights="quadratic", labels=range(1, 6)))


def retest(first: np.ndarray, again: np.ndarray, cut: float | None) -> dict:
    """How scores of the same clips, encoded once more, differ: mean |difference|, correlation, decisions that flip."""
    varies = len(first) > 2 and first.std() > 0 and again.std() > 0
    return {
        "n": len(first),
        "difference": round(float(np.abs(first - again).mean()), 4) if len(first) else None,
        "correlation": round(float(np.corrcoef(first, again)[0, 1]), 4) if varies else None,
        "flipped": round(float(((first >= cut) != (again >= cut)).mean()), 4) if len(first) and cut else None,
    }


def share(passed: np.ndarray, groups: Sequence[str]) -> tuple[float, list[float] | None]:
    """Share of clips that pass, with its interval over groups."""
    return round(float(passed.mean()), 4), interval(groups, lambda rows: float(passed[rows].mean()))
