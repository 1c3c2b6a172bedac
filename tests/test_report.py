"""The report of a small artificial run, written by the functions that the stages use."""

from __future__ import annotations

import json
import re
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import tiny

from cookbook import notebooks, profiles, report, results, runs, storage, video
from cookbook.actions import motion
from cookbook.judge import calibration_clips
from tools import expected

finish = partial(tiny.finish, profile="smoke")
PROMPTS = ["Use the left hand to lift <b>the cup</b>.", "Use the right hand to lift the pear."]


def measured(auc: float) -> dict:
    return {
        "auc": auc,
        "auc_interval": [auc - 0.1, 1.0],
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
    log = [{"step": step, "loss": 1 / step, "lr": 0.01} for step in range(1, 21)]
    facts = {"loss_first": 0.75, "loss_last": 0.05, "weights_changed": 0.01}
    facts |= {"heldout_before": 0.6, "heldout_after": 0.4, "heldout_zero_velocity": 1.0}
    finish(tmp_path, "train", {"log.jsonl": log}, **facts)
    finish(tmp_path, "convert", {}, max_abs_diff=0.0)
    for model in ("base", "tuned", "no_text"):
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
    rates = {"follow_rate_base": 0.0, "follow_rate_tuned": 0.5}
    rates |= {"success_rate_base": 0.0, "success_rate_tuned": 0.5}
    rates |= {"follow_rate_tuned_interval": [0.2, 0.8], "success_rate_tuned_interval": [0.1, 0.9]}
    hand = {"clips": 4, "own": 0.75, "interval": [0.5, 1.0], "partner": 0.25, "neither": 0.0}
    rates["obedience"] = {"hand": hand, "no_text": {"hand": 0.5}}
    curve = [{"n": n, "success": n / 2, "success_interval": [n / 2, 1.0]} for n in (1, 2)]
    outcome = {
        True: {"outcome": "placed", "reason": "", "passed": True},
        False: {"outcome": "not placed", "reason": "no arm moved", "passed": False},
    }
    outcomes = [clip | outcome[high] for clip, high in zip(every, good, strict=True)]
    files = {"ground_truth.jsonl": outcomes, "verdicts.jsonl": verdicts, "calibration.json": calibration}
    finish(tmp_path, "judge", files, best_of_n=curve, **rates)
    rows = {True: [], False: []}
    for clip, high in zip(every, good, strict=True):
        if clip["model"] == "tuned":
            rows[high].append({**clip, "video": Path(clip["file"]).name, "reason": "high" if high else "low"})
    finish(tmp_path, "filter", {"kept.jsonl": rows[True], "dropped.jsonl": rows[False]})
    moved = [
        {key: clip[key] for key in ("file", "model")} | {"image": clip["name"], "success": high}
        for clip, high in zip(every, good, strict=True)
    ]
    motion_scores = [{"file": clip["file"]} | dict.fromkeys(motion.SCORES, 1.0) for clip in every]
    finish(tmp_path, "actions", {"actions.jsonl": motion_scores})
    finish(tmp_path, "execute", {"executed.jsonl": moved})
    finish(tmp_path, "actions-export", {})
    return tmp_path


def test_the_summary_has_the_figures_of_every_stage(run, capsys):
    report.write_report("smoke", run)
    facts = json.loads((run / "report" / "summary.json").read_text())
    assert facts["profile"] == "smoke" and set(facts["seconds"]) == set(runs.FOLDERS) - {"report"}
    assert facts["obedience"]["hand"]["interval"] == [0.5, 1.0]
    assert facts["results"] == {
        "training_loss_first_tenth": 0.75,
        "training_loss_last_tenth": 0.05,
        "heldout_loss_before": 0.6,
        "heldout_loss_after": 0.4,
        "export_max_difference": 0,
        "videos_base": 2,
        "videos_tuned": 4,
        "critic_auc_physics": 0.9,
        "critic_auc_instruction": 0.8,
        "followed_rate_base_by_critic": 0.0,
        "followed_rate_tuned_by_critic": 0.5,
        "success_rate_base": 0.0,
        "success_rate_tuned": 0.5,
        "success_rate_kept": 1.0,
        "obedience_rate_hand": 0.75,
        "no_text_rate_hand": 0.5,
        "critic_auc_success": 1.0,
        "executed_rate_base": 0.0,
        "executed_rate_tuned": 0.5,
        "executed_rate_kept": 1.0,
        "executed_auc_critic": 1.0,
        "executed_auc_pixels": 1.0,
        **{f"executed_auc_{name}": 0.5 for name in motion.SCORES},
        "videos_kept": 2,
        "videos_dropped": 2,
    }
    assert results.table({"kept": 4, "success_rate": None}) == "kept          4\nsuccess rate  unknown"
    assert results.gain(run) == {"pairs": 2, "gain": 1.0, "interval": [1.0, 1.0]}
    truth = {"clips": 4, "auc": 1.0, "all": 0.5, "kept": 1.0, "gain": 0.5, "interval": [0.5, 0.5]}
    assert results.critic_against_ground_truth(run) == truth
    assert results.kept_of_n(run) == [0.5, 1.0]
    page = (run / "report" / "report.html").stat().st_mtime_ns
    report.write_report("smoke", run)
    assert "report: found" in capsys.readouterr().out and (run / "report" / "report.html").stat().st_mtime_ns == page


def test_published_figures_have_their_range(run):
    figures = expected.figures(run)
    assert figures.keys() == expected.RANGES.keys()
    assert figures["held-out loss"][2] == ("held-out loss, after", 0.4, 0.36, 0.44)
    assert figures["critic"][0] == ("physics: AUC", 0.9, 0.8, 1.0)
    assert [row[1:] for row in figures["verdicts"]] == [(0.5, 0.2, 0.8), (0.5, 0.1, 0.9), (1.0, 1.0, 1.0)]


def test_tables_count_outcomes_by_reason_and_describe_faults(run):
    table = report.outcomes(run)
    assert table.loc[("placed", "-"), "tuned"] == 2 and table.loc[("not placed", "no arm moved"), "base"] == 2
    table = report.critic_by_kind(run)
    assert list(table.columns) == ["clips", "physics", "instruction", "difference to a valid clip"]
    vanish = table.loc["vanish"]
    assert vanish["clips"] == 4 and vanish["difference to a valid clip"] == "the object disappears"


def test_the_page_is_self_contained_and_escapes_prompts(run):
    report.write_report("smoke", run)
    page = (run / "report" / "report.html").read_text()
    sources = re.findall(r'src="([^"]{0,20})', page)
    assert sources and all(source.startswith("data:") for source in sources)
    assert "http" not in re.sub(r"base64,[^\"]*", "", page)
    assert page.count("<video") == 4
    assert "<b>the cup</b>" not in page and "&lt;b&gt;the cup" in page
    pictures = {"loss", "roc", "scores", "best_of_n", "pairs", "kept", "dropped"}
    assert pictures == set(re.findall(r'<img alt="(\w+)"', page))
    assert "Instructions followed, tuned minus base, on the 2 photos and seeds" in page and "+100% to +100%" in page
    assert "no figure means anything" in page, "the warning of a minimal profile"


def test_a_run_without_ground_truth_threshold_or_kept_video_has_a_report(run):
    (run / "verdicts" / "ground_truth.jsonl").unlink()
    for name in ("kept", "dropped"):
        (run / "kept" / f"{name}.jsonl").write_text("")
    unknown = {"auc": None, "n": 3, "per_kind": {}}
    both = {"physics": unknown, "instruction": unknown}
    storage.write_json(run / "verdicts" / "calibration.json", {"questions": both, "held_out_corruptions": both})
    report.write_report("nano", run)
    page = (run / "report" / "report.html").read_text()
    for text in ("come without masks", "The critic has no threshold", "Kept: 0"):
        assert text in page
    assert "no figure means anything" not in page, "nano has results"
    assert results.gain(run)["gain"] is None
    unknown = dict.fromkeys(("auc", "all", "kept", "gain", "interval"))
    assert results.critic_against_ground_truth(run) == {"clips": 0, **unknown}


def test_a_run_ends_with_its_results_and_checks_also_where_the_guardrail_blocked_every_video(run, capsys):
    storage.write_rows(run / "generated/tuned/generated.jsonl", [{"name": "0", "blocked": True}])
    assert notebooks._conclude(profiles.nano(), run, {}) == results.summary(run)
    printed = capsys.readouterr().out
    assert "train" in printed and "executed" in printed and results.table(results.summary(run)["results"]) in printed
    assert printed.count("\n  ok  ") == 3 and "FAILED" not in printed


def test_every_type_of_fault_is_described():
    simulated = pytest.importorskip("simulator.faults", reason="NOT RUN: needs pip install -e .[sim]")
    assert calibration_clips.FAULTS.keys() == {"real", "swapped", *simulated.KINDS, *calibration_clips.CORRUPTIONS}
