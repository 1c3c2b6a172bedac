"""Generated trajectories for `nano.policy`: many videos of new photos, judged, filtered, decoded and executed.

    python -m nano.policy_videos --work runs/policy --tuned runs/nano/export/diffusers --scenes 400 --seeds 3

The photos are the first frames of `work/photos`, which `nano.policy clips` renders. The videos are generated in
batches; everything after them is done by the stages of the cookbook, in the run folder `work/run`. Its data set
`work/run/lerobot` has the columns `kept` and `success`. What is finished is kept when it is started again.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import tyro

from cookbook import runs, show, storage, video
from cookbook.actions.execute import execute_in
from cookbook.actions.export import export_actions
from cookbook.actions.stage import actions
from cookbook.errors import report_user_errors
from cookbook.judge.filter import filter_clips
from cookbook.judge.ground_truth import PARTS
from cookbook.judge.stage import judge
from cookbook.models import hub, world
from nano.generator import CENTRE, NANO, BatchGenerator, SimulatedClip, load_model, read_scenes


def trajectories(work: Path, tuned: Path, scenes: int = 500, seeds: int = 1, workers: int = 2) -> None:
    """Make the data set.

    Args:
        tuned: folder with the post-trained `transformer/`.
        scenes: photos, each with all its instructions.
        seeds: videos of each photo and instruction.
        workers: processes that execute.
    """
    run, photos = storage.absolute(work / "run"), read_scenes((work / "photos",), scenes)
    generate(photos, run / "generated" / "tuned", tuned, seeds)
    judge(run=run)
    filter_clips(run=run)
    actions(run=run)
    known = {
        (photo.row["scene"], photo.row["prompt"]): {name: photo.row[name] for name in ("seed", *PARTS)}
        for photo in photos
    }
    execute_in(known, run, NANO.name, workers)
    export_actions(run=run)


def generate(photos: list[SimulatedClip], folder: Path, tuned: Path, seeds: int) -> None:
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
        tyro.cli(trajectories, prog="python -m nano.policy_videos")
