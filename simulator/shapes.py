"""Procedural meshes and textures, and the `Builder` that puts them into an MjSpec.

A mesh is a `Mesh` of vertices (V, 3) in metres, faces (F, 3) and texture coordinates (V, 2) in [0, 1].
A texture is a float image (H, W, 3) in [0, 1].
"""

from __future__ import annotations

from typing import NamedTuple

import mujoco
import numpy as np
from numpy.random import Generator
from PIL import Image
from scipy.interpolate import PchipInterpolator

from simulator.build_robot import ASSETS

GEOM = mujoco.mjtGeom
COLOURS: dict[str, tuple[float, float, float]] = {  # all clearly different from each other
    "red": (0.80, 0.07, 0.06), "orange": (0.95, 0.45, 0.05), "yellow": (0.98, 0.85, 0.12), "green": (0.20, 0.55, 0.12),
    "cyan": (0.35, 0.78, 0.88), "blue": (0.10, 0.30, 0.88), "purple": (0.42, 0.10, 0.50), "pink": (0.95, 0.48, 0.64),
    "white": (0.92, 0.92, 0.90), "teal": (0.05, 0.50, 0.50), "brown": (0.42, 0.25, 0.12), "navy": (0.08, 0.12, 0.32),
}  # fmt: skip


class Mesh(NamedTuple):
    vertices: np.ndarray
    faces: np.ndarray
    uv: np.ndarray


def weave_grid(vertices: np.ndarray, uv: np.ndarray) -> Mesh:
    """Triangulate a (rows, columns, 3) grid of vertices, leaving out degenerate triangles."""
    rows, columns = vertices.shape[:2]
    index = np.arange(rows * columns).reshape(rows, columns)
    here, right = index[:-1, :-1].ravel(), index[:-1, 1:].ravel()
    across, up = index[1:, 1:].ravel(), index[1:, :-1].ravel()
    faces = np.concatenate([np.stack([here, right, across], 1), np.stack([here, across, up], 1)])
    points = vertices.reshape(-1, 3)
    one, two, three = (points[faces[:, k]] for k in range(3))
    area = np.linalg.norm(np.cross(two - one, three - one), axis=1)
    return Mesh(points, faces[area > 1e-9], uv.reshape(-1, 2))


def lathe(knots: np.ndarray, around: int = 24, dense: int = 3) -> Mesh:
    """Turn a profile (N, 2) of radius and height, from the bottom up, around the z axis."""
    if dense > 1:
        old, new = np.arange(len(knots)), np.linspace(0, len(knots) - 1, (len(knots) - 1) * dense + 1)
        knots = np.stack([PchipInterpolator(old, knots[:, k])(new) for k in range(2)], 1)
    angle = np.linspace(0, 2 * np.pi, around + 1)
    radius = np.repeat(knots[:, :1], around + 1, 1)
    height = np.broadcast_to(knots[:, 1:], radius.shape)
    along = np.broadcast_to(np.linspace(0, 1, len(knots))[:, None], radius.shape)
    turn = np.broadcast_to(angle / (2 * np.pi), radius.shape)
    vertices = np.stack([radius * np.cos(angle), radius * np.sin(angle), height], -1)
    return weave_grid(vertices, np.stack([turn, along], -1))


def rounded(radius: float, squash: float = 1.0, dimple: bool = False) -> np.ndarray:
    """Profile of a ball, flattened by `squash`, with a dimple on top where a stem sits."""
    height = np.array([-1, -0.97, -0.8, -0.4, 0, 0.45, 0.8, 0.97, 0.9 if dimple else 1.0]) * radius * squash
    width = np.array([0, 0.32, 0.68, 0.95, 1, 0.9, 0.62, 0.3, 0]) * radius
    return np.stack([width, height], 1)


