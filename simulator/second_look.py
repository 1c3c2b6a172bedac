"""The second look: MuJoCo's physically based renderer Filament, on the CPU through Vulkan.

It differs from the fast look in light, shadows, materials and tone, and in nothing else: a held-out domain for models
trained on the fast look. Vulkan and OpenGL do not share a process well: render one look per process.
"""

from __future__ import annotations

import collections.abc
import ctypes
import functools
import importlib.util
import os
from pathlib import Path
from typing import Any

import mujoco
import numpy as np
import typing_extensions

from simulator.render import Camera, RendererMissing

NO_FILAMENT = """the look `filament` cannot be rendered here: {error}
install both:
  the renderer:                 pip install mujoco-studio=={version}
  Vulkan on the processor:      apt-get install libvulkan1 mesa-vulkan-drivers"""


def missing(error: object) -> RendererMissing:
    return RendererMissing(NO_FILAMENT.format(error=error, version=mujoco.__version__))


def vulkan_missing() -> str:
    """Why Vulkan cannot work here, or nothing. Without this check Filament would end the whole process."""
    try:
        ctypes.CDLL("libvulkan.so.1")
    except OSError as error:
        return str(error)
    named = os.environ.get("VK_DRIVER_FILES") or os.environ.get("VK_ICD_FILENAMES")
    installed = any(any(Path(root).glob("vulkan/icd.d/*.json")) for root in ("/usr/share", "/etc", "/usr/local/share"))
    return "" if named or installed else "no Vulkan driver is installed"


@functools.cache
def context() -> Any:
    """The one Filament engine of this process."""
    if importlib.util.find_spec("mujoco.studio") is None:
        raise missing("mujoco-studio is not installed")
    if vulkan_missing():
        raise missing(vulkan_missing())
    if not hasattr(collections.abc, "Buffer"):  # mujoco-studio needs it; Python has it from 3.12 on
        typing_extensions.Buffer.register(np.ndarray)
        collections.abc.Buffer = typing_extensions.Buffer
    try:
        from mujoco import mjrf
        from mujoco.studio import window  # noqa: F401  (registers where Filament's own files are)

        vulkan = mjrf.GraphicsApi.GRAPHICS_API_VULKAN
        return mjrf.Context(mjrf.ContextConfig(graphics_api=vulkan, software_rendering=True))
    except Exception as error:  # whatever the driver raises, the remedy is the same
        raise missing(error) from error


class FilamentCamera(Camera):
    """A `Camera` that renders with Filament."""

    def start(self, size: tuple[int, int]) -> None:
        engine = context()
        from mujoco.rendering.filament import model_scene, renderer

        self.scene = model_scene.ModelScene(engine, self.world.model, None)
        self.scene.update(self.data)
        self.renderer = renderer.Renderer(engine)
        self.renderer._scenes["world"] = self.scene.scene
        self.buffer = np.zeros((2 * size[0], 2 * size[1], 3), np.uint8)
        self.renderer.target("picture", self.buffer)
        self.abstract = mujoco.MjvScene(self.world.model, 10)

    def __exit__(self, *error: object) -> None:
        del self.renderer, self.scene

    def _render(self, mode: str) -> np.ndarray:
        from mujoco import mjrf
        from mujoco.rendering.filament import renderer

        model, eye = self.world.model, mujoco.MjvCamera()
        eye.type, eye.fixedcamid = mujoco.mjtCamera.mjCAMERA_FIXED, model.camera("head").id
        self.scene.update(self.data)
        mujoco.mjv_updateCamera(model, self.data, eye, self.abstract)
        camera = mujoco.mjv_averageCamera(self.abstract.camera[0], self.abstract.camera[1])
        draw_mode = getattr(mjrf.DrawMode, f"DRAW_MODE_{mode}")
        view = renderer.View("world", "picture", camera=camera, draw_mode=draw_mode, post_processing=mode == "DEFAULT")
        self.renderer.render([view])
        return self.buffer

    def picture(self) -> np.ndarray:
        return self._render("DEFAULT")

    def geoms(self) -> np.ndarray:
        return self._render("SEGMENTATION_BY_ID").astype(np.int32) @ np.array([1, 256, 65536]) - 1
