"""Stage judge: the critic is measured on clips of known truth, then it gives every dream two scores from 1 to 5.

Reads generated/base and generated/tuned, or any folder of videos; writes verdicts/verdicts.jsonl (one row per video and
question), calibration.json, calibration_clips.jsonl and, where the scenes are known, ground_truth.jsonl (one row per video).
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
from cookbook.judge import rows as files
from cookbook.judge.ground_truth import MODELS
from cookbook.judge.scorer import Scorer, Task
from cookbook.judge.scoring import QUESTIONS, faults, prompt_hash
from cookbook.judge.statistics import best_of, interval, share
from cookbook.layout import read_metadata, read_text
from cookbook.models import hub
from cookbook.models.critic import writes
from cookbook.models.frames import sample_video


def judge(
    profile: str = "nano",
    run: Path | str | None = None,
    clips: Path | str | None = None,
    calibrate: bool = False,
    explain: bool = False,
    critic: Path | str | None = None,
    ray: str | None = None,
    redo: bool = False,
) -> dict:
    """Score every dream of a run, or every mp4 of a folder, for physics and for following its instruction.

    Args:
        clips: a folder of videos to judge instead of the run's dreams; their verdicts go to `verdicts-<folder name>`.
            Prompts come from its generated.jsonl or metadata.csv, else from <stem>.txt, else from the file's name.
        calibrate: only measure the critic on the controls, and return the calibration.
        explain: let the critic also write its reasoning (real models; the nano critic cannot write).
        critic: folder of another critic than the profile's, such as one of notebook 05; its verdicts go to
            `verdicts-<folder name>`.
        ray: address of a Ray cluster (host:port, or auto), or local for all GPUs of this machine; needs the extra
            `cluster`. This process alone when empty.
        redo: judge everything anew.

    Returns:
        The stage's manifest, or with `calibrate` the calibration.
    """
    chosen = profiles.get(profile)
    root = runs.run_folder(run, chosen.name)
    own = "-".join(["verdicts", *([Path(critic).absolute().name] if critic else [])])
    folder = root / (own if clips is None else f"{own}-{Path(clips).absolute().name}")
    source = Path(critic).expanduser().absolute() if critic else hub.locate(chosen.critic)
    panel = Scorer(source, chosen.critic_fps, chosen.critic_tokens, ray)
    if calibrate:
        return calibration.calibrate(chosen, root, folder, panel)
    rows, inputs = list_generated(root) if clips is None else list_clips(Path(clips).expanduser().absolute())
    if clips is None and (root / calibration.MARKS).exists():
        inputs["marks"] = runs.digest(root / calibration.MARKS)
    stage = runs.enter(
        folder,
        "judge",
        chosen.name,
        inputs | {"critic": panel.fingerprint, "prompts": runs.digest_of([prompt_hash(q) for q in QUESTIONS])},
        {"fps": chosen.critic_fps, "tokens": chosen.critic_tokens, "explain": explain},
        redo,
    )
    if stage.done:
        return stage.manifest
    print(
        f"judge: {len(rows)} clips, {len(QUESTIONS)} questions each, up to {chosen.critic_tokens} visual tokens a clip"
    )
    for question, reason in faults().items():
        show.banner(f"{question} is not asked: {reason}")
    if explain and not writes(source):
        show.banner("this critic was trained to score, not to write: explanations stay empty")
    measured = calibration.calibrate(chosen, root, folder, panel) if clips is None else calibration.load(root / own)
    if measured is None or measured["made_from"]["critic"] != panel.fingerprint:
        measured = None
        first = runs.command("judge", root, chosen.name, "--calibrate")
        show.banner(f"this critic is not measured on clips of known truth: type {first} first")
    clock = time.monotonic()
    verdicts, fresh = judge_rows(folder / "verdicts.jsonl", panel, rows, explain)
    per_clip = (time.monotonic() - clock) / max(1, fresh)
    told = ground_truth.measure(chosen, rows, folder / ground_truth.NAME) if clips is None else []
    facts = summarise(verdicts, measured) | ground_truth.rates(told)
    making = [row["seconds"] for row in rows if row.get("seconds") is not None]
    facts["best_of_n"] = best_of_n(verdicts, told, fmean(making) + per_clip if making and fresh else None)
    print_summary(facts)
    names = ("verdicts.jsonl", "calibration.json", "calibration_clips.jsonl", ground_truth.NAME)
    outputs = [path for name in names if (path := folder / name).exists()]
    facts["seconds_per_clip"] = round(per_clip, 3) if fresh else None
    return stage.finish(outputs, clips=len(rows), critic=panel.fingerprint, **facts)


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
        raise UserError(f"{run / 'generated'} holds no finished dreams: type {runs.command('generate', run)} first")
    return sorted(rows, key=lambda row: row["file"]), inputs


def list_clips(folder: Path) -> tuple[list[dict], dict[str, str]]:
    """Clips of any folder (or of its videos/) in order, and the fingerprint of the folder."""
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder of clips")
    paths = sorted(folder.glob("*.mp4")) or sorted((folder / "videos").glob("*.mp4"))
    if not paths:
        raise UserError(f"{folder} holds no .mp4 files")
    told = _told(folder)
    rows = []
    for path in paths:
        row = told.get(path.stem, {})
        prompt = row.get("prompt") or prompt_beside(path)
        facts = {"model": row.get("model"), "name": row.get("name", path.stem), "seed": row.get("seed")}
        rows.append({"file": path.relative_to(folder).as_posix(), "path": path, "prompt": prompt, **facts})
    return rows, {"clips": runs.digest_of([[row["file"], runs.digest(row["path"]), row["prompt"]] for row in rows])}


def _told(folder: Path) -> dict[str, dict]:
    """What generated.jsonl or metadata.csv says of each clip, by stem."""
    if (folder / "generated.jsonl").exists():
        return {Path(row["file"]).stem: row for row in runs.read_rows(folder / "generated.jsonl")}
    if (folder / "metadata.csv").exists():
        return {stem: {"prompt": prompt} for stem, prompt in read_metadata(folder / "metadata.csv").items()}
    return {}


def prompt_beside(path: Path) -> str | None:
    """The instruction in <stem>.txt (beside the clip or in metas/), or in the file's name where that is a sentence."""
    for text in (path.with_suffix(".txt"), path.parent.parent / "metas" / f"{path.stem}.txt"):
        if text.exists():
            return read_text(text).removeprefix(profiles.PREFIX)
    words = path.stem.replace("_", " ").lstrip("0123456789 ").strip()
    return words if len(words.split()) >= 4 else None


