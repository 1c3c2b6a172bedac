"""The rating page: blind, each rating once, written at once, and rated videos are not shown again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import tiny

from cookbook import storage
from cookbook.errors import UserError
from cookbook.judge.ratings import Rating


@pytest.fixture
def run(tmp_path) -> Path:
    tiny.make_generated(tmp_path, {"a": "Lift <b>it</b>."})
    return tmp_path


def buttons(page, question: int) -> list:
    return page.children[2 + question].children[1].children


def all_within(widget) -> list:
    return [widget, *(each for child in getattr(widget, "children", ()) for each in all_within(child))]


def test_each_rating_is_written_at_once(run):
    rating = Rating(run, rater="ann", count=3)
    page = rating.page()
    first, second = rating.clips[0], rating.clips[1]
    buttons(page, 0)[3].click()
    assert "1 of 3" in page.children[0].value, "the second question is still open"
    assert all(button.disabled for button in buttons(page, 0)) and not buttons(page, 1)[0].disabled
    buttons(page, 1)[1].click()
    assert "2 of 3" in page.children[0].value and page.children[1].value == second["path"].read_bytes()
    rows = storage.read_rows(run / "ratings.jsonl")
    assert [(row["question"], row["rating"], row["rater"]) for row in rows] == [
        ("physics", 4, "ann"),
        ("instruction", 2, "ann"),
    ]
    assert {row["file"] for row in rows} == {first["file"]} and rows[0]["sha256"] == storage.digest(first["path"])
    page.children[-1].click()  # skip
    page.children[-1].click()
    assert "2 ratings are in ratings.jsonl" in page.children[0].value


def test_neither_model_nor_file_name_is_shown(run):
    rating = Rating(run)
    page = rating.page()
    for _ in rating.clips:
        shown = json.dumps([str(part.get_state()) for part in all_within(page) if hasattr(part, "value")])
        assert not any(word in shown for word in ("tuned", "base/", "seed", ".mp4")), shown
        assert "&lt;b&gt;it" in page.children[0].value
        page.children[-1].click()
    orders = {tuple(clip["file"] for clip in Rating(run, seed=seed).clips) for seed in range(8)}
    assert len(orders) > 3, "the order must not reveal the model"


def test_a_rated_video_is_revealed(run):
    """Once both questions are answered, and with scores of this very video only."""
    rating = Rating(run)
    page, (first, second, *_) = rating.page(), rating.clips
    for clip, version in ((first, storage.digest(first["path"])), (second, "of another video")):
        for question, score in (("physics", 4.951), ("instruction", 1.5)):
            row = {"file": clip["file"], "question": question, "score": score, "sha256": version}
            storage.append_row(run / "verdicts" / "verdicts.jsonl", row)
        storage.append_row(run / "verdicts" / "ground_truth.jsonl", {"file": clip["file"], "outcome": "placed"})
    buttons(page, 0)[3].click()
    assert page.children[-2].value == ""
    buttons(page, 1)[1].click()
    shown = "physics: you 4, critic 4.95; instruction: you 2, critic 1.50; ground truth: placed"
    assert page.children[-2].value.endswith(shown)
    for question in (0, 1):
        buttons(page, question)[0].click()
    assert "not judged" in page.children[-2].value


def test_rated_videos_are_not_shown_again(run):
    rating = Rating(run, "ann")
    rating.rate(0, physics=5, instruction=1)
    rating.rate(0, physics=2)
    assert len(storage.read_rows(run / "ratings.jsonl")) == 2, "each question once"
    assert len(Rating(run, "ann").clips) == 3 and len(Rating(run, "bob").clips) == 4


def test_without_a_widget_pictures_are_shown(run, monkeypatch, capsys):
    monkeypatch.setenv("HEADLESS", "1")
    Rating(run).show()
    assert "rating.rate(0, physics=4, instruction=2)" in capsys.readouterr().out


def test_an_invalid_rating_is_refused(run):
    for number, ratings, message in (
        (9, {"physics": 3}, "no clip 9"),
        (0, {"physics": 6}, "whole number"),
        (0, {"beauty": 3}, "physics or instruction"),
    ):
        with pytest.raises(UserError, match=message):
            Rating(run).rate(number, **ratings)
    assert not (run / "ratings.jsonl").exists()
