"""Things to pick up: 24 kinds, built from procedural meshes and textures.

A recipe adds its geoms to a body whose origin is the geometric centre and returns (half height, radius) in metres,
before scaling. `KINDS` is the catalogue.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import mujoco
import numpy as np
from numpy.random import Generator

from simulator.shapes import (  # fmt: skip
    COLOURS,
    GEOM,
    Builder,
    Mesh,
    lathe,
    outline,
    paint_pattern,
    paint_skin,
    paint_vessel,
    rounded,
    superellipsoid,
    sweep,
)

Body = mujoco.MjsBody
Size = tuple[float, float]
Colour = tuple[float, float, float]  # or an array of three
LEAF, BARK, DARK_LEAF = (0.15, 0.45, 0.12), (0.30, 0.20, 0.08), (0.12, 0.38, 0.08)


def skin(build: Builder, rng: Generator, colour: Colour, gloss: float = 0.4, **options) -> str:
    return build.material(texture=build.texture(paint_skin(rng, colour, **options)), gloss=gloss)


def printed(build: Builder, rng: Generator, base: Colour, ink: Colour, pattern: str, gloss: float = 0.3) -> str:
    return build.material(texture=build.texture(paint_pattern(rng, base, ink, pattern)), gloss=gloss)


def stem(build: Builder, body: Body, height: float, length: float = 0.012, rgb: tuple = BARK) -> None:
    ends = [0, 0, height - 0.004, 0.003, 0, height + length]
    build.show(body, GEOM.mjGEOM_CAPSULE, fromto=ends, size=[0.0025, 0, 0], material=build.material(rgb, gloss=0.1))


def apple(build: Builder, body: Body, rng: Generator, colour: str) -> Size:
    radius = rng.uniform(0.034, 0.038)
    blush = COLOURS["yellow"] if colour == "red" else (0.75, 0.78, 0.25)
    second = blush if rng.random() < 0.4 else None
    peel = skin(build, rng, COLOURS[colour], second=second, speck=0.02)
    build.solid_mesh(body, lathe(rounded(radius, 0.92, True)), peel)
    stem(build, body, radius * 0.86)
    return radius * 0.9, radius


def orange(build: Builder, body: Body, rng: Generator, colour: str) -> Size:
    radius = rng.uniform(0.034, 0.038)
    build.solid_mesh(body, lathe(rounded(radius, 0.95)), skin(build, rng, COLOURS[colour], vary=0.08, speck=0.06))
    stem(build, body, radius * 0.93, 0.004, (0.25, 0.35, 0.1))
    return radius * 0.95, radius


def tomato(build: Builder, body: Body, rng: Generator, colour: str) -> Size:
    radius = rng.uniform(0.033, 0.037)
    peel = skin(build, rng, COLOURS[colour], 0.7)
    build.solid_mesh(body, lathe(rounded(radius, 0.78, True), lobes=5, depth=0.03), peel)
    leaf = build.material(DARK_LEAF)
    for angle in np.arange(5) * 2 * np.pi / 5:
        position = [0.009 * np.cos(angle), 0.009 * np.sin(angle), radius * 0.72]
        turn, size = [np.cos(angle / 2), 0, 0, np.sin(angle / 2)], [0.010, 0.003, 0.0015]
        build.show(body, GEOM.mjGEOM_ELLIPSOID, pos=position, size=size, quat=turn, material=leaf)
    return radius * 0.78, radius


def lemon(build: Builder, body: Body, rng: Generator, colour: str) -> Size:
    width, length = 0.028, 0.040
    half = [(0, length), (0.006, length * 0.93), (0.012, length * 0.8), (width * 0.85, length * 0.4)]
    profile = [(r, -z) for r, z in half] + [(width, 0)] + half[::-1]
    mesh = lathe(profile)
    lying = Mesh(mesh.vertices[:, [2, 1, 0]] * [1, 1, -1], mesh.faces, mesh.uv)
    build.solid_mesh(body, lying, skin(build, rng, COLOURS[colour], vary=0.07, speck=0.05))
    return width, 0.035


def pear(build: Builder, body: Body, rng: Generator, colour: str) -> Size:
    radii = [0, 0.016, 0.03, 0.033, 0.026, 0.016, 0.01, 0]
    heights = [-0.038, -0.037, -0.025, -0.01, 0.012, 0.028, 0.04, 0.044]
    base = (0.55, 0.68, 0.18) if colour == "green" else COLOURS[colour]
    build.solid_mesh(body, lathe(outline(radii, heights)), skin(build, rng, base, speck=0.05))
    stem(build, body, 0.042)
    return 0.038, 0.033


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


def carrot(build: Builder, body: Body, rng: Generator, colour: str) -> Size:
    share = np.linspace(0, 1, 14)
    ends = np.clip(np.minimum(share * 12 + 0.05, (1 - share) * 12 + 0.05), 0, 1)
    radius = 0.020 * (1 - 0.7 * share) * ends + 0.0008
    tube(build, body, skin(build, rng, COLOURS[colour], 0.2, vary=0.15), 0.15, radius, 0 * share)
    leaf = build.material(LEAF)
    for angle in np.arange(4) * 1.6:
        ends = [-0.074, 0, 0, -0.105, 0.012 * np.cos(angle), 0.012 * np.sin(angle)]
        build.show(body, GEOM.mjGEOM_CAPSULE, fromto=ends, size=[0.004, 0, 0], material=leaf)
    return 0.019, 0.045


def cucumber(build: Builder, body: Body, rng: Generator, colour: str) -> Size:
    share = np.linspace(0, 1, 14)
    radius = 0.020 * np.sqrt(np.clip(1 - np.abs(2 * share - 1) ** 6, 0, 1)) + 0.001
    green = (0.16, 0.46, 0.10)
    tube(build, body, skin(build, rng, green, stripes=8, vary=0.15), 0.16, radius, 0.004 * np.cos(share * 6))
    return 0.020, 0.05


def banana(build: Builder, body: Body, rng: Generator, colour: str) -> Size:
    share = np.linspace(-1, 1, 18)
    path = np.stack([0.085 * np.sin(share), 0 * share, 0.085 * (1 - np.cos(share)) - 0.02], 1)
    mesh = sweep(path, 0.018 * np.clip(1 - np.abs(share) ** 5, 0, 1) ** 0.6 + 0.003, 12)
    lying = Mesh(mesh.vertices[:, [0, 2, 1]] * [1, -1, 1], mesh.faces, mesh.uv)
    build.solid_mesh(body, lying, skin(build, rng, COLOURS[colour], 0.2, vary=0.08))
    return 0.018, 0.045


def corn(build: Builder, body: Body, rng: Generator, colour: str) -> Size:
    share = np.linspace(0, 1, 14)
    radius = 0.021 * np.sqrt(np.clip(1 - np.abs(2 * share - 1) ** 3, 0, 1)) + 0.001
    grain = printed(build, rng, np.array(COLOURS[colour]), np.array(COLOURS[colour]) * 0.8, "dots")
    tube(build, body, grain, 0.15, radius, 0 * share)
    husk = build.material(LEAF)
    build.show(body, GEOM.mjGEOM_ELLIPSOID, pos=[-0.055, 0, 0.002], size=[0.038, 0.021, 0.021], material=husk)
    return 0.021, 0.048


def potato(build: Builder, body: Body, rng: Generator, colour: str) -> Size:
    flesh = skin(build, rng, (0.62, 0.42, 0.22), 0.1, vary=0.2, speck=0.04)
    build.solid_mesh(body, superellipsoid((0.045, 0.031, 0.027), (0.9, 0.9)), flesh)
    return 0.027, 0.04


def bread(build: Builder, body: Body, rng: Generator, colour: str) -> Size:
    crust = skin(build, rng, (0.70, 0.43, 0.16), 0.05, second=(0.85, 0.65, 0.38), vary=0.15)
    build.solid_mesh(body, superellipsoid((0.055, 0.033, 0.026), (0.55, 0.6)), crust)
    return 0.026, 0.045


def pepper(build: Builder, body: Body, rng: Generator, colour: str) -> Size:
    profile = [(0, -0.034), (0.012, -0.037), (0.022, -0.030), (0.030, 0), (0.032, 0.02), (0.024, 0.034), (0.008, 0.032)]
    build.solid_mesh(body, lathe([*profile, (0, 0.028)], lobes=4, depth=0.09), skin(build, rng, COLOURS[colour], 0.8))
    stem(build, body, 0.03, 0.016, (0.2, 0.45, 0.12))
    return 0.036, 0.032


def strawberry(build: Builder, body: Body, rng: Generator, colour: str) -> Size:
    radii = [0, 0.017, 0.025, 0.03, 0.028, 0.016, 0]
    heights = [-0.033, -0.033, -0.016, 0.008, 0.024, 0.032, 0.03]
    build.solid_mesh(body, lathe(outline(radii, heights)), skin(build, rng, COLOURS[colour], 0.5, speck=0.08))
    build.show(body, GEOM.mjGEOM_ELLIPSOID, pos=[0, 0, 0.031], size=[0.02, 0.02, 0.004], material=build.material(LEAF))
    return 0.033, 0.030


def bottle(build: Builder, body: Body, rng: Generator, colour: str) -> Size:
    radii = [0, 0.028, 0.03, 0.03, 0.026, 0.012, 0.011, 0]
    heights = [-0.07, -0.07, -0.065, 0.02, 0.035, 0.05, 0.066, 0.066]
    label = printed(build, rng, COLOURS[colour], COLOURS["white"], "label", 0.7)
    build.solid_mesh(body, lathe(outline(radii, heights), dense=2), label)
    cap = build.material(COLOURS["white"])
    build.show(body, GEOM.mjGEOM_CYLINDER, pos=[0, 0, 0.068], size=[0.0135, 0.009, 0], material=cap)
    return 0.070, 0.03


def can(build: Builder, body: Body, rng: Generator, colour: str) -> Size:
    radii = [0, 0.024, 0.0305, 0.0305, 0.026, 0.024, 0]
    heights = [-0.052, -0.052, -0.046, 0.044, 0.052, 0.05, 0.05]
    label = printed(build, rng, COLOURS[colour], COLOURS["white"], "label", 0.8)
    build.solid_mesh(body, lathe(outline(radii, heights), dense=1), label)
    return 0.052, 0.03


def cup(build: Builder, body: Body, rng: Generator, colour: str) -> Size:
    wide, half, wall = 0.035, 0.042, 0.003
    outside = [(0, -half), (wide * 0.78, -half), (wide * 0.8, -half + 0.004), (wide, half), (wide - wall, half)]
    profile = [*outside, (wide * 0.8 - wall, -half + 0.008), (0, -half + 0.006)]
    glaze = build.material(texture=build.texture(paint_vessel(COLOURS[colour], 0.55)), gloss=0.6)
    build.show_mesh(body, lathe(profile, dense=1), glaze)
    build.collide(body, GEOM.mjGEOM_CYLINDER, 0.08, size=[wide * 0.93, half, 0])
    return half, wide


def mug(build: Builder, body: Body, rng: Generator, colour: str) -> Size:
    size = cup(build, body, rng, colour)
    angle = np.linspace(-1.9, 1.9, 12)
    path = np.stack([0.033 + 0.020 * np.cos(angle), 0 * angle, 0.022 * np.sin(angle)], 1)
    build.show_mesh(body, sweep(path, np.full(12, 0.0045), 8), build.material(COLOURS[colour], gloss=0.6))
    return size


def cube(build: Builder, body: Body, rng: Generator, colour: str) -> Size:
    half = rng.uniform(0.025, 0.030)
    build.solid(body, GEOM.mjGEOM_BOX, build.material(COLOURS[colour]), 0.08, size=[half] * 3)
    return half, half * 1.2


def puzzle(build: Builder, body: Body, rng: Generator, colour: str) -> Size:
    """A Rubik's cube: box faces of three colours with black joints."""
    half = 0.028
    build.collide(body, GEOM.mjGEOM_BOX, 0.08, size=[half] * 3)
    build.show(body, GEOM.mjGEOM_BOX, size=[half] * 3, material=build.material(COLOURS["black"]))
    for axis, paint in enumerate(("green", "blue", "pink")):
        for cell in np.ndindex(3, 3):
            for side in (-1, 1) if axis < 2 else (1,):
                place = np.insert((np.array(cell) - 1) * half * 0.66, axis, side * half)
                size = np.insert([half * 0.29] * 2, axis, 0.0008)
                build.show(body, GEOM.mjGEOM_BOX, pos=place, size=size, material=build.material(COLOURS[paint]))
    return half, half * 1.2


