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


def sample_look(rng: Generator) -> Look:
    return Look(str(rng.choice(["light-wood", "mist"])))
