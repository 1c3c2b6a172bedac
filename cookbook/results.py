"""Numbers of a finished run, read from its manifests and jsonl files and from nowhere else."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cookbook import runs
from cookbook.errors import UserError
from cookbook.judge.statistics import auc, best_of, interval

QUESTIONS = ("physics", "instruction")


def read_json(path: Path) -> Any:
    if not path.exists():
        raise UserError(f"{path} is missing")
    return json.loads(path.read_text())


def manifest(run: Path, stage: str) -> dict:
    """The manifest of a finished stage.

    Raises:
        UserError: the stage has not been run in this folder.
    """
    found = runs.read_manifest(run / runs.FOLDERS[stage])
    if found is None:
        verb, _, model = stage.partition("-")
        first = runs.command(verb, run, None, *(["--model", model] if model else []))
        raise UserError(f"{run}: {stage} is not finished; type {first} first")
    return found


def scores(run: Path) -> pd.DataFrame:
    """One row per judged clip: file, model, name, prompt, seed, and a score from 1 to 5 for each question."""
    rows = runs.read_rows(run / "verdicts" / "verdicts.jsonl")
    if not rows:
        raise UserError(f"{run}: no verdicts; type {runs.command('judge', run)} first")
    keys = ["file", "model", "name", "prompt", "seed"]
    table = pd.DataFrame(rows).pivot_table(index=keys, columns="question", values="score", dropna=False, observed=True)
    return table.dropna(how="all").reset_index().rename_axis(columns=None)


def calibration(run: Path) -> dict[str, dict]:
    """What the critic is worth on clips of known truth: per question auc, threshold, roc, per_kind, n."""
    return read_json(run / "verdicts" / "calibration.json")["questions"]


def gain(run: Path) -> dict:
    """By how much post-training raised the share of followed instructions, on prompts and seeds that both models made.

    It is the critic's opinion, with the 95 % interval over prompts; None where the critic has no threshold.
    """
    table, threshold = scores(run), calibration(run)["instruction"].get("threshold")
    if threshold is None:
        return {"pairs": 0, "gain": None, "interval": None}
    table = table.dropna(subset="instruction")
    passed = table.assign(passed=table["instruction"] >= threshold).pivot(
        index=["name", "seed"], columns="model", values="passed"
    )
    both = passed.reindex(columns=["base", "tuned"]).dropna().astype(float)
    gains = (both["tuned"] - both["base"]).to_numpy()
    if not len(gains):
        return {"pairs": 0, "gain": None, "interval": None}
    edges = interval(both.index.get_level_values("name"), lambda rows: float(gains[rows].mean()))
    return {"pairs": len(gains), "gain": round(float(gains.mean()), 4), "interval": edges}


def truth(run: Path) -> pd.DataFrame:
    """What each dream really did, where its scene is known, beside the critic's scores and whether it was kept.

    One row per clip: file, model, name, prompt, seed, outcome, reason, passed, physics, instruction, kept. Empty where
    the profile's photos come without a truth.
    """
    rows = pd.DataFrame(runs.read_rows(run / "verdicts" / "ground_truth.jsonl"))
    if rows.empty:
        return rows
    told = rows.merge(scores(run)[["file", *QUESTIONS]], on="file", how="left")
    kept = {row["file"] for row in runs.read_rows(run / "kept" / "kept.jsonl")}
    return told.assign(kept=told["file"].isin(kept))


def outcome_by_file(run: Path) -> dict[str, str]:
    """What each dream really did, by its file; empty where the profile's photos come without a truth."""
    table = truth(run)
    return {} if table.empty else dict(zip(table["file"], table["outcome"], strict=True))


def critic_against_ground_truth(run: Path) -> dict:
    """How far critic and filter agree with the truth on the tuned model's dreams.

    `auc`: chance that a clip that placed gets a higher mean of both scores, by which the filter ranks, than one that
    did not. `all`, `kept`: share that placed, of all dreams and of those kept. `gain`: kept minus all, with its 95 %
    `interval` over prompts; keeping all gains 0. None where it cannot be told.
    """
    table = truth(run)
    tuned = table.query("model == 'tuned'").dropna(subset=list(QUESTIONS)) if len(table) else table
    if tuned.empty:
        return {"clips": 0, "auc": None, "all": None, "kept": None, "gain": None, "interval": None}
    passed, kept = tuned["passed"].to_numpy(float), tuned["kept"].to_numpy(bool)

    def gained(rows: np.ndarray) -> float | None:
        return float(passed[rows][kept[rows]].mean() - passed[rows].mean()) if kept[rows].any() else None

    gain = gained(np.arange(len(tuned)))
    return {
        "clips": len(tuned),
        "auc": auc(passed, tuned[list(QUESTIONS)].mean(axis=1).to_numpy()),
        "all": round(float(passed.mean()), 4),
        "kept": None if gain is None else round(float(passed[kept].mean()), 4),
        "gain": None if gain is None else round(gain, 4),
        "interval": None if gain is None else interval(tuned["name"].tolist(), gained),
    }


