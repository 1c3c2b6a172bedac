"""What a clip shows: a `Scene` is sampled from a seed, holds its instruction, and is pure data (world.py builds it).

Lengths are metres in the world frame: x away from the robot, y to its left, z up; the table top is at `TABLE`.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.random import Generator

from simulator import objects, receptacles
from simulator.looks import Look, View, sample_look, sample_view
from simulator.shapes import COLOURS

Task = Literal["place", "reach", "push", "lift", "point", "tour", "move"]
Toward = Literal["left", "right"]
Pairs = Literal["train", "held-out", "all"]
Point = tuple[float, float]
TASKS: tuple[Task, ...] = ("place", "reach", "push", "lift", "point", "tour", "move")
TABLE = 0.90
HELD_OUT_PERCENT = 20
HOME = np.array([0.275, 0.315])  # x and |y| of the palms at the start


@dataclass(frozen=True)
class Placed:
    """A thing in the scene. `support`: index of the receptacle it stands on, -1 for the table. `yaw` in radians."""

    kind: str
    colour: str
    position: Point
    yaw: float
    support: int = -1


@dataclass(frozen=True)
class Scene:
    """`items[target]` is the object of the instruction, `receptacles[destination]` where it goes.

    `aim`: what the hand reaches for or points at, the item or the receptacle; `item` in every other task.
    `toward`: the side, as the robot sees it, to which `move` brings the target; `spot`: the bare place where it ends.
    """

    seed: tuple[int, int]
    task: Task
    hand: Literal["right", "left"]
    items: tuple[Placed, ...]
    receptacles: tuple[Placed, ...]
    view: View
    look: Look
    target: int = 0
    destination: int = 0
    aim: Literal["item", "receptacle"] = "item"
    toward: Toward | None = None
    spot: Point | None = None

    def rng(self, stream: int) -> Generator:
        """Independent random streams of one scene: 0 sampling, 1 building, 2 policy, 3 faults."""
        return np.random.default_rng([*self.seed, stream])


def held_out(item: str, receptacle: str) -> bool:
    """Whether a pair of kinds is kept from training: a stable hash sends about one pair in five there."""
    digest = hashlib.sha256(f"{item}/{receptacle}".encode()).digest()
    return digest[0] * 100 < HELD_OUT_PERCENT * 256


def alike(one: str, two: str) -> bool:
    """Two colours that a small picture or a colour model could confuse."""
    return float(np.linalg.norm(np.subtract(COLOURS[one], COLOURS[two]))) < 0.36


class Layout:
    """Discs on the table that must not overlap."""

    def __init__(self, rng: Generator) -> None:
        self.rng = rng
        self.used: list[tuple[np.ndarray, float]] = []

    def free(self, point: np.ndarray, radius: float) -> bool:
        return all(np.hypot(*(point - other)) > radius + size + 0.012 for other, size in self.used)

    def put(self, x_range: Point, y_range: Point, radius: float, tries: int = 100) -> Point | None:
        """A free place for a disc, which is then taken; None when `tries` draws found none."""
        for _ in range(tries):
            point = np.array([self.rng.uniform(*x_range), self.rng.uniform(*y_range)])
            if self.free(point, radius):
                self.used.append((point, radius))
                return float(point[0]), float(point[1])
        return None


def choose_pair(rng: Generator, pairs: Pairs) -> tuple[str, str]:
    """Kinds of target and destination, of the wanted side of the split."""
    share = np.array([kind.share for kind in receptacles.KINDS.values()])
    while True:
        item = str(rng.choice(list(objects.KINDS)))
        receptacle = str(rng.choice(list(receptacles.KINDS), p=share / share.sum()))
        if pairs == "all" or held_out(item, receptacle) == (pairs == "held-out"):
            return item, receptacle


def choose_source(rng: Generator, task: Task, pairs: Pairs, item: str, receptacle: str) -> str | None:
    """What the target stands on, None for the bare table. `lift` is about this pair, so the split holds for it too."""
    if task == "push" or rng.random() >= 0.6:
        return None
    kinds = [kind for kind, entry in receptacles.KINDS.items() if entry.source and kind != receptacle]
    if task == "lift" and pairs != "all":
        kinds = [kind for kind in kinds if held_out(item, kind) == (pairs == "held-out")]
    return str(rng.choice(kinds)) if kinds else None


def choose_colour(rng: Generator, colours: tuple[str, ...], avoid: tuple[str, ...]) -> str | None:
    """A colour unlike all of `avoid`, or None."""
    fitting = [colour for colour in colours if not any(alike(colour, other) for other in avoid)]
    return str(rng.choice(fitting)) if fitting else None


def reach_zone(hand: str, inner: float = 0.04) -> Point:
    """Range of y in which that hand works, from `inner` outwards."""
    return (-0.25, -inner) if hand == "right" else (inner, 0.25)


def place_main(layout: Layout, hand: str, task: Task, source: bool) -> tuple[Point, Point] | None:
    """Positions of destination and target, both in reach; only the target of `push` needs free table ahead."""
    zone = reach_zone(hand)
    for _ in range(60):
        layout.used.clear()
        if task == "push":
            target = layout.put((0.33, 0.38), zone, 0.05)
            ahead = np.array(target)
            layout.used += [(ahead + [0.07, 0], 0.055), (ahead + [0.14, 0], 0.055)]
        else:
            target = layout.put((0.34, 0.46), zone, 0.108 if source else 0.055)
        near = ((0.38, 0.60), (-0.40, 0.40)) if task in ("push", "move") else ((0.36, 0.46), reach_zone(hand, 0.03))
        destination = layout.put(*near, 0.118)
        if target and destination:
            return destination, target
    return None


def choose_spot(rng: Generator, layout: Layout, hand: str, start: Point, source: bool) -> tuple[Toward, Point] | None:
    """The spot to which `move` takes a target from `start`, and its side; None when no side is free.

    Far enough to be visible, and to leave what the target stood on.
    """
    far = 0.18 if source else 0.13
    low, high = reach_zone(hand, 0.0)
    ways: list[tuple[Toward, float]] = [("left", far), ("right", -far)]
    for toward, aside in ways if rng.random() < 0.5 else ways[::-1]:
        spot = (start[0], start[1] + aside)
        if low <= spot[1] <= high and layout.free(np.array(spot), 0.05):
            layout.used.append((np.array(spot), 0.05))
            return toward, spot
    return None


def keep_clear(layout: Layout, hand: str, stops: list[Point]) -> None:
    """Keep distractors out of the hand's way: on its path, and where the fingers end behind every stop."""
    inward = 1 if hand == "right" else -1
    path = np.array([HOME * [1, -inward], *stops])
    for first, second in zip(path[:-1], path[1:], strict=True):
        layout.used += [(first + share * (second - first), 0.045) for share in (0.2, 0.5, 0.8)]
        layout.used += [(second + [ahead, inward * aside], 0.05) for ahead, aside in ((0.07, 0.02), (0.11, 0.07))]
    for side in (1, -1):  # both hands rest here, fingers forward
        layout.used.append((HOME * [1, side] + [0.08, -0.02 * side], 0.06))


