"""The report of a small artificial run, written by the functions that the stages use."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from cookbook import report, results, runs, video
from cookbook.errors import UserError
from cookbook.judge import calibration_clips

PROMPTS = ["Use the left hand to lift <b>the cup</b>.", "Use the right hand to lift the pear."]


def finish(run: Path, name: str, files: dict[str, str], **facts) -> None:
    stage = runs.enter(run / runs.FOLDERS[name], name, "smoke", {}, {})
    for file, text in files.items():
        (stage.folder / file).write_text(text)
    stage.finish([stage.folder / file for file in files], **facts)


def lines(rows: list[dict]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def measured(auc: float) -> dict:
    return {
        "auc": auc,
        "n": 24,
        "threshold": 3.0,
        "roc": [[0, 0], [0.2, 0.9], [1, 1]],
        "per_kind": {"vanish": {"auc": auc, "n": 4}},
    }


def clips(run: Path) -> list[dict]:
    """Two prompts; one video each by the base model, two by the tuned one, whose seed 0 alone scores high."""
    rows = []
    for model, seeds in (("base", 1), ("tuned", 2)):
        for number, prompt in enumerate(PROMPTS):
            for seed in range(seeds):
                file = f"generated/{model}/{number}_seed{seed}.mp4"
                frames = np.full((5, 32, 48, 3), 40 * number + 20 * seed, np.uint8)
                video.write_video(run / file, frames, 8)
                rows.append({"file": file, "model": model, "name": str(number), "prompt": prompt, "seed": seed})
    return rows


@pytest.fixture
def run(tmp_path) -> Path:
    every = clips(tmp_path)
    finish(tmp_path, "prepare", {})
    log = [{"step": step, "loss": 1 / step} for step in range(1, 21)]
    finish(
        tmp_path,
        "train",
        {"log.jsonl": lines(log)},
        recipe={"name": "recommended"},
        steps=20,
        loss_first=0.75,
        loss_last=0.05,
        heldout_before=0.6,
        heldout_after=0.4,
        weights_changed=0.01,
    )
    finish(tmp_path, "convert", {}, max_abs_diff=0.0)
    for model in ("base", "tuned"):
        finish(tmp_path, f"generate-{model}", {})
    good = [clip["model"] == "tuned" and clip["seed"] == 0 for clip in every]
    verdicts = [
        {**clip, "question": question, "score": 4.0 if high else 2.0}
        for clip, high in zip(every, good, strict=True)
        for question in results.QUESTIONS
    ]
    calibration = {"questions": {"physics": measured(0.9), "instruction": measured(0.8)}}
    calibration["held_out_corruptions"] = {
        question: {"per_kind": {"reversed": {"auc": 1.0, "n": 2}}} for question in results.QUESTIONS
    }
    rates = {
        f"{rate}_rate_{model}{part}": value
        for rate in ("follow", "success")
        for model, value in (("base", 0.0), ("tuned", 0.5))
        for part, value in (("", value), ("_interval", [0, 1]))
    }
    curve = [{"n": n, "success": n / 2, "success_interval": [n / 2, 1.0]} for n in (1, 2)]
    outcome = {
        True: {"outcome": "placed", "reason": "", "passed": True},
        False: {"outcome": "not placed", "reason": "no arm moved", "passed": False},
    }
    outcomes = [clip | outcome[high] for clip, high in zip(every, good, strict=True)]
    finish(
        tmp_path,
        "judge",
        {
            "ground_truth.jsonl": lines(outcomes),
            "verdicts.jsonl": lines(verdicts),
            "calibration.json": json.dumps(calibration),
            "calibration_clips.jsonl": "",
        },
        best_of_n=curve,
        **rates,
    )
    rows = {True: [], False: []}
    for clip, high in zip(every, good, strict=True):
        if clip["model"] == "tuned":
            rows[high].append({**clip, "video": Path(clip["file"]).name, "reason": "high" if high else "low"})
    finish(tmp_path, "filter", {"kept.jsonl": lines(rows[True]), "dropped.jsonl": lines(rows[False])})
    return tmp_path


def test_the_summary_has_the_figures_of_every_stage(run):
    report.write_report("smoke", run)
    facts = json.loads((run / "report" / "summary.json").read_text())
    assert facts["profile"] == "smoke"
    assert set(facts["seconds"]) == set(runs.FOLDERS) - {"report"}
    assert facts["train"]["loss_first"] == 0.75 and facts["train"]["loss_last"] == 0.05
    assert facts["train"]["heldout_before"] == 0.6 and facts["train"]["heldout_after"] == 0.4
    assert facts["convert"]["max_abs_diff"] == 0
    assert facts["generate"] == {"clips": 6, "base": 2, "tuned": 4, "prompts": 2}
    judge = facts["judge"]
    assert (judge["auc_physics"], judge["auc_instruction"]) == (0.9, 0.8)
    assert (judge["follow_rate_base"], judge["follow_rate_tuned"]) == (0.0, 0.5)
    assert judge["follow_gain"] == {"pairs": 2, "gain": 1.0, "interval": [1.0, 1.0]}
    assert (judge["success_rate_base"], judge["success_rate_tuned"]) == (0.0, 0.5)
    expected = {"clips": 4, "auc": 1.0, "all": 0.5, "kept": 1.0, "gain": 0.5, "interval": [0.5, 0.5]}
    assert judge["against_ground_truth"] == expected
    assert facts["filter"] == {"kept": 2, "dropped": 2}


def test_a_report_without_ground_truth_states_it(run):
    (run / "verdicts" / "ground_truth.jsonl").unlink()
    assert report.outcomes(run).empty
    unknown = dict.fromkeys(("auc", "all", "kept", "gain", "interval"))
    assert results.critic_against_ground_truth(run) == {"clips": 0, **unknown}
    report.write_report("smoke", run)
    assert "come without masks" in (run / "report" / "report.html").read_text()


def test_outcomes_are_counted_by_reason(run):
    table = report.outcomes(run)
    assert table.loc[("placed", "-"), "tuned"] == 2 and table.loc[("not placed", "no arm moved"), "base"] == 2


def test_the_page_is_self_contained_and_escapes_prompts(run):
    report.write_report("smoke", run)
    page = (run / "report" / "report.html").read_text()
    sources = re.findall(r'src="([^"]{0,20})', page)
    assert sources and all(source.startswith("data:") for source in sources)
    assert "http" not in re.sub(r"base64,[^\"]*", "", page)
    assert page.count("<video") == 4
    assert "<b>the cup</b>" not in page and "&lt;b&gt;the cup" in page
    pictures = {path.stem for path in (run / "report").glob("*.png")}
    assert pictures == {"loss", "roc", "scores", "best_of_n", "pairs", "kept", "dropped"}
    assert pictures == set(re.findall(r'<img alt="(\w+)"', page))
    assert "Instructions followed, tuned minus base, on the 2 photos and seeds" in page and "+100% to +100%" in page


def test_a_report_is_written_once(run, capsys):
    report.write_report("smoke", run)
    before = (run / "report" / "report.html").stat().st_mtime_ns
    report.write_report("smoke", run)
    assert "report: found" in capsys.readouterr().out
    assert (run / "report" / "report.html").stat().st_mtime_ns == before


def test_a_missing_stage_is_named(run):
    (run / "kept" / "manifest.json").unlink()
    with pytest.raises(UserError, match="filter is not finished; type `cookbook filter --profile smoke --run"):
        report.write_report("smoke", run)


def test_a_critic_without_threshold_gives_no_gain(run):
    unknown = {"auc": None, "n": 3, "per_kind": {}}
    both = {"physics": unknown, "instruction": unknown}
    runs.write_json(run / "verdicts" / "calibration.json", {"questions": both, "held_out_corruptions": both})
    report.write_report("smoke", run)
    assert "The critic has no threshold" in (run / "report" / "report.html").read_text()
    assert results.summary(run)["judge"]["follow_gain"]["gain"] is None


def test_a_report_with_nothing_kept_is_written(run):
    for name, text in (("kept", ""), ("dropped", "")):
        (run / "kept" / f"{name}.jsonl").write_text(text)
    report.write_report("smoke", run)
    assert "Kept: 0" in (run / "report" / "report.html").read_text()


def test_best_of_n_draws_without_replacement():
    assert results.best_of_n([[0, 1, 0, 0], [1, 1, 0, 0]]) == pytest.approx([0.375, (1 / 2 + 5 / 6) / 2, 0.875, 1.0])
    assert results.best_of_n([]) == []


def test_a_wide_video_is_scaled_down_for_the_page(tmp_path):
    video.write_video(tmp_path / "wide.mp4", np.random.RandomState(0).randint(0, 255, (5, 432, 768, 3), np.uint8), 16)
    assert len(report._video(tmp_path / "wide.mp4")) < (tmp_path / "wide.mp4").stat().st_size


def test_the_table_of_faults_describes_and_counts_each(run):
    table = report.critic_by_kind(run)
    vanish = table.loc["vanish"]
    assert vanish["clips"] == 4 and vanish["difference to a valid clip"] == "the object disappears"
    assert list(table.columns) == ["clips", "physics", "instruction", "difference to a valid clip"]


def test_every_type_of_fault_is_described():
    simulated = pytest.importorskip("simulator.faults", reason="NOT RUN: needs pip install -e .[sim]")
    assert calibration_clips.FAULTS.keys() == {"real", "swapped", *simulated.KINDS, *calibration_clips.CORRUPTIONS}


def test_sheets_show_one_video_of_each_prompt(run):
    kept, dropped = report.kept_and_dropped(run)
    every = pd.concat([kept, dropped])
    assert len(every) > len(PROMPTS)
    assert sorted(report.one_each(every, 5)["prompt"]) == sorted(PROMPTS)
    assert len(report.one_each(every, 1)) == 1 and report.one_each(every.head(0), 3).empty


@pytest.mark.parametrize("profile, warned", [("smoke", True), ("nano", False)])
def test_a_minimal_profile_has_a_warning_in_its_report(run, profile, warned, monkeypatch):
    monkeypatch.setattr(runs, "enter", lambda folder, name, *_, **__: runs.Stage(folder, name, {}, None, io.StringIO()))
    (run / "report").mkdir()
    report.write_report(profile, run)
    assert ("no figure means anything" in (run / "report" / "report.html").read_text()) == warned
