"""Stage judge: every generated video scored, the critic calibrated on labelled and rated clips, and bad input."""

from __future__ import annotations

import json
import shutil
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import python
from tiny import PROMPTS, clip, make_calibration, make_generated

from cookbook import profiles, runs, storage, video
from cookbook.errors import UserError
from cookbook.judge import rubrics, scorer
from cookbook.judge.calibration import calibrate, load
from cookbook.judge.stage import judge
from cookbook.models.frames import Sampled, sample_frames


@pytest.fixture
def run(tmp_path, critic_folder, monkeypatch) -> Path:
    """A run with generated videos of both models, and assets with a critic and calibration clips."""
    monkeypatch.setattr(runs, "ASSETS", tmp_path / "assets")
    shutil.copytree(critic_folder, tmp_path / "assets/nano/critic")
    make_calibration(tmp_path / "assets/simulator/calibration", PROMPTS[:2], [clip(index) for index in range(12)])
    make_generated(tmp_path / "run", {f"{number:03d}_task": prompt for number, prompt in enumerate(PROMPTS)})
    return tmp_path / "run"


def rows_of(run: Path) -> list[dict]:
    return storage.read_rows(run / "verdicts/verdicts.jsonl")


def test_every_generated_video_is_scored(run, capsys):
    manifest = judge("smoke", run)
    rows = rows_of(run)
    assert len(rows) == 2 * 3 * 2 * 2 == len({(row["file"], row["question"]) for row in rows})
    assert [row["file"] for row in rows] == sorted(row["file"] for row in rows)
    for row in rows:
        assert 1 <= row["score"] <= 5 and sum(row["probabilities"]) == pytest.approx(1, abs=1e-4)
        assert row["score"] == pytest.approx(rubrics.expected(np.array(row["probabilities"])), abs=1e-4)
        assert (row["frames"], row["fps"], row["visual_tokens"]) == (9, 8.0, 120)
        assert row["error"] is None
        assert row["sha256"] == storage.digest(run / row["file"])
    assert {"auc_physics", "auc_instruction", "follow_rate_base", "follow_rate_tuned", "best_of_n"} <= manifest.keys()
    assert [point["n"] for point in manifest["best_of_n"]] == [1, 2]
    assert manifest["best_of_n"][1]["score"] >= manifest["best_of_n"][0]["score"]
    assert manifest["best_of_n"][1]["success"] is None, "there is no ground truth"
    facts = json.loads((run / "verdicts/calibration.json").read_text())
    assert facts["retest"]["physics"]["n"] == 4 and 0 <= facts["retest"]["physics"]["difference"] < 1
    assert facts["human"]["physics"] == {"n": 0, "kappa": None, "auc": None}
    assert set(facts["questions"]["physics"]["per_kind"]) == {"vanish"}
    assert set(facts["questions"]["instruction"]["per_kind"]) == {"wrong_place"}
    kinds = {question: set(facts["held_out_corruptions"][question]["per_kind"]) for question in rubrics.QUESTIONS}
    assert kinds["physics"] == {"reversed", "shuffled", "spliced", "pasted", "erased", "dropped", "sped_up"}
    assert kinds["instruction"] == {"frozen", "reversed", "shuffled", "spliced", "swapped"}
    judge("smoke", run)
    assert "skipping" in capsys.readouterr().out


def test_without_labelled_clips_training_clips_are_corrupted(run, monkeypatch, capsys):
    bare = replace(profiles.smoke(), calibration=None)
    monkeypatch.setattr(profiles, "get", lambda name: bare)
    with pytest.raises(UserError, match="metadata.csv"):
        calibrate("smoke", run)
    for index in range(3):
        video.write_video(run / f"data/train/videos/{index}.mp4", clip(index), 8)
    table = "".join(f'{index}.mp4,"{prompt}"\n' for index, prompt in enumerate(PROMPTS))
    (run / "data/train/metadata.csv").write_text("file,prompt\n" + table)
    facts = calibrate("smoke", run)
    assert {"frozen", "swapped"} <= set(facts["questions"]["instruction"]["per_kind"])
    calibrate("smoke", run)
    assert "is up to date" in capsys.readouterr().out


