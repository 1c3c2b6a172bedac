"""Calibrating the critic: scores of clips with known faults, ROC and thresholds, before any verdict is used."""

import random
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from cookbook import profiles, runs, storage
from cookbook.errors import UserError
from cookbook.judge import calibration_clips
from cookbook.judge.calibration_clips import CORRUPTIONS, CalibrationClip, listing_hash
from cookbook.judge.rows import QUESTIONS, CalibrationScore
from cookbook.judge.rubrics import prompt_hashes
from cookbook.judge.scorer import Scorer, Task, score_rows
from cookbook.judge.statistics import auc, kappa, measure, retest
from cookbook.models import hub
from cookbook.models.frames import Sampled, sample_frames
from cookbook.profiles import Profile
from cookbook.video import read_video, write_video

NAME = "calibration.json"
RATINGS = "ratings.jsonl"  # in the run's folder
PER_KIND = 20  # calibration clips per corrupted copy of a kind, and per re-encoded clip
HEIGHT = 480  # pixels that a calibration clip is read at; no generated video of ours is higher
CRF = 28  # H.264 quality of re-encoded clips

Fault = Callable[[np.ndarray], np.ndarray]  # frames uint8 [T, H, W, 3] -> frames
Rows = dict[tuple[str, str, str], dict]  # (clip's name, kind, question) -> row of calibration_clips.jsonl


def calibrate(profile: str = "nano", run: Path | str | None = None) -> dict:
    """Measure the critic on clips with known faults, and choose the thresholds; `judge` does this first.

    Returns:
        What calibration.json holds.
    """
    chosen = profiles.get(profile)
    root = runs.run_folder(run, chosen.name)
    scorer = Scorer(hub.locate(chosen.critic), chosen.critic_fps, chosen.critic_tokens)
    return measure_critic(chosen, root, root / "verdicts", scorer)


