"""Injected faults: clips that are wrong on purpose, each with the frame 0 of a valid clip.

Physics faults edit the logged poses of the valid clip, so the picture changes only where physics breaks. Instruction
violations are the scene's clips of other instructions, or a failed attempt of this one, from the same start:
physically valid, but not what the prompt says. Frames are counted in the 16 Hz log; a violation is [first, last]
inclusive.
"""

from __future__ import annotations

import colorsys
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.random import Generator

from simulator import objects
from simulator.env import Env, Log, item_path, rollout
from simulator.expert import UNREACHABLE, Plan, intended, make_plan
from simulator.robot import Robot, min_jerk
from simulator.scene import ITEMS, TABLE, Instruction, Task, instructions
from simulator.shapes import COLOURS
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
    def item(self) -> int:
        return self.plan.goal.item

    @property
    def target(self) -> slice:
        """Where the target's pose is in qpos."""
        address = self.world.address(f"item{self.item}")
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
    poses, start = source.log.qpos.copy(), source.world.address(f"duplicate{source.item}")
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
    kind = objects.KINDS[source.world.scene.items[source.item].kind]
    own, _, _ = colorsys.rgb_to_hsv(*COLOURS[kind.colour])
    hue = float((own + source.rng.uniform(0.25, 0.75)) % 1)
    return InjectedFault(source.log.qpos.copy(), (frame, FRAMES - 1), Recolour(frame, hue))


def distractor_moves(source: Source) -> InjectedFault:
    """Another object slides by itself."""
    index = int(source.rng.choice([k for k in range(ITEMS) if k != source.item]))
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


PHYSICS: dict[str, Callable[[Source], InjectedFault]] = {
    "teleport": teleport, "vanish": vanish, "levitate": levitate, "sink": sink, "premove": premove,
    "duplicate": duplicate, "passthrough": passthrough, "float_release": float_release, "morph": morph,
    "distractor_moves": distractor_moves, "arm_in_table": arm_in_table,
}  # fmt: skip
WRONG = {"wrong_object": "item", "wrong_place": "place", "wrong_hand": "hand"}  # the part of the instruction
INSTRUCTION = (*WRONG, "not_completed")
KINDS = (*PHYSICS, *INSTRUCTION)


def possible(kind: str, task: Task) -> bool:
    """Whether a task has a kind of fault: all for `place`, another instruction for the others."""
    if kind == "wrong_place":
        return task in ("place", "tour", "carry")
    return task == "place" or kind in WRONG


def counterfactuals(kind: str, own: Instruction, rng: Generator) -> list[Instruction]:
    """In random order, the instructions that differ from one in the part that a kind of `WRONG` names, and only there.

    What `reach` names may be an object or a receptacle.
    """
    allowed = [{WRONG[kind]}, {"item", "place"}] if own.task == "reach" and kind != "wrong_hand" else [{WRONG[kind]}]
    others = [other for other in instructions(own.task) if own.differences(other) in allowed]
    return [others[k] for k in rng.permutation(len(others))]


def fail(env: Env, instruction: Instruction) -> tuple[Plan, Log] | None:
    """Run an attempt to place that misses the object or stops half-way, and moves nothing else; None if none does."""
    world = env.world
    for attempt in range(3):
        rng = np.random.default_rng([*world.scene.seed, 6, attempt, *b"not_completed"])
        fault = str(rng.choice(["missed", "stopped"]))
        plan = make_plan(world, env.robot, replace(intended(world, instruction, rng), fault=fault), rng)
        if plan.error > UNREACHABLE:
            continue
        log = rollout(env, plan, instruction)
        paths = [item_path(world, log, k) for k in range(ITEMS)]
        rest = all(np.linalg.norm(paths[k][-1] - paths[k][0]) < 0.03 for k in range(ITEMS) if k != instruction.item)
        if rest and paths[instruction.item][-1, 2] > TABLE and not log.success:
            return plan, log
    return None


def difference(one: np.ndarray, two: np.ndarray) -> np.ndarray:
    """Mean absolute grey difference (N,) in 0..255 levels of two clips (N, H, W, 3) uint8."""
    return np.abs(one.astype(np.float32).mean(-1) - two.astype(np.float32).mean(-1)).mean((1, 2))
