"""Stage filter: the tuned model's dreams that pass both thresholds become a training folder like data/train."""

from __future__ import annotations

import shutil
from pathlib import Path

from cookbook import profiles, show, store
from cookbook.errors import UserError
from cookbook.judge import calibration
from cookbook.judge.scoring import QUESTIONS
from cookbook.layout import write_metadata

UPSTREAM = 3.5  # the published rule keeps 4 and 5 and drops 1 and 2; between 3 and 4 it says nothing


def filter_clips(
    profile: str = "nano",
    run: Path | str | None = None,
    threshold: float | None = None,
    uncalibrated: bool = False,
    redo: bool = False,
) -> dict:
    """Keep the dreams that score high enough for physics and for following their instruction.

    Args:
        threshold: a score from 1 to 5 for both questions instead of the calibrated ones.
        uncalibrated: work without calibration.json, at `threshold` or 3.5.

    Raises:
        UserError: the critic was never measured, or a dream was changed after it was judged.
    """
    chosen = profiles.get(profile)
    root = store.run_folder(run, chosen.name)
    verdicts = root / "verdicts"
    if store.read_manifest(verdicts) is None:
        raise UserError(f"{verdicts} is not finished: run `cookbook judge` first")
    cuts, rule = _thresholds(verdicts, threshold, uncalibrated)
    stage = store.enter(
        root / "kept", "filter", chosen.name, {"judge": store.fingerprint(verdicts)}, {"thresholds": cuts}, redo
    )
    if stage.done:
        return stage.manifest
    clips = _tuned(verdicts / "verdicts.jsonl")
    print(f"filter: {len(clips)} dreams of the tuned model; kept if {rule}")
    folder = stage.folder
    for name in ("videos", "metas"):  # what a killed run left is made again
        shutil.rmtree(folder / name, ignore_errors=True)
        (folder / name).mkdir()
    kept, dropped = [], []
    for file, answers in sorted(clips.items()):
        row = _verdict(file, answers, cuts)
        (kept if row["kept"] else dropped).append(row)
        if row["kept"]:
            _keep(root / file, folder, row, chosen.prompt_prefix)
    with store.replacing(folder / "metadata.csv") as temporary:
        write_metadata(temporary, [(row["video"], row["prompt"]) for row in kept])
    for name, rows in (("kept.jsonl", kept), ("dropped.jsonl", dropped)):
        with store.replacing(folder / name) as temporary:
            temporary.touch()
            for row in rows:
                store.append_row(temporary, row)
    print(f"filter: kept {len(kept)} of {len(clips)} dreams" + ("" if kept else "; none is good enough to train on"))
    for question in QUESTIONS:
        print(
            f"  {sum(question in row['failed'] for row in dropped)} dropped for {question} below {cuts[question]:.2f}"
        )
    if not kept:
        show.banner(
            f"no dream passed ({rule}): {folder} is empty; generate more seeds, train longer, or lower the threshold"
        )
    outputs = [path for path in folder.rglob("*") if path.is_file() and path.name not in ("started.json", ".lock")]
    return stage.finish(outputs, rule=rule, thresholds=cuts, kept=len(kept), dropped=len(dropped))


def _thresholds(verdicts: Path, given: float | None, uncalibrated: bool) -> tuple[dict[str, float], str]:
    """Threshold per question, and the rule in words."""
    if given is not None and not 1 <= given <= 5:
        raise UserError(f"threshold {given:g} is not a score: give a number from 1 to 5")
    measured = calibration.load(verdicts)
    if measured is None and not uncalibrated:
        raise UserError(
            f"{verdicts / calibration.NAME} is missing: nobody knows what this critic's scores are worth. Run "
            "`cookbook judge --calibrate`, or pass --uncalibrated"
        )
    if given is not None or measured is None:
        cut = UPSTREAM if given is None else float(given)
        return dict.fromkeys(QUESTIONS, cut), f"both scores are at least {cut:g}" + (
            "" if measured else ", uncalibrated"
        )
    facts = measured["questions"]
    unknown = [question for question in QUESTIONS if "threshold" not in facts[question]]
    if unknown:
        raise UserError(f"{verdicts / calibration.NAME} has no threshold for {unknown[0]}: give --threshold")
    cuts = {question: facts[question]["threshold"] for question in QUESTIONS}
    return cuts, " and ".join(f"{q} is at least {cuts[q]:.2f} ({facts[q]['rule']})" for q in QUESTIONS)


def _tuned(path: Path) -> dict[str, dict[str, dict]]:
    """Verdicts on the tuned model's dreams: file -> question -> row."""
    clips: dict[str, dict[str, dict]] = {}
    for row in store.read_rows(path):
        if row["model"] == "tuned":
            clips.setdefault(row["file"], {})[row["question"]] = row
    if not clips:
        raise UserError(
            f"{path} holds no verdict on the tuned model's dreams: run `cookbook generate` and `cookbook judge`"
        )
    return clips


def _verdict(file: str, answers: dict[str, dict], cuts: dict[str, float]) -> dict:
    """Whether one dream is kept, with the reason."""
    scores = {question: answers.get(question, {}).get("score") for question in QUESTIONS}
    failed = [q for q in QUESTIONS if scores[q] is None or scores[q] < cuts[q]]
    words = [
        f"{q} was not judged" if scores[q] is None else f"{q} {scores[q]:.2f} is below {cuts[q]:.2f}" for q in failed
    ]
    passed = " and ".join(f"{q} {scores[q]:.2f} reaches {cuts[q]:.2f}" for q in QUESTIONS if q not in failed)
    any_row = next(iter(answers.values()))
    return {
        "file": file,
        "video": Path(file).name,
        **{key: any_row[key] for key in ("sha256", "name", "prompt", "seed", "critic")},
        "scores": scores,
        "kept": not failed,
        "failed": failed,
        "reason": "; ".join(words) if failed else passed,
    }


def _keep(source: Path, folder: Path, row: dict, prefix: str) -> None:
    """Copy one dream with its caption, as data/train has them."""
    if not source.exists() or store.digest(source) != row["sha256"]:
        raise UserError(f"{source} is missing or was changed after it was judged: --redo judge")
    with store.replacing(folder / "videos" / row["video"]) as temporary:
        shutil.copy(source, temporary)
    with store.replacing(folder / "metas" / f"{source.stem}.txt") as temporary:
        temporary.write_text(prefix + row["prompt"], encoding="utf-8")
