"""Stage filter: what is kept, why the rest is dropped, and that kept/ is laid out like data/train."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from cookbook import store, video
from cookbook.errors import UserError
from cookbook.judge.filtering import filter_clips

PROMPT = "Use the right hand to pick up lemon, ripe, from table to plate."


def write_run(root: Path, scores: dict[str, tuple[float | None, float | None]], cut: float | None = 3.0) -> Path:
    """A run with judged dreams: file stem -> scores for physics and instruction."""
    stage = store.enter(root / "verdicts", "judge", "nano", {}, {})
    outputs = [root / "verdicts/verdicts.jsonl"]
    for number, (stem, pair) in enumerate(scores.items()):
        for model in ("base", "tuned"):
            path = root / f"dreams/{model}/{stem}.mp4"
            video.write_video(path, np.full((3, 32, 32, 3), 20 * number, np.uint8), 8)
            for question, score in zip(("physics", "instruction"), pair, strict=True):
                row = {
                    "file": f"dreams/{model}/{stem}.mp4",
                    "sha256": store.digest(path),
                    "model": model,
                    "score": score,
                }
                row |= {"name": stem[:3], "prompt": PROMPT, "seed": number, "question": question, "critic": "sha256:0"}
                store.append_row(outputs[0], row)
    if cut is not None:
        facts = {"threshold": cut, "rule": "precision 0.8"}
        outputs.append(root / "verdicts/calibration.json")
        store.write_json(outputs[1], {"questions": {"physics": facts, "instruction": facts}})
    stage.finish(outputs)
    return root


SCORES = {
    "a_seed0": (4.0, 4.5),
    "b_seed0": (2.0, 4.0),
    "c_seed0": (3.0, 3.0),
    "d_seed0": (1.0, 1.5),
    "e_seed0": (4.0, None),
}


def test_kept_is_a_training_folder(tmp_path):
    manifest = filter_clips("nano", write_run(tmp_path, SCORES))
    kept = tmp_path / "kept"
    assert sorted(path.name for path in (kept / "videos").iterdir()) == ["a_seed0.mp4", "c_seed0.mp4"]
    assert (kept / "metas/a_seed0.txt").read_text() == "The robot arm is performing a task. " + PROMPT
    assert (kept / "metadata.csv").read_text().splitlines()[:2] == ["file,prompt", f'a_seed0.mp4,"{PROMPT}"']
    with open(kept / "metadata.csv", newline="") as file:
        assert [row["prompt"] for row in csv.DictReader(file)] == [PROMPT] * 2
    assert store.digest(kept / "videos/a_seed0.mp4") == store.digest(tmp_path / "dreams/tuned/a_seed0.mp4")
    assert (manifest["kept"], manifest["dropped"]) == (2, 3) and "3.00" in manifest["rule"]
    assert all(row["file"].startswith("dreams/tuned/") for row in store.read_rows(kept / "kept.jsonl"))


def test_every_dropped_clip_has_its_reason(tmp_path):
    filter_clips("nano", write_run(tmp_path, SCORES))
    reasons = {row["video"]: row["reason"] for row in store.read_rows(tmp_path / "kept/dropped.jsonl")}
    assert reasons["b_seed0.mp4"] == "physics 2.00 is below 3.00"
    assert reasons["d_seed0.mp4"] == "physics 1.00 is below 3.00; instruction 1.50 is below 3.00"
    assert reasons["e_seed0.mp4"] == "instruction was not judged"


def test_nothing_passes(tmp_path, capsys):
    manifest = filter_clips("nano", write_run(tmp_path, {"a_seed0": (2.0, 2.0)}))
    assert manifest["kept"] == 0 and (tmp_path / "kept/metadata.csv").read_text() == "file,prompt\n"
    assert store.read_rows(tmp_path / "kept/kept.jsonl") == [] and "no dream passed" in capsys.readouterr().out


def test_refuses_an_unmeasured_critic(tmp_path):
    write_run(tmp_path, SCORES, cut=None)
    with pytest.raises(UserError, match="calibrat"):
        filter_clips("nano", tmp_path)
    with pytest.raises(UserError, match="calibrat"):
        filter_clips("nano", tmp_path, threshold=2.5)
    assert filter_clips("nano", tmp_path, uncalibrated=True)["kept"] == 1
    with pytest.raises(UserError, match="--redo filter"):
        filter_clips("nano", tmp_path, threshold=3.0, uncalibrated=True)
    assert filter_clips("nano", tmp_path, threshold=3.0, uncalibrated=True, redo=True)["kept"] == 2


def test_second_run_skips_and_unfinished_is_continued(tmp_path, capsys):
    write_run(tmp_path, SCORES)
    first = filter_clips("nano", tmp_path)
    filter_clips("nano", tmp_path)
    assert "skipping" in capsys.readouterr().out
    (tmp_path / "kept/manifest.json").unlink()
    (tmp_path / "kept/videos/a_seed0.mp4").unlink()
    assert filter_clips("nano", tmp_path)["outputs"] == first["outputs"]


def test_bad_input(tmp_path):
    with pytest.raises(UserError, match="cookbook judge"):
        filter_clips("nano", tmp_path / "none")
    run = write_run(tmp_path, SCORES)
    with pytest.raises(UserError, match="1 to 5"):
        filter_clips("nano", run, threshold=7)
    (run / "dreams/tuned/a_seed0.mp4").write_bytes(b"changed")
    with pytest.raises(UserError, match="changed after it was judged"):
        filter_clips("nano", run)