def judge_rows(path: Path, panel: Scorer, rows: Sequence[dict], explained: bool) -> tuple[list[dict], int]:
    """All rows of verdicts.jsonl, the missing ones scored now, and how many clips that took."""
    verdicts = files.read(path, files.Verdict)
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
    for task, question, answer in show.progress(panel.score(tasks), "judging", total):
        row = {key: task.tag[key] for key in ("file", "model", "name", "prompt", "seed")}
        verdict = {**row, "sha256": runs.digest(task.tag["path"]), "question": question, **answer}
        runs.append_row(path, verdict)
        verdicts.append(verdict)
    return verdicts, open_clips


def summarise(verdicts: Sequence[dict], measured: dict | None) -> dict:
    """Facts for the manifest: how good the critic is, how often each model passes, and what best-of-N is worth."""
    failed = sorted({verdict["file"] for verdict in verdicts if verdict["score"] is None})
    facts: dict = {"unjudged": failed, "unparsable": sum(v["votes"].count(None) for v in verdicts)}
    for question in QUESTIONS:
        known = measured["questions"][question] if measured else {}
        facts[f"auc_{question}"] = known.get("auc")
        cut = known.get("threshold")
        for model in MODELS:
            word = "follow" if question == "instruction" else "plausible"
            rows = [v for v in verdicts if v["model"] == model and v["question"] == question and v["score"] is not None]
            mine = rows and cut is not None
            passed = np.array([row["score"] >= cut for row in rows], bool) if mine else None
            rate, edges = share(passed, [row["prompt"] for row in rows]) if mine else (None, None)
            facts[f"{word}_rate_{model}"], facts[f"{word}_rate_{model}_interval"] = rate, edges
    return facts