def sweep(path: np.ndarray, radius: np.ndarray, around: int = 14) -> Mesh:
    """A tube of varying radius (N,) along a path (N, 3) that lies in the xz plane."""
    tangent = np.gradient(path, axis=0)
    tangent /= np.linalg.norm(tangent, axis=1, keepdims=True)
    normal = np.cross([0.0, 1, 0], tangent)
    normal /= np.linalg.norm(normal, axis=1, keepdims=True) + 1e-9
    binormal = np.cross(tangent, normal)
    angle = np.linspace(0, 2 * np.pi, around + 1)
    ring = np.cos(angle)[None, :, None] * normal[:, None] + np.sin(angle)[None, :, None] * binormal[:, None]
    uv = np.stack(np.meshgrid(angle / (2 * np.pi), np.linspace(0, 1, len(path))), -1)
    return weave_grid(path[:, None] + radius[:, None, None] * ring, uv)


def cloud(rng: Generator, size: int, octaves: int = 4) -> np.ndarray:
    """Smooth noise (size, size) in [-1, 1] that closes around the horizontal edge."""
    total = np.zeros((size, size))
    for octave in range(octaves):
        cells = rng.standard_normal((2 ** (octave + 2),) * 2).astype(np.float32)
        cells[:, -1] = cells[:, 0]
        total += np.array(Image.fromarray(cells).resize((size, size), Image.Resampling.BICUBIC)) / 1.6**octave
    return total / np.abs(total).max()


def paint_skin(
    rng: Generator, colour: tuple[float, float, float], vary: float = 0.1, speck: float = 0.0, size: int = 64
) -> np.ndarray:
    """Fruit skin: cloudy, optionally specked."""
    image = np.ones((size, size, 3)) * colour
    image *= 1 + vary * cloud(rng, size)[..., None]
    image[rng.random((size, size)) < speck] *= 1.35
    return np.clip(image, 0, 1)


def paint_vessel(colour: tuple[float, float, float], inside: float = 0.5, size: int = 64) -> np.ndarray:
    """For a lathed vessel: plain outside, darkened towards the bottom from `inside` of the profile on."""
    along = np.linspace(0, 1, size)
    deep = (np.clip(along - inside, 0, 1) / (1 - inside)) ** 1.3
    shade = np.where(along < inside, 0.8 + 0.2 * along / inside, 1 - 0.42 * deep)
    return np.clip(np.array(colour) * np.tile(shade[:, None, None], (1, 8, 1)), 0, 1)


def paint_pattern(rng: Generator, colour: np.ndarray, second: np.ndarray, kind: str, size: int = 96) -> np.ndarray:
    """`stripes`, `check`, `weave`, `dots` or `label` of the second colour on the first."""
    down, across = np.mgrid[0:size, 0:size] / size
    mask = np.zeros((size, size))
    if kind == "stripes":
        mask = np.floor(across * 10) % 2
    elif kind == "check":
        mask = (np.floor(across * 8) + np.floor(down * 8)) % 2
    elif kind == "weave":
        threads = np.sin(28 * np.pi * across) * np.sign(np.sin(28 * np.pi * down))
        mask = 0.15 + 0.15 * threads + 0.2 * rng.random((size, size))
    elif kind == "dots":
        mask = ((across * 8 % 1) - 0.5) ** 2 + ((down * 8 % 1) - 0.5) ** 2 < 0.06
    elif kind == "label":
        mask = (down > 0.35) & (down < 0.65)
    share = np.asarray(mask, float)[..., None]
    image = np.array(colour) * (1 - share) + np.array(second) * share
    return np.clip(image * (1 + 0.05 * cloud(rng, size)[..., None]), 0, 1)


def turn(yaw: float, pitch: float = 0.0) -> np.ndarray:
    """Quaternion (w, x, y, z) of a yaw about z followed by a pitch about the turned y, in radians."""
    about_z = np.array([np.cos(yaw / 2), 0, 0, np.sin(yaw / 2)])
    about_y = np.array([np.cos(pitch / 2), 0, np.sin(pitch / 2), 0])
    result = np.zeros(4)
    mujoco.mju_mulQuat(result, about_z, about_y)
    return result


