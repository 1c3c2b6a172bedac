"""Physical sanity of the scripted clips: scenes that allow a choice, penetration, jumps, and bit-identical replay.

python -m simulator.check [--scenes 100] [--task place] [--workers 2]
"""

from __future__ import annotations

import multiprocessing
import os
from functools import partial
from typing import Literal

import numpy as np

from cookbook.errors import report_user_errors
from simulator.env import Env, item_path, rollout
from simulator.scene import ITEMS, TASKS, Task, sample
from simulator.studio import CHOICE, Episode, feasible
from simulator.world import build

USABLE = 0.9  # bar: share of first attempts at a scene in which enough instructions are feasible
DEEPEST, FARTHEST = 0.003, 0.06  # bars: metres of hand penetration, metres of object motion per frame while not held


def penetration(env: Env) -> float:
    """Largest penetration in metres of a hand into an item now."""
    depths = [0.0]
    for contact in env.data.contact[: env.data.ncon]:
        pair = (contact.geom1, contact.geom2)
        if any(geom in env.hand_of for geom in pair) and any(geom in env.item_of for geom in pair):
            depths.append(-float(contact.dist))
    return max(depths)


def inspect(episode: Episode) -> tuple[float, float, float]:
    """Deepest contact (m), farthest step (m) of an object that no hand holds, and difference in qpos of a replay."""
    env, log = episode.env, episode.log
    replay = rollout(env, episode.plan, episode.instruction, log.action)
    env.reset(episode.plan.joints[0])
    depth, farthest = 0.0, 0.0
    for action in log.action[:-1]:
        env.step(action)
        depth = max(depth, penetration(env))
    for item in range(ITEMS):
        steps = np.linalg.norm(np.diff(item_path(episode.world, log, item), axis=0), axis=1)
        free = (log.held[1:] != item) & (log.held[:-1] != item)
        farthest = max(farthest, float(steps[free].max()))
    return depth, farthest, float(np.abs(replay.qpos - log.qpos).max())


def measure(number: int, task: Task) -> list[tuple[float, float, float]]:
    """`inspect` of the first feasible instructions of a scene; fewer than `CHOICE` where it allows no choice."""
    return [inspect(episode) for episode in feasible(Env(build(sample((number, 0)))), task, CHOICE)]


def report(task: Task, scenes: list[list[tuple[float, float, float]]]) -> bool:
    """Print the table of bars of one task; whether all hold."""
    share = sum(len(scene) == CHOICE for scene in scenes) / len(scenes)
    depth, step, replay = np.max([(0.0, 0.0, 0.0), *(clip for scene in scenes for clip in scene)], axis=0)
    rows = [
        (f"scenes with {CHOICE} instructions", share, share >= USABLE),
        ("deepest hand penetration, mm", 1000 * depth, depth <= DEEPEST),
        ("farthest free object step, mm", 1000 * step, step <= FARTHEST),
        ("replay difference in qpos", replay, replay == 0),
    ]
    for name, value, holds in rows:
        print(f"{task:6s} {name:32s} {value:10.4g}   {'holds' if holds else 'FAILS'}")
    return all(holds for *_, holds in rows)


def check(scenes: int = 100, task: Task | Literal["all"] = "all", workers: int = 2, seed: int = 900) -> bool:
    """Inspect `scenes` scenes with a task or with every task; whether all bars hold."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    numbers = [seed * 1_000_000 + index for index in range(scenes)]
    with multiprocessing.get_context("spawn").Pool(workers) as pool:
        tasks = TASKS if task == "all" else (task,)
        return all([report(name, pool.map(partial(measure, task=name), numbers)) for name in tasks])


if __name__ == "__main__":
    import tyro

    with report_user_errors():
        raise SystemExit(0 if tyro.cli(check) else 1)
