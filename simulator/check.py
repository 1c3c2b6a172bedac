"""Physical sanity of the scripted clips: success at the first try, penetration, jumps, and bit-identical replay.

python -m simulator.check [--clips 200] [--task place] [--workers 2]
"""

from __future__ import annotations

import multiprocessing
import os
from collections import Counter
from functools import partial
from typing import Literal

import numpy as np

from cookbook.errors import report_user_errors
from simulator.env import Env, item_path, rollout
from simulator.expert import UNREACHABLE, intended, make_plan
from simulator.scene import TASKS, Task, sample
from simulator.world import build

SUCCESS = 0.95  # bar: share of scenes in which the first attempt succeeds
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
    world = build(sample((number, 0), task))
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


def report(task: Task, results: list[dict]) -> bool:
    """Print the table of bars of one task; whether all hold."""
    good = [result for result in results if result["success"]]
    share, replay = len(good) / len(results), max(result["replay"] for result in results)
    depth, step = (max((result[key] for result in good), default=0.0) for key in ("depth", "step"))
    rows = [
        ("first-try success", share, share >= SUCCESS),
        ("deepest hand penetration, mm", 1000 * depth, depth <= DEEPEST),
        ("farthest free object step, mm", 1000 * step, step <= FARTHEST),
        ("replay difference in qpos", replay, replay == 0),
    ]
    for name, value, holds in rows:
        print(f"{task:6s} {name:32s} {value:10.4g}   {'holds' if holds else 'FAILS'}")
    reasons = Counter(result["reason"] for result in results if not result["success"])
    print(f"{task:6s} {len(results)} scenes; failures: {dict(reasons) or 'none'}")
    return all(holds for *_, holds in rows)


def check(clips: int = 200, task: Task | Literal["all"] = "all", workers: int = 2, seed: int = 900) -> bool:
    """Inspect `clips` scenes of a task or of every task; whether all bars hold."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    numbers = [seed * 1_000_000 + index for index in range(clips)]
    with multiprocessing.get_context("spawn").Pool(workers) as pool:
        tasks = TASKS if task == "all" else (task,)
        return all([report(name, pool.map(partial(inspect, task=name), numbers)) for name in tasks])


if __name__ == "__main__":
    import tyro

    with report_user_errors():
        raise SystemExit(0 if tyro.cli(check) else 1)
