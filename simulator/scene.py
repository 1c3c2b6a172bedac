"""What a clip shows: a `Scene` is sampled from a seed, is pure data (world.py builds it), and allows many instructions.

Hand, object and place of an instruction are drawn independently of the scene, so its picture does not give them away.
Lengths are metres in the world frame: x away from the robot, y to its left, z up; the table top is at `TABLE`.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.random import Generator

from simulator import objects, receptacles

Task = Literal["place", "reach", "tour", "lift", "carry"]
Hand = Literal["right", "left"]
Point = tuple[float, float]
TASKS: tuple[Task, ...] = ("place", "reach", "tour", "lift", "carry")
HANDS: tuple[Hand, ...] = ("right", "left")
TABLE = 0.90
HOME = np.array([0.275, 0.315])  # x and |y| of the palms at the start
ITEMS, RECEPTACLES = 3, 2  # of every scene


@dataclass(frozen=True)
class Placed:
    """A thing on the table. `yaw` in radians."""

    kind: str
    position: Point
    yaw: float


@dataclass(frozen=True)
class Instruction:
    """What one hand is to do. `item`, `place`: index of the object and of the receptacle, None where none is named."""

    task: Task
    hand: Hand
    item: int | None = None
    place: int | None = None

    def differences(self, other: Instruction) -> set[str]:
        """In which of `hand`, `item` and `place` two instructions differ."""
        return {part for part in ("hand", "item", "place") if getattr(self, part) != getattr(other, part)}


@dataclass(frozen=True)
class View:
    """Head camera; angles in degrees, `pitch` below the horizon."""

    position: tuple[float, float, float]
    pitch: float
    yaw: float
    roll: float
    fovy: float


@dataclass(frozen=True)
class Look:
    """One room, one robot, two tables, steady light. Lengths in metres, colours and lights in [0, 1]."""

    table: str
    tint: tuple[float, float, float] = (0.95, 0.95, 0.95)  # of the table
    floor: str = "light-gray-floor-tile"
    wall: str = "light-gray-plaster"
    depth: float = 0.70  # of the table
    ambient: float = 0.44
    key: float = 0.36
    fill: float = 0.15
    key_position: tuple[float, float, float] = (0.3, 0.4, 2.6)
    arm: float = 0.26  # grey of the arms
    hand: float = 0.10
    exposure: float = 0.5


def sample_view(rng: Generator) -> View:
    place = np.array([0.12, 0, 1.475]) + rng.uniform(-0.005, 0.005, 3)
    pitch = 60 + rng.uniform(-0.5, 0.5)
    yaw, roll = rng.uniform(-0.5, 0.5, 2)
    return View(tuple(map(float, place)), float(pitch), float(yaw), float(roll), 38.0)


@dataclass(frozen=True)
class Scene:
    seed: tuple[int, int]
    items: tuple[Placed, ...]
    receptacles: tuple[Placed, ...]
    view: View
    look: Look

    def rng(self, stream: int) -> Generator:
        """Random streams of one scene: 0 sampling, 1 building, 2 motion, 3 and 6 faults, 4 instructions, 5 pose."""
        return np.random.default_rng([*self.seed, stream])


class Layout:
    """Discs on the table that must not overlap."""

    def __init__(self, rng: Generator) -> None:
        self.rng = rng
        self.used = [(HOME * [1, side] + [0.06, -0.02 * side], 0.05) for side in (1, -1)]  # the hands, fingers forward

    def put(self, x_range: Point, y_range: Point, radius: float, tries: int = 100) -> Point | None:
        """A free place for a disc, which is then taken; None when `tries` draws found none."""
        for _ in range(tries):
            point = np.array([self.rng.uniform(*x_range), self.rng.uniform(*y_range)])
            if all(np.hypot(*(point - other)) > radius + size + 0.012 for other, size in self.used):
                self.used.append((point, radius))
                return float(point[0]), float(point[1])
        return None


def sample(seed: tuple[int, int]) -> Scene:
    """The scene of a seed (number, attempt). The same seed always gives the same scene."""
    rng = np.random.default_rng([*seed, 0])
    while True:
        layout = Layout(rng)
        places = [layout.put((0.36, 0.50), (-0.20, 0.20), 0.087) for _ in range(RECEPTACLES)]
        spots = [layout.put((0.33, 0.47), (-0.12, 0.12), 0.042) for _ in range(ITEMS)]  # within reach of both hands
        if all(places) and all(spots):
            break
    kinds = rng.choice(list(objects.KINDS), ITEMS, replace=False)
    holders = rng.choice(list(receptacles.KINDS), RECEPTACLES, replace=False)
    return Scene(
        seed,
        tuple(Placed(str(kind), spot, float(rng.uniform(-0.6, 0.6))) for kind, spot in zip(kinds, spots, strict=True)),
        tuple(Placed(str(kind), at, float(rng.uniform(-0.15, 0.15))) for kind, at in zip(holders, places, strict=True)),
        sample_view(rng),
        Look(str(rng.choice(["light-wood", "mist"]))),
    )


def instructions(task: Task) -> list[Instruction]:
    """Everything that may be asked for in a scene, whether or not the robot can do it there."""
    items, places = range(ITEMS), range(RECEPTACLES)
    if task in ("place", "tour", "carry"):
        return [Instruction(task, *parts) for parts in itertools.product(HANDS, items, places)]
    aims = [Instruction(task, hand, item) for hand, item in itertools.product(HANDS, items)]
    if task == "reach":
        aims += [Instruction(task, hand, None, place) for hand, place in itertools.product(HANDS, places)]
    return aims


def prompt(scene: Scene, instruction: Instruction) -> str:
    item = None if instruction.item is None else objects.KINDS[scene.items[instruction.item].kind].name
    place = None if instruction.place is None else receptacles.KINDS[scene.receptacles[instruction.place].kind].name
    return phrase(instruction.task, instruction.hand, item, place)


def phrase(task: Task, hand: Hand, item: str | None, place: str | None) -> str:
    """An instruction, in the published form for `place` and in one form of its own for every other task."""
    forms = {
        "place": f"pick up {item} from table to {place}.",
        "reach": f"reach for {item or place}.",
        "tour": f"reach for {item} and then point at {place}.",
        "lift": f"lift {item} from table and put it back.",
        "carry": f"pick up {item} from table and hold it over {place}.",
    }
    return f"Use the {hand} hand to {forms[task]}"


def all_prompts() -> list[str]:
    """Every instruction that any scene can have."""
    items, places = ([kind.name for kind in kinds.values()] for kinds in (objects.KINDS, receptacles.KINDS))
    texts = [phrase(*parts) for parts in itertools.product(TASKS, HANDS, items, places)]
    return list(dict.fromkeys([*texts, *(phrase("reach", hand, None, place) for hand in HANDS for place in places)]))
