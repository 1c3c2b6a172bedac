"""Ground truth of generated videos of known scenes, to compare the critic's scores with.

The simulator's photos come with masks of what each instruction names (`ground_truth/<n>.npz` beside the photos), so
their videos can be judged by rules on pixels, without a learned model (`cookbook/judge/rules.py`). Published photos
have no masks, and then there is no ground truth.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from cookbook import runs, show
from cookbook.judge.rules import SUCCESS, judge_clip
from cookbook.judge.statistics import share
from cookbook.layout import read_photos
from cookbook.profiles import Profile
from cookbook.video import read_video

NAME = "ground_truth.jsonl"
MODELS = ("base", "tuned")


def known_scenes(profile: Profile) -> dict[str, Path]:
    """Hash of a photo -> its ground truth file; empty where the profile's photos have none."""
    if not profile.eval_data.ships:
        return {}
    folder = runs.ASSETS / profile.eval_data.location
    if not (folder / "ground_truth").is_dir():
        return {}
    photos = {photo.name.split("_")[0]: photo.image for photo in read_photos(folder / profile.eval_subset)}
    return {runs.digest(photos[path.stem]): path for path in (folder / "ground_truth").glob("*.npz")}


def measure(profile: Profile, clips: Sequence[dict], path: Path) -> list[dict]:
    """All rows of ground_truth.jsonl, the missing ones computed now.

    Args:
        clips: as `list_generated` of the stage returns them.
    """
    scenes, rows = known_scenes(profile), runs.read_rows(path)
    done = {row["file"] for row in rows}
    missing = [clip for clip in clips if clip["file"] not in done and clip["image"] in scenes]
    for clip in show.progress(missing, "computing ground truth") if missing else ():
        with np.load(scenes[clip["image"]]) as file:
            masks, hand = (file["mask_target"], file["mask_receptacle"]), str(file["hand"])
        judgement = judge_clip(read_video(clip["path"])[0], *masks, hand)
        row = {key: clip[key] for key in ("file", "model", "name", "prompt", "seed")}
        row |= {**vars(judgement), "passed": judgement.outcome in SUCCESS}
        runs.append_row(path, row)
        rows.append(row)
    return rows


def rates(rows: Sequence[dict]) -> dict:
    """`success_rate_<model>` and its 95 % CI over prompts, None for a model without clips of known scenes."""
    facts = {}
    for model in MODELS:
        own = [row for row in rows if row["model"] == model]
        passed = np.array([row["passed"] for row in own], bool)
        rate, edges = share(passed, [row["prompt"] for row in own]) if own else (None, None)
        facts |= {f"success_rate_{model}": rate, f"success_rate_{model}_interval": edges}
    return facts
