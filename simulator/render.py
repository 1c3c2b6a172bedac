"""Render a world from its head camera.

MuJoCo renders through OpenGL. Without a display that is EGL: the graphics driver on an NVIDIA machine, Mesa's software
renderer elsewhere. Where it does not work, `simulator.osmesa` draws if its package is installed. Where neither does,
`Camera` raises an error that names the packages.
"""

from __future__ import annotations

import colorsys
import os
import sys
from contextlib import suppress
from functools import partial

import mujoco
import numpy as np
from mujoco.rendering.classic import gl_context

from cookbook.errors import UserError
from simulator import osmesa
from simulator.world import World

NO_RENDERER = """no OpenGL renderer was found for MuJoCo (MUJOCO_GL={backend}): {error}
install one of:
  NVIDIA GPU:            the driver with its EGL library (libnvidia-gl); in docker, NVIDIA_DRIVER_CAPABILITIES=all
  Debian/Ubuntu, no GPU: apt-get install libegl1 libegl-mesa0 libgl1-mesa-dri libopengl0
  Linux x86-64, no root: pip install --no-deps lavavu-osmesa"""


class RendererMissing(UserError):
    """No OpenGL on this machine."""


def open_renderer(model: mujoco.MjModel, height: int, width: int) -> mujoco.Renderer:
    """A renderer through EGL, which needs no display, or else OSMesa, unless MUJOCO_GL names another backend.

    MuJoCo chooses the class of its OpenGL contexts at its first import: without MUJOCO_GL, one that needs a display.
    `mujoco.Renderer` reads that choice whenever it creates a context, so it can be changed until then.
    """
    if "torch" in sys.modules:  # PyTorch may import triton later, whose LLVM crashes after the one of Mesa's renderer
        with suppress(ImportError):
            import triton  # noqa: F401
    create = partial(mujoco.Renderer, model, height, width, max_geom=2000)
    if sys.platform != "linux" or os.environ.get("MUJOCO_GL"):
        return create()
    if gl_context.GLContext is not osmesa.Context:
        try:
            from mujoco import egl  # not at the top: its import loads a driver and sets PYOPENGL_PLATFORM

            gl_context.GLContext = egl.GLContext
            return create()
        except Exception:  # whatever the driver raises
            if osmesa.libraries() is None:
                raise
    gl_context.GLContext = osmesa.Context
    with osmesa.named():
        return create()


class Camera:
    """Renders poses of one world at (height, width). Use as a context manager: it holds an OpenGL context.

    Pictures are drawn at twice the size and averaged: a software renderer is bound by vertices rather than pixels, so
    this smooths edges at half the price of multisampling.
    """

    def __init__(self, world: World, size: tuple[int, int]) -> None:
        self.world, self.data = world, mujoco.MjData(world.model)
        self.colours = world.model.mat_rgba.copy()
        self.start(size)

    def start(self, size: tuple[int, int]) -> None:
        world = self.world
        try:
            self.renderer = open_renderer(world.model, 2 * size[0], 2 * size[1])
        except Exception as error:  # whatever the driver raises, the remedy is the same
            backend = os.environ.get("MUJOCO_GL") or "not set"
            raise RendererMissing(NO_RENDERER.format(backend=backend, error=error)) from error
        self.options = mujoco.MjvOption()
        self.options.geomgroup[:] = [1, 1, 0, 0, 0, 0]
        self.options.sitegroup[:] = 0

    def __enter__(self) -> Camera:
        return self

    def __exit__(self, *error: object) -> None:
        self.renderer.close()

    def pose(self, qpos: np.ndarray) -> None:
        self.data.qpos[:] = qpos
        mujoco.mj_kinematics(self.world.model, self.data)
        mujoco.mj_comPos(self.world.model, self.data)
        mujoco.mj_camlight(self.world.model, self.data)

    def picture(self) -> np.ndarray:
        """The current pose at twice the size, (2H, 2W, 3) uint8."""
        self.renderer.update_scene(self.data, camera="head", scene_option=self.options)
        return self.renderer.render()

    def geoms(self) -> np.ndarray:
        """The geom visible in every pixel of the current pose at twice the size, (2H, 2W), -1 where there is none."""
        self.renderer.update_scene(self.data, camera="head", scene_option=self.options)
        self.renderer.enable_segmentation_rendering()
        drawn = self.renderer.render()
        self.renderer.disable_segmentation_rendering()
        return np.where(drawn[..., 1] == int(mujoco.mjtObj.mjOBJ_GEOM), drawn[..., 0], -1)

    def draw(self, qpos: np.ndarray) -> np.ndarray:
        """One picture (H, W, 3) uint8, before exposure."""
        self.pose(qpos)
        large = self.picture()
        rows = large[0::2].astype(np.uint16) + large[1::2]  # slices: a sum over two axes takes nine times as long
        return ((rows[:, 0::2] + rows[:, 1::2] + 2) // 4).astype(np.uint8)

    def draw_all(self, poses: np.ndarray) -> np.ndarray:
        """Pictures (N, H, W, 3) of poses (N, nq)."""
        return np.array([self.draw(qpos) for qpos in poses])

    def paint(self, item: int, hue: float) -> None:
        model = self.world.model
        body = model.body(f"item{item}").id
        for geom in np.where((model.geom_bodyid == body) & (model.geom_group == 1))[0]:
            model.mat_rgba[model.geom_matid[geom], :3] = colorsys.hsv_to_rgb(hue, 0.75, 0.9)

    def restore_paint(self) -> None:
        self.world.model.mat_rgba[:] = self.colours

    def mask(self, qpos: np.ndarray, body: str) -> np.ndarray:
        """Visible pixels (H, W) bool of one body."""
        self.pose(qpos)
        ours = np.isin(self.geoms(), np.where(self.world.model.geom_bodyid == self.world.model.body(body).id)[0])
        height, width = ours.shape[0] // 2, ours.shape[1] // 2
        return ours.reshape(height, 2, width, 2).sum((1, 3)) >= 2


def exposure_table(picture: np.ndarray, wanted: float) -> np.ndarray:
    """Lookup table (256,) uint8 of the gamma that brings a picture's mean to about `wanted`, as a camera would."""
    mean = max(float(picture.mean()) / 255, 0.02)
    gamma = np.clip(np.log(wanted) / np.log(mean), 0.62, 1.35)
    return (255 * np.linspace(0, 1, 256) ** gamma).round().astype(np.uint8)