def carton(build: Builder, body: Body, rng: Generator, colour: str) -> Size:
    wide, half = 0.028, 0.052
    label = printed(build, rng, COLOURS["white"], COLOURS[colour], "label")
    build.solid(body, GEOM.mjGEOM_BOX, label, 0.1, size=[wide, wide, half])
    base = [[-wide, -wide, half], [wide, -wide, half], [wide, wide, half], [-wide, wide, half]]
    points = np.array([*base, [-wide, 0, half + 0.02], [wide, 0, half + 0.02]])
    faces = np.array([[0, 1, 5], [0, 5, 4], [2, 3, 4], [2, 4, 5], [0, 4, 3], [1, 2, 5]])
    build.show_mesh(body, Mesh(points, faces, np.full((6, 2), 0.1)), build.material(COLOURS[colour]))
    return half, 0.033


def sponge(build: Builder, body: Body, rng: Generator, colour: str) -> Size:
    foam = skin(build, rng, COLOURS[colour], 0.0, vary=0.2, speck=0.08)
    build.show(body, GEOM.mjGEOM_BOX, pos=[0, 0, 0.004], size=[0.05, 0.033, 0.017], material=foam)
    scour = build.material((0.12, 0.38, 0.16), gloss=0.0)
    build.show(body, GEOM.mjGEOM_BOX, pos=[0, 0, -0.017], size=[0.05, 0.033, 0.004], material=scour)
    build.collide(body, GEOM.mjGEOM_BOX, 0.04, size=[0.05, 0.033, 0.021])
    return 0.021, 0.045


