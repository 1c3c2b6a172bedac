"""How far a score can be trusted: ROC, thresholds, and bootstrap intervals over scenes or prompts.

scikit-learn is imported where it is used: it takes half a second, and most commands do not need it.
"""

from collections.abc import Callable, Sequence
from math import comb

import numpy as np

PRECISION = 0.75  # at least three of four clips that pass are valid, if valid and invalid clips were equally many
RESAMPLES = 500


def auc(labels: np.ndarray, scores: np.ndarray) -> float | None:
    """Area under the ROC curve: the chance that a valid clip scores above an invalid one. None with one class only."""
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(labels, scores)) if len(set(labels.tolist())) == 2 else None


def interval(groups: Sequence[str], statistic: Callable[[np.ndarray], float | None]) -> list[float] | None:
    """95 % CI of `statistic(rows)`, bootstrapped over groups, because clips of one group resemble each other.

    A resample on which the statistic is None is left out. None if there is only one group.
    """
    names = sorted(set(groups))
    if len(names) < 2:
        return None
    rows = [np.flatnonzero(np.asarray(groups) == name) for name in names]
    draws = np.random.default_rng(0).integers(0, len(names), (RESAMPLES, len(names)))
    values = np.array([statistic(np.concatenate([rows[group] for group in draw])) for draw in draws], float)
    known = values[~np.isnan(values)]
    return [round(float(edge), 4) for edge in np.quantile(known, (0.025, 0.975))] if len(known) else None


def threshold(labels: np.ndarray, scores: np.ndarray, wanted: float = PRECISION) -> dict:
    """The threshold of best separation (Youden's J) among those with a precision of at least `wanted`.

    Precision is computed as if valid and invalid clips were equally many. Where no threshold that keeps at least 5 % of
    the valid clips reaches it, the threshold of best separation is taken among all.

    We do not take the lowest such threshold: a good critic leaves a wide gap between the two classes, and any threshold
    in that gap is equally good on the calibration set, but the lowest would accept every generated video.

    Returns:
        threshold, precision, recall (share of valid clips kept), false_alarms (share of invalid clips kept), rule.
    """
    from sklearn.metrics import roc_curve

    false, true, cuts = (curve[1:] for curve in roc_curve(labels, scores, drop_intermediate=False))
    precision = true / np.maximum(true + false, 1e-12)
    fitting = np.flatnonzero((precision >= wanted) & (true >= 0.05))
    best = max(fitting if len(fitting) else range(len(cuts)), key=lambda place: true[place] - false[place])
    reached = f"precision at least {wanted:g}" if len(fitting) else f"a precision of {wanted:g} cannot be reached"
    return {
        "threshold": round(float(cuts[best]), 6),
        "precision": round(float(precision[best]), 4),
        "recall": round(float(true[best]), 4),
        "false_alarms": round(float(false[best]), 4),
        "rule": f"best separation, {reached}",
    }


def measure(labels: np.ndarray, scores: np.ndarray, kinds: Sequence[str], scenes: Sequence[str]) -> dict:
    """The figures of one question: AUC with 95 % CI over scenes, AUC per kind of fault, threshold, ROC."""
    from sklearn.metrics import roc_curve

    kinds, overall = np.asarray(kinds), auc(labels, scores)
    facts = {"n": len(labels), "valid": int(labels.sum()), "auc": None, "auc_interval": None, "per_kind": {}}
    if overall is None:
        return facts
    false, true, _ = roc_curve(labels, scores)
    facts |= {
        "auc": round(overall, 4),
        "auc_interval": interval(scenes, lambda rows: auc(labels[rows], scores[rows])),
        **threshold(labels, scores),
        "roc": [[round(float(x), 4), round(float(y), 4)] for x, y in zip(false, true, strict=True)],
    }
    for kind in sorted(set(kinds[labels == 0])):
        rows = (labels == 1) | (kinds == kind)
        count = int(((kinds == kind) & (labels == 0)).sum())
        facts["per_kind"][str(kind)] = {"auc": round(auc(labels[rows], scores[rows]), 4), "n": count}
    return facts


def best_of(scores: Sequence[float], take: int, worth: Sequence[float] | None = None) -> float:
    """Mean worth of the best-scored clip over all subsets of `take` clips: the expected yield of best-of-`take`.

    Unbiased for any number of clips (Chen et al. 2021 count the same subsets for pass@k). Without `worth`, a clip is
    worth its score. Clips with equal scores share their worth, as a tie is broken at random.
    """
    scores, worth = np.asarray(scores, float), np.asarray(scores if worth is None else worth, float)
    shared = np.array([worth[scores == score].mean() for score in scores])
    total = comb(len(scores), take)
    return sum(comb(rank, take - 1) / total * shared[row] for rank, row in enumerate(np.argsort(scores)))


def kappa(digits: Sequence[int], ratings: Sequence[int]) -> float | None:
    """Cohen's kappa with quadratic weights of two series of ratings 1 to 5: 1 is agreement, 0 is chance level.

    None where both series are the same constant, for which kappa is undefined.
    """
    from sklearn.metrics import cohen_kappa_score

    if len(set(digits)) == len(set(ratings)) == 1:
        return None
    return float(cohen_kappa_score(digits, ratings, weights="quadratic", labels=range(1, 6)))


def retest(first: np.ndarray, second: np.ndarray, cut: float | None) -> dict:
    """Test-retest of clips scored before and after re-encoding: mean |difference|, share of flipped decisions."""
    return {
        "n": len(first),
        "difference": round(float(np.abs(first - second).mean()), 4) if len(first) else None,
        "flipped": round(float(((first >= cut) != (second >= cut)).mean()), 4) if len(first) and cut else None,
    }


def share(passed: Sequence[float], groups: Sequence[str]) -> tuple[float, list[float] | None]:
    """Share of clips that pass, or the mean of any other values, with its 95 % CI over groups."""
    passed = np.asarray(passed)
    return round(float(passed.mean()), 4), interval(groups, lambda rows: float(passed[rows].mean()))
