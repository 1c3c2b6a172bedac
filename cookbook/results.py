"""The numbers of a finished run, read from its manifests and jsonl files and from nowhere else."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from cookbook import runs
from cookbook.errors import UserError
from cookbook.judge.ground_truth import MODELS
from cookbook.judge.rows import QUESTIONS
from cookbook.judge.statistics import auc, best_of, interval
from cookbook.profiles import Profile
from cookbook.video import fit, read_image, read_video

PHOTO_DB = 20.0  # least PSNR of a video's first frame and its photo, which only passes through the VAE


def read_json(path: Path) -> Any:
    if not path.exists():
        raise UserError(f"{path} is missing")
    return json.loads(path.read_text())


def manifest(run: Path, stage: str) -> dict:
    """The manifest of a finished stage.

    Raises:
        UserError: the stage has not been run in this folder.
    """
    facts = runs.read_manifest(run / runs.FOLDERS[stage])
    if facts is None:
        verb, _, model = stage.partition("-")
        first = runs.command(verb, run, None, *(["--model", model] if model else []))
        raise UserError(f"{run}: {stage} is not finished; type {first} first")
    return facts


def scores(run: Path) -> pd.DataFrame:
    """One row per judged clip: file, model, name, prompt, seed, and a score from 1 to 5 for each question."""
    rows = runs.read_rows(run / "verdicts" / "verdicts.jsonl")
    if not rows:
        raise UserError(f"{run}: no verdicts; type {runs.command('judge', run)} first")
    keys = ["file", "model", "name", "prompt", "seed"]
    table = pd.DataFrame(rows).pivot_table(index=keys, columns="question", values="score", dropna=False, observed=True)
    return table.dropna(how="all").reset_index().rename_axis(columns=None)


def calibration(run: Path) -> dict[str, dict]:
    """The critic's accuracy on the calibration clips: per question auc, threshold, roc, per_kind, n."""
    return read_json(run / "verdicts" / "calibration.json")["questions"]


def gain(run: Path) -> dict:
    """By how much post-training raised the share of followed instructions, by the critic's scores.

    Only prompts and seeds that both models generated count. `interval` is the 95 % CI over prompts. Gain and interval
    are None if the critic has no threshold.
    """
    table, threshold = scores(run).dropna(subset="instruction"), calibration(run)["instruction"].get("threshold")
    if threshold is None:
        return {"pairs": 0, "gain": None, "interval": None}
    passed = table.assign(passed=table["instruction"] >= threshold)
    passed = passed.pivot(index=["name", "seed"], columns="model", values="passed")
    both = passed.reindex(columns=list(MODELS)).dropna().astype(float)
    gains = (both["tuned"] - both["base"]).to_numpy()
    if not len(gains):
        return {"pairs": 0, "gain": None, "interval": None}
    edges = interval(both.index.get_level_values("name"), lambda rows: float(gains[rows].mean()))
    return {"pairs": len(gains), "gain": round(float(gains.mean()), 4), "interval": edges}


def ground_truth(run: Path) -> pd.DataFrame:
    """The outcome of each generated video, beside the critic's scores and whether it was kept.

    One row per video: file, model, name, prompt, seed, outcome, reason, passed, physics, instruction, kept. Empty if
    the profile's photos come without ground truth.
    """
    rows = pd.DataFrame(runs.read_rows(run / "verdicts" / "ground_truth.jsonl"))
    if rows.empty:
        return rows
    table = rows.merge(scores(run)[["file", *QUESTIONS]], on="file", how="left")
    return table.assign(kept=table["file"].isin(_kept(run)))


def _kept(run: Path) -> set[str]:
    return {row["file"] for row in runs.read_rows(run / "kept" / "kept.jsonl")}


def outcome_by_file(run: Path) -> dict[str, str]:
    """File of each generated video -> its outcome; empty if the profile's photos come without ground truth."""
    table = ground_truth(run)
    return {} if table.empty else dict(zip(table["file"], table["outcome"], strict=True))


