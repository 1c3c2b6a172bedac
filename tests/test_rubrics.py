"""Rubrics, statistics of scores, and corrupted copies."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny import clip

from cookbook.errors import UserError
from cookbook.judge import calibration_clips, rubrics, statistics


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("physics", "Is it real?", "no answer cue"),
        ("physics", "Is it real?\nAnswer", "no answer cue"),
        ("instruction", "Was it done?\nScore:", "instruction"),
        ("physics", b"\xff\xfe", "UTF-8"),
    ],
)
def test_bad_rubric(tmp_path, monkeypatch, name, text, message):
    monkeypatch.setattr(rubrics, "PROMPTS", tmp_path)
    (tmp_path / f"{name}.txt").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserError, match=message):
        rubrics.read_rubric(name)


# statistics and corruptions


def test_threshold_and_auc():
    labels, scores = np.array([1, 1, 1, 0, 0, 0]), np.array([5, 4, 3, 2, 2, 1.0])
    facts = statistics.measure(labels, scores, ["real"] * 3 + ["a", "a", "b"], list("abcdef"))
    assert (facts["auc"], facts["threshold"], facts["precision"]) == (1, 3, 1)
    assert facts["rule"] == "best separation, precision at least 0.75"
    assert facts["per_kind"] == {"a": {"auc": 1, "n": 2}, "b": {"auc": 1, "n": 1}}
    worse = statistics.threshold(labels, -scores)
    assert "cannot be reached" in worse["rule"]
    # at 1.2 three of four clips that pass are valid too, but 4 separates better
    assert statistics.threshold(labels, np.array([5, 4.5, 4, 1.2, 1, 1]))["threshold"] == 4
    # at the best separation two of five invalid clips pass, which is too many for 0.75
    mixed = np.array([1] * 5 + [0] * 5), np.array([5, 4.8, 3, 3, 3, 4.9, 3.5, 2, 2, 1])
    assert [statistics.threshold(*mixed, wanted)["threshold"] for wanted in (0.7, 0.75)] == [3, 5]
    assert statistics.auc(np.ones(3), np.ones(3)) is None


@given(st.lists(st.tuples(st.integers(1, 3), st.integers(0, 1)), min_size=1, max_size=6), st.data())
def test_best_of_is_the_mean_over_subsets(clips, data):
    """Of clips with equal scores a random one is taken; without worth, a clip is worth its score."""
    take = data.draw(st.integers(1, len(clips)))
    scores, worth = zip(*clips, strict=True)
    yields = []
    for subset in combinations(clips, take):
        best, _ = max(subset)
        yields.append((best, np.mean([value for score, value in subset if score == best])))
    expected = np.mean(yields, 0)
    assert statistics.best_of(scores, take) == pytest.approx(expected[0])
    assert statistics.best_of(scores, take, worth) == pytest.approx(expected[1])


def test_kappa_of_agreement_chance_and_reversal():
    ratings = [1, 2, 3, 4, 5] * 4
    series = (ratings, [6 - rating for rating in ratings], np.repeat([1, 2, 4, 5], 5).tolist())
    assert [statistics.kappa(digits, ratings) for digits in series] == pytest.approx([1, -1, 0])
    assert statistics.kappa([3, 3], [3, 3]) is None


def test_retest_counts_flipped_decisions():
    facts = statistics.retest(np.array([1, 2, 3, 4.0]), np.array([1.5, 2, 2.5, 4]), 2.8)
    assert facts == {"n": 4, "difference": 0.25, "flipped": 0.25}
    assert statistics.retest(np.array([]), np.array([]), 3.0)["difference"] is None


def test_interval_is_wider_over_groups():
    values = np.repeat([0.0, 1.0, 0.0, 1.0, 1.0], 20)
    mean = lambda rows: float(values[rows].mean())  # noqa: E731
    clustered = statistics.interval(np.repeat(list("abcde"), 20).tolist(), mean)
    alone = statistics.interval([str(i) for i in range(100)], mean)
    assert clustered[1] - clustered[0] > 2 * (alone[1] - alone[0])


@pytest.mark.parametrize("kind", calibration_clips.CORRUPTIONS)
def test_corrupted_copies_differ_and_repeat(kind):
    frames, other = clip(0, frames=25), clip(3, frames=20, height=80)
    copy = calibration_clips.corrupt(kind, frames, other, 1)
    assert copy.dtype == np.uint8 and copy.shape[1:] == frames.shape[1:] and len(copy) > 12
    assert copy.shape != frames.shape or (copy != frames).any()
    assert np.array_equal(copy, calibration_clips.corrupt(kind, frames, other, 1))


def test_a_bad_calibration_clip_is_refused_with_its_line(tmp_path):
    (tmp_path / "calibration_clips.jsonl").write_text('{"file": "a.mp4", "kind": "real"}\n')
    with pytest.raises(UserError, match="line 1"):
        calibration_clips.labelled(tmp_path, 10)