def cylinder(build: Builder, body: Body, rng: Generator, colour: str) -> Size:
    build.solid(body, GEOM.mjGEOM_CYLINDER, build.material(COLOURS[colour]), 0.08, size=[0.028, 0.035, 0])
    return 0.035, 0.028


def ball(build: Builder, body: Body, rng: Generator, colour: str) -> Size:
    pale = np.array(COLOURS[colour]) * 0.6 + 0.35
    pattern = printed(build, rng, COLOURS[colour], pale, rng.choice(["stripes", "dots", "plain"]))
    build.solid_mesh(body, lathe(rounded(0.034)), pattern)
    return 0.034, 0.034


class Kind(NamedTuple):
    noun: str
    recipe: Callable[[Builder, Body, Generator, str], Size]
    colours: tuple[str, ...]
    named: bool = True  # does the prompt name the colour?
    stands: bool = True  # does it stay where it is put on a bare table? (what rolls is never pushed)


KINDS: dict[str, Kind] = {
    "apple": Kind("apple", apple, ("red", "green"), stands=False),
    "orange": Kind("orange", orange, ("orange",), named=False, stands=False),
    "tomato": Kind("tomato", tomato, ("red",), named=False, stands=False),
    "lemon": Kind("lemon", lemon, ("yellow",), named=False, stands=False),
    "pear": Kind("pear", pear, ("green", "yellow"), stands=False),
    "eggplant": Kind("eggplant", eggplant, ("purple",), named=False, stands=False),
    "carrot": Kind("carrot", carrot, ("orange",), named=False, stands=False),
    "cucumber": Kind("cucumber", cucumber, ("green",), named=False, stands=False),
    "banana": Kind("banana", banana, ("yellow",), named=False),
    "corn": Kind("corn", corn, ("yellow",), named=False, stands=False),
    "potato": Kind("potato", potato, ("brown",), named=False),
    "bread": Kind("bread roll", bread, ("brown",), named=False),
    "pepper": Kind("bell pepper", pepper, ("red", "green", "yellow", "orange"), stands=False),
    "strawberry": Kind("strawberry", strawberry, ("red",), named=False, stands=False),
    "bottle": Kind("bottle", bottle, ("blue", "green", "red", "orange")),
    "can": Kind("can", can, ("red", "blue", "green", "purple")),
    "cup": Kind("cup", cup, ("red", "blue", "green", "pink", "yellow")),
    "mug": Kind("mug", mug, ("blue", "red", "green", "yellow")),
    "cube": Kind("cube", cube, ("red", "blue", "green", "yellow", "purple")),
    "puzzle": Kind("puzzle cube", puzzle, ("pink",), named=False),
    "carton": Kind("milk carton", carton, ("blue", "red", "green")),
    "sponge": Kind("sponge", sponge, ("yellow", "pink", "cyan")),
    "cylinder": Kind("cylinder", cylinder, ("red", "blue", "green", "orange")),
    "ball": Kind("ball", ball, ("red", "blue", "green", "pink", "orange"), stands=False),
}