def critic_against_ground_truth(run: Path) -> dict:
    """Agreement of critic and filter with the ground truth, on the tuned model's videos.

    `auc`: chance that a successful video has a higher mean of both scores, which the filter ranks by, than a failed
    one. `all`, `kept`: success rate of all videos and of those kept. `gain`: kept minus all, with its 95 % CI over
    prompts (`interval`); keeping all gains 0. None where undefined.
    """
    table = ground_truth(run)
    tuned = table.query("model == 'tuned'").dropna(subset=list(QUESTIONS)) if len(table) else table
    if tuned.empty:
        return {"clips": 0, "auc": None, "all": None, "kept": None, "gain": None, "interval": None}
    passed, kept = tuned["passed"].to_numpy(float), tuned["kept"].to_numpy(bool)

    def gain_of(rows: np.ndarray) -> float | None:
        return float(passed[rows][kept[rows]].mean() - passed[rows].mean()) if kept[rows].any() else None

    gain = gain_of(np.arange(len(tuned)))
    return {
        "clips": len(tuned),
        "auc": auc(passed, tuned[list(QUESTIONS)].mean(axis=1).to_numpy()),
        "all": round(float(passed.mean()), 4),
        "kept": None if gain is None else round(float(passed[kept].mean()), 4),
        "gain": None if gain is None else round(gain, 4),
        "interval": None if gain is None else interval(tuned["name"].tolist(), gain_of),
    }


def best_of_n(groups: Sequence[Sequence[float]]) -> list[float]:
    """Mean over groups of the best of N, for N = 1 ... the size of the smallest group."""
    counts = range(1, min(map(len, groups), default=0) + 1)
    return [sum(best_of(group, n) for group in groups) / len(groups) for n in counts]


def kept_by_prompt(run: Path) -> list[list[float]]:
    """For each prompt, one value per tuned video: 1 if it was kept, else 0."""
    kept, tuned = _kept(run), scores(run).query("model == 'tuned'")
    return [[float(file in kept) for file in files] for _, files in tuned.groupby("name")["file"]]


def summary(run: Path) -> dict:
    """Everything that `report/summary.json` holds."""
    folders = {name: folder for name, folder in runs.FOLDERS.items() if name != "report"}
    manifests = {name: facts for name, folder in folders.items() if (facts := runs.read_manifest(run / folder))}
    train, judged = manifest(run, "train"), manifest(run, "judge")
    critic, clips = calibration(run), scores(run)
    numbers = ("steps", "loss_first", "loss_last", "heldout_before", "heldout_after", "weights_changed")
    rates = [f"{rate}_rate_{model}" for rate in ("follow", "success") for model in MODELS]
    return {
        "profile": train["profile"],
        "device": train["device"],
        "seconds": {name: facts["seconds"] for name, facts in manifests.items()},
        "peak_memory_gb": max(facts["peak_memory_gb"]["host"] for facts in manifests.values()),
        "train": {"recipe": train["recipe"]["name"], **{key: train[key] for key in numbers}},
        "convert": {"max_abs_diff": manifest(run, "convert")["max_abs_diff"]},
        "generate": {
            "clips": len(clips),
            **{model: int((clips["model"] == model).sum()) for model in MODELS},
            "prompts": int(clips["name"].nunique()),
        },
        "judge": {
            **{f"auc_{question}": critic[question]["auc"] for question in QUESTIONS},
            **{f"calibration_clips_{question}": critic[question]["n"] for question in QUESTIONS},
            **{key: judged[key] for rate in rates for key in (rate, f"{rate}_interval")},
            "follow_gain": gain(run),
            "against_ground_truth": critic_against_ground_truth(run),
        },
        "filter": {name: len(runs.read_rows(run / "kept" / f"{name}.jsonl")) for name in ("kept", "dropped")},
    }


def _format(value: float | None, form: str) -> str:
    return "unknown" if value is None else format(value, form)


