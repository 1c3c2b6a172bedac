"""The page on which people mark videos: blind, each mark once, kept at once, and left out the next time."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import tiny

from cookbook import runs, video
from cookbook.errors import UserError
from cookbook.judge.ratings import Rating, _paired


@pytest.fixture
def run(tmp_path) -> Path:
    for model in ("base", "tuned"):
        stage = runs.enter(tmp_path / "generated" / model, f"generate-{model}", "nano", {}, {})
        for seed in range(2):
            row = {"file": f"a_seed{seed}.mp4", "name": "a", "prompt": "Lift <b>it</b>.", "seed": seed, "model": model}
            video.write_video(stage.folder / row["file"], tiny.clip(seed), 8)
            runs.append_row(stage.folder / "generated.jsonl", row | {"blocked": False, "image_sha256": None})
        stage.finish(stage.folder.glob("*.*"))
    return tmp_path


def column(page, slot: int = 0):
    """A video and its rows of buttons."""
    return page.children[1].children[slot]


def buttons(page, question: int, slot: int = 0) -> list:
    return column(page, slot).children[1 + question].children[1].children


def all_within(widget) -> list:
    return [widget, *(each for child in getattr(widget, "children", ()) for each in all_within(child))]


def test_marks_are_kept_as_they_are_given(run):
    rating = Rating(run, rater="ann", count=3)
    page = rating.page()
    first, second = rating.clips[0], rating.clips[1]
    buttons(page, 0)[3].click()
    assert "1 of 3" in page.children[0].value, "the second question is still open"
    assert all(button.disabled for button in buttons(page, 0)) and not buttons(page, 1)[0].disabled
    buttons(page, 1)[1].click()
    assert "2 of 3" in page.children[0].value and column(page).children[0].value == second["path"].read_bytes()
    rows = runs.read_rows(run / "ratings.jsonl")
    assert [(row["question"], row["mark"], row["rater"]) for row in rows] == [
        ("physics", 4, "ann"),
        ("instruction", 2, "ann"),
    ]
    assert {row["file"] for row in rows} == {first["file"]} and rows[0]["sha256"] == runs.digest(first["path"])
    page.children[-1].click()  # skip
    page.children[-1].click()
    assert "2 marks are in ratings.jsonl" in page.children[0].value


def test_nobody_sees_whose_video_it_is(run):
    rating = Rating(run)
    page = rating.page()
    for _ in rating.clips:
        shown = json.dumps([str(part.get_state()) for part in all_within(page) if hasattr(part, "value")])
        assert not any(word in shown for word in ("tuned", "base/", "seed", ".mp4")), shown
        assert "&lt;b&gt;it" in page.children[0].value
        page.children[-1].click()
    orders = {tuple(clip["file"] for clip in Rating(run, seed=seed).clips) for seed in range(8)}
    assert len(orders) > 3, "the order must not tell the model"


def test_two_videos_of_one_prompt_side_by_side(run):
    rating = Rating(run, "ann", count=3, pairs=True)
    left, right = rating.clips
    page = rating.page()
    assert [column(page, slot).children[0].value for slot in (0, 1)] == [c["path"].read_bytes() for c in (left, right)]
    for question in (0, 1):
        buttons(page, question, 1)[4].click()
    assert buttons(page, 0, 1)[0].disabled and not buttons(page, 0, 0)[0].disabled, "the left one is still open"
    for question in (0, 1):
        buttons(page, question, 0)[1].click()
    assert "4 marks are in ratings.jsonl" in page.children[0].value
    marks = [(row["file"], row["mark"]) for row in runs.read_rows(run / "ratings.jsonl")]
    assert marks == [(right["file"], 5)] * 2 + [(left["file"], 2)] * 2
    assert len(Rating(run, "ann", pairs=True).clips) == 2, "the two that are left"
    sides = {Rating(run, seed=seed, pairs=True).clips[0]["model"] for seed in range(8)}
    assert sides == {"base", "tuned"}, "the side must not tell the model"
    for clip, prompt in zip(rating.clips, ("Wave.", "Lift it."), strict=True):
        clip["prompt"] = prompt
    assert not _paired(rating.clips), "of different prompts"


def test_what_was_marked_is_not_shown_again(run):
    rating = Rating(run, "ann")
    rating.mark(0, physics=5, instruction=1)
    rating.mark(0, physics=2)
    assert len(runs.read_rows(run / "ratings.jsonl")) == 2, "each mark counts once"
    assert len(Rating(run, "ann").clips) == 3 and len(Rating(run, "bob").clips) == 4


def test_without_buttons_there_are_pictures(run, monkeypatch, capsys):
    monkeypatch.setenv("HEADLESS", "1")
    Rating(run).show()
    assert "rating.mark(0, physics=4, instruction=2)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("number", "marks", "message"),
    [
        (9, {"physics": 3}, "no clip 9"),
        (0, {"physics": 6}, "whole number"),
        (0, {"beauty": 3}, "physics or instruction"),
    ],
)
def test_what_is_no_mark_is_refused(run, number, marks, message):
    with pytest.raises(UserError, match=message):
        Rating(run).mark(number, **marks)
    assert not (run / "ratings.jsonl").exists()
