"""Measuring the critic on clips of known truth before it judges any: scores of the controls, ROC, thresholds."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from cookbook import show, store
from cookbook.judge import controls as known
from cookbook.judge.controls import Control
from cookbook.judge.scoring import QUESTIONS, prompt_hash
from cookbook.judge.statistics import measure
from cookbook.judge.verdicts import Task, score_tasks
from cookbook.models import hub
from cookbook.models.critic import Critic
from cookbook.profiles import Profile
from cookbook.video import read_video

NAME = "calibration.json"
PER_KIND = 20  # one spoilt copy per kind for every so many controls, beside the labelled ones


def gather(profile: Profile, run: Path) -> tuple[list[Control], list[Control]]:
    """(the controls that decide, those reported apart). Without labelled ones, spoilt training clips decide."""
    if profile.controls is None:
        good = known.stratified(known.good_clips(run / "data" / "train"), profile.control_clips)
        return good + known.spoilt(good, max(2, (profile.control_clips - len(good)) // 8)), []
    main = known.labelled(hub.locate(profile.controls), profile.control_clips)
    good = [control for control in main if control.kind == "real"]
    return main, known.spoilt(good, max(2, profile.control_clips // PER_KIND)) if len(good) > 1 else []


def load(folder: Path) -> dict | None:
    """The calibration of a verdicts folder, or None."""
    path = folder / NAME
    return json.loads(path.read_text()) if path.exists() else None


def calibrate(profile: Profile, run: Path, folder: Path, critic: Critic) -> dict:
    """Score the controls into folder/controls.jsonl and write folder/calibration.json, unless it is there."""
    main, apart = gather(profile, run)
    made_from = {
        "critic": critic.fingerprint,
        "prompts": {question: prompt_hash(question) for question in QUESTIONS},
        "controls": known.listing_hash(main + apart),
        "critic_fps": profile.critic_fps,
        "critic_tokens": profile.critic_tokens,
    }
    found = load(folder)
    if found and found["made_from"] == made_from:
        print(f"judge: found {folder / NAME}, the critic is measured")
        return found
    (folder / NAME).unlink(missing_ok=True)
    rows = _scored(profile, folder / "controls.jsonl", critic, main + apart, store.digest_of(made_from))
    calibration = {"made_from": made_from, "controls": len(main), "questions": {}, "apart": {}}
    for question in QUESTIONS:
        calibration["questions"][question] = _measured(rows, question, main)
        # the sound clips are shared: each set of faults is told from the same ones
        calibration["apart"][question] = _measured(rows, question, [c for c in main if c.kind == "real"] + apart)
    store.write_json(folder / NAME, calibration)
    report(calibration)
    return calibration


def _scored(profile: Profile, path: Path, critic: Critic, controls: list[Control], made_from: str) -> dict[tuple, dict]:
    """Rows of controls.jsonl by (name, kind, question), the missing ones scored now."""
    rows = store.read_rows(path)
    if any(row["made_from"] != made_from for row in rows):
        path.unlink()
        rows = []
    known_rows = {(row["file"], row["kind"], row["question"]): row for row in rows}
    tasks = []
    for number, control in enumerate(controls):
        tasks.append(
            Task(
                load=lambda control=control, number=number: _frames(control, number),
                prompts={question: control.prompt for question in QUESTIONS if getattr(control, question) is not None},
                done=frozenset(q for q in QUESTIONS if (control.name, control.kind, q) in known_rows),
                tag=control,
            )
        )
    total = sum(len(task.prompts.keys() - task.done) for task in tasks)
    answers = score_tasks(critic, tasks, profile.critic_fps, profile.critic_tokens)
    for task, question, answer in show.progress(answers, "judging controls", total):
        control = task.tag
        row = {
            "file": control.name,
            "kind": control.kind,
            "prompt": control.prompt,
            "scene": control.scene,
            "question": question,
            "label": getattr(control, question),
            **answer,
            "made_from": made_from,
        }
        store.append_row(path, row)
        known_rows[control.name, control.kind, question] = row
    return known_rows


def _frames(control: Control, seed: int) -> tuple[np.ndarray, float]:
    frames, fps = read_video(control.path)
    if control.spoil is None:
        return frames, fps
    return known.spoil(control.spoil, frames, read_video(control.other)[0], seed), fps


def _measured(rows: dict[tuple, dict], question: str, controls: list[Control]) -> dict:
    chosen = [rows.get((control.name, control.kind, question)) for control in controls]
    chosen = [row for row in chosen if row and row["score"] is not None]
    labels, scores = (np.array([row[key] for row in chosen]) for key in ("label", "score"))
    return measure(labels, scores, [row["kind"] for row in chosen], [row["scene"] for row in chosen])


def report(calibration: dict) -> None:
    """One line per question: how far the critic can be trusted."""
    for question, facts in calibration["questions"].items():
        if facts["auc"] is None:
            print(f"{question}: {facts['n']} controls of one class only, the critic cannot be measured on them")
            continue
        low, high = facts["auc_interval"] or (float("nan"), float("nan"))
        print(
            f"{question}: AUC {facts['auc']:.2f} ({low:.2f} to {high:.2f}) on {facts['n']} controls; threshold "
            f"{facts['threshold']:.2f} keeps {facts['recall']:.0%} of the sound and {facts['false_alarms']:.0%} of the "
            f"broken clips, {facts['rule']}"
        )