def table(facts: dict) -> str:
    """The summary as a few lines of text."""
    train, judge, filtered = facts["train"], facts["judge"], facts["filter"]
    lines = [
        ("training loss, first and last tenth", f"{train['loss_first']:.4f} -> {train['loss_last']:.4f}"),
        ("held-out loss, before and after", f"{train['heldout_before']:.4f} -> {train['heldout_after']:.4f}"),
        ("checkpoint to export, max |difference|", f"{facts['convert']['max_abs_diff']:g}"),
        ("videos generated (base, tuned)", f"{facts['generate']['base']}, {facts['generate']['tuned']}"),
        ("critic's AUC on calibration clips (physics)", _format(judge["auc_physics"], ".2f")),
        ("critic's AUC on calibration clips (instruction)", _format(judge["auc_instruction"], ".2f")),
        ("instruction followed, by the critic (base)", _format(judge["follow_rate_base"], ".0%")),
        ("instruction followed, by the critic (tuned)", _format(judge["follow_rate_tuned"], ".0%")),
        ("success rate, by the ground truth (base)", _format(judge["success_rate_base"], ".0%")),
        ("success rate, by the ground truth (tuned)", _format(judge["success_rate_tuned"], ".0%")),
        ("success rate, by the ground truth (kept)", _format(judge["against_ground_truth"]["kept"], ".0%")),
        ("critic's AUC against the ground truth", _format(judge["against_ground_truth"]["auc"], ".2f")),
        ("videos kept, dropped", f"{filtered['kept']}, {filtered['dropped']}"),
    ]
    width = max(len(name) for name, _ in lines)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in lines)


class Check(NamedTuple):
    """A result beside the range that any trained weights must reach."""

    what: str
    result: str
    expected: str
    ok: bool


def checks(run: Path, profile: Profile) -> list[Check]:
    """Results of a run that must lie in a known range with any trained weights: look here first with new ones."""
    train, clip = manifest(run, "train"), profile.clip
    log = runs.read_rows(run / "checkpoints" / "log.jsonl")
    first = train["heldout_before"] / train["heldout_zero_velocity"]
    limit, changed = profile.recipe.first_loss or math.inf, train["weights_changed"]
    most = 2 * sum(row["lr"] for row in log)  # a step of AdamW is about the learning rate, and rarely much more
    difference = manifest(run, "convert")["max_abs_diff"]
    values = scores(run)[list(QUESTIONS)].to_numpy(float)
    row = next(row for row in runs.read_rows(run / "generated/tuned/generated.jsonl") if not row["blocked"])
    (photo,) = [
        request["input_path"]
        for request in runs.read_rows(run / "generated/tuned/requests.jsonl")
        if request["name"] == row["name"]
    ]
    frames, _ = read_video(run / "generated/tuned" / row["file"])
    original = fit(read_image(Path(photo))[None], *frames.shape[1:3])[0]
    decibel = 10 * math.log10(255**2 / max(float(np.mean((frames[0].astype(float) - original) ** 2)), 1e-9))
    size, wanted = ("{} x {} x {}".format(*shape) for shape in (frames.shape, (clip.frames, clip.height, clip.width)))
    return [
        Check("held-out loss before / zero-velocity loss", f"{first:.2f}", f"at most {limit:g}", first <= limit),
        Check("losses", f"{len(log)} steps", "finite", all(math.isfinite(row["loss"]) for row in log)),
        Check("largest change of a weight", f"{changed:.2g}", f"above 0, at most {most:.2g}", 0 < changed <= most),
        Check("checkpoint to export, max |difference|", f"{difference:g}", "0", difference == 0),
        Check("size of a video", size, wanted, size == wanted),
        Check("its first frame against the photo", f"{decibel:.1f} dB", f"at least {PHOTO_DB:g}", decibel >= PHOTO_DB),
        Check("scores", f"{np.isfinite(values).sum()} of {values.size}", "all, from 1 to 5", _in_range(values)),
    ]


def _in_range(values: np.ndarray) -> bool:
    return bool(((values >= 1) & (values <= 5)).all())
