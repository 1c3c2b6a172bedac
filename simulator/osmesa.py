"""Draw without any system package: Mesa's software renderer out of a PyPI wheel for Linux on x86-64.

    pip install --no-deps lavavu-osmesa

The wheel's libraries (84 MB to download) are all that is used of it. Its own requirements are left out on purpose: one
of them, jupyter-server-proxy, opens the ports of the machine to whoever may use its JupyterLab.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

PACKAGE = "lavavu-osmesa"
RGBA, UNSIGNED_BYTE = 0x1908, 0x1401  # of OpenGL
DEPTH, STENCIL, ACCUMULATION = 24, 8, 0  # bits


def libraries() -> Path | None:
    """The folder with libOSMesa of an installed wheel, or None."""
    folders = [Path(entry) / "lavavu_osmesa.libs" for entry in sys.path]
    return next((folder for folder in folders if any(folder.glob("libOSMesa-*.so*"))), None)


@cache
def load() -> ctypes.CDLL:
    """libOSMesa, where MuJoCo finds its functions. What it needs is loaded before it: the system cannot find these."""
    waiting, mesa = sorted(libraries().glob("*.so*")), None
    while waiting:
        left = []
        for path in waiting:
            try:
                ours = path.name.startswith("libOSMesa")
                library = ctypes.CDLL(str(path), ctypes.RTLD_GLOBAL if ours else ctypes.RTLD_LOCAL)
                mesa = library if ours else mesa
            except OSError:
                left.append(path)
        if left == waiting:
            ctypes.CDLL(str(left[0]))  # raises the reason
        waiting = left
    mesa.OSMesaCreateContextExt.restype = ctypes.c_void_p
    return mesa


@contextmanager
def named() -> Iterator[None]:
    """While a renderer is made: MuJoCo's library looks for OpenGL in EGL's, which may be loaded, unless this is set."""
    os.environ["MUJOCO_GL"] = "osmesa"
    try:
        yield
    finally:
        del os.environ["MUJOCO_GL"]


class Context:
    """An OpenGL context with what `mujoco.Renderer` uses of one. MuJoCo draws into buffers of its own."""

    def __init__(self, width: int, height: int) -> None:
        self.size, self.pixels = (width, height), (ctypes.c_ubyte * (4 * width * height))()
        self.context = ctypes.c_void_p(load().OSMesaCreateContextExt(RGBA, DEPTH, STENCIL, ACCUMULATION, None))

    def make_current(self) -> None:
        if not load().OSMesaMakeCurrent(self.context, self.pixels, UNSIGNED_BYTE, *self.size):
            raise RuntimeError("OSMesa gives no context")

    @contextmanager
    def as_current(self) -> Iterator[None]:
        self.make_current()
        yield

    def free(self) -> None:
        if self.context:
            load().OSMesaMakeCurrent(None, None, UNSIGNED_BYTE, 0, 0)
            load().OSMesaDestroyContext(self.context)
        self.context = None
