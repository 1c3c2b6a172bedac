"""The scripted expert: Cartesian waypoints joined by minimum-jerk motion, then inverse kinematics to joint targets.

Frames are counted at 16 Hz and may be fractional; positions, rotations and grips are those of robot.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.random import Generator

from simulator.robot import ARM, IDLE_GRIP, Robot, between, min_jerk, orient
from simulator.scene import HOME, TABLE, Instruction, Task
from simulator.world import FRAMES, World

Fault = Literal["", "missed", "stopped"]
ARC = 0.05  # metres by which the hand rises on its way out, over what stands near it
UNREACHABLE = 0.02  # metres of IK error above which a plan is refused
MOST_TURN = 0.6  # radians of the waist
ASIDE = 0.18  # metres from the middle at which a hand that let go ends at least, on its own side


@dataclass(frozen=True)
class Goal:
    """What the hand is to do.

    item: index of the object, None where the hand reaches for a receptacle; spot: (x, y) in the receptacle where the
    object's centre ends, or over which the hand ends; floor and rim: heights of that place above the table.
    """

    task: Task
    hand: str
    item: int | None
    spot: tuple[float, float] = (0.0, 0.0)
    floor: float = 0.0
    rim: float = 0.0
    fault: Fault = ""  # of `place`


@dataclass(frozen=True)
class Waypoint:
    """Reached `frames` after the one before, the path bulging up by `arc` metres on the way.

    `name` labels the event at the start of that stretch.
    """

    name: str
    frames: float
    position: np.ndarray
    rotation: np.ndarray
    grip: float
    arc: float = 0.0


@dataclass(frozen=True)
class Plan:
    """joints: targets (FRAMES, 42); events: start frame of each stretch; error: worst IK error in metres."""

    goal: Goal
    joints: np.ndarray
    events: dict[str, float]
    error: float


def intended(world: World, instruction: Instruction, rng: Generator) -> Goal:
    """The goal of an instruction."""
    if instruction.place is None:
        return Goal(instruction.task, instruction.hand, instruction.item)
    deck, place = world.decks[instruction.place], world.scene.receptacles[instruction.place]
    widest = 0.0 if instruction.item is None else world.sizes[instruction.item][1]
    room = np.maximum(np.array([deck.half_x, deck.half_y]) - widest, 0)
    spot = np.array(place.position) + rng.uniform(-0.2, 0.2, 2) * room
    point = (float(spot[0]), float(spot[1]))
    return Goal(instruction.task, instruction.hand, instruction.item, point, deck.floor, deck.rim)


def start_pose(world: World, robot: Robot) -> np.ndarray:
    """Both hands over the near edge of the table: a function of the scene alone, not of the task."""
    rng = world.scene.rng(5)
    q = robot.rest()
    for hand, side in (("right", -1), ("left", 1)):
        q[robot.arms[hand]] += rng.normal(0, 0.04, len(ARM))
        home = np.array([*(HOME + rng.uniform(-0.02, 0.02, 2)) * [1, side], TABLE + rng.uniform(0.10, 0.14)])
        q, _ = robot.solve(q, hand, home, orient(hand, 0.5, 0.15, 0.2), 120)
    return q


def grasp_frame(world: World, goal: Goal, rng: Generator) -> tuple[np.ndarray, np.ndarray]:
    """Hand position and rotation that take the item: from the side when it is tall, from above when it is flat."""
    half, centre = world.sizes[goal.item][0], world.start(goal.item)
    tall = half > 0.045
    roll = rng.uniform(0.50, 0.70) if tall else rng.uniform(1.0, 1.2)
    pitch = rng.uniform(0.30, 0.42) if tall else rng.uniform(0.55, 0.75)
    rotation = orient(goal.hand, roll, pitch, rng.uniform(0.2, 0.45))
    lowest = TABLE + 0.030  # the knuckles need this much room
    position = centre.copy()
    position[2] = max(centre[2] + 0.011, lowest)
    return position, rotation


def take_waypoints(grasp: np.ndarray, rotation: np.ndarray, rise: float) -> list[Waypoint]:
    before = grasp - 0.055 * rotation[:, 2] + [-0.02, 0, 0.06]
    return [
        Waypoint("reach", 10, before, rotation, 0, ARC),
        Waypoint("approach", 5, grasp, rotation, 0),
        Waypoint("close", 3.5, grasp, rotation, 1),
        Waypoint("lift", 4.5, grasp + [0, 0, rise], rotation, 1),
    ]


def leave_waypoints(place: np.ndarray, rotation: np.ndarray, hand: str) -> list[Waypoint]:
    outward = -1 if hand == "right" else 1
    away = place - 0.05 * rotation[:, 2] + [-0.13, outward * 0.05, 0.12]
    away[1] = outward * max(outward * away[1], ASIDE)
    turned = between(rotation, orient(hand, 0.5, 0.15, 0.2), 0.8)
    return [Waypoint("open", 3, place, rotation, 0), Waypoint("retreat", 11, away, turned, 0)]


def place_waypoints(world: World, goal: Goal, rng: Generator) -> list[Waypoint]:
    grasp, rotation = grasp_frame(world, goal, rng)
    half, offset = world.sizes[goal.item][0], grasp - world.start(goal.item)
    height = TABLE + goal.floor + half + 0.004
    place = np.array([*goal.spot, height]) + offset
    over = np.array([*goal.spot, max(height + 0.07, TABLE + goal.rim + half + 0.04)]) + offset
    if goal.fault == "missed":  # it closes in the air
        grasp = grasp + np.array([-0.04, 0, half + 0.06])
    take = take_waypoints(grasp, rotation, 0.10 + max(0, goal.rim - 0.02))
    carry = [Waypoint("move", 8.5, over, rotation, 1), Waypoint("lower", 4.5, place, rotation, 1)]
    return [*take, *carry, *leave_waypoints(place, rotation, goal.hand)]


def carry_waypoints(world: World, goal: Goal, rng: Generator) -> list[Waypoint]:
    """The path of `place` until the object is over the receptacle, where the hand keeps it."""
    points = place_waypoints(world, goal, rng)[:5]
    return [*points, Waypoint("hold", 18, points[-1].position, points[-1].rotation, 1)]


def lift_waypoints(world: World, goal: Goal, rng: Generator) -> list[Waypoint]:
    grasp, rotation = grasp_frame(world, goal, rng)
    take = take_waypoints(grasp, rotation, 0.13)
    down = grasp + [0, 0, 0.004]
    hold = [Waypoint("hold", 5, take[-1].position, rotation, 1), Waypoint("lower", 7, down, rotation, 1)]
    return [*take, *hold, *leave_waypoints(down, rotation, goal.hand)]


def hover(world: World, goal: Goal, rng: Generator) -> tuple[np.ndarray, np.ndarray]:
    """Hand position and rotation over the middle of the receptacle, palm down, clear of its rim."""
    rotation = orient(goal.hand, rng.uniform(1.0, 1.2), rng.uniform(0.45, 0.65), rng.uniform(0.2, 0.45))
    height = TABLE + max(goal.floor + 0.065, goal.rim + 0.045)
    return np.array([*goal.spot, height]) - 0.02 * rotation[:, 2], rotation


def touch(world: World, goal: Goal, rng: Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Hand position before an item, position close to it without touching, rotation."""
    grasp, rotation = grasp_frame(world, goal, rng)
    before = grasp - 0.055 * rotation[:, 2] + [-0.02, 0, 0.06]
    near = grasp - 0.022 * rotation[:, 2] + [-0.01, 0, 0.03 + 0.3 * world.sizes[goal.item][0]]
    return before, near, rotation


