"""Injected faults: clips that are wrong on purpose, each with the frame 0 of a valid clip.

Physics faults edit the logged poses of the valid clip, so the picture changes only where physics breaks. Instruction
violations and failures run another plan from the same start: physically valid, but not what the prompt says. Where the
arm cannot reach the wrong thing, the valid clip gets a prompt that names the other hand or another object. Frames are
counted in the 16 Hz log; a violation is [first, last] inclusive.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.random import Generator

from simulator.env import Env, Log, inside, item_path, rollout
from simulator.expert import UNREACHABLE, Goal, Plan, intended, make_plan
from simulator.robot import Robot, min_jerk
from simulator.scene import TABLE, Scene, Task, reach_zone
from simulator.world import FRAMES, World

TIMES = np.arange(FRAMES)
# A physics fault is kept only if in some frame the mean absolute grey difference to the real clip reaches this many of
# 255 levels. Below it the fault hides behind the hand or is a few pixels (about 12 fully changed pixels at 96x160).
VISIBLE = 0.20


@dataclass(frozen=True)
class Source:
    """The valid clip that gets a fault. `taken`: the log frame in which the target was grasped."""

    world: World
    robot: Robot
    plan: Plan
    log: Log
    rng: Generator
    taken: int

    @property
    def target(self) -> slice:
        """Where the target's pose is in qpos."""
        address = self.world.address(f"item{self.world.scene.target}")
        return slice(address, address + 7)

    def event(self, name: str) -> int:
        return int(self.plan.events[name])

    def freeze(self, first: int) -> np.ndarray:
        """The logged poses with the target staying where it is in frame `first`."""
        poses = self.log.qpos.copy()
        poses[first:, self.target] = poses[first, self.target]
        return poses


class Recolour(NamedTuple):
    """From `frame` on the target is painted in `hue` (in [0, 1])."""

    frame: int
    hue: float


@dataclass(frozen=True)
class InjectedFault:
    """What the clip shows instead, qpos (T, nq), and the frames in which physics is violated."""

    qpos: np.ndarray
    violation: tuple[int, int]
    recolour: Recolour | None = None


def teleport(source: Source) -> InjectedFault:
    """The target jumps to its final place before or while it is carried."""
    frame = int(source.rng.integers(int(source.taken * 0.6), source.event("move") + 4))
    poses = source.log.qpos.copy()
    poses[frame:, source.target] = poses[-1, source.target]
    return InjectedFault(poses, (frame, frame))


def vanish(source: Source) -> InjectedFault:
    frame = int(source.rng.integers(source.taken + 2, source.event("lower")))
    poses = source.log.qpos.copy()
    poses[frame:, source.target.start + 2] = -5
    return InjectedFault(poses, (frame, FRAMES - 1))


def levitate(source: Source) -> InjectedFault:
    """The target rises by itself and the hand never gets it."""
    frame = int(source.rng.integers(4, 10))
    poses = source.freeze(frame)
    poses[:, source.target.start + 2] += 0.16 * min_jerk((TIMES - frame) / 18)
    return InjectedFault(poses, (frame, FRAMES - 1))


def sink(source: Source) -> InjectedFault:
    """The released target sinks through what it lies on."""
    frame = source.event("retreat")
    poses = source.log.qpos.copy()
    poses[:, source.target.start + 2] -= 0.12 * min_jerk((TIMES - frame) / 7)
    return InjectedFault(poses, (frame, FRAMES - 1))


def premove(source: Source) -> InjectedFault:
    """The target slides away before it is touched; the hand grasps air."""
    frame, angle = 2, source.rng.uniform(0, 2 * np.pi)
    poses, start = source.freeze(frame), source.target.start
    slide = 0.11 * min_jerk((TIMES - frame) / 7)
    poses[:, start] += np.cos(angle) * slide
    poses[:, start + 1] += np.sin(angle) * slide
    return InjectedFault(poses, (frame, frame + 7))


def duplicate(source: Source) -> InjectedFault:
    """A second target stays behind when the first is lifted."""
    frame = source.event("lift") + 1
    poses, start = source.log.qpos.copy(), source.world.address("duplicate")
    poses[frame:, start : start + 7] = source.log.qpos[0, source.target]
    return InjectedFault(poses, (frame, FRAMES - 1))


def passthrough(source: Source) -> InjectedFault:
    """The hand passes through the target, which does not move."""
    return InjectedFault(source.freeze(max(source.taken - 1, 1)), (max(source.taken - 1, 1), source.event("lift") + 4))


def float_release(source: Source) -> InjectedFault:
    """The target stays hanging in the air where it was carried."""
    frame = (source.event("move") + source.event("lower")) // 2
    return InjectedFault(source.freeze(frame), (frame, FRAMES - 1))


def morph(source: Source) -> InjectedFault:
    """The target changes its colour."""
    frame = int(source.rng.integers(source.event("lift"), source.event("lower")))
    hue = float(source.rng.uniform(0.25, 0.75))
    return InjectedFault(source.log.qpos.copy(), (frame, FRAMES - 1), Recolour(frame, hue))


def distractor_moves(source: Source) -> InjectedFault | None:
    """Another object slides by itself."""
    if len(source.world.scene.items) < 2:
        return None
    index = int(source.rng.integers(1, len(source.world.scene.items)))
    start, frame = source.world.address(f"item{index}"), int(source.rng.integers(5, 15))
    poses, angle = source.log.qpos.copy(), source.rng.uniform(0, 2 * np.pi)
    slide = 0.14 * min_jerk((TIMES - frame) / 20)
    poses[:, start] += np.cos(angle) * slide
    poses[:, start + 1] += np.sin(angle) * slide
    return InjectedFault(poses, (frame, min(frame + 20, FRAMES - 1)))


