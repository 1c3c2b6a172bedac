"""Build the MuJoCo model of a scene: room, table, lights, robot, things, camera, and welds that stand for a grasp."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import mujoco
import numpy as np

from cookbook.errors import UserError
from simulator import objects, receptacles
from simulator.build_robot import ASSETS
from simulator.receptacles import Deck
from simulator.scene import TABLE, Look, Placed, Scene, View
from simulator.shapes import GEOM, Builder, turn

FPS = 16  # control and simulation log; physics runs at FPS * SUBSTEPS = 480 Hz
SUBSTEPS = 30
FRAMES = 49
TABLE_NEAR = 0.17  # x of the table edge before the robot
ITEM_SCALE = 1.15  # items are larger than real ones, to be more visible in small pictures
RECEPTACLE_SCALE = 0.7  # two fit side by side within reach of both hands
PLAIN = {"mist": (0.60, 0.70, 0.76)}  # table tops without texture
BENEATH = (0.0, 0.0, -5.0)  # where a parked duplicate of every item waits


@dataclass(frozen=True)
class World:
    """A compiled scene. `sizes`: (half height, radius) of each item in metres; `decks`: one per receptacle."""

    scene: Scene
    model: mujoco.MjModel
    sizes: tuple[tuple[float, float], ...]
    decks: tuple[Deck, ...]

    def address(self, name: str) -> int:
        """Index in qpos of the free joint (x y z, w x y z) of body `name`."""
        return int(self.model.joint(f"{name}_free").qposadr[0])

    def start(self, index: int) -> np.ndarray:
        """Centre of item `index` at the start, (3,)."""
        return np.array([*self.scene.items[index].position, TABLE + self.sizes[index][0]])


def set_physics(spec: mujoco.MjSpec) -> None:
    option = spec.option
    option.timestep = 1 / FPS / SUBSTEPS
    option.integrator = mujoco.mjtIntegrator.mjINT_IMPLICITFAST
    option.iterations, option.ls_iterations = 20, 10
    option.cone, option.impratio = mujoco.mjtCone.mjCONE_PYRAMIDAL, 3


def set_quality(spec: mujoco.MjSpec) -> None:
    """The fast look: no multisampling and a small shadow map, which a software renderer draws three times as fast."""
    spec.visual.global_.offwidth, spec.visual.global_.offheight = 1280, 800
    spec.visual.quality.shadowsize, spec.visual.quality.offsamples = 512, 0
    spec.visual.map.znear, spec.visual.map.zfar = 0.02, 12
    # the whole spot light's cone would cause shadow acne
    spec.visual.map.shadowclip, spec.visual.map.shadowscale = 1.0, 0.8
    spec.stat.extent, spec.stat.center = 1.0, [0.4, 0, 1]


def add_lights(spec: mujoco.MjSpec, look: Look) -> None:
    head = spec.visual.headlight
    head.ambient, head.diffuse, head.specular = [look.ambient] * 3, [0.06] * 3, [0.05] * 3
    aim, key = np.array([0.45, 0, TABLE]), np.array(look.key_position)
    spec.worldbody.add_light(
        pos=key, dir=aim - key, diffuse=[look.key] * 3, specular=[0.35] * 3, castshadow=True, cutoff=42, exponent=0.6,
        attenuation=[1, 0, 0], intensity=0, bulbradius=0.08,
    )  # fmt: skip
    fill = np.array([0.5 - key[0], -key[1], 2.4])
    spec.worldbody.add_light(
        pos=fill, dir=aim - fill, diffuse=[look.fill] * 3, specular=[0.1] * 3, castshadow=False, cutoff=70, exponent=1
    )


def surface(build: Builder, name: str, repeat: float = 1.0, tint: tuple = (1, 1, 1), gloss: float = 0.1) -> str:
    """Material of a large surface: a photo texture or a plain colour."""
    if name in PLAIN:
        return build.material(tuple(np.array(PLAIN[name]) * tint), gloss=0.2)
    return build.material(tint, build.photo(name), gloss=gloss, repeat=repeat)


def add_room(build: Builder, look: Look) -> None:
    ground = build.spec.worldbody
    build.show(ground, GEOM.mjGEOM_PLANE, size=[4, 4, 0.1], material=surface(build, look.floor, 1.5))
    build.show(ground, GEOM.mjGEOM_BOX, pos=[2.4, 0, 1.2], size=[0.05, 4, 1.3], material=surface(build, look.wall))
    top = surface(build, look.table, tint=look.tint, gloss=0.25)
    table = ground.add_body(name="table", pos=[TABLE_NEAR + look.depth / 2, 0, TABLE - 0.02])
    build.solid(table, GEOM.mjGEOM_BOX, top, size=[look.depth / 2, 0.75, 0.02])
    for x in (-1, 1):
        for y in (-1, 1):
            corner = [x * (look.depth / 2 - 0.04), y * 0.7, -0.45]
            build.show(table, GEOM.mjGEOM_BOX, pos=corner, size=[0.025, 0.025, 0.43], material=top)


def add_receptacle(build: Builder, scene: Scene, index: int) -> Deck:
    placed = scene.receptacles[index]
    body = build.spec.worldbody.add_body(
        name=f"receptacle{index}", pos=[*placed.position, TABLE], quat=turn(placed.yaw)
    )
    rng = np.random.default_rng([*scene.seed, 1, 100 + index])
    kind, build.scale = receptacles.KINDS[placed.kind], RECEPTACLE_SCALE
    deck = kind.recipe(build, body, rng, kind.colour)
    build.scale = 1.0
    return Deck(*(RECEPTACLE_SCALE * length for length in deck))


def add_item(
    build: Builder, scene: Scene, placed: Placed, name: str, position: Sequence[float], stream: int
) -> tuple[float, float]:
    """`position` is where the thing touches what it stands on. Equal streams give equal things."""
    body = build.spec.worldbody.add_body(name=name, quat=turn(placed.yaw))
    build.scale = ITEM_SCALE
    rng = np.random.default_rng([*scene.seed, 1, stream])
    kind = objects.KINDS[placed.kind]
    half, radius = kind.recipe(build, body, rng, kind.colour)
    build.scale = 1.0
    body.pos = np.add(position, [0, 0, half * ITEM_SCALE + 0.001])
    # enough to stop round things from rolling for ever, too little to slow a fall
    body.add_freejoint(name=f"{name}_free").damping[0] = 0.003
    return half * ITEM_SCALE, radius * ITEM_SCALE


def add_duplicate(build: Builder, scene: Scene, index: int) -> None:
    """A second item parked under the world, for the fault `duplicate`."""
    add_item(build, scene, scene.items[index], f"duplicate{index}", BENEATH, index)
    body = build.spec.body(f"duplicate{index}")
    body.gravcomp = 1
    for geom in body.geoms:
        geom.contype = geom.conaffinity = 0


def add_welds(spec: mujoco.MjSpec, count: int) -> None:
    """One weld, off at first, for every hand and item: `Env` switches it on when the hand has taken the item."""
    for hand in ("right", "left"):
        for index in range(count):
            weld = spec.add_equality(name=f"grasp_{hand}_{index}", type=mujoco.mjtEq.mjEQ_WELD)
            weld.objtype = mujoco.mjtObj.mjOBJ_BODY
            weld.name1, weld.name2, weld.active = f"{hand}_eef", f"item{index}", False
            weld.solref[:] = [0.006, 1]
            weld.data[10] = 1.0


def add_camera(spec: mujoco.MjSpec, view: View) -> None:
    pitch, yaw, roll = np.deg2rad([view.pitch, view.yaw, view.roll])
    forward = np.array([np.cos(pitch) * np.cos(yaw), np.cos(pitch) * np.sin(yaw), -np.sin(pitch)])
    right = np.cross(forward, [0, 0, 1])
    right /= np.linalg.norm(right)
    up = np.cross(right, forward)
    axes = [np.cos(roll) * right + np.sin(roll) * up, np.cos(roll) * up - np.sin(roll) * right, -forward]
    quaternion = np.zeros(4)
    mujoco.mju_mat2Quat(quaternion, np.stack(axes, 1).flatten())
    spec.worldbody.add_camera(name="head", pos=view.position, quat=quaternion, fovy=view.fovy)


def build(scene: Scene) -> World:
    path = ASSETS / "robot/gr1.xml"
    if not path.exists():
        raise UserError(f"{path} is missing: restore it with git, or build it: python -m simulator.build_robot")
    spec = mujoco.MjSpec.from_file(str(path))
    builder = Builder(spec)
    set_physics(spec)
    set_quality(spec)
    add_lights(spec, scene.look)
    add_room(builder, scene.look)
    decks = tuple(add_receptacle(builder, scene, index) for index in range(len(scene.receptacles)))
    sizes = []
    for index, item in enumerate(scene.items):
        sizes.append(add_item(builder, scene, item, f"item{index}", (*item.position, TABLE), index))
        add_duplicate(builder, scene, index)
    add_welds(spec, len(scene.items))
    add_camera(spec, scene.view)
    look = scene.look
    spec.material("robot_arm").rgba = [look.arm, look.arm, look.arm * 1.03, 1]
    spec.material("robot_hand").rgba = [look.hand, look.hand, look.hand, 1]
    return World(scene, spec.compile(), tuple(sizes), decks)