def place_distractors(
    rng: Generator, layout: Layout, hand: str, taken: tuple[str, ...], avoid: tuple[str, ...], count: int
) -> list[Placed]:
    """Other objects, none like the target. The first is within reach, so the hand could take it by mistake."""
    kinds = [kind for kind in rng.permutation(list(objects.KINDS)) if kind not in taken]
    zone, placed = reach_zone(hand), []
    for kind in kinds:
        if len(placed) == count:
            break
        colour = choose_colour(rng, objects.KINDS[kind].colours, avoid)
        if colour is None:
            continue
        point = layout.put((0.34, 0.50), (zone[0] - 0.04, zone[1] + 0.04), 0.05) if not placed else None
        point = point or layout.put((0.36, 0.64), (-0.42, 0.42), 0.055)
        if point:
            placed.append(Placed(str(kind), colour, point, float(rng.uniform(-3, 3))))
    return placed


def sample(seed: tuple[int, int], task: Task = "place", pairs: Pairs = "all") -> Scene:
    """The scene of a seed (clip, attempt). The same arguments always give the same scene."""
    rng = np.random.default_rng([*seed, 0])
    while True:
        scene = draw(rng, seed, task, pairs)
        if scene is not None:
            return scene


def draw(rng: Generator, seed: tuple[int, int], task: Task, pairs: Pairs) -> Scene | None:
    """One try at a scene; None when things did not fit."""
    hand = "right" if rng.random() < 0.5 else "left"
    item, receptacle = choose_pair(rng, pairs)
    if task == "push" and not objects.KINDS[item].stands:
        return None
    source = choose_source(rng, task, pairs, item, receptacle)
    colour = str(rng.choice(objects.KINDS[item].colours))
    there = choose_colour(rng, receptacles.KINDS[receptacle].colours, (colour,))
    origin = choose_colour(rng, receptacles.KINDS[source].colours, (colour, there or colour)) if source else None
    layout = Layout(rng)
    spots = place_main(layout, hand, task, source is not None)
    if there is None or (source and origin is None) or spots is None:
        return None
    holders = [Placed(receptacle, there, spots[0], float(rng.uniform(-0.15, 0.15)))]
    if source and origin:
        holders.append(Placed(source, origin, spots[1], float(rng.uniform(-0.15, 0.15))))
    jitter = rng.uniform(-0.012, 0.012, 2)
    start = (float(spots[1][0] + jitter[0]), float(spots[1][1] + jitter[1]))
    target = Placed(item, colour, start, float(rng.uniform(-0.6, 0.6)), len(holders) - 1 if source else -1)
    count = int(rng.integers(1, 4))
    aim = "receptacle" if task in ("reach", "point") and rng.random() < 0.5 else "item"
    moved = choose_spot(rng, layout, hand, start, source is not None) if task == "move" else None
    if task == "move" and moved is None:
        return None
    toward, spot = moved or (None, None)
    end = spot or (spots[0] if task in ("place", "tour") else None)
    keep_clear(layout, hand, [start, end] if end else [start] if aim == "item" else [spots[0]])
    others = place_distractors(rng, layout, hand, (item,), (colour,), count)
    view, look = sample_view(rng), sample_look(rng)
    return Scene(seed, task, hand, (target, *others), tuple(holders), view, look, aim=aim, toward=toward,
                 spot=spot)  # fmt: skip


