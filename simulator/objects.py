"""Things to pick up: 8 kinds, built from procedural meshes and textures, each in a colour of its own.

A recipe adds its geoms to a body whose origin is the geometric centre and returns (half height, radius) in metres,
before scaling. `KINDS` is the catalogue.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import mujoco
import numpy as np
from numpy.random import Generator

from simulator.shapes import COLOURS, GEOM, Builder, Mesh, lathe, paint_pattern, paint_skin, rounded, sweep

Body = mujoco.MjsBody
Size = tuple[float, float]
Colour = tuple[float, float, float]  # or an array of three
LEAF, BARK = (0.15, 0.45, 0.12), (0.30, 0.20, 0.08)


def skin(build: Builder, rng: Generator, colour: Colour, gloss: float = 0.4, **options) -> str:
    return build.material(texture=build.texture(paint_skin(rng, colour, **options)), gloss=gloss)


def printed(build: Builder, rng: Generator, base: Colour, ink: Colour, pattern: str, gloss: float = 0.3) -> str:
    return build.material(texture=build.texture(paint_pattern(rng, base, ink, pattern)), gloss=gloss)


def stem(build: Builder, body: Body, height: float, length: float = 0.012, rgb: tuple = BARK) -> None:
    ends = [0, 0, height - 0.004, 0.003, 0, height + length]
    build.show(body, GEOM.mjGEOM_CAPSULE, fromto=ends, size=[0.0025, 0, 0], material=build.material(rgb, gloss=0.1))


def apple(build: Builder, body: Body, rng: Generator, colour: str) -> Size:
    radius = rng.uniform(0.034, 0.038)
    build.show_mesh(body, lathe(rounded(radius, 0.92, True)), skin(build, rng, COLOURS[colour], speck=0.02))
    build.collide(body, GEOM.mjGEOM_ELLIPSOID, size=[radius, radius, radius * 0.9])
    stem(build, body, radius * 0.86)
    return radius * 0.9, radius


def orange(build: Builder, body: Body, rng: Generator, colour: str) -> Size:
    radius = rng.uniform(0.034, 0.038)
    build.show_mesh(body, lathe(rounded(radius, 0.95)), skin(build, rng, COLOURS[colour], vary=0.08, speck=0.06))
    build.collide(body, GEOM.mjGEOM_ELLIPSOID, size=[radius, radius, radius * 0.95])
    stem(build, body, radius * 0.93, 0.004, (0.25, 0.35, 0.1))
    return radius * 0.95, radius


def tube(build: Builder, body: Body, material: str, length: float, radius: np.ndarray, bend: np.ndarray) -> None:
    """A lying vegetable: `radius` and `bend` (both N) along x."""
    along = (np.linspace(0, 1, len(radius)) - 0.5) * length
    build.solid_mesh(body, sweep(np.stack([along, 0 * along, bend], 1), radius), material)


def eggplant(build: Builder, body: Body, rng: Generator, colour: str) -> Size:
    share = np.linspace(0, 1, 14)
    radius = 0.027 * np.sqrt(np.clip(1 - (2 * share - 1) ** 2, 0, 1)) * (1 - 0.35 * share) + 0.001
    tube(build, body, skin(build, rng, COLOURS[colour], 0.8), 0.14, radius, 0.006 * np.sin(share * 3))
    cap, ends = build.material(LEAF), [0.06, 0, 0, 0.083, 0, 0.008]
    build.show(body, GEOM.mjGEOM_CAPSULE, fromto=ends, size=[0.007, 0, 0], material=cap)
    return 0.024, 0.045


def banana(build: Builder, body: Body, rng: Generator, colour: str) -> Size:
    share = np.linspace(-1, 1, 18)
    path = np.stack([0.085 * np.sin(share), 0 * share, 0.085 * (1 - np.cos(share)) - 0.02], 1)
    mesh = sweep(path, 0.018 * np.clip(1 - np.abs(share) ** 5, 0, 1) ** 0.6 + 0.003, 12)
    lying = Mesh(mesh.vertices[:, [0, 2, 1]] * [1, -1, 1], mesh.faces, mesh.uv)
    build.solid_mesh(body, lying, skin(build, rng, COLOURS[colour], 0.2, vary=0.08))
    return 0.018, 0.045


def can(build: Builder, body: Body, rng: Generator, colour: str) -> Size:
    radii = [0, 0.024, 0.0305, 0.0305, 0.026, 0.024, 0]
    heights = [-0.052, -0.052, -0.046, 0.044, 0.052, 0.05, 0.05]
    label = printed(build, rng, COLOURS[colour], COLOURS["white"], "label", 0.8)
    build.show_mesh(body, lathe(np.stack([radii, heights], 1), dense=1), label)
    build.collide(body, GEOM.mjGEOM_CYLINDER, size=[0.0305, 0.052, 0])
    return 0.052, 0.03


def cube(build: Builder, body: Body, rng: Generator, colour: str) -> Size:
    half = rng.uniform(0.025, 0.030)
    build.solid(body, GEOM.mjGEOM_BOX, build.material(COLOURS[colour]), 0.08, size=[half] * 3)
    return half, half * 1.2


def sponge(build: Builder, body: Body, rng: Generator, colour: str) -> Size:
    foam = skin(build, rng, COLOURS[colour], 0.0, vary=0.2, speck=0.08)
    build.solid(body, GEOM.mjGEOM_BOX, foam, 0.04, size=[0.05, 0.033, 0.021])
    return 0.021, 0.045


def ball(build: Builder, body: Body, rng: Generator, colour: str) -> Size:
    pale = np.array(COLOURS[colour]) * 0.6 + 0.35
    pattern = printed(build, rng, COLOURS[colour], pale, rng.choice(["stripes", "dots", "plain"]))
    build.show_mesh(body, lathe(rounded(0.034)), pattern)
    build.collide(body, GEOM.mjGEOM_SPHERE, size=[0.034, 0, 0])
    return 0.034, 0.034


class Kind(NamedTuple):
    name: str  # in prompts
    recipe: Callable[[Builder, Body, Generator, str], Size]
    colour: str  # clearly unlike that of any other object or receptacle


KINDS: dict[str, Kind] = {
    "apple": Kind("apple", apple, "red"),
    "orange": Kind("orange", orange, "orange"),
    "banana": Kind("banana", banana, "yellow"),
    "eggplant": Kind("eggplant", eggplant, "purple"),
    "can": Kind("blue can", can, "blue"),
    "cube": Kind("green cube", cube, "green"),
    "sponge": Kind("sponge", sponge, "cyan"),
    "ball": Kind("pink ball", ball, "pink"),
}
