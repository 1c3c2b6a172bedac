"""What a dream really did, where its scene is known: the truth that the critic's opinion is held against.

The workshop's photos come with masks of what each instruction names (`truth/<n>.npz` beside the photos), so its dreams
can be judged by rules on pixels, without a learned model (`cookbook/judge/rules.py`). Published photos have no such
file, and then nothing is said.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from cookbook import runs, show
from cookbook.judge.statistics import share
from cookbook.layout import read_photos
from cookbook.profiles import Profile
from cookbook.video import read_video

NAME = "ground_truth.jsonl"
MODELS = ("base", "tuned")


def known_scenes(profile: Profile) -> dict[str, Path]:
    """Hash of a photo -> its truth file; empty where the profile's photos have none."""
    if not profile.eval_data.ships:
        return {}
    folder = runs.ASSETS / profile.eval_data.location
    if not (folder / "ground_truth").is_dir():
        return {}
    photos = {photo.name.split("_")[0]: photo.image for photo in read_photos(folder / profile.eval_subset)}
    return {runs.digest(photos[path.stem]): path for path in (folder / "ground_truth").glob("*.npz")}


def measure(profile: Profile, rows: Sequence[dict], path: Path) -> list[dict]:
    """All rows of ground_truth.jsonl, the missing ones measured now.

    Args:
        rows: clips as `judge.list_dreams` gives them.
    """
    from cookbook.judge.rules import SUCCESS, judge_clip

    scenes, found = known_scenes(profile), runs.read_rows(path)
    done = {row["file"] for row in found}
    todo = [row for row in rows if row["file"] not in done and row["image"] in scenes]
    for row in show.progress(todo, "judging by the truth") if todo else ():
        with np.load(scenes[row["image"]]) as file:
            verdict = judge_clip(
                read_video(row["path"])[0], file["mask_target"], file["mask_receptacle"], str(file["hand"])
            )
        told = {key: row[key] for key in ("file", "model", "name", "prompt", "seed")}
        fresh = {**told, **vars(verdict), "passed": verdict.outcome in SUCCESS}
        runs.append_row(path, fresh)
        found.append(fresh)
    return found


def rates(found: Sequence[dict]) -> dict:
    """`success_rate_<model>` and its 95 % interval over prompts, None for a model without clips of known scenes."""
    facts = {}
    for model in MODELS:
        rows = [row for row in found if row["model"] == model]
        passed = np.array([row["passed"] for row in rows], bool)
        rate, edges = share(passed, [row["prompt"] for row in rows]) if rows else (None, None)
        facts |= {f"success_rate_{model}": rate, f"success_rate_{model}_interval": edges}
    return facts