def reach_waypoints(world: World, goal: Goal, rng: Generator) -> list[Waypoint]:
    if goal.item is not None:
        before, near, rotation = touch(world, goal, rng)
    else:
        near, rotation = hover(world, goal, rng)
        before = near + [-0.02, 0, 0.05]
    return [Waypoint("reach", 22, before, rotation, 0, ARC), Waypoint("approach", 10, near, rotation, 0),
            Waypoint("hold", 16, near, rotation, 0)]  # fmt: skip


def tour_waypoints(world: World, goal: Goal, rng: Generator) -> list[Waypoint]:
    """The path of `place` with an open and empty hand: to the item, up, over the receptacle, and stay."""
    before, near, rotation = touch(world, goal, rng)
    end, turned = hover(world, goal, rng)
    return [
        Waypoint("reach", 10, before, rotation, 0, ARC),
        Waypoint("approach", 5, near, rotation, 0),
        Waypoint("linger", 3.5, near, rotation, 0),
        Waypoint("rise", 4.5, near + [0, 0, 0.08 + max(0, goal.rim - 0.02)], rotation, 0),
        Waypoint("move", 8.5, end + [0, 0, 0.06], turned, 0),
        Waypoint("lower", 4.5, end, turned, 0),
        Waypoint("hold", 12, end, turned, 0),
    ]


