"""Draw without any system package: Mesa's software renderer out of a PyPI wheel.

    pip install --no-deps lavavu-osmesa
    eval "$(python -m simulator.osmesa)"

The first command only brings the wheel's libraries (84 MB), the second puts them where MuJoCo looks for them. The
settings must be there before Python starts, so a program cannot make them for itself.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

PACKAGE = "lavavu-osmesa"


def libraries() -> Path | None:
    """The folder with libOSMesa of an installed wheel, or None."""
    folders = [Path(entry) / "lavavu_osmesa.libs" for entry in sys.path]
    return next((folder for folder in folders if any(folder.glob("libOSMesa-*.so*"))), None)


def environment() -> dict[str, str]:
    """What has to be in the environment, after making the link under the name that MuJoCo asks for."""
    folder = libraries()
    if folder is None:
        raise FileNotFoundError(f"no libOSMesa here: pip install --no-deps {PACKAGE}")
    link = folder / "libOSMesa.so"
    if not link.exists():
        link.symlink_to(next(folder.glob("libOSMesa-*.so*")).name)
    paths = [str(folder), *filter(None, [os.environ.get("LD_LIBRARY_PATH")])]
    return {"LD_LIBRARY_PATH": ":".join(paths), "MUJOCO_GL": "osmesa", "PYOPENGL_PLATFORM": "osmesa"}


if __name__ == "__main__":
    try:
        print("\n".join(f"export {name}='{value}'" for name, value in environment().items()))
    except FileNotFoundError as error:
        raise SystemExit(str(error)) from None
