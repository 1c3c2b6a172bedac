"""How a scene looks: where the head camera stands, what the room and the robot are made of, how they are lit."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.random import Generator


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
    table: str
    table_repeat: float
    tint: tuple[float, ...]
    floor: str
    wall: str
    cloth: str
    depth: float
    ambient: float
    key: float
    fill: float
    key_position: tuple[float, ...]
    warmth: float
    arm: float
    hand: float
    exposure: float


def sample_view(rng: Generator, randomize: bool) -> View:
    if randomize:
        place = np.array([0.12, 0, 1.475]) + rng.normal(0, 0.012, 3)
        pitch, fovy = rng.uniform(49, 56), rng.uniform(52, 60)
        yaw, roll = rng.normal(0, 1.5), rng.normal(0, 0.8)
    else:
        place = np.array([0.12, 0, 1.475]) + rng.uniform(-0.005, 0.005, 3)
        pitch, fovy = 57 + rng.uniform(-0.5, 0.5), 50.0
        yaw, roll = rng.uniform(-0.5, 0.5, 2)
    return View(tuple(map(float, place)), float(pitch), float(yaw), float(roll), float(fovy))


def plain_look(rng: Generator) -> Look:
    """The easy world: one room, one robot, four tables, steady light."""
    table = str(rng.choice(["light-wood", "white", "mist", "cream-plaster"]))
    return Look(
        table=table, table_repeat=1.0, tint=(0.95, 0.95, 0.95), floor="light-gray-floor-tile",
        wall="light-gray-plaster", cloth="beige", depth=0.70, ambient=0.44, key=0.36, fill=0.15,
        key_position=(0.3, 0.4, 2.6), warmth=0.0, arm=0.26, hand=0.10, exposure=0.5,
    )  # fmt: skip


def random_look(rng: Generator) -> Look:
    """Domain randomisation over tables, walls, floors, light, exposure and the robot's paint."""
    woods = ["light-wood", "dark-wood", "red-wood", "gray-woodgrain", "wood-varnished-panels"]
    tables = [*woods, "white-plaster", "ceramic", "gray-felt", "cream-plaster", "cloth", "white"]
    walls = ["white-plaster", "cream-plaster", "light-gray-plaster", "pink-plaster", "white-bricks", "yellow-plaster"]
    return Look(
        table=str(rng.choice(tables)),
        table_repeat=float(rng.uniform(0.8, 1.6)),
        tint=tuple(map(float, rng.uniform(0.82, 1.0, 3))),
        floor=str(rng.choice(["wood-tiles", "light-gray-floor-tile", "gray-felt", "clay"])),
        wall=str(rng.choice([*walls, "gray-plaster"])),
        cloth=str(rng.choice(["navy", "teal", "tan", "beige", "gray", "brown", "white", "black", "cyan", "green"])),
        depth=float(rng.uniform(0.62, 0.95)),
        ambient=float(rng.uniform(0.24, 0.36)),
        key=float(rng.uniform(0.36, 0.54)),
        fill=float(rng.uniform(0.08, 0.18)),
        key_position=(float(rng.uniform(0, 0.8)), float(rng.uniform(-0.8, 0.8)), float(rng.uniform(2.3, 2.9))),
        warmth=float(rng.uniform(-0.06, 0.06)),
        arm=float(rng.uniform(0.18, 0.50)),
        hand=float(rng.uniform(0.07, 0.16)),
        exposure=float(rng.uniform(0.42, 0.56)),
    )
