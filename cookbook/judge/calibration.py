"""Measuring the critic on clips of known truth before it judges any: scores of the controls, ROC, thresholds."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from cookbook import runs, show
from cookbook.errors import UserError
from cookbook.judge import calibration_clips
from cookbook.judge import rows as files
from cookbook.judge.calibration_clips import CalibrationClip
from cookbook.judge.scorer import Scorer, Task
from cookbook.judge.scoring import QUESTIONS, prompt_hash
from cookbook.judge.statistics import auc, kappa, measure, retest
from cookbook.models import hub
from cookbook.models.frames import sample_frames
from cookbook.profiles import Profile
from cookbook.video import read_video, write_video

NAME = "calibration.json"
MARKS = "ratings.jsonl"  # in the run's folder: what people said of its videos
PER_KIND = 20  # one spoilt copy per kind, and one repeated clip, for every so many controls
AGAIN = 28  # quantiser under which clips are encoded once more


def gather(profile: Profile, run: Path) -> tuple[list[CalibrationClip], list[CalibrationClip]]:
    """(the controls that decide, those reported apart). Without labelled ones, spoilt training clips decide.

    Clips that people marked are among those that decide.
    """
    marks = calibration_clips.marked(run / MARKS)
    if profile.calibration is None:
        good = calibration_clips.stratified(
            calibration_clips.good_clips(run / "data" / "train"), profile.calibration_clips
        )
        each = max(2, (profile.calibration_clips - len(good)) // (len(calibration_clips.CORRUPTIONS) + 1))
        return good + calibration_clips.corrupted(good, each) + marks, []
    main = calibration_clips.labelled(hub.locate(profile.calibration), profile.calibration_clips)
    good = [control for control in main if control.kind == "real"]
    return main + marks, calibration_clips.corrupted(good, max(2, profile.calibration_clips // PER_KIND)) if len(
        good
    ) > 1 else []


def puzzle(profile: Profile, run: Path) -> list[CalibrationClip]:
    """Two sound and two impossible ones among the controls that decide, in no order; always the same."""
    main, draw = gather(profile, run)[0], random.Random(4)
    sound, broken = [c for c in main if c.kind == "real"], [c for c in main if c.physics == 0]
    return draw.sample(draw.sample(sound, 2) + draw.sample(broken, 2), 4)


def load(folder: Path) -> dict | None:
    """The calibration of a verdicts folder, or None."""
    path = folder / NAME
    if not path.exists():
        return None
    try:
        found = json.loads(path.read_text())
        for question in QUESTIONS:
            cut = found["questions"][question].get("threshold")
            if cut is not None and not 1 <= cut <= 5:
                raise ValueError(f"the threshold for {question} is {cut}, not a score from 1 to 5")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        again = runs.command("judge", folder.parent, None, "--calibrate")
        raise UserError(f"{path} cannot be used ({error}): delete it and type {again}") from None
    return found


def calibrate(profile: Profile, run: Path, folder: Path, panel: Scorer) -> dict:
    """Score the controls into folder/calibration_clips.jsonl and write folder/calibration.json, unless it is there."""
    main, apart = gather(profile, run)
    again = calibration_clips.repeated(main, 2 * max(2, profile.calibration_clips // PER_KIND))
    made_from = {
        "critic": panel.fingerprint,
        "prompts": {question: prompt_hash(question) for question in QUESTIONS},
        "controls": calibration_clips.listing_hash(main + apart + again),
        "critic_fps": profile.critic_fps,
        "critic_tokens": profile.critic_tokens,
    }
    found = load(folder)
    if found and found["made_from"] == made_from:
        print(f"judge: found {folder / NAME}, the critic is measured")
        return found
    (folder / NAME).unlink(missing_ok=True)
    rows = _scored(folder / "calibration_clips.jsonl", panel, main + apart + again, made_from)
    calibration = {
        "made_from": made_from,
        "controls": len(main),
        "questions": {},
        "apart": {},
        "again": {},
        "human": {},
    }
    for question in QUESTIONS:
        calibration["questions"][question] = _measured(rows, question, main)
        # the sound clips are shared: each set of faults is told from the same ones
        calibration["apart"][question] = _measured(rows, question, [c for c in main if c.kind == "real"] + apart)
        cut = calibration["questions"][question].get("threshold")
        calibration["again"][question] = _repeated(rows, question, again, cut)
        calibration["human"][question] = _agreement(rows, question, [c for c in main if c.marks])
    runs.write_json(folder / NAME, calibration)
    report(calibration)
    return calibration


def _scored(path: Path, panel: Scorer, controls: list[CalibrationClip], made: dict) -> dict[tuple, dict]:
    """Rows of calibration_clips.jsonl by (name, kind, question), the missing ones scored now."""
    sources = {c: runs.digest_of({**made, "controls": calibration_clips.listing_hash([c])}) for c in controls}
    rows = files.read(path, files.Measured)
    fresh = [row for row in rows if row["made_from"] in sources.values()]
    if len(fresh) < len(rows):
        runs.write_rows(path, fresh)
    known_rows = {(row["file"], row["kind"], row["question"]): row for row in fresh}
    tasks = []
    for control in controls:
        tasks.append(
            Task(
                sample=lambda *size, control=control: sample_frames(*frames(control), *size),
                prompts=dict.fromkeys(control.questions, control.prompt),
                done=frozenset(q for q in QUESTIONS if (control.name, control.kind, q) in known_rows),
                tag=control,
            )
        )
    total = sum(len(task.prompts.keys() - task.done) for task in tasks)
    for task, question, answer in show.progress(panel.score(tasks), "judging controls", total):
        control = task.tag
        row = {
            "file": control.name,
            "kind": control.kind,
            "prompt": control.prompt,
            "scene": control.scene,
            "question": question,
            "label": getattr(control, question),
            **answer,
            "made_from": sources[control],
        }
        runs.append_row(path, row)
        known_rows[control.name, control.kind, question] = row
    return known_rows


def frames(control: CalibrationClip) -> tuple[np.ndarray, float]:
    """What the critic is shown of a control, uint8 [T, H, W, 3], and its rate."""
    shown, fps = read_video(control.path)
    if control.spoil is not None:
        seed = int(runs.digest_of([control.path.name, control.spoil])[7:15], 16)
        shown = calibration_clips.corrupt(control.spoil, shown, read_video(control.other)[0], seed)
    if not control.again:
        return shown, fps
    with TemporaryDirectory() as folder:
        write_video(Path(folder) / "again.mp4", shown, fps, crf=AGAIN)
        return read_video(Path(folder) / "again.mp4")


def _answered(
    rows: dict[tuple, dict], question: str, controls: list[CalibrationClip]
) -> list[tuple[CalibrationClip, dict]]:
    """The controls that have a score for this question, with their rows."""
    found = [(control, rows.get((control.name, control.kind, question))) for control in controls]
    return [(control, row) for control, row in found if row and row["score"] is not None]


def _measured(rows: dict[tuple, dict], question: str, controls: list[CalibrationClip]) -> dict:
    chosen = [row for _, row in _answered(rows, question, controls) if row["label"] is not None]
    labels, scores = (np.array([row[key] for row in chosen]) for key in ("label", "score"))
    return measure(labels, scores, [row["kind"] for row in chosen], [row["scene"] for row in chosen])


def _repeated(rows: dict[tuple, dict], question: str, again: list[CalibrationClip], cut: float | None) -> dict:
    """The test-retest: scores of the same clips before and after they were encoded once more."""
    pairs = []
    for control, row in _answered(rows, question, again):
        first = _answered(rows, question, [replace(control, again=False)])
        pairs += [(first[0][1]["score"], row["score"])] if first else []
    return retest(*np.array(pairs, float).reshape(-1, 2).T, cut)


def _agreement(rows: dict[tuple, dict], question: str, controls: list[CalibrationClip]) -> dict:
    """The critic beside people: kappa of rounded scores and marks, and AUC on the clips that were marked clearly."""
    chosen = [
        (dict(c.marks)[question], row) for c, row in _answered(rows, question, controls) if question in dict(c.marks)
    ]
    clear = [row for _, row in chosen if row["label"] is not None]
    labels, scores = (np.array([row[key] for row in clear]) for key in ("label", "score"))
    marks, digits = [round(mark) for mark, _ in chosen], [round(row["score"]) for _, row in chosen]
    return {
        "n": len(chosen),
        "kappa": kappa(digits, marks) if chosen else None,
        "auc": auc(labels, scores) if clear else None,
    }


def report(calibration: dict) -> None:
    """A few lines per question: how far the critic can be trusted."""
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
        apart, again, human = (calibration[part][question] for part in ("apart", "again", "human"))
        if apart["auc"] is not None and apart["per_kind"]:
            worst, told = min(apart["per_kind"].items(), key=lambda kind: kind[1]["auc"])
            print(f"  faults made without a simulator: AUC {apart['auc']:.2f}, worst {worst} {told['auc']:.2f}")
        if again["n"]:
            flips = "" if again["flipped"] is None else f", {again['flipped']:.0%} of the decisions flip"
            print(f"  {again['n']} clips encoded once more: scores move by {again['difference']:.2f}{flips}")
        if human["n"]:
            worth = "not defined" if human["kappa"] is None else f"{human['kappa']:.2f}"
            print(f"  {human['n']} clips marked by people: quadratic kappa {worth}")
