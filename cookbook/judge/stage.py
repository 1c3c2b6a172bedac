"""Stage judge: the critic is calibrated, then it gives every generated video two scores from 1 to 5.

Reads generated/base and generated/tuned, or any folder of videos; writes verdicts/verdicts.jsonl (one row per video and
question), calibration.json, calibration_clips.jsonl and, where the scenes are known, ground_truth.jsonl (one row per
video).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from statistics import fmean

import numpy as np

from cookbook import profiles, runs, show
from cookbook.errors import UserError
from cookbook.judge import calibration, ground_truth
from cookbook.judge.ground_truth import MODELS
from cookbook.judge.rows import QUESTIONS, Verdict, read_validated
from cookbook.judge.rubrics import prompt_hash, unusable_rubrics
from cookbook.judge.scorer import Scorer, Task
from cookbook.judge.statistics import best_of, interval, share
from cookbook.layout import read_metadata, read_text
from cookbook.models.frames import sample_video

RATES = {"physics": "plausible", "instruction": "follow"}  # question -> name of its rate in the manifest


def judge(
    profile: str = "nano",
    run: Path | str | None = None,
    clips: Path | str | None = None,
    explain: bool = False,
    critic: Path | str | None = None,
    ray: str | None = None,
    redo: bool = False,
) -> dict:
    """Score every generated video of a run, or every mp4 of a folder, for physics and for following its instruction.

    Args:
        clips: a folder of videos to judge instead of the run's; their verdicts go to `verdicts-<folder name>`. Prompts
            come from its generated.jsonl or metadata.csv, else from <stem>.txt, else from the file's name.
        explain: let the critic also write its reasoning (real models; the nano critic cannot write).
        critic: folder of another critic than the profile's, such as one of notebook 05; its verdicts go to
            `verdicts-<folder name>`.
        ray: address of a Ray cluster (host:port, or auto), or local for all GPUs of this machine; needs the extra
            `cluster`. This process alone when empty.
        redo: judge all videos again.

    Returns:
        The stage's manifest.
    """
    chosen = profiles.get(profile)
    root = runs.run_folder(run, chosen.name)
    own = calibration.verdicts_folder(root, critic)
    folder = own if clips is None else root / f"{own.name}-{Path(clips).absolute().name}"
    scorer = calibration.open_scorer(chosen, critic, ray)
    rows, inputs = list_generated(root) if clips is None else list_clips(Path(clips).expanduser().absolute())
    if clips is None and (root / calibration.RATINGS).exists():
        inputs["ratings"] = runs.digest(root / calibration.RATINGS)
    inputs |= {"critic": scorer.fingerprint, "prompts": runs.digest_of([prompt_hash(q) for q in QUESTIONS])}
    settings = {"fps": chosen.critic_fps, "tokens": chosen.critic_tokens, "explain": explain}
    stage = runs.enter(folder, "judge", chosen.name, inputs, settings, redo)
    if stage.done:
        return stage.manifest
    _announce(len(rows), chosen.critic_tokens, explain and not scorer.writes)
    critic_facts = calibration.measure_critic(chosen, root, folder, scorer) if clips is None else calibration.load(own)
    if critic_facts is None or critic_facts["made_from"]["critic"] != scorer.fingerprint:
        critic_facts, first = None, runs.command("calibrate", root, chosen.name)
        show.banner(f"this critic has not been calibrated, so its scores have no threshold: type {first} first")
    clock = time.monotonic()
    verdicts, scored = judge_rows(folder / "verdicts.jsonl", scorer, rows, explain)
    per_clip = (time.monotonic() - clock) / max(1, scored)
    outcomes = ground_truth.measure(chosen, rows, folder / ground_truth.NAME) if clips is None else []
    facts = summarise(verdicts, critic_facts) | ground_truth.rates(outcomes)
    seconds = [row["seconds"] for row in rows if row.get("seconds") is not None]
    facts["best_of_n"] = best_of_n(verdicts, outcomes, fmean(seconds) + per_clip if seconds and scored else None)
    print_summary(facts)
    names = ("verdicts.jsonl", "calibration.json", "calibration_clips.jsonl", ground_truth.NAME)
    outputs = [path for name in names if (path := folder / name).exists()]
    facts["seconds_per_clip"] = round(per_clip, 3) if scored else None
    return stage.finish(outputs, clips=len(rows), critic=scorer.fingerprint, **facts)


def _announce(clips: int, tokens: int, cannot_write: bool) -> None:
    """Print the number of clips to judge, and the clips that are left out."""
    print(f"judge: {clips} clips, {len(QUESTIONS)} questions each, up to {tokens} visual tokens a clip")
    for question, reason in unusable_rubrics().items():
        show.banner(f"{question} is not scored: {reason}")
    if cannot_write:
        show.banner("this critic was trained to score, not to write: explanations stay empty")


def list_generated(run: Path) -> tuple[list[dict], dict[str, str]]:
    """Clips of generated/base and generated/tuned in order, and the fingerprints of the folders."""
    rows, inputs = [], {}
    for model in MODELS:
        folder = run / "generated" / model
        if runs.read_manifest(folder) is None:
            continue
        inputs[f"generate-{model}"] = runs.fingerprint(folder)
        for row in runs.read_rows(folder / "generated.jsonl"):
            if not row.get("blocked"):
                facts = {key: row[key] for key in ("model", "name", "prompt", "seed")}
                facts |= {"image": row["image_sha256"], "seconds": row.get("seconds")}
                rows.append({"file": f"generated/{model}/{row['file']}", "path": folder / row["file"], **facts})
    if not rows:
        raise UserError(f"{run / 'generated'} holds no finished videos: type {runs.command('generate', run)} first")
    return sorted(rows, key=lambda row: row["file"]), inputs


def list_clips(folder: Path) -> tuple[list[dict], dict[str, str]]:
    """Clips of any folder (or of its videos/) in order, and the fingerprint of the folder."""
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder of clips")
    paths = sorted(folder.glob("*.mp4")) or sorted((folder / "videos").glob("*.mp4"))
    if not paths:
        raise UserError(f"{folder} holds no .mp4 files")
    listed, rows = {}, []
    if (folder / "generated.jsonl").exists():
        listed = {Path(row["file"]).stem: row for row in runs.read_rows(folder / "generated.jsonl")}
    elif (folder / "metadata.csv").exists():
        listed = {stem: {"prompt": prompt} for stem, prompt in read_metadata(folder / "metadata.csv").items()}
    for path in paths:
        row = listed.get(path.stem, {})
        prompt = row.get("prompt") or prompt_beside(path)
        facts = {"model": row.get("model"), "name": row.get("name", path.stem), "seed": row.get("seed")}
        rows.append({"file": path.relative_to(folder).as_posix(), "path": path, "prompt": prompt, **facts})
    return rows, {"clips": runs.digest_of([[row["file"], runs.digest(row["path"]), row["prompt"]] for row in rows])}


def prompt_beside(path: Path) -> str | None:
    """The instruction in <stem>.txt (beside the clip or in metas/), or in the file's name where that is a sentence."""
    for text in (path.with_suffix(".txt"), path.parent.parent / "metas" / f"{path.stem}.txt"):
        if text.exists():
            return read_text(text).removeprefix(profiles.PREFIX)
    words = path.stem.replace("_", " ").lstrip("0123456789 ").strip()
    return words if len(words.split()) >= 4 else None