def test_human_ratings_feed_the_calibration(run, capsys):
    first = calibrate("smoke", run)
    for number, name in enumerate(sorted(path.name for path in (run / "generated/tuned").glob("*.mp4"))):
        file = f"generated/tuned/{name}"
        row = {"file": file, "sha256": storage.digest(run / file), "prompt": PROMPTS[0], "question": "physics"}
        for rater in ("a", "b"):
            storage.append_row(run / "ratings.jsonl", row | {"rating": 1 + number % 5, "rater": rater})
    facts = calibrate("smoke", run)
    assert facts["human"]["physics"]["n"] == 6 and -1 <= facts["human"]["physics"]["kappa"] <= 1
    assert facts["human"]["instruction"]["n"] == 0
    added = facts["questions"]["physics"]["n"] - first["questions"]["physics"]["n"]
    assert added == 5, "one has no label, between 2.5 and 3.5"
    assert facts["questions"]["physics"]["per_kind"]["rated"]["n"] == 3
    printed = capsys.readouterr().out
    assert "6 clips rated by people" in printed
    assert "scoring calibration clips: 6 in" in printed, "the others keep their scores"
    video.write_video(run / file, clip(99), 8)
    with pytest.raises(UserError, match="changed after it was rated"):
        calibrate("smoke", run)
    (run / "ratings.jsonl").write_text('{"file": "a.mp4", "rating": 6}\n')
    with pytest.raises(UserError, match="ratings.jsonl, line 1"):
        calibrate("smoke", run)


UNJUDGED = {"one": "too short", "corrupt": "not a readable", "empty": "not a readable", "headers": "cut off after"}


def test_a_video_that_cannot_be_judged_has_its_reason_and_the_others_are_judged(run):
    """Another size and rate, a single frame, corrupt files."""
    paths = sorted((run / "generated/tuned").glob("*.mp4"))
    data = paths[0].read_bytes()
    video.write_video(paths[1], clip(1, frames=40, height=80, width=100), 30)
    video.write_video(paths[2], clip(2, frames=1), 10)
    unjudged = dict(zip(paths[2:], UNJUDGED.values(), strict=True))
    for path, content in zip(paths[3:], (b"no video", b"", data[: data.index(b"mdat") + 4]), strict=True):
        path.write_bytes(content)
    manifest = judge("smoke", run)
    by_key = {(row["file"], row["question"]): row for row in rows_of(run)}
    assert len(by_key) == 24
    row = by_key[str(paths[1].relative_to(run)), "physics"]
    assert row["fps"] == pytest.approx(8, abs=0.3) and row["frames"] == 11 and row["error"] is None
    for path, reason in unjudged.items():
        for question in rubrics.QUESTIONS:
            row = by_key[str(path.relative_to(run)), question]
            assert row["score"] is None and reason in row["error"]
    assert manifest["unjudged"] == [str(path.relative_to(run)) for path in unjudged]


def test_a_missing_model_stops_before_any_clip_is_decoded(run, tmp_path, monkeypatch):
    monkeypatch.setattr(video, "decode", lambda *_, **__: pytest.fail("a clip was decoded"))
    for name in ("config.json", "tokenizer.json", "model.safetensors"):
        file = tmp_path / "assets/nano/critic" / name
        file.rename(tmp_path / name)
        with pytest.raises(UserError, match=rf"critic/{name} is missing.*download"):
            judge("smoke", run)
        (tmp_path / name).rename(file)


def test_a_damaged_calibration_is_made_again_by_the_command_that_the_message_names(run, capsys):
    whole = calibrate("smoke", run)
    (run / "verdicts/calibration.json").write_text("{")
    with pytest.raises(UserError, match="cannot be used .*: type `cookbook calibrate --profile smoke --run"):
        load(run / "verdicts")
    calibrate("smoke", run)
    assert load(run / "verdicts") == json.loads(json.dumps(whole)) and "it is computed again" in capsys.readouterr().out