def arm_in_table(source: Source) -> InjectedFault:
    """The hand dips through the table top on its way to the target."""
    robot, hand = source.robot, source.plan.goal.hand
    middle = (source.event("reach") + source.event("close")) / 2 + 2
    depth = np.exp(-0.5 * ((TIMES - middle) / 3.2) ** 2)
    poses = source.log.qpos.copy()
    for frame in np.where(depth[1:] >= 0.1)[0] + 1:
        joints = poses[frame, robot.qpos]
        position, rotation = robot.hand_pose(joints, hand)
        position[2] += min(TABLE - 0.05 - position[2], 0) * depth[frame]
        poses[frame, robot.qpos] = robot.solve(joints, hand, position, rotation, 60)[0]
    return InjectedFault(poses, (max(int(middle - 6), 1), int(middle + 7)))


PHYSICS: dict[str, Callable[[Source], InjectedFault | None]] = {
    "teleport": teleport, "vanish": vanish, "levitate": levitate, "sink": sink, "premove": premove,
    "duplicate": duplicate, "passthrough": passthrough, "float_release": float_release, "morph": morph,
    "distractor_moves": distractor_moves, "arm_in_table": arm_in_table,
}  # fmt: skip
INSTRUCTION = ("wrong_object", "wrong_place", "wrong_hand", "not_completed")
FAILURES = ("missed", "dropped", "stopped")
KINDS = (*PHYSICS, *INSTRUCTION)


def possible(kind: str, task: Task) -> bool:
    """Whether a task has a kind of fault or failure: all for `place`, the plain ones for the others."""
    return task == "place" or kind in ("wrong_object", "wrong_hand", "stopped") or (task, kind) == ("lift", "missed")


def free_spot(world: World, hand: str, rng: Generator) -> tuple[float, float] | None:
    """A bare place on the table that the hand can reach, (x, y)."""
    side = -1 if hand == "right" else 1
    scene, radius = world.scene, world.sizes[world.scene.target][1]
    for _ in range(200):
        spot = np.array([rng.uniform(0.31, 0.48), side * rng.uniform(-0.04, 0.32)])
        clear_items = all(np.hypot(*(spot - item.position)) > radius + 0.06 for item in scene.items[1:])
        if clear_items and all(np.hypot(*(spot - place.position)) > radius + 0.115 for place in scene.receptacles):
            return float(spot[0]), float(spot[1])
    return None


def wrong_goal(kind: str, world: World, rng: Generator) -> Goal | None:
    """The goal of an instruction violation or failure; None where this scene allows none."""
    goal = intended(world, rng)
    if kind in FAILURES:
        return replace(goal, fault=kind)
    if kind == "not_completed":
        return replace(goal, fault=str(rng.choice(["missed", "stopped"])))
    if kind == "wrong_hand" or goal.task != "place":
        return None  # neither hand reaches the other's side of the table
    if kind == "wrong_object":
        low, high = reach_zone(goal.hand)
        spots = [item.position for item in world.scene.items]
        near = [k for k, (x, y) in enumerate(spots) if k != goal.item and x < 0.47 and low - 0.03 < y < high + 0.03]
        return replace(goal, item=int(rng.choice(near))) if near else None
    spot = free_spot(world, goal.hand, rng)
    return replace(goal, spot=spot, floor=0.0, rim=0.0) if spot else None


def verify_violation(kind: str, world: World, log: Log, goal: Goal) -> bool:
    """Whether a log shows the intended violation and nothing else moved."""
    scene = world.scene
    path = item_path(world, log, goal.item)
    others = [item_path(world, log, k) for k in range(len(scene.items)) if k != goal.item]
    others_stay = all(np.linalg.norm(other[-1] - other[0]) < 0.03 for other in others)
    arrived = log.grasp_frame is not None and log.held[-1] < 0 and path[-1, 2] > TABLE
    if kind == "wrong_object":
        return others_stay and arrived and inside(world, path[-1], scene.destination, goal.item)
    if kind == "wrong_place":
        return others_stay and arrived and float(np.hypot(*(path[-1, :2] - goal.spot))) < 0.06
    return others_stay and not log.success and bool(path[-1, 2] > TABLE)


def run_violation(kind: str, world: World, env: Env, start: np.ndarray, tries: int = 3) -> tuple[Plan, Log] | None:
    """Run an instruction violation or failure from the valid clip's `start` (42,); None if this scene allows none."""
    for attempt in range(tries):
        rng = np.random.default_rng([*world.scene.seed, 6, attempt, *kind.encode()])
        goal = wrong_goal(kind, world, rng)
        if goal is None:
            return None
        plan = make_plan(world, env.robot, goal, rng)
        if plan.error > UNREACHABLE:
            continue
        plan.joints[0] = start  # rounding the corners of a path moves its very first point a little
        log = rollout(env, plan)
        if verify_violation(kind, world, log, goal):
            return plan, log
    return None


def other_instruction(kind: str, scene: Scene) -> Scene | None:
    """The same scene with an instruction for the other hand or another thing; None for other kinds."""
    if kind == "wrong_hand":
        return replace(scene, hand="left" if scene.hand == "right" else "right")
    if kind == "wrong_object" and scene.task in ("reach", "point"):
        return replace(scene, aim="receptacle" if scene.aim == "item" else "item")
    if kind == "wrong_object" and len(scene.items) > 1:
        return replace(scene, target=1)
    return None


def difference(one: np.ndarray, two: np.ndarray) -> np.ndarray:
    """Mean absolute grey difference (N,) in 0..255 levels of two clips (N, H, W, 3) uint8."""
    return np.abs(one.astype(np.float32).mean(-1) - two.astype(np.float32).mean(-1)).mean((1, 2))
