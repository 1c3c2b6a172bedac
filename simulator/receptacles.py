"""Things to put something into or onto: 4 kinds, each in a colour of its own.

A recipe adds its geoms to a body whose origin lies on the table under the middle of the deck and returns the `Deck`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import mujoco
import numpy as np
from numpy.random import Generator

from simulator.shapes import COLOURS, GEOM, Builder, lathe, paint_pattern, paint_vessel, turn

Body = mujoco.MjsBody


class Deck(NamedTuple):
    """Where things can stand, in metres: half extents, height of the surface and of the rim above the table."""

    half_x: float
    half_y: float
    floor: float
    rim: float


def slabs(build: Builder, body: Body, material: str, boxes: list[tuple[list[float], list[float]]]) -> None:
    """Boxes given as (position, half size)."""
    for position, size in boxes:
        build.solid(body, GEOM.mjGEOM_BOX, material, pos=position, size=size)


def placemat(build: Builder, body: Body, rng: Generator, colour: str) -> Deck:
    rgb, half = np.array(COLOURS[colour]), (0.085, 0.105)
    cloth = paint_pattern(rng, rgb, rgb * 0.78, rng.choice(["weave", "stripes", "check"]))
    material = build.material(texture=build.texture(cloth), gloss=0.0)
    slabs(build, body, material, [([0, 0, 0.0015], [*half, 0.0015])])
    return Deck(*half, 0.003, 0.003)


def walled(build: Builder, body: Body, material: str, half: tuple[float, float], height: float, wall: float) -> Deck:
    """A floor with four walls; `height` is half that of the walls, `wall` half their thickness."""
    wide, deep = half
    boxes = [([0, 0, 0.003], [wide, deep, 0.003])]
    for side in (1, -1):
        boxes.append(([side * (wide - wall), 0, height], [wall, deep, height]))
        boxes.append(([0, side * (deep - wall), height], [wide - 2 * wall, wall, height]))
    slabs(build, body, material, boxes)
    return Deck(wide - 0.015, deep - 0.015, 0.006, 2 * height)


def tray(build: Builder, body: Body, rng: Generator, colour: str) -> Deck:
    return walled(build, body, build.material(COLOURS[colour]), (0.08, 0.105), 0.014, 0.004)


def basket(build: Builder, body: Body, rng: Generator, colour: str) -> Deck:
    rgb = np.array(COLOURS[colour])
    wicker = build.texture(paint_pattern(rng, rgb, rgb * 0.6, "weave"))
    return walled(build, body, build.material(texture=wicker, repeat=6, gloss=0.1), (0.08, 0.10), 0.028, 0.006)


def dish(build: Builder, body: Body, profile: np.ndarray, image: np.ndarray) -> None:
    material = build.material(texture=build.texture(image), gloss=0.6)
    build.show_mesh(body, lathe(profile, around=36, dense=2), material)


def rim_ring(build: Builder, body: Body, radius: float, at: float, height: float, width: float, slope: float) -> None:
    """Twelve tilted plates stand in for a round rim (a mesh collides as its hull: nothing could lie inside)."""
    for angle in np.arange(12) * np.pi / 6:
        position = [radius * at * np.cos(angle), radius * at * np.sin(angle), height]
        size = [radius * width, radius * 0.22, 0.003]
        build.collide(body, GEOM.mjGEOM_BOX, pos=position, size=size, quat=turn(angle, slope))


def bowl(build: Builder, body: Body, rng: Generator, colour: str) -> Deck:
    radius = 0.082
    across = np.array([0, 0.45, 0.5, 0.8, 1, 0.965, 0.76, 0.45, 0]) * radius
    profile = np.stack([across, [0, 0, 0.004, 0.022, 0.050, 0.051, 0.025, 0.009, 0.007]], 1)
    dish(build, body, profile, paint_vessel(COLOURS[colour], 0.5))
    build.collide(body, GEOM.mjGEOM_CYLINDER, pos=[0, 0, 0.003], size=[radius * 0.5, 0.004, 0])
    rim_ring(build, body, radius, 0.75, 0.027, 0.36, -0.80)
    return Deck(radius * 0.55, radius * 0.55, 0.008, 0.051)


class Kind(NamedTuple):
    name: str  # in prompts
    recipe: Callable[[Builder, Body, Generator, str], Deck]
    colour: str


KINDS: dict[str, Kind] = {
    "tray": Kind("white tray", tray, "white"),
    "bowl": Kind("teal bowl", bowl, "teal"),
    "basket": Kind("basket", basket, "brown"),
    "placemat": Kind("navy placemat", placemat, "navy"),
}
