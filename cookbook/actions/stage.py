"""Stage actions: joint targets for every generated video; writes actions/actions.jsonl, a row per video.

A row holds the video's facts and hash, the model's hash, `fps` rows a second of `joints` and `targets` (rad, [T][J]),
the predicted standard `deviation` of each joint (degrees, mean over time), and the scores of `motion`.
"""

import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from cookbook import hardware, profiles, runs, show, storage
from cookbook.actions import model, motion
from cookbook.actions.decode import decode_video
from cookbook.errors import UserError
from cookbook.judge.ground_truth import MODELS
from cookbook.judge.stage import list_generated
from cookbook.layout import find_videos
from cookbook.models import hub

NAME = "actions.jsonl"
MENDED = {"videos", *(f"generate-{name}" for name in MODELS)}  # changed inputs that leave other videos' rows
FACTS = ("file", "model", "name", "prompt", "image", "seed")  # of a row, as the judge names them


@runs.releasing
def actions(
    profile: str = "nano",
    run: Path | str | None = None,
    model_folder: Path | str | None = None,
    videos: Path | str | None = None,
    redo: bool = False,
) -> dict:
    """Decode the videos of a run to joint targets at the robot's rate.

    Args:
        model_folder: an inverse dynamics model of `cookbook actions-train`; the profile's own if not given.
        videos: a folder of other videos; their rows go to `actions-<folder name>`.
        redo: decode all videos again. Without it, new or changed videos cost only their own decoding.

    Returns:
        The stage's manifest.

    Raises:
        UserError: no model for this profile, or a video of another shape or rate than the model's.
    """
    chosen = profiles.get(profile)
    root = runs.run_folder(run, chosen.name)
    weights = locate(chosen, model_folder)
    mark = model.fingerprint(weights)
    if videos:
        source = storage.absolute(videos)
        rows = [{**dict.fromkeys(FACTS), "file": p.name, "name": p.stem, "path": p} for p in find_videos(source)]
        folder, inputs = root / f"actions-{source.name}", {"videos": runs.fingerprint(source)}
    else:
        folder, (rows, inputs) = root / "actions", list_generated(root)
    stage = runs.enter(folder, "actions", chosen.name, inputs | {"model": mark}, {}, redo, MENDED.issuperset)
    if stage.done:
        return stage.manifest
    loaded = model.load(weights).to(hardware.device())
    clock = time.monotonic()
    found, fresh = decode_rows(folder / NAME, rows, loaded, mark)
    seconds = time.monotonic() - clock
    frames = sum(len(row["joints"]) for row in found[len(found) - fresh :])
    facts = {"videos": len(found), "rows_per_second": round(frames / seconds, 1) if fresh else None}
    facts |= {"fps": loaded.spec.fps, "joint_names": loaded.spec.joint_names, "robot": loaded.spec.robot}
    print(f"actions: {len(found)} videos at {loaded.spec.fps:g} joint targets a second, {fresh} decoded now")
    return stage.finish([folder / NAME], model=mark, **facts)


def locate(profile: profiles.Profile, folder: Path | str | None) -> Path:
    """The folder of the inverse dynamics model."""
    if folder:
        return storage.absolute(folder)
    if profile.actions is None:
        raise UserError(
            f"profile {profile.name} has no inverse dynamics model: train one for your robot with "
            "`cookbook actions-train` and name it with --model-folder"
        )
    return hub.locate(profile.actions)


def decode_rows(path: Path, clips: Sequence[dict], loaded: model.InverseDynamics, mark: str) -> tuple[list[dict], int]:
    """All rows of actions.jsonl, the missing ones decoded now and last, and how many those are."""
    hashes = {clip["file"]: storage.digest(clip["path"]) for clip in clips}
    before = storage.read_rows(path)
    rows = [row for row in before if hashes.get(row["file"]) == row["sha256"]]
    if len(rows) < len(before):
        storage.write_rows(path, rows)
    known, missing = loaded.statistics(), [c for c in clips if c["file"] not in {row["file"] for row in rows}]
    for clip in show.progress(missing, "actions: decoding") if missing else ():
        decoded = decode_video(loaded, clip["path"])
        facts = {name: clip[name] for name in FACTS} | {"sha256": hashes[clip["file"]], "made_by": mark}
        arrays = {"joints": decoded.joints, "targets": decoded.targets}
        arrays = {name: values.astype(float).round(4).tolist() for name, values in arrays.items()}
        arrays["deviation"] = np.degrees(decoded.deviation.mean(0)).astype(float).round(3).tolist()
        row = facts | {"fps": decoded.fps} | arrays | motion.scores(decoded, known)
        storage.append_row(path, row)
        rows.append(row)
    return rows, len(missing)
