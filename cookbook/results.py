"""The numbers of a finished run, read from its manifests and jsonl files and from nowhere else."""

import math
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from cookbook import runs, storage
from cookbook.actions.motion import SCORES
from cookbook.errors import UserError
from cookbook.judge.ground_truth import MODELS
from cookbook.judge.rows import QUESTIONS
from cookbook.judge.statistics import auc, best_of, interval, share
from cookbook.profiles import Profile
from cookbook.video import fit, read_image, read_video

PHOTO_DB = 20.0  # least PSNR of a video's first frame and its photo, which only passes through the VAE


def scores(run: Path) -> pd.DataFrame:
    """One row per judged clip: file, model, name, prompt, seed, and a score from 1 to 5 for each question."""
    rows = storage.read_rows(run / "verdicts" / "verdicts.jsonl")
    if not rows:
        raise UserError(f"{run}: no verdicts; type {runs.command('judge', run)} first")
    keys = ["file", "model", "name", "prompt", "seed"]
    table = pd.DataFrame(rows).pivot_table(index=keys, columns="question", values="score", dropna=False, observed=True)
    return table.dropna(how="all").reset_index().rename_axis(columns=None)


def calibration(run: Path) -> dict[str, dict]:
    """The critic's accuracy on the calibration clips: per question auc, threshold, roc, per_kind, n."""
    return storage.read_json(run / "verdicts" / "calibration.json")["questions"]


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


def _ground_truth(run: Path) -> pd.DataFrame:
    return pd.DataFrame(storage.read_rows(run / "verdicts" / "ground_truth.jsonl"), columns=["file", "passed"])


def kept_files(run: Path) -> list[str]:
    """The files that the filter kept, relative to the run."""
    return [row["file"] for row in storage.read_rows(run / "kept" / "kept.jsonl")]


def critic_against_ground_truth(run: Path) -> dict:
    """Agreement of critic and filter with the ground truth, on the tuned model's videos.

    `auc`: chance that a successful video has a higher mean of both scores, which the filter ranks by, than a failed
    one. `all`, `kept`: success rate of all videos and of those kept. `gain`: kept minus all, with its 95 % CI over
    prompts (`interval`); keeping all gains 0. None where undefined.
    """
    tuned = scores(run).query("model == 'tuned'").dropna(subset=list(QUESTIONS)).merge(_ground_truth(run), on="file")
    facts = {"clips": len(tuned), "auc": None, "all": None, "kept": None, "gain": None, "interval": None}
    if tuned.empty:
        return facts
    passed, kept = tuned["passed"].to_numpy(float), tuned["file"].isin(kept_files(run)).to_numpy()

    def gain_of(rows: np.ndarray) -> float | None:
        return float(passed[rows][kept[rows]].mean() - passed[rows].mean()) if kept[rows].any() else None

    facts["auc"] = auc(passed, tuned[list(QUESTIONS)].mean(axis=1).to_numpy())
    facts["all"] = round(float(passed.mean()), 4)
    if kept.any():
        gain, edges = gain_of(np.arange(len(tuned))), interval(tuned["name"].tolist(), gain_of)
        facts |= {"kept": round(float(passed[kept].mean()), 4), "gain": round(gain, 4), "interval": edges}
    return facts


def executed(run: Path) -> dict:
    """Share of videos whose decoded actions succeed in the simulator, with its 95 % CI over photos.

    `executed_rate_base`, `_tuned` and, of the tuned model's videos, `_kept`. Empty where nothing was executed.
    """
    rows, kept = storage.read_rows(run / "executed" / "executed.jsonl"), set(kept_files(run))
    facts = {}
    for name in (*MODELS, "kept") if rows else ():
        own = [row for row in rows if (row["file"] in kept if name == "kept" else row["model"] == name)]
        rate, edges = share([row["success"] for row in own], [row["image"] for row in own]) if own else (None, None)
        facts |= {f"executed_rate_{name}": rate, f"executed_rate_{name}_interval": edges}
    return facts


def looks_and_moves(run: Path) -> pd.DataFrame:
    """For each model, the number of videos that look right by the rules on pixels, and move right when executed."""
    rows = pd.DataFrame(storage.read_rows(run / "executed" / "executed.jsonl"), columns=["file", "model", "success"])
    both = rows.merge(_ground_truth(run), on="file")
    names = {"passed": {True: "looks right", False: "looks wrong"}, "success": {True: "moves right", False: "fails"}}
    looks, moves = (both[column].map(words) for column, words in names.items())
    return pd.crosstab([both["model"], looks.rename("")], moves.rename(""))


def execution_aucs(run: Path) -> pd.DataFrame:
    """What each figure says about executed success: its AUC with 95 % CI over photos, on the tuned model's videos.

    Rows: the mean of the critic's scores, the rules on pixels, and the motion scores of actions.jsonl.
    """
    rows = pd.DataFrame(storage.read_rows(run / "executed" / "executed.jsonl"))
    if rows.empty:
        return rows
    motion = pd.DataFrame(storage.read_rows(run / "actions" / "actions.jsonl"))[["file", *SCORES]]
    table = rows.merge(motion.assign(**-motion[list(SCORES)]), on="file")
    table = table.merge(_ground_truth(run), on="file", how="left")
    judged = pd.DataFrame(columns=["file", *QUESTIONS])
    if (run / "verdicts" / "verdicts.jsonl").exists():
        judged = scores(run)
    table = table.merge(judged[["file", *QUESTIONS]], on="file", how="left").query("model == 'tuned'")
    table = table.assign(critic=table[list(QUESTIONS)].mean(axis=1), pixels=table["passed"].astype(float))
    found = {}
    for name in ("critic", "pixels", *SCORES):
        own = table.dropna(subset=[name])
        if len(own):
            labels, values = own["success"].to_numpy(int), own[name].to_numpy(float)
            edges = interval(own["image"].tolist(), lambda rows, a=labels, b=values: auc(a[rows], b[rows]))
            found[name] = {"auc": auc(labels, values), "95 % CI": edges, "videos": len(own)}
    return pd.DataFrame.from_dict(found, orient="index").round(3)