def gather(profile: Profile, run: Path) -> tuple[list[CalibrationClip], list[CalibrationClip]]:
    """(clips that set the thresholds, held-out corruptions that do not).

    Without labelled clips, corrupted training clips set the thresholds. So do clips that people rated.
    """
    rated = calibration_clips.rated(run / RATINGS)
    if profile.calibration is None:
        training = calibration_clips.training_clips(run / "data" / "train")
        valid = calibration_clips.stratified(training, profile.calibration_clips)
        each = max(2, (profile.calibration_clips - len(valid)) // (len(CORRUPTIONS) + 1))
        return valid + calibration_clips.corrupted(valid, each) + rated, []
    main = calibration_clips.labelled(hub.locate(profile.calibration), profile.calibration_clips)
    valid, each = [clip for clip in main if clip.kind == "real"], max(2, profile.calibration_clips // PER_KIND)
    return main + rated, calibration_clips.corrupted(valid, each) if len(valid) > 1 else []


def quiz(profile: Profile, run: Path) -> list[CalibrationClip]:
    """Two valid and two impossible calibration clips in random order; always the same."""
    main, rng = gather(profile, run)[0], random.Random(4)
    valid, invalid = [c for c in main if c.kind == "real"], [c for c in main if c.physics == 0]
    return rng.sample(rng.sample(valid, 2) + rng.sample(invalid, 2), 4)


def load(folder: Path) -> dict | None:
    """The calibration of a verdicts folder, or None."""
    path = folder / NAME
    if not path.exists():
        return None
    try:
        calibration = storage.parse(path.read_bytes())
        for question in QUESTIONS:
            cut = calibration["questions"][question].get("threshold")
            if cut is not None and not 1 <= cut <= 5:
                raise ValueError(f"the threshold for {question} is {cut}, not a score from 1 to 5")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        fix = runs.command("calibrate", folder.parent)
        raise UserError(f"{path} cannot be used ({error}): type {fix} to make it again") from None
    return calibration


def measure_critic(profile: Profile, run: Path, folder: Path, scorer: Scorer) -> dict:
    """Score the calibration clips and write folder/calibration.json, unless it is there and up to date."""
    main, held_out = gather(profile, run)
    repeated = calibration_clips.reencoded(main, 2 * max(2, profile.calibration_clips // PER_KIND))
    clips = main + held_out + repeated
    made_from = {
        "critic": scorer.fingerprint,
        "prompts": prompt_hashes(),
        "clips": listing_hash(clips),
        "critic_fps": profile.critic_fps,
        "critic_tokens": profile.critic_tokens,
    }
    try:
        existing = load(folder)
    except UserError as error:
        print(f"calibrate: {str(error).split(': type')[0]}; it is computed again")
        existing = None
    if existing and existing["made_from"] == made_from:
        print(f"calibrate: {folder / NAME} is up to date")
        return existing
    (folder / NAME).unlink(missing_ok=True)
    rows = _scored(folder / "calibration_clips.jsonl", scorer, clips, made_from)
    valid = [clip for clip in main if clip.kind == "real"]  # both sets of faults are compared with the same valid clips
    calibration: dict = {"made_from": made_from, "clips": len(main)}
    calibration["questions"] = {q: _measured(rows, q, main) for q in QUESTIONS}
    calibration["held_out_corruptions"] = {q: _measured(rows, q, valid + held_out) for q in QUESTIONS}
    cuts = {q: calibration["questions"][q].get("threshold") for q in QUESTIONS}
    calibration["retest"] = {q: _retest(rows, q, repeated, cuts[q]) for q in QUESTIONS}
    calibration["human"] = {q: _agreement(rows, q, [clip for clip in main if clip.ratings]) for q in QUESTIONS}
    storage.write_json(folder / NAME, calibration)
    print_calibration(calibration)
    return calibration


def _scored(path: Path, scorer: Scorer, clips: list[CalibrationClip], made_from: dict) -> Rows:
    """The rows of calibration_clips.jsonl, the missing ones scored now."""
    tasks = []
    for clip in clips:
        facts = {"file": clip.name, "kind": clip.kind, "prompt": clip.prompt, "scene": clip.scene}
        facts["made_from"] = storage.digest_of({**made_from, "clips": listing_hash([clip])})
        own = {q: facts | {"question": q, "label": getattr(clip, q)} for q in clip.questions}
        tasks.append(Task(partial(sample_clip, clip), dict.fromkeys(own, clip.prompt), clip.name, own))
    rows, _ = score_rows(path, CalibrationScore, scorer, tasks, "scoring calibration clips")
    return {(row["file"], row["kind"], row["question"]): row for row in rows}


def read_frames(clip: CalibrationClip) -> tuple[np.ndarray, float]:
    """The frames of a calibration clip uint8 [T, H, W, 3], corrupted and re-encoded as it says, and their rate.

    H is at most HEIGHT.
    """
    frames, fps = read_video(clip.path, HEIGHT)
    if clip.corruption is not None:
        seed = int(storage.digest_of([clip.path.name, clip.corruption])[7:15], 16)
        frames = calibration_clips.corrupt(clip.corruption, frames, read_video(clip.other, HEIGHT)[0], seed)
    if not clip.reencoded:
        return frames, fps
    with TemporaryDirectory() as folder:
        write_video(Path(folder) / "clip.mp4", frames, fps, crf=CRF)
        return read_video(Path(folder) / "clip.mp4")


def sample_clip(clip: CalibrationClip, *size, fault: Fault | None = None) -> Sampled:
    """A calibration clip, with a fault of your own if there is one, for the critic; `size` as in `Task`."""
    frames, fps = read_frames(clip)
    return sample_frames(fault(frames) if fault else frames, fps, *size)


def _with_scores(rows: Rows, question: str, clips: list[CalibrationClip]) -> list[tuple[CalibrationClip, dict]]:
    """The clips that have a score for this question, with their rows."""
    pairs = [(clip, rows.get((clip.name, clip.kind, question))) for clip in clips]
    return [(clip, row) for clip, row in pairs if row and row["score"] is not None]


def _measured(rows: Rows, question: str, clips: list[CalibrationClip]) -> dict:
    labelled = [row for _, row in _with_scores(rows, question, clips) if row["label"] is not None]
    labels, scores = (np.array([row[key] for row in labelled]) for key in ("label", "score"))
    return measure(labels, scores, [row["kind"] for row in labelled], [row["scene"] for row in labelled])


def _retest(rows: Rows, question: str, repeated: list[CalibrationClip], cut: float | None) -> dict:
    """Scores of the same clips before and after re-encoding."""
    originals = [replace(clip, reencoded=False) for clip in repeated]
    both = [[rows.get((c.name, c.kind, question), {}).get("score") for c in part] for part in (originals, repeated)]
    scores = np.array(both, float)
    return retest(*scores[:, ~np.isnan(scores).any(0)], cut)


def _agreement(rows: Rows, question: str, clips: list[CalibrationClip]) -> dict:
    """Critic and people: kappa of rounded scores and ratings, and AUC on the clips with a clear rating."""
    pairs = [(dict(c.ratings).get(question), row) for c, row in _with_scores(rows, question, clips)]
    pairs = [(rating, row) for rating, row in pairs if rating is not None]
    clear = [row for _, row in pairs if row["label"] is not None]
    labels, scores = (np.array([row[key] for row in clear]) for key in ("label", "score"))
    ratings, digits = [round(rating) for rating, _ in pairs], [round(row["score"]) for _, row in pairs]
    return {"n": len(pairs), "kappa": kappa(digits, ratings) if pairs else None, "auc": auc(labels, scores)}


def print_calibration(calibration: dict) -> None:
    """A few lines per question: how accurate the critic is."""
    for question, facts in calibration["questions"].items():
        if facts["auc"] is None:
            print(f"{question}: {facts['n']} calibration clips of one class only, so no AUC and no threshold")
            continue
        low, high = facts["auc_interval"] or (float("nan"), float("nan"))
        print(
            f"{question}: AUC {facts['auc']:.2f} ({low:.2f} to {high:.2f}) on {facts['n']} clips; threshold "
            f"{facts['threshold']:.2f} keeps {facts['recall']:.0%} of the valid and {facts['false_alarms']:.0%} of the "
            f"invalid clips, {facts['rule']}"
        )
        held_out, again, human = (calibration[part][question] for part in ("held_out_corruptions", "retest", "human"))
        if held_out["auc"] is not None and held_out["per_kind"]:
            kind, worst = min(held_out["per_kind"].items(), key=lambda item: item[1]["auc"])
            print(f"  held-out corruptions: AUC {held_out['auc']:.2f}, lowest {kind} {worst['auc']:.2f}")
        if again["n"]:
            flips = "" if again["flipped"] is None else f", {again['flipped']:.0%} of the decisions flip"
            print(f"  retest of {again['n']} re-encoded clips: mean difference {again['difference']:.2f}{flips}")
        if human["n"]:
            value = "not defined" if human["kappa"] is None else f"{human['kappa']:.2f}"
            print(f"  {human['n']} clips rated by people: quadratic kappa {value}")
