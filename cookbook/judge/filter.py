"""Stage filter: the tuned model's videos that pass both thresholds become a training folder like data/train."""

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import fmean

import numpy as np

from cookbook import profiles, runs, show, storage
from cookbook.errors import UserError, require_whole
from cookbook.judge import calibration
from cookbook.judge.rows import QUESTIONS, Verdict, read_validated, require_video
from cookbook.layout import Clip, write_training
from cookbook.video import fit, probe

# Clips are duplicates if no cell of their thumbnails differs by more (0..255). Re-encoding the nano videos of a run at
# crf 34 changed a cell by 13 at most; any two seeds of a prompt differed by at least 27 in some cell.
SAME = 16


@runs.releasing
def filter_clips(
    profile: str = "nano",
    run: Path | str | None = None,
    threshold: float | None = None,
    top: int | None = None,
    redo: bool = False,
) -> dict:
    """Keep the tuned model's videos that score high enough for physics and for following their instruction.

    Args:
        threshold: a score from 1 to 5 for both questions instead of the calibrated ones; 1 lets every judged clip pass.
        top: keep at most this number of videos per prompt, those with the highest mean of both scores. For best-of-N
            without a threshold, type `--top 1 --threshold 1`.

    Raises:
        UserError: no threshold is known, or a video was changed after it was judged.
    """
    chosen = profiles.get(profile)
    root = runs.run_folder(run, chosen.name)
    verdicts = root / "verdicts"
    runs.manifest_of(root, "judge", chosen.name)
    require_whole(1, top=top)
    cuts, rule = _thresholds(verdicts, threshold)
    rule += f", and it is among the best {top} of its prompt" if top else ""
    settings = {"thresholds": cuts} | ({"top": top} if top else {})
    stage = runs.enter(root / "kept", "filter", chosen.name, {"judge": runs.fingerprint(verdicts)}, settings, redo)
    if stage.done:
        return stage.manifest
    clips = _tuned(verdicts / "verdicts.jsonl")
    print(f"filter: {len(clips)} videos of the tuned model; kept if {rule}")
    rows = [_decision(file, answers, cuts) for file, answers in sorted(clips.items())]
    for row in [row for row in rows if row["kept"]]:
        require_video(root, row["file"])
        if storage.digest(root / row["file"]) != row["sha256"]:
            fix = runs.command("judge", root, chosen.name, "--redo")
            raise UserError(f"{root / row['file']} was changed after it was judged: type {fix}")
    _drop_duplicates(root, rows)
    _drop_below(rows, top)
    kept, dropped = ([row for row in rows if row["kept"] == wanted] for wanted in (True, False))
    for name in ("videos", "metas"):  # of a killed run
        storage.remove(stage.folder / name)
        (stage.folder / name).mkdir()
    write_training(stage.folder, [Clip(root / row["file"], row["prompt"]) for row in kept], chosen.prompt_prefix)
    storage.write_rows(stage.folder / "kept.jsonl", kept)
    storage.write_rows(stage.folder / "dropped.jsonl", dropped)
    _print_counts(kept, dropped)
    if not kept:
        fix = "generate more seeds, train longer, or lower the threshold"
        show.banner(f"no video passed ({rule}): {stage.folder} is empty; {fix}")
    outputs = storage.contents(stage.folder)
    return stage.finish(outputs, rule=rule, thresholds=cuts, kept=len(kept), dropped=len(dropped))


def _print_counts(kept: list[dict], dropped: list[dict]) -> None:
    """How many videos were kept, and why the others were dropped."""
    print(f"filter: kept {len(kept)} of {len(kept) + len(dropped)} videos")
    words = {(question,): f"for {question}" for question in QUESTIONS} | {tuple(QUESTIONS): "for both"}
    words |= {("copy",): "as copies of kept ones", ("rank",): "behind better ones of their prompt"}
    counts = Counter(tuple(row["failed"]) for row in dropped)
    if dropped:
        reasons = ", ".join(f"{counts[failed]} {text}" for failed, text in words.items() if counts[failed])
        print(f"  {len(dropped)} dropped: {reasons}")