def judge_rows(path: Path, scorer: Scorer, rows: Sequence[dict], explained: bool) -> tuple[list[dict], int]:
    """All rows of verdicts.jsonl, the missing ones scored now, and how many clips that took."""
    verdicts = read_validated(path, Verdict)
    done: dict[str, set[str]] = {}
    for verdict in verdicts:
        done.setdefault(verdict["file"], set()).add(verdict["question"])
    tasks = [
        Task(
            sample=partial(sample_video, row["path"]),
            prompts={q: row["prompt"] for q in QUESTIONS if q == "physics" or row["prompt"]},
            done=frozenset(done.get(row["file"], ())),
            explained=explained,
            tag=row,
        )
        for row in rows
    ]
    open_clips = sum(not task.prompts.keys() <= task.done for task in tasks)
    total = sum(len(task.prompts.keys() - task.done) for task in tasks)
    for task, question, answer in show.progress(scorer.score(tasks), "judging", total):
        row = {key: task.tag[key] for key in ("file", "model", "name", "prompt", "seed")}
        verdict = {**row, "sha256": runs.digest(task.tag["path"]), "question": question, **answer}
        runs.append_row(path, verdict)
        verdicts.append(verdict)
    return verdicts, open_clips


def summarise(verdicts: Sequence[dict], critic: dict | None) -> dict:
    """Facts for the manifest: the critic's AUC, and per model the share of clips that pass, with its 95 % CI."""
    failed = sorted({verdict["file"] for verdict in verdicts if verdict["score"] is None})
    facts: dict = {"unjudged": failed, "unparsable": sum(v["votes"].count(None) for v in verdicts)}
    for question, word in RATES.items():
        measured = critic["questions"][question] if critic else {}
        facts[f"auc_{question}"], cut = measured.get("auc"), measured.get("threshold")
        for model in MODELS:
            rows = [v for v in verdicts if v["model"] == model and v["question"] == question and v["score"] is not None]
            rate = edges = None
            if rows and cut is not None:
                rate, edges = share(np.array([row["score"] >= cut for row in rows]), [row["prompt"] for row in rows])
            facts[f"{word}_rate_{model}"], facts[f"{word}_rate_{model}_interval"] = rate, edges
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
        values = {"score": np.array([best_of(prompt, take) for prompt in scores]), "success": None, "gain": None}
        if measured:
            pairs = list(zip(scores, successes, strict=True))
            values["success"] = np.array([best_of(score, take, success) for score, success in pairs])
            values["gain"] = values["success"] - [best_of(score, 1, success) for score, success in pairs]
        point: dict = {"n": take, "seconds": None if cost is None else round(take * cost, 2)}
        for name, value in values.items():
            point[name] = None if value is None else round(float(value.mean()), 4)
            edges = None if value is None else interval(list(clips), lambda rows, v=value: float(v[rows].mean()))
            point[f"{name}_interval"] = edges
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
    if facts["unparsable"]:
        print(f"{facts['unparsable']} written answers held no digit; they count as missing")
    if facts["unjudged"]:
        print(f"{len(facts['unjudged'])} clips could not be judged, see verdicts.jsonl; first {facts['unjudged'][0]}")
