"""Generated videos of the nano world model, labelled by the rules on pixels, for the critic to learn from.

    python -m nano.generate_clips --models DIR --train DIR --data DIR --out DIR

A critic trained on the simulator's clips and injected faults alone does not rank generated videos: their faults look
different. Videos start from the first frames of `--data` and come from the base model and two post-trained ones (the
nano recipe, and a third of its steps), so that both labels occur. `--out` is laid out as a folder of `simulator.make`.
"""

from __future__ import annotations

from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro

from cookbook import hardware, storage, video
from cookbook.engine import Group
from cookbook.errors import report_user_errors
from nano.evaluate import judge, judges
from nano.generator import CENTRE, NANO, BatchGenerator, SimulatedClip
from nano.variants import Resident, TrainingFlags, make, post_train, training_clips

# Reasons of the rules that violate physics, whatever the instruction
VIOLATIONS = (
    "the object is gone", "the object is seen twice", "the object changed its colour", "another object changed",
    "the receptacle changed", "the other receptacle changed", "the object is too large: it hangs in the air",
)  # fmt: skip


@dataclass(kw_only=True)
class Args(TrainingFlags):
    scenes: int = 400
    seeds: int = 1


def label(name: str, frames: np.ndarray, clip: SimulatedClip, out: Path) -> dict:
    """In a worker: write the video, judge it, return its row. physics is -1 where the rules leave it open."""
    judgement = judge(frames, clip)
    path = out / "videos" / f"{name}.mp4"
    video.write_video(path, frames, NANO.clip.fps)
    physics = 1 if judgement["passed"] else 0 if judgement["reason"] in VIOLATIONS else -1
    instruction = {key: clip.row[key] for key in ("task", "hand", "item", "place", "objects", "places", "prompt")}
    return instruction | {
        "id": name, "label": "generated", "source_clip": clip.row["id"], "fps": NANO.clip.fps,
        "sha256": storage.digest(path), "physics": physics, "instruction": int(judgement["passed"]),
        "reason": judgement["reason"], "violation": [len(frames) - 1, len(frames) - 1] if physics == 0 else None,
    }  # fmt: skip


def main(args: Args) -> None:
    (args.out / "videos").mkdir(parents=True, exist_ok=True)
    generator, full = args.batch_generator(args.models), NANO.recipe.steps
    clips, group = training_clips(args.train, args.models, generator), Group(0, 1, hardware.device())
    with judges(args.workers) as pool:
        parts = [generate(steps, generator, clips, group, args, pool) for steps in (0, full // 3, full)]
    storage.write_rows(args.out / "manifest.jsonl", [row for part in parts for row in part])


def generate(
    steps: int, generator: BatchGenerator, clips: list[Resident], group: Group, args: Args, pool: Executor
) -> list[dict]:
    """Post-train for `steps`, generate and label a video of every clip and seed, and print the success rate."""
    model, _ = post_train(make(steps=steps), args.models, clips, group)
    waiting = []
    for index, seed, frames in generator.generate(model, CENTRE, range(args.seeds)):
        clip = generator.scenes[index]
        name = f"steps{steps:04d}_{clip.row['id']}_{seed}"
        waiting.append(pool.submit(label, name, frames, clip, args.out))
    rows = [future.result() for future in waiting]
    print(f"{steps} steps: {sum(row['instruction'] for row in rows)} of {len(rows)} succeeded", flush=True)
    return rows


if __name__ == "__main__":
    with report_user_errors():
        main(tyro.cli(Args))
