"""Stage filter: the tuned model's dreams that pass both thresholds become a training folder like data/train."""

from __future__ import annotations

import shutil
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import fmean

import numpy as np

from cookbook import profiles, runs, show
from cookbook.errors import UserError
from cookbook.judge import calibration, rows
from cookbook.judge.scoring import QUESTIONS
from cookbook.layout import write_metadata
from cookbook.video import fit, read_video

UPSTREAM = 3.5  # the published rule keeps 4 and 5 and drops 1 and 2; between 3 and 4 it says nothing
# Clips are the same if no cell of their thumbnails differs by more (0..255). Encoding the nano dreams of one run again
# at crf 34 moved a cell by 13 at most, and any two seeds of a prompt differed by 27 at least somewhere.
SAME = 16


def filter_clips(
    profile: str = "nano",
    run: Path | str | None = None,
    threshold: float | None = None,
    top: int | None = None,
    uncalibrated: bool = False,
    redo: bool = False,
) -> dict:
    """Keep the dreams that score high enough for physics and for following their instruction.

    Args:
        threshold: a score from 1 to 5 for both questions instead of the calibrated ones; 1 lets every judged clip pass.
        top: keep only so many of each prompt, those with the highest mean of both scores. Best-of-N, whatever the
            scores, is `--top 1 --threshold 1`.
        uncalibrated: work without calibration.json, at `threshold` or 3.5.

    Raises:
        UserError: the critic was never measured, or a dream was changed after it was judged.
    """
    chosen = profiles.get(profile)
    root = runs.run_folder(run, chosen.name)
    verdicts = root / "verdicts"
    if runs.read_manifest(verdicts) is None:
        raise UserError(f"{verdicts} is not finished: type {runs.command('judge', root, chosen.name)} first")
    if top is not None and top < 1:
        raise UserError(f"top is {top}; it must be at least 1")
    cuts, rule = _thresholds(verdicts, threshold, uncalibrated)
    rule += f", and it is among the best {top} of its prompt" if top else ""
    settings = {"thresholds": cuts} | ({"top": top} if top else {})
    stage = runs.enter(root / "kept", "filter", chosen.name, {"judge": runs.fingerprint(verdicts)}, settings, redo)
    if stage.done:
        return stage.manifest
    clips = _tuned(verdicts / "verdicts.jsonl")
    print(f"filter: {len(clips)} dreams of the tuned model; kept if {rule}")
    folder = stage.folder
    for name in ("videos", "metas"):  # what a killed run left is made again
        shutil.rmtree(folder / name, ignore_errors=True)
        (folder / name).mkdir()
    fates = [_verdict(file, answers, cuts) for file, answers in sorted(clips.items())]
    for row in fates:
        if row["kept"] and (not (root / row["file"]).exists() or runs.digest(root / row["file"]) != row["sha256"]):
            anew = runs.command("judge", root, chosen.name, "--redo")
            raise UserError(f"{root / row['file']} is missing or was changed after it was judged: type {anew}")
    _drop_copies(root, fates)
    _drop_below(fates, top)
    kept, dropped = ([row for row in fates if row["kept"] == wanted] for wanted in (True, False))
    for row in kept:
        _keep(root / row["file"], folder, row, chosen.prompt_prefix)
    with runs.replacing(folder / "metadata.csv") as temporary:
        write_metadata(temporary, [(row["video"], row["prompt"]) for row in kept])
    for name, part in (("kept.jsonl", kept), ("dropped.jsonl", dropped)):
        runs.write_rows(folder / name, part)
    print(f"filter: kept {len(kept)} of {len(clips)} dreams" + ("" if kept else "; none is good enough to train on"))
    if dropped:
        counts = Counter(tuple(row["failed"]) for row in dropped)
        told = ", ".join(f"{counts[why]} {text}" for why, text in _WHY.items() if counts[why])
        print(f"  {len(dropped)} dropped: {told}")
    if not kept:
        show.banner(
            f"no dream passed ({rule}): {folder} is empty; generate more seeds, train longer, or lower the threshold"
        )
    outputs = [path for path in folder.rglob("*") if path.is_file() and path.name not in ("started.json", ".lock")]
    return stage.finish(outputs, rule=rule, thresholds=cuts, kept=len(kept), dropped=len(dropped))