class Builder:
    """Adds materials and geoms to one MjSpec. `scale` multiplies every length given afterwards."""

    def __init__(self, spec: mujoco.MjSpec) -> None:
        self.spec = spec
        self.scale = 1.0
        self.count = 0
        self.files: dict[str, str] = {}

    def _name(self, kind: str) -> str:
        self.count += 1
        return f"{kind}{self.count}"

    def texture(self, image: np.ndarray) -> str:
        pixels = image if image.dtype == np.uint8 else (image * 255).astype(np.uint8)
        name = self._name("texture")
        texture = self.spec.add_texture(name=name, type=mujoco.mjtTexture.mjTEXTURE_2D)
        texture.width, texture.height, texture.nchannel = pixels.shape[1], pixels.shape[0], 3
        texture.data = np.ascontiguousarray(pixels[::-1]).tobytes()
        return name

    def photo(self, name: str) -> str:
        """A texture of `assets/textures`."""
        if name not in self.files:
            self.files[name] = self.texture(np.array(Image.open(ASSETS / f"textures/{name}.jpg").convert("RGB")))
        return self.files[name]

    def material(
        self,
        rgb: tuple[float, float, float] = (1, 1, 1),
        texture: str = "",
        gloss: float = 0.3,
        repeat: float = 0.0,
    ) -> str:
        """`gloss` in [0, 1]; `repeat` > 0 tiles the texture that often per metre instead of following the mesh."""
        name = self._name("material")
        material = self.spec.add_material(name=name, rgba=[*rgb, 1], specular=gloss, shininess=gloss)
        material.roughness = 1 - 0.9 * gloss
        if texture:
            material.textures[mujoco.mjtTextureRole.mjTEXROLE_RGB] = texture
        if repeat:
            material.texuniform, material.texrepeat = True, [repeat, repeat]
        return name

    def _mesh(self, mesh: Mesh) -> str:
        name = self._name("mesh")
        added = self.spec.add_mesh(name=name)
        added.uservert = (np.asarray(mesh.vertices, float) * self.scale).ravel()
        added.userface = np.asarray(mesh.faces, np.int32).ravel()
        added.usertexcoord = np.stack([mesh.uv[:, 0], 1 - mesh.uv[:, 1]], 1).ravel()
        added.maxhullvert = 24
        return name

    def _shape(self, kind: mujoco.mjtGeom, options: dict) -> dict:
        """Scale the lengths among a geom's options."""
        lengths = options.keys() & {"pos", "size", "fromto"}
        return {"type": kind, **options} | {key: np.array(options[key], float) * self.scale for key in lengths}

    def show(self, body: mujoco.MjsBody, kind: mujoco.mjtGeom, **options) -> None:
        """A geom that is only visible."""
        body.add_geom(contype=0, conaffinity=0, group=1, mass=0, density=0, **self._shape(kind, options))

    def collide(self, body: mujoco.MjsBody, kind: mujoco.mjtGeom, mass: float = 0.05, **options) -> None:
        """A geom that only collides. Torsional and rolling friction: round things come to rest."""
        body.add_geom(
            contype=1, conaffinity=3, group=3, mass=mass, friction=[1.0, 0.02, 0.002], condim=6, solref=[0.008, 1],
            **self._shape(kind, options),
        )  # fmt: skip

    def solid(self, body: mujoco.MjsBody, kind: mujoco.mjtGeom, material: str, mass: float = 0.05, **options) -> None:
        self.show(body, kind, material=material, **options)
        self.collide(body, kind, mass, **options)

    def show_mesh(self, body: mujoco.MjsBody, mesh: Mesh, material: str) -> None:
        self.show(body, GEOM.mjGEOM_MESH, meshname=self._mesh(mesh), material=material)

    def solid_mesh(self, body: mujoco.MjsBody, mesh: Mesh, material: str, mass: float = 0.1) -> None:
        """The mesh is visible, its convex hull collides."""
        name = self._mesh(mesh)
        self.show(body, GEOM.mjGEOM_MESH, meshname=name, material=material)
        self.collide(body, GEOM.mjGEOM_MESH, mass, meshname=name)
