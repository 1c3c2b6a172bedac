"""The report of a small made-up run, written through the same store that the stages use."""

from __future__ import annotations

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
    """Two prompts; one clip each by the base model and two by the tuned one, which alone scores high, at seed 0."""
    found = []
    for model, seeds in (("base", 1), ("tuned", 2)):
        for number, prompt in enumerate(PROMPTS):
            for seed in range(seeds):
                file = f"generated/{model}/{number}_seed{seed}.mp4"
                frames = np.full((5, 32, 48, 3), 40 * number + 20 * seed, np.uint8)
                video.write_video(run / file, frames, 8)
                found.append({"file": file, "model": model, "name": str(number), "prompt": prompt, "seed": seed})
    return found


@pytest.fixture
def run(tmp_path) -> Path:
    made = clips(tmp_path)
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
    good = [clip["model"] == "tuned" and clip["seed"] == 0 for clip in made]
    verdicts = [
        {**clip, "question": question, "score": 4.0 if high else 2.0}
        for clip, high in zip(made, good, strict=True)
        for question in results.QUESTIONS
    ]
    calibration = {"questions": {"physics": measured(0.9), "instruction": measured(0.8)}}
    calibration["held_out_corruptions"] = {
        question: {"per_kind": {"reversed": {"auc": 1.0, "n": 2}}} for question in results.QUESTIONS
    }
    rates = {
        f"{rate}_rate_{model}{part}": value
        for rate in ("follow", "placed")
        for model, value in (("base", 0.0), ("tuned", 0.5))
        for part, value in (("", value), ("_interval", [0, 1]))
    }
    curve = [{"n": n, "success": n / 2, "success_interval": [n / 2, 1.0]} for n in (1, 2)]
    truth = [
        {
            **clip,
            "outcome": "placed" if high else "not placed",
            "reason": "" if high else "no arm moved",
            "passed": high,
        }
        for clip, high in zip(made, good, strict=True)
    ]
    finish(
        tmp_path,
        "judge",
        {
            "ground_truth.jsonl": lines(truth),
            "verdicts.jsonl": lines(verdicts),
            "calibration.json": json.dumps(calibration),
            "calibration_clips.jsonl": "",
        },
        best_of_n=curve,
        **rates,
    )
    told = [
        {**clip, "video": Path(clip["file"]).name, "reason": "high" if high else "low"}
        for clip, high in zip(made, good, strict=True)
    ]
    rows = {True: [], False: []}
    for row, high in zip(told, good, strict=True):
        if row["model"] == "tuned":
            rows[high].append(row)
    finish(tmp_path, "filter", {"kept.jsonl": lines(rows[True]), "dropped.jsonl": lines(rows[False])})
    return tmp_path


def test_the_summary_holds_what_was_made(run):
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
    told = {"clips": 4, "auc": 1.0, "all": 0.5, "kept": 1.0, "gain": 0.5, "interval": [0.5, 0.5]}
    assert judge["against_ground_truth"] == told
    assert facts["filter"] == {"kept": 2, "dropped": 2}


def test_without_a_known_truth_the_report_says_so(run):
    (run / "verdicts" / "ground_truth.jsonl").unlink()
    assert report.outcomes(run).empty
    unknown = dict.fromkeys(("auc", "all", "kept", "gain", "interval"))
    assert results.critic_against_ground_truth(run) == {"clips": 0, **unknown}
    report.write_report("smoke", run)
    assert "come without masks" in (run / "report" / "report.html").read_text()


def test_outcomes_are_counted_by_reason(run):
    table = report.outcomes(run)
    assert table.loc[("placed", "-"), "tuned"] == 2 and table.loc[("not placed", "no arm moved"), "base"] == 2


def test_the_page_needs_no_other_file_and_escapes_prompts(run):
    report.write_report("smoke", run)
    page = (run / "report" / "report.html").read_text()
    sources = re.findall(r'src="([^"]{0,20})', page)
    assert sources and all(source.startswith("data:") for source in sources)
    assert "http" not in re.sub(r"base64,[^\"]*", "", page)
    assert page.count("<video") == 4
    assert "<b>the cup</b>" not in page and "&lt;b&gt;the cup" in page
    assert {path.stem for path in (run / "report").glob("*.png")} == {
        "loss",
        "roc",
        "scores",
        "best_of_n",
        "pairs",
        "kept",
        "dropped",
    }


def test_it_is_written_once(run, capsys):
    report.write_report("smoke", run)
    before = (run / "report" / "report.html").stat().st_mtime_ns
    report.write_report("smoke", run)
    assert "report: found" in capsys.readouterr().out
    assert (run / "report" / "report.html").stat().st_mtime_ns == before


def test_a_missing_stage_is_named(run):
    (run / "kept" / "manifest.json").unlink()
    with pytest.raises(UserError, match="filter is not finished; type `cookbook filter --profile smoke --run"):
        report.write_report("smoke", run)


def test_a_critic_that_could_not_be_measured_is_reported_as_such(run):
    unknown = {"auc": None, "n": 3, "per_kind": {}}
    both = {"physics": unknown, "instruction": unknown}
    runs.write_json(run / "verdicts" / "calibration.json", {"questions": both, "held_out_corruptions": both})
    report.write_report("smoke", run)
    assert "could not be measured" in (run / "report" / "report.html").read_text()
    assert results.summary(run)["judge"]["follow_gain"]["gain"] is None


def test_nothing_kept_is_a_result_too(run):
    for name, text in (("kept", ""), ("dropped", "")):
        (run / "kept" / f"{name}.jsonl").write_text(text)
    report.write_report("smoke", run)
    assert "Kept: 0" in (run / "report" / "report.html").read_text()


def test_best_of_n_is_the_chance_of_a_success_without_replacement():
    assert results.best_of_n([[0, 1, 0, 0], [1, 1, 0, 0]]) == pytest.approx([0.375, (1 / 2 + 5 / 6) / 2, 0.875, 1.0])
    assert results.best_of_n([]) == []


def test_a_wide_clip_is_made_narrow_for_the_page(tmp_path):
    video.write_video(tmp_path / "wide.mp4", np.random.RandomState(0).randint(0, 255, (5, 432, 768, 3), np.uint8), 16)
    assert len(report._video(tmp_path / "wide.mp4")) < (tmp_path / "wide.mp4").stat().st_size


def test_the_table_of_kinds_says_what_was_done_and_to_how_many(run):
    table = report.critic_by_kind(run)
    assert table.loc["vanish", "clips"] == 4 and table.loc["vanish", "what was done"] == "the object disappears"
    assert list(table.columns) == ["clips", "physics", "instruction", "what was done"]


def test_every_kind_of_fault_is_explained():
    twins = pytest.importorskip("simulator.faults", reason="NOT RUN: needs pip install -e .[sim]")
    assert calibration_clips.FAULTS.keys() == {"real", "swapped", *twins.KINDS, *calibration_clips.CORRUPTIONS}


def test_sheets_show_one_clip_of_each_prompt(run):
    kept, dropped = report.kept_and_dropped(run)
    every = pd.concat([kept, dropped])
    assert len(every) > len(PROMPTS)
    assert sorted(report.one_each(every, 5)["prompt"]) == sorted(PROMPTS)
    assert len(report.one_each(every, 1)) == 1 and report.one_each(every.head(0), 3).empty


def test_a_smoke_report_says_that_it_means_nothing(run):
    report.write_report("smoke", run)
    assert "no figure means anything" in (run / "report" / "report.html").read_text()