def name_item(item: Placed) -> str:
    kind = objects.KINDS[item.kind]
    return f"{item.colour} {kind.noun}" if kind.named else kind.noun


def name_receptacle(receptacle: Placed) -> str:
    kind = receptacles.KINDS[receptacle.kind]
    return f"{receptacle.colour} {kind.noun}" if kind.named else kind.noun


def name_source(scene: Scene, index: int) -> str:
    support = scene.items[index].support
    return name_receptacle(scene.receptacles[support]) if support >= 0 else "table"


def prompt(scene: Scene) -> str:
    """The instruction, in the published form for `place` and in one form of its own for every other task."""
    item = name_item(scene.items[scene.target])
    source, place = name_source(scene, scene.target), name_receptacle(scene.receptacles[scene.destination])
    aim = item if scene.aim == "item" else place
    forms = {
        "place": f"pick up {item} from {source} to {place}.",
        "reach": f"reach for {aim}.",
        "push": f"push {item} away.",
        "lift": f"lift {item} from {source} and put it back.",
        "point": f"point at {aim}.",
        "tour": f"reach for {item} and then point at {place}.",
        "move": f"pick up {item} from {source} and put it down farther {scene.toward}.",
    }
    return f"Use the {scene.hand} hand to {forms[scene.task]}"