def best_of_n(groups: Sequence[Sequence[float]]) -> list[float]:
    """Mean over groups of the best of N, for N = 1 ... the smallest group; of values 0 and 1, the chance of a 1."""
    counts = range(1, min(map(len, groups), default=0) + 1)
    return [sum(best_of(group, n) for group in groups) / len(groups) for n in counts]


def kept_by_prompt(run: Path) -> list[list[float]]:
    """For each prompt, one 1 or 0 per tuned clip: was it kept?"""
    kept = {row["file"] for row in runs.read_rows(run / "kept" / "kept.jsonl")}
    tuned = scores(run).query("model == 'tuned'")
    return [[float(file in kept) for file in files] for _, files in tuned.groupby("name")["file"]]


def _judged(run: Path) -> dict:
    critic, judged = calibration(run), manifest(run, "judge")
    rates = [f"{rate}_rate_{model}" for rate in ("follow", "placed") for model in ("base", "tuned")]
    return {
        **{f"auc_{question}": critic[question]["auc"] for question in QUESTIONS},
        **{f"controls_{question}": critic[question]["n"] for question in QUESTIONS},
        **{key: judged[key] for rate in rates for key in (rate, f"{rate}_interval")},
        "follow_gain": gain(run),
        "against_ground_truth": critic_against_ground_truth(run),
    }


def summary(run: Path) -> dict:
    """Everything that `report/summary.json` holds."""
    made = {name: runs.read_manifest(run / folder) for name, folder in runs.FOLDERS.items() if name != "report"}
    train, clips = manifest(run, "train"), scores(run)
    told = ("steps", "loss_first", "loss_last", "heldout_before", "heldout_after", "weights_changed")
    return {
        "profile": train["profile"],
        "device": train["device"],
        "seconds": {name: found["seconds"] for name, found in made.items() if found},
        "peak_memory_gb": max(found["peak_memory_gb"]["host"] for found in made.values() if found),
        "train": {"recipe": train["recipe"]["name"], **{key: train[key] for key in told}},
        "convert": {"max_abs_diff": manifest(run, "convert")["max_abs_diff"]},
        "generate": {
            "clips": len(clips),
            **{model: int((clips["model"] == model).sum()) for model in ("base", "tuned")},
            "prompts": int(clips["name"].nunique()),
        },
        "judge": _judged(run),
        "filter": {name: len(runs.read_rows(run / "kept" / f"{name}.jsonl")) for name in ("kept", "dropped")},
    }


def _known(value: float | None, form: str) -> str:
    return "not known" if value is None else format(value, form)


def table(facts: dict) -> str:
    """The summary as a few lines of text."""
    train, judge, filtered = facts["train"], facts["judge"], facts["filter"]
    lines = [
        ("training loss, first and last tenth", f"{train['loss_first']:.4f} -> {train['loss_last']:.4f}"),
        ("held-out loss, before and after", f"{train['heldout_before']:.4f} -> {train['heldout_after']:.4f}"),
        ("checkpoint to export, max |difference|", f"{facts['convert']['max_abs_diff']:g}"),
        ("clips generated (base, tuned)", f"{facts['generate']['base']}, {facts['generate']['tuned']}"),
        ("critic's AUC on planted fakes (physics)", _known(judge["auc_physics"], ".2f")),
        ("critic's AUC on planted fakes (instruction)", _known(judge["auc_instruction"], ".2f")),
        ("instruction followed, says the critic (base)", _known(judge["follow_rate_base"], ".0%")),
        ("instruction followed, says the critic (tuned)", _known(judge["follow_rate_tuned"], ".0%")),
        ("object placed, by the truth (base)", _known(judge["success_rate_base"], ".0%")),
        ("object placed, by the truth (tuned)", _known(judge["success_rate_tuned"], ".0%")),
        ("object placed, by the truth (kept)", _known(judge["against_ground_truth"]["kept"], ".0%")),
        ("critic's AUC against the truth on dreams", _known(judge["against_ground_truth"]["auc"], ".2f")),
        ("clips kept, dropped", f"{filtered['kept']}, {filtered['dropped']}"),
    ]
    width = max(len(name) for name, _ in lines)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in lines)
