"""Stage judge: every generated video scored, the critic calibrated on labelled and rated clips, and bad input."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tiny import PROMPTS, clip

from cookbook import profiles, runs, video
from cookbook.errors import UserError
from cookbook.judge import rubrics
from cookbook.judge.calibration import calibrate
from cookbook.judge.stage import judge


def write_run(root: Path, critic_folder: Path, seeds: int = 2) -> Path:
    """Assets with a critic and calibration clips, and a run with generated videos of both models. Returns the run."""
    shutil.copytree(critic_folder, root / "assets/nano/critic")
    for index in range(12):
        kind = ("real", "vanish", "wrong_place")[index % 3]
        name = f"place_{index // 3}{'' if kind == 'real' else '-' + kind}.mp4"
        video.write_video(root / "assets/simulator/calibration/videos" / name, clip(index), 8)
        row = {"file": f"videos/{name}", "prompt": PROMPTS[index % 2], "kind": kind, "violation": None}
        row |= {"physics": int(kind != "vanish"), "instruction": int(kind == "real")}
        row["source_clip"] = f"place_{index // 3}"
        runs.append_row(root / "assets/simulator/calibration/calibration_clips.jsonl", row)
    for model in ("base", "tuned"):
        stage = runs.enter(root / "run/generated" / model, f"generate-{model}", "nano", {}, {})
        for number, prompt in enumerate(PROMPTS):
            for seed in range(seeds):
                name = f"{number:03d}_task_seed{seed}.mp4"
                video.write_video(stage.folder / name, clip(number * 10 + seed + 5 * (model == "base")), 8)
                row = {"file": name, "name": f"{number:03d}_task", "prompt": prompt, "seed": seed, "model": model}
                row["image_sha256"] = None
                runs.append_row(stage.folder / "generated.jsonl", row | {"blocked": False})
        stage.finish(stage.folder.glob("*.*"))
    return root / "run"


@pytest.fixture
def run(tmp_path, critic_folder, monkeypatch) -> Path:
    monkeypatch.setattr(runs, "ASSETS", tmp_path / "assets")
    return write_run(tmp_path, critic_folder)


def rows_of(run: Path) -> list[dict]:
    return runs.read_rows(run / "verdicts/verdicts.jsonl")


def test_every_generated_video_is_scored(run, capsys):
    manifest = judge("smoke", run)
    rows = rows_of(run)
    assert len(rows) == 2 * 3 * 2 * 2 == len({(row["file"], row["question"]) for row in rows})
    assert [row["file"] for row in rows] == sorted(row["file"] for row in rows)
    for row in rows:
        assert 1 <= row["score"] <= 5 and sum(row["probabilities"]) == pytest.approx(1, abs=1e-4)
        assert row["score"] == pytest.approx(rubrics.expected(np.array(row["probabilities"])), abs=1e-4)
        assert (row["frames"], row["fps"], row["visual_tokens"]) == (9, 8.0, 120)
        assert row["explanation"] is None and row["votes"] == [] and row["error"] is None
        assert row["sha256"] == runs.digest(run / row["file"])
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
        row = {"file": file, "sha256": runs.digest(run / file), "prompt": PROMPTS[0], "question": "physics"}
        for rater in ("a", "b"):
            runs.append_row(run / "ratings.jsonl", row | {"rating": 1 + number % 5, "rater": rater})
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


def write_mixed(folder: Path) -> Path:
    """Valid clips of several sizes and rates among files that cannot be judged."""
    video.write_video(folder / "long.mp4", clip(1, frames=40, height=80, width=100), 30)
    (folder / "long.txt").write_text("The robot arm is performing a task. Lift the cup.")
    video.write_video(folder / "Use the left hand to wave..mp4", clip(2), 10)
    video.write_video(folder / "one.mp4", clip(2, frames=1), 10)
    data = (folder / "Use the left hand to wave..mp4").read_bytes()
    for name, content in {"corrupt": b"no video", "empty": b"", "headers": data[: data.index(b"mdat") + 4]}.items():
        (folder / f"{name}.mp4").write_bytes(content)
    return folder


UNJUDGED = {"one": "too short", "corrupt": "not a readable", "empty": "not a readable", "headers": "holds no frames"}


def test_folder_of_clips(run, tmp_path):
    """Another fps, a corrupt video, a single frame: each has its own outcome, and the others are judged."""
    manifest = judge("smoke", run, clips=write_mixed(tmp_path / "real_clips"))
    rows = runs.read_rows(run / "verdicts-real_clips/verdicts.jsonl")
    by_key = {(row["file"], row["question"]): row for row in rows}
    assert by_key["long.mp4", "instruction"]["prompt"] == "Lift the cup."
    assert by_key["long.mp4", "physics"]["fps"] == pytest.approx(8, abs=0.3)
    waving = [by_key["Use the left hand to wave..mp4", question] for question in rubrics.QUESTIONS]
    assert all(row["prompt"] == "Use the left hand to wave." and 1 <= row["score"] <= 5 for row in waving)
    for name, reason in UNJUDGED.items():
        row = by_key[f"{name}.mp4", "physics"]
        assert row["score"] is None and reason in row["error"] and f"{name}.mp4" in row["error"] + row["file"]
        assert (f"{name}.mp4", "instruction") not in by_key, "it has no prompt"
    assert manifest["unjudged"] == sorted(f"{name}.mp4" for name in UNJUDGED)


def test_a_rubric_without_a_cue_stops_only_its_question(run, tmp_path, monkeypatch, capsys):
    prompts = Path(shutil.copytree(rubrics.PROMPTS, tmp_path / "prompts"))
    (prompts / "physics.txt").write_text("Is it real?\n")
    first = judge("smoke", run, clips=write_mixed(tmp_path / "clips"))
    monkeypatch.setattr(rubrics, "PROMPTS", prompts)
    manifest = judge("smoke", run, clips=tmp_path / "clips", redo=True)
    assert "physics is not scored" in capsys.readouterr().out
    rows = runs.read_rows(run / "verdicts-clips/verdicts.jsonl")
    unscored, other = ([row for row in rows if row["question"] == question] for question in rubrics.QUESTIONS)
    assert len(unscored) == 6 and all(row["score"] is None for row in unscored)
    assert sum("physics.txt has no answer cue: end it with" in row["error"] for row in unscored) == 2
    assert {row["error"] for row in other} == {None} and len(other) == 2
    assert manifest["inputs"]["prompts"] != first["inputs"]["prompts"], "another rubric, another fingerprint"
    facts = calibrate("smoke", run)["questions"]
    assert facts["physics"]["auc"] is None and facts["physics"]["n"] == 0 and 0 <= facts["instruction"]["auc"] <= 1


def test_a_missing_model_stops_before_any_clip_is_decoded(run, tmp_path, monkeypatch):
    class Enough(Exception):
        """Stops the first run."""

    def stop(path, row, append=runs.append_row):
        append(path, row)
        if path.name == "verdicts.jsonl" and len(runs.read_rows(path)) == 5:
            raise Enough

    with monkeypatch.context() as patch, pytest.raises(Enough):
        patch.setattr(runs, "append_row", stop)
        judge("smoke", run)
    before = rows_of(run)
    for name in ("model.safetensors", "tokenizer.json"):
        file = tmp_path / "assets/nano/critic" / name
        file.rename(tmp_path / name)
        with monkeypatch.context() as patch, pytest.raises(UserError, match=rf"critic/{name} is missing.*download"):
            patch.setattr(video, "decode", lambda *_, **__: pytest.fail("a clip was decoded"))
            judge("smoke", run)
        (tmp_path / name).rename(file)
    assert rows_of(run) == before and len(before) == 5
    judge("smoke", run)
    assert rows_of(run)[:5] == before and len(rows_of(run)) == 24


def test_bad_places(run, tmp_path):
    for folder, message in ((tmp_path / "nowhere", "no such folder"), (tmp_path, "no .mp4")):
        with pytest.raises(UserError, match=message):
            judge("smoke", run, clips=folder)
    with pytest.raises(UserError, match="cookbook generate"):
        judge("smoke", tmp_path / "empty")


def test_bad_verdict_line(run):
    (run / "verdicts").mkdir()
    (run / "verdicts/verdicts.jsonl").write_text("{}}\n{}\n")
    with pytest.raises(UserError, match="line 1"):
        judge("smoke", run)