def kept_of_n(run: Path) -> list[float]:
    """The chance that the filter keeps at least one of N tuned videos of a prompt, for N = 1, 2, ..."""
    tuned = scores(run).query("model == 'tuned'")
    prompts = list(tuned["file"].isin(kept_files(run)).groupby(tuned["name"]))
    counts = range(1, min((len(kept) for _, kept in prompts), default=0) + 1)
    return [fmean(best_of(kept, n) for _, kept in prompts) for n in counts]


def summary(run: Path) -> dict[str, Any]:
    """What `report/summary.json` holds: `results` by name, rates from 0 to 1, and None where unknown."""
    train, judged = runs.manifest_of(run, "train"), runs.manifest_of(run, "judge")
    critic, truth = calibration(run), critic_against_ground_truth(run)
    models = scores(run)["model"].value_counts()
    aucs = execution_aucs(run).get("auc", {})
    obeyed = {part: facts for part, facts in judged["obedience"].items() if part != "no_text"}
    return {
        "profile": train["profile"],
        "device": train["device"],
        "seconds": {name: facts["seconds"] for name, facts in runs.finished(run).items() if name != "report"},
        "obedience": judged["obedience"],
        "results": {
            "training_loss_first_tenth": train["loss_first"],
            "training_loss_last_tenth": train["loss_last"],
            "heldout_loss_before": train["heldout_before"],
            "heldout_loss_after": train["heldout_after"],
            "export_max_difference": runs.manifest_of(run, "convert")["max_abs_diff"],
            **{f"videos_{model}": int(models.get(model, 0)) for model in MODELS},
            **{f"critic_auc_{question}": critic[question]["auc"] for question in QUESTIONS},
            **{f"followed_rate_{model}_by_critic": judged[f"follow_rate_{model}"] for model in MODELS},
            **{f"success_rate_{model}": judged[f"success_rate_{model}"] for model in MODELS},
            "success_rate_kept": truth["kept"],
            **{f"obedience_rate_{part}": facts["own"] for part, facts in obeyed.items()},
            **{f"no_text_rate_{part}": rate for part, rate in judged["obedience"]["no_text"].items()},
            "critic_auc_success": truth["auc"],
            **{name: value for name, value in executed(run).items() if not name.endswith("_interval")},
            **{f"executed_auc_{name}": value for name, value in aucs.items()},
            **{f"videos_{part}": len(storage.read_rows(run / f"kept/{part}.jsonl")) for part in ("kept", "dropped")},
        },
    }


def table(rows: dict[str, float | None]) -> str:
    """The results of a summary as lines of text."""
    width = max(map(len, rows))
    forms = {name: ".0%" if "rate" in name else ".4g" for name in rows}
    return "\n".join(
        f"{name.replace('_', ' '):<{width}}  {'unknown' if value is None else format(value, forms[name])}"
        for name, value in rows.items()
    )


class Check(NamedTuple):
    """A result beside the range that any trained weights must reach."""

    what: str
    result: str
    expected: str
    ok: bool


def checks(run: Path, profile: Profile) -> list[Check]:
    """Results of a run that must lie in a known range with any trained weights: look here first with new ones."""
    train, log = runs.manifest_of(run, "train"), storage.read_rows(run / "checkpoints" / "log.jsonl")
    first = train["heldout_before"] / train["heldout_zero_velocity"]
    limit, changed = profile.recipe.first_loss or math.inf, train["weights_changed"]
    values = scores(run)[list(QUESTIONS)].to_numpy(float)
    inside = bool(((values >= 1) & (values <= 5)).all())  # and none is missing
    most = 2 * sum(row["lr"] for row in log)  # a step of AdamW is about the learning rate, and rarely much more
    return [
        Check("held-out loss before / zero-velocity loss", f"{first:.2f}", f"at most {limit:g}", first <= limit),
        Check("largest change of a weight", f"{changed:.2g}", f"above 0, at most {most:.2g}", 0 < changed <= most),
        *_check_a_video(run / "generated" / "tuned"),
        Check("scores", f"{np.isfinite(values).sum()} of {values.size}", "all, from 1 to 5", inside),
    ]


def _check_a_video(folder: Path) -> list[Check]:
    """The check of the first video; none where the guardrail blocked all of them."""
    row = next((row for row in storage.read_rows(folder / "generated.jsonl") if not row["blocked"]), None)
    if row is None:
        return []
    photos = {request["name"]: request["input_path"] for request in storage.read_rows(folder / "requests.jsonl")}
    frames, _ = read_video(folder / row["file"])
    photo = fit(read_image(Path(photos[row["name"]]))[None], *frames.shape[1:3])[0]
    decibel = 10 * math.log10(255**2 / max(float(np.mean((frames[0].astype(float) - photo) ** 2)), 1e-9))
    what, least = "first frame of a video against its photo", f"at least {PHOTO_DB:g}"
    return [Check(what, f"{decibel:.1f} dB", least, decibel >= PHOTO_DB)]
