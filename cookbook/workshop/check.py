"""Physical sanity of the scripted clips: success at the first try, penetration, jumps, and bit-identical replay.

python -m cookbook.workshop.check [--clips 200] [--workers 2]
"""

from __future__ import annotations

import multiprocessing
import os
from functools import partial

import numpy as np

from cookbook.workshop.env import Env, item_path, rollout
from cookbook.workshop.policy import UNREACHABLE, intended, make_plan
from cookbook.workshop.scene import Task, sample
from cookbook.workshop.world import build

DEEPEST, FARTHEST = 0.003, 0.06  # bars: metres of hand penetration, metres of object motion per frame while not held


def deepest(env: Env) -> float:
    """Largest penetration in metres of a hand into an item now."""
    depths = [0.0]
    for contact in env.data.contact[: env.data.ncon]:
        pair = (contact.geom1, contact.geom2)
        if any(geom in env.hand_of for geom in pair) and any(geom in env.item_of for geom in pair):
            depths.append(-float(contact.dist))
    return max(depths)


def inspect(number: int, task: Task = "place") -> dict[str, float | bool | str]:
    """One scene's first attempt: success, deepest contact (m), farthest free step (m), and replay difference."""
    world = build(sample((number, 0), task, randomize=number % 2 == 1))
    env, rng = Env(world), world.scene.rng(2)
    plan = make_plan(world, env.robot, intended(world, rng), rng)
    if plan.error > UNREACHABLE:
        return {"success": False, "reason": "out of reach", "depth": 0.0, "step": 0.0, "replay": 0.0}
    log = rollout(env, plan)
    replay = rollout(env, plan, log.action)
    env.reset(plan.joints[0])
    depth = 0.0
    for action in log.action[:-1]:
        env.step(action)
        depth = max(depth, deepest(env))
    steps = np.linalg.norm(np.diff(item_path(world, log, world.scene.target), axis=0), axis=1)
    free = (log.held[1:] < 0) & (log.held[:-1] < 0)
    return {
        "success": log.success,
        "reason": log.reason,
        "depth": depth,
        "step": float(steps[free].max()),
        "replay": float(np.abs(replay.qpos - log.qpos).max()),
    }


def check(clips: int = 200, task: Task = "place", workers: int = 2, seed: int = 900) -> bool:
    """Inspect `clips` scenes (every second one randomised), print the table of bars, and say whether all hold."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    numbers = [seed * 1_000_000 + index for index in range(clips)]
    with multiprocessing.get_context("spawn").Pool(workers) as pool:
        results = pool.map(partial(inspect, task=task), numbers)
    good = [result for result in results if result["success"]]
    depths, steps = ([result[key] for result in good] for key in ("depth", "step"))
    rows = [
        ("first-try success", len(good) / clips, len(good) / clips >= 0.95),
        ("deepest hand penetration, mm", 1000 * max(depths), max(depths) <= DEEPEST),
        ("farthest free object step, mm", 1000 * max(steps), max(steps) <= FARTHEST),
        (
            "replay difference in qpos",
            max(result["replay"] for result in results),
            not any(r["replay"] for r in results),
        ),
    ]
    for name, value, holds in rows:
        print(f"{name:32s} {value:10.4g}   {'holds' if holds else 'FAILS'}")
    beyond = [sum(value > bar for value in values) for values, bar in ((depths, DEEPEST), (steps, FARTHEST))]
    print(f"{clips} scenes, {len(good)} real clips; beyond the bar: {beyond[0]} penetrations, {beyond[1]} steps")
    return all(holds for *_, holds in rows)


if __name__ == "__main__":
    import tyro

    raise SystemExit(0 if tyro.cli(check) else 1)
