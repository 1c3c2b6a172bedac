"""Rollouts of a policy in the simulator, in closed loop: look, predict a chunk of targets, execute part of it, repeat.

Writes `rollouts.jsonl`, a row for each instruction of each scene. Success and the reason of a failure come from the
simulator's state. A scene has two instructions that differ in one part, so a policy that does not read its instruction
succeeds in at most one of them.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence, Set
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch

from cookbook import profiles, runs, storage, video
from cookbook.actions import execute
from cookbook.actions.model import fingerprint
from cookbook.errors import UserError, require_whole
from cookbook.judge import ground_truth
from cookbook.judge.statistics import share
from cookbook.models import hub
from cookbook.policy.model import UNKNOWN, Policy, load

NAME = "rollouts.jsonl"
SECONDS = 3.0  # that a demonstration lasts, and an attempt too
ACT = 0.5  # seconds of a chunk that are executed before the next look
SIZE = (96, 160)  # of the pictures, as in the simulator's clips
PARTS = ("seed", *ground_truth.PARTS)  # of a scene
FILM = 8  # frames per second of the videos of attempts


@dataclass(frozen=True)
class Rollout:
    """One attempt: a policy's folder and fingerprint, a scene of `list_scenes`, and a folder for its video, if any."""

    policy: Path
    mark: str
    scene: dict
    videos: Path | None = None


@runs.releasing
def roll_out(
    policy: Path,
    out: Path,
    scenes: Path | None = None,
    profile: str = "nano",
    limit: int | None = None,
    videos: int = 4,
    workers: int = 2,
    redo: bool = False,
) -> dict:
    """Roll a policy out in scenes that it was not trained on; attempts that are done are kept.

    Args:
        policy: a folder of `cookbook policy-train`.
        out: `rollouts.jsonl`, and `videos/` of the first attempts.
        scenes: a folder of `python -m simulator make --instructions 2`; the held-out scenes that ship if not given.
        limit: how many scenes, the first ones; all if not given.
        videos: how many attempts are filmed.
        workers: processes that simulate.

    Returns:
        The manifest: `rate` of success, `both`, the share of the scenes where the policy follows every instruction,
        each with its 95 % CI over scenes, and `reasons` of failures.

    Raises:
        UserError: no policy or no scenes there, mujoco or a renderer is missing, or the policy is of another robot.
    """
    require_whole(0, videos=videos)
    require_whole(1, workers=workers, limit=limit)
    chosen, out, policy = profiles.get(profile), storage.absolute(out), storage.absolute(policy)
    mark, loaded, found = fingerprint(policy, "policy-train"), load(policy), list_scenes(chosen, scenes, limit)
    execute.require_robot(loaded.spec.joint_names)
    inputs = {"policy": mark, "scenes": storage.digest_of(found)}
    settings = {"seconds": SECONDS, "act": ACT, "size": SIZE, "videos": videos}
    stage = runs.enter(out, "policy-rollout", chosen.name, inputs, settings, redo, _mends)
    if stage.done:
        return stage.manifest
    unread = [scene["prompt"] for scene in found if UNKNOWN in loaded.read_words(scene["prompt"])]
    if unread:
        print(
            f"policy-rollout: {len(unread)} instructions have words that are in no demonstration, such as {unread[0]}"
        )
    jobs = [Rollout(policy, mark, scene, out / "videos" if n < videos else None) for n, scene in enumerate(found)]
    rows = rollout_rows(out / NAME, jobs, workers)
    facts = summary(rows)
    print(f"policy-rollout: {facts['successes']} of {len(rows)} attempts succeed; {facts['reasons']}")
    return stage.finish([out / NAME, *sorted((out / "videos").glob("*.mp4"))], unread=len(unread), **facts)


def _mends(changes: Set[str]) -> bool:
    """Whether these changes leave the attempts at unchanged scenes as they are."""
    return changes <= {"scenes"}


def shipped(profile: profiles.Profile) -> Path:
    """The folder of measured policies, and of the held-out `scenes/` of their rollouts."""
    if profile.policies is None:
        raise UserError(f"profile {profile.name} has no simulated robot: choose smoke or nano")
    return hub.locate(profile.policies)