def _thresholds(verdicts: Path, threshold: float | None) -> tuple[dict[str, float], str]:
    """Threshold per question, and the rule in words."""
    if threshold is not None and not 1 <= threshold <= 5:
        raise UserError(f"threshold {threshold:g} is not a score: give a number from 1 to 5")
    measured = calibration.load(verdicts)
    if threshold is not None:
        note = "" if measured else ", uncalibrated"
        return dict.fromkeys(QUESTIONS, float(threshold)), f"both scores are at least {threshold:g}{note}"
    if measured is None:
        fix = f"type {runs.command('calibrate', verdicts.parent)}, or give --threshold"
        raise UserError(f"{verdicts / calibration.NAME} is missing, so the thresholds are unknown: {fix}")
    facts = measured["questions"]
    if unknown := [question for question in QUESTIONS if "threshold" not in facts[question]]:
        raise UserError(f"{verdicts / calibration.NAME} has no threshold for {unknown[0]}: give --threshold")
    cuts = {question: facts[question]["threshold"] for question in QUESTIONS}
    return cuts, " and ".join(f"{q} is at least {cuts[q]:.2f} ({facts[q]['rule']})" for q in QUESTIONS)


def _tuned(path: Path) -> dict[str, dict[str, dict]]:
    """Verdicts on the tuned model's videos: file -> question -> row."""
    clips: dict[str, dict[str, dict]] = {}
    for row in read_validated(path, Verdict):
        if row["model"] == "tuned":
            clips.setdefault(row["file"], {})[row["question"]] = row
    if not clips:
        generate, judge = (runs.command(verb, path.parents[1]) for verb in ("generate", "judge"))
        raise UserError(f"{path} holds no verdict on the tuned model's videos: type {generate}, then {judge}")
    return clips


def _decision(file: str, answers: dict[str, dict], cuts: dict[str, float]) -> dict:
    """Whether one video is kept, with the reason."""
    scores = {question: answers.get(question, {}).get("score") for question in QUESTIONS}
    failed = [q for q in QUESTIONS if scores[q] is None or scores[q] < cuts[q]]
    words = {q: f"{scores[q]:.2f} reaches {cuts[q]:.2f}" for q in QUESTIONS if q not in failed}
    words |= {q: "was not judged" if scores[q] is None else f"{scores[q]:.2f} is below {cuts[q]:.2f}" for q in failed}
    reason = "; ".join(f"{q} {words[q]}" for q in failed) or " and ".join(f"{q} {words[q]}" for q in QUESTIONS)
    any_row = next(iter(answers.values()))
    row = {"file": file, "video": Path(file).name}
    row |= {key: any_row[key] for key in ("sha256", "name", "prompt", "seed", "critic")}
    return row | {"scores": scores, "kept": not failed, "failed": failed, "reason": reason}


def _best_first(rows: list[dict]) -> list[dict]:
    """Those still kept, by the mean of their scores."""
    kept = [row for row in rows if row["kept"]]
    return sorted(kept, key=lambda row: -fmean(row["scores"].values()))


def _drop(row: dict, word: str, reason: str) -> None:
    row |= {"kept": False, "failed": [*row["failed"], word], "reason": reason}


def thumbnails(path: Path) -> np.ndarray:
    """Eight frames of a video as 12 x 20 cells, float [8, 12, 20, 3]."""
    film = probe(path)
    moments = film.nearest(np.linspace(0, film.frames - 1, 8).round())
    cells = film.read(moments, lambda picture: fit(picture[None], 96, 160, crop=False)[0]).astype(np.float32)
    return cells.reshape(8, 12, 8, 20, 8, 3).mean((2, 4))


def _drop_duplicates(root: Path, rows: list[dict]) -> None:
    """Of videos that look the same, keep the one with the highest score."""
    ordered = _best_first(rows)
    with ThreadPoolExecutor() as pool:
        cells = list(pool.map(lambda row: thumbnails(root / row["file"]), ordered))
    distinct: list[int] = []
    for number, row in enumerate(ordered):
        same = next((other for other in distinct if np.abs(cells[other] - cells[number]).max() <= SAME), None)
        if same is None:
            distinct.append(number)
        else:
            _drop(row, "copy", f"looks the same as {ordered[same]['video']}")


def _drop_below(rows: list[dict], top: int | None) -> None:
    """Keep the best `top` of each prompt; all where it is None."""
    places: dict[str, int] = {}
    for row in _best_first(rows):
        place = places[row["name"]] = places.get(row["name"], 0) + 1
        if top and place > top:
            _drop(row, "rank", f"number {place} of its prompt, of which {top} are kept")
