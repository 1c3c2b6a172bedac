"""Remake the workshop clips that ship in `assets/simulator`, from fixed seeds.

    python -m simulator.ship [--only train] [--work DIR] [--workers 2]

train/     96 clips of training pairs, in the layout of the GR1-100 download: `gr1/*.mp4` beside `metadata.csv`
eval/      20 held-out pairs in the layout of EVAL-175 (one misnamed picture included) and their truth
controls/  real clips of held-out pairs with physics and instruction twins: what a critic is measured on

Beside each, `states.json` says how it was made and holds a hash of every clip's states, by which a remake is compared.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from cookbook.errors import report_user_errors
from cookbook.video import read_video
from simulator.make import make
from simulator.robot import ASSETS

TRAIN, EVAL, CONTROLS = 96, 20, 64
COMMAS = (5, 31, 62)  # prompts of train/ that get a comma, as some published ones have
MISNAMED = 12  # the pair of eval/ whose picture lacks the sentence's full stop


def read_rows(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "manifest.jsonl").read_text().splitlines()]


def fresh(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def ship_train(work: Path, out: Path) -> None:
    fresh(out / "gr1")
    lines = ["file,prompt"]
    for index, row in enumerate(read_rows(work)):
        shutil.copy(work / f"videos/{row['id']}.mp4", out / f"gr1/{index}.mp4")
        before, _, place = row["prompt"].rpartition(" to ")
        prompt = f"{before}, to {place}" if index in COMMAS else row["prompt"]
        lines.append(f'{index}.mp4,"{prompt}"' if "," in prompt else f"{index}.mp4,{prompt}")
    (out / "metadata.csv").write_text("\n".join(lines) + "\n")


def ship_eval(work: Path, out: Path) -> None:
    """`<n>_<instruction>..png` and `.txt`, and `truth/<n>.npz` with what truth.py needs to judge a dream."""
    subset, truth = fresh(out / "gr1_object"), fresh(out / "truth")
    for index, row in enumerate(read_rows(work)):
        prompt = row["prompt"]
        picture = prompt.removesuffix(".") if index == MISNAMED else prompt
        first = read_video(work / f"videos/{row['id']}.mp4")[0][0]
        Image.fromarray(first).save(subset / f"{index}_{picture}.png", optimize=True)
        (subset / f"{index}_{prompt}.txt").write_text(prompt + "\n")
        with np.load(work / f"truth/{row['id']}.npz") as full:
            kept = {
                name: full[name]
                for name in full.files
                if name.startswith("mask_") or name in ("receptacles", "decks", "sizes")
            }
            kept |= {"camera": full["camera"], "fovy": full["fovy"], "items": full["items"][[0, -1]]}
        np.savez_compressed(truth / f"{index}.npz", hand=row["hand"], prompt=prompt, **kept)


def ship_controls(work: Path, out: Path) -> None:
    fresh(out / "videos")
    lines = []
    for row in read_rows(work):
        file = f"videos/{row['id']}.mp4"
        shutil.copy(work / file, out / file)
        kept = {key: row[key] for key in ("prompt", "physics", "instruction", "violation", "source_clip")}
        lines.append(json.dumps({"file": file, "kind": row["label"], **kept}))
    (out / "calibration_clips.jsonl").write_text("\n".join(lines) + "\n")


def write_states(work: Path, out: Path, recipe: dict) -> None:
    states = {row["id"]: row["states"] for row in read_rows(work)}
    (out / "states.json").write_text(json.dumps({"recipe": recipe, "states": states}, indent=1) + "\n")


SHIPPED: dict[str, tuple[dict, Callable[[Path, Path], None]]] = {
    "train": ({"clips": TRAIN, "seed": 100, "pairs": "train"}, ship_train),
    "eval": ({"clips": EVAL, "seed": 200, "pairs": "held-out"}, ship_eval),
    "controls": ({"clips": CONTROLS, "seed": 300, "pairs": "held-out", "twins": "balanced"}, ship_controls),
}


def ship(
    only: Literal["train", "eval", "controls", "all"] = "all",
    work: Path = Path("runs/ship"),
    workers: int = 2,
    out: Path = ASSETS / "workshop",
) -> None:
    """Make what is missing in `work`, then rewrite the datasets in `out`."""
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
