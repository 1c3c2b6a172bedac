"""Ground truth of generated videos of known scenes, to compare the critic's scores with, and their obedience.

The simulator's photos come with masks of their things (`ground_truth/<n>.npz` beside the photos). So their videos can
be judged by rules on pixels, without a learned model (`cookbook/judge/rules.py`). Published photos have no masks, hence
no ground truth.
"""

from collections import defaultdict
from collections.abc import Sequence
from itertools import permutations
from pathlib import Path

import numpy as np

from cookbook import runs, show, storage
from cookbook.judge.rules import Things, judge_clip, observe
from cookbook.judge.statistics import share
from cookbook.layout import read_photos
from cookbook.profiles import Profile
from cookbook.video import read_video

NAME = "ground_truth.jsonl"
MODELS = ("base", "tuned")
SILENT = "no_text"  # the tuned model with an empty prompt
WORDS = {"hand": "hand", "item": "object", "place": "place"}  # parts of an instruction, as reported
PARTS = tuple(WORDS)


def known_scenes(profile: Profile) -> dict[tuple[str, str], Path]:
    """(hash of a photo, instruction) -> its ground truth file; empty where the profile's photos have none."""
    folder = runs.ASSETS / profile.eval_data.location
    if not (folder / "ground_truth").is_dir():
        return {}
    photos = {photo.name.split("_")[0]: photo for photo in read_photos(folder / profile.eval_subset)}
    files = ((photos[path.stem], path) for path in (folder / "ground_truth").glob("*.npz"))
    return {(storage.digest(photo.image), photo.prompt): path for photo, path in files}


def facts(frames: np.ndarray, things: Things, named: dict) -> dict:
    """What a video (N, H, W, 3) uint8 shows beside what was `named` (hand, item, place), and whether it succeeded."""
    judgement = judge_clip(frames, things, **named)
    shown = vars(observe(frames, things))
    return {"named": named, "shown": shown, **vars(judgement), "passed": judgement.outcome == "placed"}


def measure(profile: Profile, clips: Sequence[dict], path: Path) -> list[dict]:
    """All rows of ground_truth.jsonl, the missing ones computed now.

    Args:
        clips: as `list_generated` of the stage returns them.
    """
    scenes, rows = known_scenes(profile), storage.read_rows(path)
    done = {row["file"] for row in rows}
    missing = [clip for clip in clips if clip["file"] not in done and (clip["image"], clip["prompt"]) in scenes]
    for clip in show.progress(missing, "computing ground truth") if missing else ():
        with np.load(scenes[clip["image"], clip["prompt"]]) as file:
            things = Things(file["masks_items"], file["masks_receptacles"])
            named = {"hand": str(file["hand"]), "item": int(file["item"]), "place": int(file["place"])}
        row = {key: clip[key] for key in ("file", "model", "name", "prompt", "image", "seed")}
        row |= facts(read_video(clip["path"])[0], things, named)
        storage.append_row(path, row)
        rows.append(row)
    return rows


def rates(rows: Sequence[dict]) -> dict:
    """`success_rate_<model>` and its 95 % CI over prompts, None for a model without clips of known scenes; `obedience`.

    obedience: of the tuned model by part, and under `no_text` the shares of its videos without text that show the same.
    """
    facts = {}
    for model in MODELS:
        own = [row for row in rows if row["model"] == model]
        passed = np.array([row["passed"] for row in own], bool)
        rate, edges = share(passed, [row["prompt"] for row in own]) if own else (None, None)
        facts |= {f"success_rate_{model}": rate, f"success_rate_{model}_interval": edges}
    spoken = [row for row in rows if row["model"] == "tuned"]
    facts["obedience"] = obedience(spoken) | {SILENT: followed([row for row in rows if row["model"] == SILENT])}
    return facts


def obedience(rows: Sequence[dict]) -> dict[str, dict]:
    """How often a video shows its own instruction, that of its partner, or neither, by the part that differs.

    Partners are two videos of one model that share photo and seed and whose instructions differ in one part alone.

    Args:
        rows: of ground_truth.jsonl.

    Returns:
        hand, object, place -> {"clips", "own", "interval" (95 % CI over photos), "partner", "neither"}.
    """
    groups, counted = defaultdict(list), defaultdict(list)
    for row in rows:
        groups[row["model"], row["image"], row["seed"]].append(row)
    for (_, image, _), group in groups.items():
        for row, other in permutations(group, 2):
            different = [part for part in PARTS if row["named"][part] != other["named"][part]]
            if len(different) == 1:
                part = different[0]
                shown = row["shown"][part]
                counted[part].append((image, shown == row["named"][part], shown == other["named"][part]))
    result = {}
    for part in filter(counted.get, PARTS):
        images, own, partner = zip(*counted[part], strict=True)
        rate, edges = share(own, images)
        other = round(float(np.mean(partner)), 4)
        neither = round(1 - rate - other, 4)
        result[WORDS[part]] = {"clips": len(own), "own": rate, "interval": edges, "partner": other, "neither": neither}
    return result


def followed(rows: Sequence[dict]) -> dict[str, float]:
    """Share of videos that show the hand, the object and the place that were named, each by itself."""
    return {
        WORDS[part]: round(float(np.mean([row["shown"][part] == row["named"][part] for row in rows])), 4)
        for part in PARTS
        if rows
    }