def best_of_n(verdicts: Sequence[dict], told: Sequence[dict], cost: float | None) -> list[dict]:
    """What picking the best of n tuned seeds by the critic is worth, over all subsets of n, with 95 % intervals.

    Args:
        told: rows of ground_truth.jsonl, empty where the scenes are not known.
        cost: seconds to make and judge one clip.

    Returns:
        For each n: the mean of both scores of the clip that is picked; how often it placed, by the truth, and how much
        more often than a random one; the seconds that n clips take. None where it is not known.
    """
    scores: dict[tuple[str, str], list[float]] = {}
    for verdict in verdicts:
        if verdict["model"] == "tuned" and verdict["score"] is not None:
            scores.setdefault((verdict["name"], verdict["file"]), []).append(verdict["score"])
    passed = {row["file"]: float(row["passed"]) for row in told}
    prompts: dict[str, list[tuple[float, float | None]]] = {}
    for (name, file), both in scores.items():
        prompts.setdefault(name, []).append((fmean(both), passed.get(file)))
    known = bool(prompts) and all(worth is not None for clips in prompts.values() for _, worth in clips)
    columns = [tuple(zip(*clips, strict=True)) for clips in prompts.values()]
    curve = []
    for take in range(1, min(map(len, prompts.values()), default=0) + 1):
        found = {"score": np.array([best_of(score, take) for score, _ in columns])}
        if known:
            found["placed"] = np.array([best_of(score, take, worth) for score, worth in columns])
            found["gain"] = found["placed"] - [best_of(score, 1, worth) for score, worth in columns]
        point: dict = {"n": take, "seconds": None if cost is None else round(take * cost, 2)}
        for name in ("score", "placed", "gain"):
            values = found.get(name)
            point[name] = None if values is None else round(float(values.mean()), 4)
            edges = None if values is None else interval(list(prompts), lambda rows, v=values: float(v[rows].mean()))
            point[f"{name}_interval"] = edges
        curve.append(point)
    return curve


def print_summary(facts: dict) -> None:
    """The stage's rates and intervals, one a line."""
    for model in MODELS:
        if (rate := facts[f"follow_rate_{model}"]) is not None:
            low, high = facts[f"follow_rate_{model}_interval"] or (float("nan"), float("nan"))
            print(f"{model}: by the critic {rate:.0%} of the clips follow their instruction ({low:.0%} to {high:.0%})")
        if (rate := facts[f"success_rate_{model}"]) is not None:
            low, high = facts[f"success_rate_{model}_interval"] or (float("nan"), float("nan"))
            print(f"{model}: by the truth {rate:.0%} of the clips place the named object ({low:.0%} to {high:.0%})")
    if facts["best_of_n"] and (last := facts["best_of_n"][-1])["gain_interval"]:
        low, high = last["gain_interval"]
        print(
            f"best of {last['n']} by the critic: {last['placed']:.0%} place, {last['gain']:+.0%} against a random one "
            f"({low:+.0%} to {high:+.0%})"
        )
    if facts["unparsable"]:
        print(f"{facts['unparsable']} written answers held no digit; they count as missing")
    if facts["unjudged"]:
        print(f"{len(facts['unjudged'])} clips could not be judged, see verdicts.jsonl; first {facts['unjudged'][0]}")
