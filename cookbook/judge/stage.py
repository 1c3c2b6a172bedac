"""Stage judge: the critic is calibrated, then it gives every generated video two scores from 1 to 5.

Reads generated/base and generated/tuned; writes verdicts/verdicts.jsonl (one row per video and question),
calibration.json, calibration_clips.jsonl and, where the scenes are known, ground_truth.jsonl (one row per video).
"""

import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from statistics import fmean

import numpy as np

from cookbook import profiles, runs, storage
from cookbook.errors import UserError
from cookbook.judge import calibration, ground_truth
from cookbook.judge.ground_truth import MODELS, SILENT
from cookbook.judge.rows import QUESTIONS, Verdict, require_video
from cookbook.judge.rubrics import prompt_hashes
from cookbook.judge.scorer import Scorer, Task, score_rows
from cookbook.judge.statistics import best_of, share
from cookbook.models import hub
from cookbook.models.frames import sample_video

MENDED = {*(f"generate-{model}" for model in MODELS), "ratings"}  # changed inputs that leave other videos' verdicts
NAME = 180  # bytes of a critic's name in that of its verdicts' folder; a name has at most 255


@runs.releasing
def judge(
    profile: str = "nano",
    run: Path | str | None = None,
    critic: Path | str | None = None,
    ray: str | None = None,
    redo: bool = False,
) -> dict:
    """Score every generated video of a run for physics and for following its instruction.

    Args:
        critic: folder of another critic than the profile's, such as one of notebook 05; its verdicts go to
            `verdicts-<folder name>`, with a part of its hash behind it if another critic's are there.
        ray: address of a Ray cluster (host:port, or auto), or local for all GPUs of this machine; needs the extra
            `cluster`. This process alone when empty.
        redo: judge all videos again. Without it, new or changed videos cost only their own verdicts.

    Returns:
        The stage's manifest.
    """
    chosen = profiles.get(profile)
    root = runs.run_folder(run, chosen.name)
    weights = storage.absolute(critic) if critic else hub.locate(chosen.critic)
    scorer = Scorer(weights, chosen.critic_fps, chosen.critic_tokens, ray)
    folder = root / (f"verdicts-{weights.name.encode()[:NAME].decode(errors='ignore')}" if critic else "verdicts")
    if critic and (held := runs.begun(folder)) and held["inputs"]["critic"] != scorer.fingerprint:
        folder = root / f"{folder.name}-{scorer.fingerprint[7:15]}"  # another critic of the same name has been here
    rows, inputs = list_generated(root)
    silent, more = list_generated(root, (SILENT,))
    inputs |= more
    if (root / calibration.RATINGS).exists():
        inputs["ratings"] = storage.digest(root / calibration.RATINGS)
    inputs |= {"critic": scorer.fingerprint, "prompts": storage.digest_of([*prompt_hashes().values()])}
    settings = {"fps": chosen.critic_fps, "tokens": chosen.critic_tokens}
    stage = runs.enter(folder, "judge", chosen.name, inputs, settings, redo, MENDED.issuperset)
    if stage.done:
        return stage.manifest
    tokens = chosen.critic_tokens
    print(f"judge: {len(rows)} clips, {len(QUESTIONS)} questions each, up to {tokens} visual tokens a clip")
    critic_facts = calibration.measure_critic(chosen, root, folder, scorer)
    clock = time.monotonic()
    verdicts, scored = judge_rows(folder / "verdicts.jsonl", scorer, rows)
    per_clip = (time.monotonic() - clock) / max(1, scored)
    (folder / ground_truth.NAME).unlink(missing_ok=True)  # a row does not say of which version of a video it is
    outcomes = ground_truth.measure(chosen, rows + silent, folder / ground_truth.NAME)
    facts = summarise(verdicts, critic_facts) | ground_truth.rates(outcomes)
    seconds = [row["seconds"] for row in rows if row.get("seconds") is not None]
    facts["best_of_n"] = best_of_n(verdicts, outcomes, fmean(seconds) + per_clip if seconds and scored else None)
    print_summary(facts)
    names = ("verdicts.jsonl", "calibration.json", "calibration_clips.jsonl", ground_truth.NAME)
    outputs = [path for name in names if (path := folder / name).exists()]
    facts["seconds_per_clip"] = round(per_clip, 3) if scored else None
    return stage.finish(outputs, clips=len(rows), critic=scorer.fingerprint, **facts)


def list_generated(run: Path, models: Sequence[str] = MODELS) -> tuple[list[dict], dict[str, str]]:
    """Clips of generated/<model> of each of `models` in order, and the fingerprints of the folders."""
    rows, inputs = [], {}
    for model in models:
        folder = run / "generated" / model
        if runs.read_manifest(folder) is None:
            continue
        inputs[f"generate-{model}"] = runs.fingerprint(folder)
        for row in storage.read_rows(folder / "generated.jsonl"):
            if not row.get("blocked"):
                facts = {key: row[key] for key in ("model", "name", "prompt", "seed")}
                facts |= {"image": row["image_sha256"], "seconds": row.get("seconds")}
                rows.append({"file": f"generated/{model}/{row['file']}", "path": folder / row["file"], **facts})
                require_video(run, rows[-1]["file"])
    if not rows and models is MODELS:
        raise UserError(f"{run / 'generated'} holds no finished videos: type {runs.command('generate', run)} first")
    return sorted(rows, key=lambda row: row["file"]), inputs