def test_critics_of_one_name_have_verdicts_of_their_own(run, tmp_path, critic_folder):
    manifests = []
    for place in ("a", "b"):
        folder = shutil.copytree(critic_folder, tmp_path / place / "mine")
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | {"note": place}))
        manifests.append(judge("smoke", run, critic=folder))
    found = {runs.read_manifest(folder)["critic"]: folder for folder in run.glob("verdicts-mine*")}
    assert found.keys() == {manifest["critic"] for manifest in manifests} and len(found) == 2
    assert judge("smoke", run, critic=tmp_path / "a/mine") == manifests[0], "found again"


def test_a_deleted_or_changed_video_costs_its_own_verdicts_alone(run):
    judge("smoke", run)
    folder, first = run / "generated/tuned", rows_of(run)
    changed, gone = sorted(path.name for path in folder.glob("*.mp4"))[:2]
    content = (folder / gone).read_bytes()
    (folder / gone).unlink()
    command = "cookbook generate --profile smoke --run .* --model tuned"
    with pytest.raises(UserError, match=f"{gone} is missing: type `{command}` to make it"):
        judge("smoke", run)
    (folder / gone).write_bytes(content)
    video.write_video(folder / changed, clip(99), 8)
    (folder / "manifest.json").unlink()
    stage = runs.enter(folder, "generate-tuned", "nano", {}, {})
    stage.finish(folder.glob("*.*"))
    judge("smoke", run)
    second = rows_of(run)
    assert len(second) == len(first)
    for row in first:
        assert (row not in second) == (row["file"] == f"generated/tuned/{changed}")


def test_another_rubric_makes_the_verdicts_stale(run, tmp_path, monkeypatch):
    judge("smoke", run)
    monkeypatch.setattr(rubrics, "PROMPTS", Path(shutil.copytree(rubrics.PROMPTS, tmp_path / "prompts")))
    (tmp_path / "prompts/physics.txt").write_text("Is it natural?\nScore:")
    with pytest.raises(UserError, match="--redo"):
        judge("smoke", run)


# killed, and what is held in memory

KILLED = """
import os, signal, sys
from pathlib import Path
import torch
from cookbook import runs, storage
from cookbook.judge.stage import judge
torch.set_num_threads(1)
runs.ASSETS = Path(sys.argv[1])
append, count = storage.append_row, 0
def append_row(path, row):
    global count
    append(path, row)
    count += 1
    if count == int(sys.argv[3]):
        with open(path, "a") as file:
            file.write('{"file": "cut')  # and a line that the kill cut short
            file.flush()
        os.kill(os.getpid(), signal.SIGKILL)
storage.append_row = append_row
judge("smoke", sys.argv[2])
"""


@pytest.mark.slow
def test_killed_and_resumed_gives_the_same(run, tmp_path):
    for rows in (5, 45):  # among the calibration clips, then among the verdicts
        assert python("-c", KILLED, tmp_path / "assets", run, str(rows)).returncode == -9
    assert not (run / "verdicts/manifest.json").exists()
    judge("smoke", run)
    resumed, measured = rows_of(run), json.loads((run / "verdicts/calibration.json").read_text())
    judge("smoke", run, redo=True)
    assert resumed == rows_of(run)
    assert measured == json.loads((run / "verdicts/calibration.json").read_text())


def test_only_the_batches_in_flight_are_held(critic, monkeypatch):
    """However slow the model is, the readers are never further ahead."""
    started, ahead = [], []

    def sample(*size) -> Sampled:
        started.append(size)
        return sample_frames(clip(0), 8.0, *size)

    def slow(critic, inputs) -> np.ndarray:
        time.sleep(0.05)
        ahead.append(len(started) - len(ahead) * scorer.BATCH)
        return np.full((len(inputs.stats), 1, 5), 0.2)

    monkeypatch.setattr(scorer, "answer", slow)
    tasks = [scorer.Task(sample, {"physics": None}, "clip") for _ in range(10 * scorer.BATCH)]
    assert len(list(scorer.Scorer(critic, 8, 1024).score(tasks))) == len(tasks)
    assert len(ahead) == 10 and max(ahead) <= scorer.IN_FLIGHT * scorer.BATCH
