"""Draw without any system package: Mesa's software renderer out of a PyPI wheel.

    pip install --no-deps lavavu-osmesa
    eval "$(python -m simulator.osmesa)"

The first command installs the wheel's libraries (84 MB). The second sets the environment in which MuJoCo finds them; it
must be set before Python starts.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from cookbook.errors import UserError, report_user_errors

PACKAGE = "lavavu-osmesa"


def libraries() -> Path | None:
    """The folder with libOSMesa of an installed wheel, or None."""
    folders = [Path(entry) / "lavavu_osmesa.libs" for entry in sys.path]
    return next((folder for folder in folders if any(folder.glob("libOSMesa-*.so*"))), None)


def environment() -> dict[str, str]:
    """The environment variables that MuJoCo needs; also links the library under the name that MuJoCo loads."""
    folder = libraries()
    if folder is None:
        raise UserError(f"libOSMesa is not installed: pip install --no-deps {PACKAGE}")
    link = folder / "libOSMesa.so"
    if not link.exists():
        link.symlink_to(next(folder.glob("libOSMesa-*.so*")).name)
    paths = [str(folder), *filter(None, [os.environ.get("LD_LIBRARY_PATH")])]
    return {"LD_LIBRARY_PATH": ":".join(paths), "MUJOCO_GL": "osmesa", "PYOPENGL_PLATFORM": "osmesa"}


if __name__ == "__main__":
    with report_user_errors():
        print("\n".join(f"export {name}='{value}'" for name, value in environment().items()))
