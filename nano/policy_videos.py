"""Generated trajectories for `nano.policy`: many videos of new photos, judged, filtered, decoded and executed.

    python -m nano.policy_videos generate --work runs/policy --tuned runs/nano/export/diffusers
    python -m nano.policy_videos decode --work runs/policy

The photos are the first frames of `work/photos`, which `nano.policy clips` renders. The videos are generated in
batches; everything after them is done by the stages of the cookbook, in the run folder `work/run`. The exported data
set `work/run/lerobot` has the columns `kept` and `success`. A second call continues where the first one stopped.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import tyro

from cookbook import results, runs, show, storage, video
from cookbook.actions.execute import execute_in
from cookbook.actions.export import export_actions
from cookbook.actions.stage import actions
from cookbook.errors import report_user_errors
from cookbook.judge.filter import filter_clips
from cookbook.judge.ground_truth import PARTS
from cookbook.judge.stage import judge
from cookbook.models import hub, world
from nano.generator import CENTRE, NANO, BatchGenerator, SimulatedClip, load_model, read_scenes


def generate(work: Path, tuned: Path, scenes: int = 400, seeds: int = 2) -> None:
    """Generate, judge and filter videos.

    Args:
        tuned: folder with the post-trained `transformer/`.
        scenes: photos, each with all its instructions.
        seeds: videos of each photo and instruction.
    """
    run = storage.absolute(work / "run")
    write_videos(read_scenes((work / "photos",), scenes), run / "generated" / "tuned", tuned, seeds)
    judge(run=run)
    filter_clips(run=run)


def decode(work: Path, model_folder: Path | None = None, workers: int = 2) -> None:
    """Decode, execute and export the videos; print the AUC of each score for success of the execution.

    Args:
        model_folder: an inverse dynamics model; the one that ships if not given.
        workers: processes that execute.
    """
    run = storage.absolute(work / "run")
    rows = storage.read_rows(work / "photos" / "manifest.jsonl")
    known = {(row["scene"], row["prompt"]): {name: row[name] for name in ("seed", *PARTS)} for row in rows}
    actions(run=run, model_folder=model_folder)
    execute_in(known, run, NANO.name, workers)
    export_actions(run=run)
    print(results.execution_aucs(run))


def write_videos(photos: list[SimulatedClip], folder: Path, tuned: Path, seeds: int) -> None:
    """Write the videos as the generate stage does, from the first frames of `photos`."""
    inputs = {
        "photos": storage.digest_of([photo.row["sha256"] for photo in photos]),
        "weights": world.weights_fingerprint(tuned),
    }
    stage = runs.enter(folder, "generate", NANO.name, inputs, asdict(CENTRE) | {"seeds": seeds})
    if stage.done:
        return
    generator, rows = BatchGenerator(hub.locate(NANO.world), photos), []
    videos = generator.generate(load_model(tuned, generator.device), CENTRE, range(seeds))
    for index, seed, frames in show.progress(videos, "generating", seeds * len(photos)):
        row = photos[index].row
        file = f"{row['id']}_seed{seed}.mp4"
        video.write_video(folder / file, frames, NANO.clip.fps)
        rows.append({"file": file, "model": "tuned", "name": row["id"], "prompt": row["prompt"], "seed": seed})
        rows[-1] |= {"image_sha256": row["scene"], "blocked": False}
    storage.write_rows(folder / "generated.jsonl", rows)
    stage.finish(storage.contents(folder), clips=len(rows))
    stage.close()


if __name__ == "__main__":
    with report_user_errors():
        tyro.extras.subcommand_cli_from_dict(
            {"generate": generate, "decode": decode}, prog="python -m nano.policy_videos"
        )
