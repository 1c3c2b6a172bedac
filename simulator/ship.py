"""Remake the clips that ship in `assets/simulator`, from fixed seeds.

    python -m simulator.ship [--only train] [--work DIR] [--workers 2] [--out DIR]

train/            two clips of each of 48 scenes, in the layout of the GR1-100 download: `gr1/*.mp4` and
                  `metadata.csv`
demonstrations/   the first 88 of them with joints and targets, as a LeRobot data set
eval/             two instructions for each of 10 photos, in the layout of EVAL-175 (one misnamed picture included),
                  and their ground truth
calibration/      clips of other scenes and copies with injected faults, by which a critic is calibrated

In all but the second, `states.json` holds the recipe and a hash of every clip's states, with which a remake is
compared.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from cookbook import storage
from cookbook.actions import lerobot_write
from cookbook.actions.clips import read_simulator
from cookbook.errors import report_user_errors
from cookbook.layout import write_metadata
from cookbook.video import read_video
from simulator.build_robot import ASSETS
from simulator.make import make

TRAIN, EVAL, CALIBRATION = 48, 10, 64  # scenes
DEMONSTRATIONS = 88  # clips: those that the world model is post-trained on, without the ones that it holds out
COMMAS = (5, 31, 62)  # prompts of train/ that get a comma, as some published ones have
MISNAMED = 12  # the pair of eval/ with a picture name that lacks the sentence's full stop


def fresh(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def ship_train(work: Path, out: Path) -> None:
    fresh(out / "gr1")
    captions = []
    for index, row in enumerate(storage.read_rows(work / "manifest.jsonl")):
        shutil.copy(work / f"videos/{row['id']}.mp4", out / f"gr1/{index}.mp4")
        before, _, place = row["prompt"].rpartition(" to ")
        captions.append((f"{index}.mp4", f"{before}, to {place}" if index in COMMAS else row["prompt"]))
    write_metadata(out / "metadata.csv", captions)
    clips = read_simulator(work)
    few = replace(clips, name="demonstrations", episodes=clips.episodes[:DEMONSTRATIONS])
    lerobot_write.write(fresh(out.parent / few.name), few)


def ship_eval(work: Path, out: Path) -> None:
    """`<n>_<instruction>..png` and `.txt`, and `ground_truth/<n>.npz` with what judging a generated video needs."""
    subset, ground_truth = fresh(out / "gr1_object"), fresh(out / "ground_truth")
    for index, row in enumerate(storage.read_rows(work / "manifest.jsonl")):
        prompt = row["prompt"]
        picture = prompt.removesuffix(".") if index == MISNAMED else prompt
        first = read_video(work / f"videos/{row['id']}.mp4")[0][0]
        Image.fromarray(first).save(subset / f"{index}_{picture}.png", optimize=True)
        (subset / f"{index}_{prompt}.txt").write_text(prompt + "\n")
        with np.load(work / f"ground_truth/{row['id']}.npz") as full:
            kept = {name: full[name] for name in ("masks_items", "masks_receptacles")}
        named = {name: row[name] for name in ("prompt", "hand", "item", "place", "seed")}
        np.savez_compressed(ground_truth / f"{index}.npz", **named, **kept)


def ship_calibration(work: Path, out: Path) -> None:
    fresh(out / "videos")
    rows = []
    for row in storage.read_rows(work / "manifest.jsonl"):
        file = f"videos/{row['id']}.mp4"
        shutil.copy(work / file, out / file)
        kept = {key: row[key] for key in ("prompt", "physics", "instruction", "violation", "source_clip")}
        rows.append({"file": file, "kind": row["label"], **kept})
    storage.write_rows(out / "calibration_clips.jsonl", rows)


def write_states(work: Path, out: Path, recipe: dict) -> None:
    states = {row["id"]: row["states"] for row in storage.read_rows(work / "manifest.jsonl")}
    (out / "states.json").write_text(json.dumps({"recipe": recipe, "states": states}, indent=1) + "\n")


SHIPPED: dict[str, tuple[dict, Callable[[Path, Path], None]]] = {
    "train": ({"scenes": TRAIN, "seed": 100, "instructions": 2}, ship_train),
    "eval": ({"scenes": EVAL, "seed": 200, "instructions": 2}, ship_eval),
    "calibration": ({"scenes": CALIBRATION, "seed": 300, "faults": "balanced"}, ship_calibration),
}


def ship(
    only: Literal["train", "eval", "calibration", "all"] = "all",
    work: Path = Path("runs/ship"),
    workers: int = 2,
    out: Path = ASSETS / "simulator",
) -> None:
    """Render the missing clips in `work`, then rewrite the data sets in `out`."""
    for name, (recipe, write) in SHIPPED.items():
        if only in (name, "all"):
            make(work / name, workers=workers, **recipe)
            write(work / name, out / name)
            write_states(work / name, out / name, recipe)
    size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    print(f"{out}: {size / 1e6:.2f} MB")


if __name__ == "__main__":
    import tyro

    with report_user_errors():
        tyro.cli(ship)