def list_scenes(profile: profiles.Profile, folder: Path | None = None, limit: int | None = None) -> list[dict]:
    """`seed`, `hand`, `item`, `place` and `prompt` of each instruction of the first `limit` scenes, ordered by seed."""
    folder = storage.absolute(folder or shipped(profile) / "scenes")
    rows = storage.read_rows(folder / "manifest.jsonl")
    rows = [row for row in rows if row.get("label") == "real" and row.get("task") == "place"]
    found = [{name: row[name] for name in ("prompt", *PARTS)} for row in rows]
    if not found:
        raise UserError(f"{folder}: no scenes; make some: python -m simulator make --instructions 2")
    seeds = sorted({tuple(scene["seed"]) for scene in found})[:limit]
    found = [scene for scene in found if tuple(scene["seed"]) in seeds]
    return sorted(found, key=lambda scene: (scene["seed"], scene["prompt"]))


def first_look(scene: dict) -> tuple[np.ndarray, np.ndarray]:
    """What a policy gets first in a scene of `list_scenes`: the picture, uint8 [H, W, 3], and the joint angles [J]."""
    attempt = execute.Attempt(**{part: scene[part] for part in PARTS})
    with execute.Eye(attempt.environment.world, attempt.pose(), SIZE) as eye:
        return eye.look(attempt.pose()), attempt.joints()


def rollout_rows(path: Path, jobs: Sequence[Rollout], workers: int) -> list[dict]:
    """All rows of rollouts.jsonl in the order of the jobs, the missing ones simulated now."""
    before, scenes = storage.read_rows(path), [job.scene for job in jobs]
    rows = [row for row in before if row["scene"] in scenes]
    if len(rows) < len(before):
        storage.write_rows(path, rows)
    done = [row["scene"] for row in rows]
    missing = [job for job in jobs if job.scene not in done]
    for row in execute.in_processes(rollout, missing, workers, "policy-rollout: simulating"):
        storage.append_row(path, row)
        rows.append(row)
    return sorted(rows, key=lambda row: scenes.index(row["scene"]))


def by_scene(rows: Sequence[dict]) -> dict[str, list[bool]]:
    """Seed of each scene -> the success of its attempts."""
    found: dict[str, list[bool]] = defaultdict(list)
    for row in rows:
        found[str(row["scene"]["seed"])].append(row["success"])
    return found


def summary(rows: Sequence[dict]) -> dict:
    """The figures of a policy's attempts."""
    found, passed = by_scene(rows), [row["success"] for row in rows]
    rate, rate_interval = share(passed, [str(row["scene"]["seed"]) for row in rows])
    both, both_interval = share([all(part) for part in found.values()], list(found))
    facts = {"attempts": len(rows), "scenes": len(found), "successes": sum(passed)}
    facts |= {"rate": rate, "rate_interval": rate_interval, "both": both, "both_interval": both_interval}
    return facts | {"reasons": dict(Counter(row["reason"] for row in rows if not row["success"]).most_common())}


@cache
def _loaded(folder: Path, mark: str) -> Policy:
    """The policy with this fingerprint, which lies in `folder`."""
    return load(folder)


def rollout(job: Rollout) -> dict:
    """One attempt: its row. The same policy and scene give the same row on the same machine."""
    model, scene, threads = _loaded(job.policy, job.mark), job.scene, torch.get_num_threads()
    attempt = execute.Attempt(**{part: scene[part] for part in PARTS})
    name = "_".join(map(str, [*scene["seed"], *(scene[part] for part in PARTS[1:])])) + ".mp4"
    torch.set_num_threads(1)  # the processes share the cores
    try:
        with execute.Eye(attempt.environment.world, attempt.pose(), SIZE) as eye:

            def predict() -> np.ndarray:
                return model.act(eye.look(attempt.pose()), scene["prompt"], attempt.joints())

            attempt.follow(predict, model.spec.fps, SECONDS, ACT)
            result, poses = attempt.result()
            if job.videos:
                video.write_video(job.videos / name, eye.film(poses, FILM), FILM)
    finally:
        torch.set_num_threads(threads)
    return {"scene": scene, **result, "video": name if job.videos else None}
