"""Clips of the nano world model, labelled by the truth of the dream, for the critic to learn from.

    python -m nano.generate_clips --models DIR --train DIR --data DIR --out DIR

A critic that has only seen the simulator's clips and their twins does not rank generated ones: what goes wrong there
looks different. Beginnings of `--data` are dreamt by the base model and by two post-trained ones (the nano recipe,
and a third of its steps), so that both answers occur. `--out` is laid out as a folder of `simulator.make`.
"""

from __future__ import annotations

from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro

from cookbook import hardware, runs, video
from cookbook.engine import Group
from cookbook.errors import report_user_errors
from nano.evaluate import finish, judges
from nano.generator import CENTRE, NANO, BatchGenerator, Scene
from nano.variants import Resident, TrainingFlags, make, post_train, training_clips

# Reasons of `truth.py` that break physics, whatever was asked for
BROKEN = ("the object is gone", "the object is seen twice", "the object changed its colour")


@dataclass(kw_only=True)
class Args(TrainingFlags):
    prompts: int = 400
    seeds: int = 1


def label(name: str, frames: np.ndarray, scene: Scene, out: Path) -> dict:
    """In a worker: write the clip, judge it, return its row. physics is -1 where the truth does not tell."""
    verdict = finish(frames, scene)
    path = out / "videos" / f"{name}.mp4"
    video.write_video(path, frames, NANO.clip.fps)
    physics = 1 if verdict["passed"] else 0 if verdict["reason"] in BROKEN else -1
    told = {key: scene.row[key] for key in ("task", "hand", "prompt")}
    return told | {
        "id": name, "label": "dream", "source_clip": scene.row["id"], "fps": NANO.clip.fps, "sha256": runs.digest(path),
        "physics": physics, "instruction": int(verdict["passed"]), "reason": verdict["reason"],
        "violation": [len(frames) - 1, len(frames) - 1] if physics == 0 else None,
    }  # fmt: skip


def main(args: Args) -> None:
    (args.out / "videos").mkdir(parents=True, exist_ok=True)
    dreamer = args.dreamer(args.models)
    clips, group = training_clips(args.train, args.models, dreamer), Group(0, 1, hardware.device())
    full = NANO.recipe.steps
    with judges(args.workers) as pool:
        parts = [dream(steps, dreamer, clips, group, args, pool) for steps in (0, full // 3, full)]
    runs.write_rows(args.out / "manifest.jsonl", [row for part in parts for row in part])


def dream(
    steps: int, dreamer: BatchGenerator, clips: list[Resident], group: Group, args: Args, pool: Executor
) -> list[dict]:
    """Post-train for so many steps, dream every beginning and seed, and say how many came true."""
    model, _ = post_train(make(steps=steps), args.models, clips, group)
    waiting = []
    for index, seed, frames in dreamer.dream(model, CENTRE, range(args.seeds)):
        scene = dreamer.scenes[index]
        name = f"dream{steps:04d}_{scene.row['id']}_{seed}"
        waiting.append(pool.submit(label, name, frames, scene, args.out))
    rows = [future.result() for future in waiting]
    print(f"{steps} steps: {sum(row['instruction'] for row in rows)} of {len(rows)} came true", flush=True)
    return rows


if __name__ == "__main__":
    with report_user_errors():
        main(tyro.cli(Args))