def judge_rows(path: Path, scorer: Scorer, rows: Sequence[dict]) -> tuple[list[dict], int]:
    """All rows of verdicts.jsonl, the missing ones scored now, and how many clips that took."""
    tasks = []
    for row in rows:
        facts = {key: row[key] for key in ("file", "model", "name", "prompt", "seed")}
        facts["sha256"] = storage.digest(row["path"])
        own, prompts = {q: facts | {"question": q} for q in QUESTIONS}, dict.fromkeys(QUESTIONS, row["prompt"])
        tasks.append(Task(partial(sample_video, row["path"]), prompts, row["file"], own))
    return score_rows(path, Verdict, scorer, tasks, "judging")


def summarise(verdicts: Sequence[dict], critic: dict) -> dict:
    """Facts for the manifest: the critic's AUC, and per model the share of clips that pass, with its 95 % CI."""
    failed = sorted({verdict["file"] for verdict in verdicts if verdict["score"] is None})
    facts: dict = {"unjudged": failed}
    for question, about in QUESTIONS.items():
        measured = critic["questions"][question]
        facts[f"auc_{question}"], cut = measured.get("auc"), measured.get("threshold")
        for model in MODELS:
            rows = [v for v in verdicts if v["model"] == model and v["question"] == question and v["score"] is not None]
            rate = edges = None
            if rows and cut is not None:
                rate, edges = share([row["score"] >= cut for row in rows], [row["prompt"] for row in rows])
            facts[f"{about.rate}_rate_{model}"], facts[f"{about.rate}_rate_{model}_interval"] = rate, edges
    return facts


def best_of_n(verdicts: Sequence[dict], outcomes: Sequence[dict], cost: float | None) -> list[dict]:
    """The yield of taking the best of n tuned seeds by the critic's scores, over all subsets of n, with 95 % CI.

    Args:
        outcomes: rows of ground_truth.jsonl, empty where the scenes are not known.
        cost: seconds to generate and judge one clip.

    Returns:
        For each n: the mean of both scores of the selected clip; its success rate and how much that is above
        a random clip's (`gain`); the seconds that n clips take. None where unknown.
    """
    clips: dict[str, dict[str, list[float]]] = {}  # name of the prompt -> file -> its scores
    for verdict in verdicts:
        if verdict["model"] == "tuned" and verdict["score"] is not None:
            clips.setdefault(verdict["name"], {}).setdefault(verdict["file"], []).append(verdict["score"])
    passed = {row["file"]: float(row["passed"]) for row in outcomes}
    scores = [[fmean(both) for both in files.values()] for files in clips.values()]
    successes = [[passed.get(file) for file in files] for files in clips.values()]
    measured = bool(clips) and all(None not in prompt for prompt in successes)
    curve = []
    for take in range(1, min(map(len, scores), default=0) + 1):
        values = {"score": [best_of(prompt, take) for prompt in scores], "success": None, "gain": None}
        if measured:
            pairs = list(zip(scores, successes, strict=True))
            values["success"] = [best_of(score, take, success) for score, success in pairs]
            values["gain"] = np.subtract(values["success"], [best_of(score, 1, success) for score, success in pairs])
        point: dict = {"n": take, "seconds": None if cost is None else round(take * cost, 2)}
        for name, value in values.items():
            known = (None, None) if value is None else share(value, list(clips))
            point[name], point[f"{name}_interval"] = known
        curve.append(point)
    return curve


def print_summary(facts: dict) -> None:
    """The stage's rates with their 95 % CI, one a line."""
    lines = {
        "follow": "{}: by the critic {:.0%} of the clips follow their instruction ({:.0%} to {:.0%})",
        "success": "{}: success rate {:.0%} by the ground truth ({:.0%} to {:.0%})",
    }
    for model in MODELS:
        for word, line in lines.items():
            if (rate := facts[f"{word}_rate_{model}"]) is not None:
                edges = facts[f"{word}_rate_{model}_interval"] or (float("nan"), float("nan"))
                print(line.format(model, rate, *edges))
    if facts["best_of_n"] and (last := facts["best_of_n"][-1])["gain_interval"]:
        low, high = last["gain_interval"]
        print(
            f"best of {last['n']} by the critic: success rate {last['success']:.0%}, {last['gain']:+.0%} against a "
            f"random one ({low:+.0%} to {high:+.0%})"
        )
    if facts["unjudged"]:
        print(f"{len(facts['unjudged'])} clips could not be judged, see verdicts.jsonl; first {facts['unjudged'][0]}")
