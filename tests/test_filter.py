"""Stage filter: kept videos, reasons of dropped ones, and the layout of kept/."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import tiny

from cookbook import storage, video
from cookbook.errors import UserError
from cookbook.judge.filter import filter_clips

PROMPT = "Use the right hand to pick up lemon, ripe, from table to plate."


def write_run(root: Path, scores: dict[str, tuple[float | None, float | None]], cut: float | None = 3.0) -> Path:
    """A run with judged videos: file stem -> scores for physics and instruction."""
    rows, files = [], {}
    for number, (stem, pair) in enumerate(scores.items()):
        for model in ("base", "tuned"):
            path = root / f"generated/{model}/{stem}.mp4"
            video.write_video(path, np.full((3, 32, 32, 3), 40 * number, np.uint8), 8)
            for question, score in zip(("physics", "instruction"), pair, strict=True):
                row = {"file": f"generated/{model}/{stem}.mp4", "sha256": storage.digest(path), "model": model}
                row |= {"score": score, "name": stem[:1], "prompt": PROMPT, "seed": number, "question": question}
                row |= dict.fromkeys(("probabilities", "digit", "error", "frames", "fps", "visual_tokens"))
                row |= {"critic": "sha256:0", "prompt_sha256": "sha256:1"}
                rows.append(row)
    if cut is not None:
        facts = {"threshold": cut, "rule": "precision 0.8"}
        files = {"calibration.json": {"questions": {"physics": facts, "instruction": facts}}}
    tiny.finish(root, "judge", {"verdicts.jsonl": rows} | files)
    return root


SCORES = {
    "a_seed0": (4.0, 4.5),
    "b_seed0": (2.0, 4.0),
    "c_seed0": (3.0, 3.0),
    "d_seed0": (1.0, 1.5),
    "e_seed0": (4.0, None),
}


def test_kept_is_a_training_folder_and_every_dropped_clip_has_its_reason(tmp_path, capsys):
    manifest = filter_clips("nano", write_run(tmp_path, SCORES))
    kept = tmp_path / "kept"
    assert sorted(path.name for path in (kept / "videos").iterdir()) == ["a_seed0.mp4", "c_seed0.mp4"]
    assert (kept / "metas/a_seed0.txt").read_text() == "The robot arm is performing a task. " + PROMPT
    assert (kept / "metadata.csv").read_text().splitlines()[:2] == ["file,prompt", f'a_seed0.mp4,"{PROMPT}"']
    with open(kept / "metadata.csv", newline="") as file:
        assert [row["prompt"] for row in csv.DictReader(file)] == [PROMPT] * 2
    assert storage.digest(kept / "videos/a_seed0.mp4") == storage.digest(tmp_path / "generated/tuned/a_seed0.mp4")
    assert (manifest["kept"], manifest["dropped"]) == (2, 3) and "3.00" in manifest["rule"]
    assert all(row["file"].startswith("generated/tuned/") for row in storage.read_rows(kept / "kept.jsonl"))
    assert {row["video"]: row["reason"] for row in storage.read_rows(kept / "dropped.jsonl")} == {
        "b_seed0.mp4": "physics 2.00 is below 3.00",
        "d_seed0.mp4": "physics 1.00 is below 3.00; instruction 1.50 is below 3.00",
        "e_seed0.mp4": "instruction was not judged",
    }
    printed = capsys.readouterr().out
    assert "kept 2 of 5 videos\n  3 dropped: 1 for physics, 1 for instruction, 1 for both\n" in printed


def test_nothing_passes(tmp_path, capsys):
    manifest = filter_clips("nano", write_run(tmp_path, {"a_seed0": (2.0, 2.0)}))
    assert manifest["kept"] == 0 and (tmp_path / "kept/metadata.csv").read_text() == "file,prompt\n"
    assert storage.read_rows(tmp_path / "kept/kept.jsonl") == [] and "no video passed" in capsys.readouterr().out


def test_without_calibration_a_threshold_must_be_given(tmp_path):
    write_run(tmp_path, SCORES, cut=None)
    with pytest.raises(UserError, match="cookbook calibrate"):
        filter_clips("nano", tmp_path)
    manifest = filter_clips("nano", tmp_path, threshold=3.5)
    assert manifest["kept"] == 1 and "uncalibrated" in manifest["rule"]
    with pytest.raises(UserError, match="--redo filter"):
        filter_clips("nano", tmp_path, threshold=3.0)
    assert filter_clips("nano", tmp_path, threshold=3.0, redo=True)["kept"] == 2


def test_second_run_skips_and_unfinished_is_continued(tmp_path, capsys):
    write_run(tmp_path, SCORES)
    first = filter_clips("nano", tmp_path)
    filter_clips("nano", tmp_path)
    assert "skipping" in capsys.readouterr().out
    (tmp_path / "kept/manifest.json").unlink()
    (tmp_path / "kept/videos/a_seed0.mp4").unlink()
    assert filter_clips("nano", tmp_path)["outputs"] == first["outputs"]


def test_bad_input(tmp_path):
    run = write_run(tmp_path, SCORES)
    with pytest.raises(UserError, match="1 to 5"):
        filter_clips("nano", run, threshold=7)
    (run / "generated/tuned/a_seed0.mp4").write_bytes(b"changed")
    with pytest.raises(UserError, match="changed after it was judged"):
        filter_clips("nano", run)


def test_top_keeps_the_best_of_each_prompt(tmp_path, capsys):
    scores = {"a_seed0": (4.0, 4.0), "a_seed1": (4.5, 4.5), "a_seed2": (2.0, 5.0), "b_seed0": (3.5, 3.5)}
    filter_clips("nano", write_run(tmp_path, scores | {"c_seed0": (1.5, 1.0), "c_seed1": (1.0, 2.5)}), top=1)
    assert [row["video"] for row in storage.read_rows(tmp_path / "kept/kept.jsonl")] == ["a_seed1.mp4", "b_seed0.mp4"]
    dropped = {row["video"]: row for row in storage.read_rows(tmp_path / "kept/dropped.jsonl")}
    assert dropped["a_seed0.mp4"]["failed"] == ["rank"] and "number 2 of its prompt" in dropped["a_seed0.mp4"]["reason"]
    assert dropped["a_seed2.mp4"]["failed"] == ["physics"]
    assert "  4 dropped: 1 for physics, 2 for both, 1 behind better ones of their prompt\n" in capsys.readouterr().out
    with pytest.raises(UserError, match="--redo filter"):
        filter_clips("nano", tmp_path, top=2)
    with pytest.raises(UserError, match="top is 0"):
        filter_clips("nano", tmp_path, top=0)
    filter_clips("nano", tmp_path, top=1, threshold=1, redo=True)  # the best of each prompt at any score
    kept = [row["video"] for row in storage.read_rows(tmp_path / "kept/kept.jsonl")]
    assert kept == ["a_seed1.mp4", "b_seed0.mp4", "c_seed1.mp4"]


def test_clips_that_look_the_same_are_kept_once(tmp_path):
    """Of a clip and its re-encoded copy, the one with the higher score; a clip with a local difference is another."""
    rng = np.random.default_rng(0)
    frames = np.repeat(np.repeat(rng.integers(60, 190, (9, 12, 20, 3), dtype=np.uint8), 8, 1), 8, 2)
    other = frames.copy()
    other[5:, 40:56, 60:76] = 255
    run = write_run(tmp_path, {"a_seed0": (4.0, 4.0), "a_seed1": (4.5, 4.5), "a_seed2": (4.2, 4.2)})
    rows = storage.read_rows(run / "verdicts/verdicts.jsonl")
    for seed, (picture, crf) in enumerate(((frames, 20), (frames, 30), (other, 20))):
        path = run / f"generated/tuned/a_seed{seed}.mp4"
        video.write_video(path, picture, 8, crf)
        for row in rows:
            if run / row["file"] == path:
                row["sha256"] = storage.digest(path)
    storage.write_rows(run / "verdicts/verdicts.jsonl", rows)
    filter_clips("nano", run)
    assert [row["video"] for row in storage.read_rows(run / "kept/kept.jsonl")] == ["a_seed1.mp4", "a_seed2.mp4"]
    (copy,) = storage.read_rows(run / "kept/dropped.jsonl")
    assert copy["failed"] == ["copy"] and copy["reason"] == "looks the same as a_seed1.mp4"


@pytest.mark.parametrize(
    ("change", "message"),
    [({"score": 5.5}, "line 3: score: .*less than or equal to 5"), ({"probabilities": [1]}, "line 3: probabilities"),
     ({"colour": "red"}, "line 3: colour"), ({"question": "beauty"}, "line 3: question")],
)  # fmt: skip
def test_an_invalid_verdict_is_refused_with_its_line(tmp_path, change, message):
    path = write_run(tmp_path, SCORES) / "verdicts/verdicts.jsonl"
    rows = storage.read_rows(path)
    rows[2] |= change
    storage.write_rows(path, rows)
    with pytest.raises(UserError, match=message):
        filter_clips("nano", tmp_path)


def test_an_invalid_calibration_is_refused(tmp_path):
    path = write_run(tmp_path, SCORES) / "verdicts/calibration.json"
    for text, message in (("{", "cannot be used"), ('{"questions": {"physics": {"threshold": 7}}}', "not a score")):
        path.write_text(text)
        with pytest.raises(UserError, match=message):
            filter_clips("nano", tmp_path)