WAYPOINTS = {
    "place": place_waypoints, "reach": reach_waypoints, "tour": tour_waypoints, "lift": lift_waypoints,
    "carry": carry_waypoints,
}  # fmt: skip


def turn_towards(hand: str, y: float) -> float:
    """Angle of the waist in radians that brings what lies at `y` within reach of a hand on the other side."""
    side = 1 if hand == "right" else -1
    return side * float(np.clip(2.6 * (side * y + 0.04), 0, MOST_TURN))


def waist(world: World, goal: Goal, names: list[str], ends: np.ndarray) -> np.ndarray:
    """Angle of the waist in every frame (FRAMES,): it turns on the way out, with the move, and back on the retreat."""
    first = goal.spot[1] if goal.item is None else world.start(goal.item)[1]
    turns = {"reach": turn_towards(goal.hand, first)}
    if "move" in names:
        turns["move"] = turn_towards(goal.hand, goal.spot[1])
    if "retreat" in names:
        turns["retreat"] = 0.0
    angle, now = np.zeros(FRAMES), 0.0
    for name, wanted in turns.items():
        stretch = names.index(name)
        share = (np.arange(FRAMES) - ends[stretch]) / (ends[stretch + 1] - ends[stretch])
        angle += (wanted - now) * min_jerk(share)
        now = wanted
    return angle


def track(home: Waypoint, points: list[Waypoint], ends: np.ndarray) -> tuple[np.ndarray, list[np.ndarray], np.ndarray]:
    """Hand positions (FRAMES, 3), rotations and grips (FRAMES,): min-jerk between waypoints, corners rounded."""
    times = np.arange(0, FRAMES, 0.25)
    stops = [home, *points]
    stretch = np.clip(np.searchsorted(ends, times, "right") - 1, 0, len(points) - 1)
    share = min_jerk((times - ends[stretch]) / (ends[stretch + 1] - ends[stretch]))
    first, last = (np.array([stops[k + step].position for k in stretch]) for step in (0, 1))
    path = first + share[:, None] * (last - first)
    path[:, 2] += np.array([points[k].arc for k in stretch]) * np.sin(np.pi * share) ** 2
    kernel = np.exp(-0.5 * (np.arange(-8, 9) / 4.0) ** 2)
    padded = np.pad(path, ((8, 8), (0, 0)), "edge")
    path = np.stack([np.convolve(padded[:, axis], kernel / kernel.sum(), "valid") for axis in range(3)], 1)
    frames = range(0, len(times), 4)
    rotations = [between(stops[stretch[k]].rotation, stops[stretch[k] + 1].rotation, share[k]) for k in frames]
    grips = [stops[k].grip + u * (stops[k + 1].grip - stops[k].grip) for k, u in zip(stretch, share, strict=True)]
    return path[::4], rotations, np.array(grips)[::4]


def make_plan(world: World, robot: Robot, goal: Goal, rng: Generator) -> Plan:
    """Joint targets for a goal. Every plan of a scene starts with the same pose, so its clips share frame 0."""
    q = start_pose(world, robot)
    points = WAYPOINTS[goal.task](world, goal, rng)
    frames = np.array([point.frames for point in points]) * np.exp(rng.normal(0, 0.08, len(points)))
    ends = np.concatenate([[0], np.cumsum(frames / frames.sum() * (FRAMES - 1))])
    home = Waypoint("home", 0, *robot.hand_pose(q, goal.hand), IDLE_GRIP)
    path, rotations, grips = track(home, points, ends)
    turned = waist(world, goal, [point.name for point in points], ends)
    idle = "left" if goal.hand == "right" else "right"
    sway, phase = rng.normal(0, 0.006, len(ARM)), rng.uniform(0, 6, len(ARM))
    joints, worst = [q], 0.0
    for frame in range(1, FRAMES):
        q = q.copy()
        q[robot.waist] = turned[frame]
        q, error = robot.solve(q, goal.hand, path[frame], rotations[frame])
        worst = max(worst, error)
        target = q.copy()
        robot.close_hand(target, goal.hand, grips[frame])
        target[robot.arms[idle]] += sway * (np.sin(frame / 8 + phase) - np.sin(phase))
        joints.append(target)
    events = {point.name: float(ends[k]) for k, point in enumerate(points)}
    if goal.fault == "stopped":  # freezes half-way, with the object in the air where it is carried
        stop = int((events["move"] + events["lower"]) / 2)
        joints[stop:] = [joints[stop]] * (FRAMES - stop)
        events = {name: frame for name, frame in events.items() if frame <= stop} | {"stop": float(stop)}
    return Plan(goal, np.array(joints), events, worst)