_WHY = {  # what a dream failed, each dream for one of them
    **{(question,): f"for {question}" for question in QUESTIONS},
    QUESTIONS: "for both",
    ("copy",): "as copies of kept ones",
    ("rank",): "behind better ones of their prompt",
}


def _thresholds(verdicts: Path, given: float | None, uncalibrated: bool) -> tuple[dict[str, float], str]:
    """Threshold per question, and the rule in words."""
    if given is not None and not 1 <= given <= 5:
        raise UserError(f"threshold {given:g} is not a score: give a number from 1 to 5")
    measured = calibration.load(verdicts)
    if measured is None and not uncalibrated:
        raise UserError(
            f"{verdicts / calibration.NAME} is missing: nobody knows what this critic's scores are worth. Type "
            f"{runs.command('judge', verdicts.parent, None, '--calibrate')}, or pass --uncalibrated"
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
    for row in rows.read(path, rows.Verdict):
        if row["model"] == "tuned":
            clips.setdefault(row["file"], {})[row["question"]] = row
    if not clips:
        generate, judge = (runs.command(verb, path.parents[1]) for verb in ("generate", "judge"))
        raise UserError(f"{path} holds no verdict on the tuned model's dreams: type {generate}, then {judge}")
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


def _best_first(fates: list[dict]) -> list[dict]:
    """Those still kept, by the mean of their scores."""
    kept = [row for row in fates if row["kept"]]
    return sorted(kept, key=lambda row: -fmean(row["scores"].values()))


def _drop(row: dict, word: str, reason: str) -> None:
    row |= {"kept": False, "failed": [*row["failed"], word], "reason": reason}


def thumbnails(frames: np.ndarray) -> np.ndarray:
    """Eight moments of a clip uint8 [T, H, W, 3] as 12 x 20 cells, float [8, 12, 20, 3]."""
    moments = np.linspace(0, len(frames) - 1, 8).round().astype(int)
    cells = fit(frames[moments], 96, 160, crop=False).astype(np.float32)
    return cells.reshape(8, 12, 8, 20, 8, 3).mean((2, 4))


def _drop_copies(root: Path, fates: list[dict]) -> None:
    """Of clips that look the same, keep the one with the highest score."""
    ordered = _best_first(fates)
    with ThreadPoolExecutor() as pool:
        seen = list(pool.map(lambda row: thumbnails(read_video(root / row["file"])[0]), ordered))
    unlike: list[int] = []
    for number, row in enumerate(ordered):
        twin = next((other for other in unlike if np.abs(seen[other] - seen[number]).max() <= SAME), None)
        if twin is None:
            unlike.append(number)
        else:
            _drop(row, "copy", f"looks the same as {ordered[twin]['video']}")


def _drop_below(fates: list[dict], top: int | None) -> None:
    """Keep the best `top` of each prompt; all where it is None."""
    places: dict[str, int] = {}
    for row in _best_first(fates):
        place = places[row["name"]] = places.get(row["name"], 0) + 1
        if top and place > top:
            _drop(row, "rank", f"number {place} of its prompt, of which {top} are kept")


def _keep(source: Path, folder: Path, row: dict, prefix: str) -> None:
    """Copy one dream with its caption, as data/train has them."""
    with runs.replacing(folder / "videos" / row["video"]) as temporary:
        shutil.copy(source, temporary)
    with runs.replacing(folder / "metas" / f"{source.stem}.txt") as temporary:
        temporary.write_text(prefix + row["prompt"], encoding="utf-8")
