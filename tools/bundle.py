"""`make bundle`: one file with the checkout and the wheels of the lock, for a classroom without network.

The file unpacks to a git clone with a folder `wheels/`, and the Makefile installs from that folder if it is there. The
wheels are for the system and the Python version that wrote the bundle.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tarfile
import tempfile
import tomllib
from pathlib import Path

from cookbook import runs, storage
from cookbook.errors import UserError, report_user_errors

ROOT = runs.ASSETS.parent
PROJECT = ".[dev,sim]"


def bundle(out: Path, root: Path = ROOT) -> Path:
    """Write the bundle of the clone `root`, as committed, and check that pip can install from it without network.

    Args:
        out: the tar file to write; not compressed, because wheels are.

    Raises:
        UserError: no git clone, or a package of the lock that cannot be downloaded.
    """
    with tempfile.TemporaryDirectory(prefix=".bundle-", dir=out.absolute().parent) as folder:
        clone = Path(folder) / "cookbook"
        _run(["git", "clone", "--quiet", "--depth=1", "--no-tags", root.absolute().as_uri(), clone], root)
        _run(["git", "remote", "remove", "origin"], clone)
        if changed := _run(["git", "status", "--porcelain"], root).splitlines():
            print(f"bundle: {len(changed)} changes are not committed and not in the bundle: {', '.join(changed[:5])}")
        build = tomllib.loads((clone / "pyproject.toml").read_text())["build-system"]["requires"]
        _pip("wheel", "--wheel-dir=wheels", *build, cwd=clone)
        for own in clone.glob("wheels/cookbook-*.whl"):
            own.unlink()  # the clone itself is installed
        _run(["git", "clean", "-dfqx", "--exclude=wheels"], clone)  # files of the build
        _pip("install", "--dry-run", "--ignore-installed", "--no-index", "--find-links=wheels", *build, cwd=clone)
        wheels = list(clone.glob("wheels/*.whl"))
        print(f"bundle: {len(wheels)} wheels of {sum(wheel.stat().st_size for wheel in wheels) / 1e9:.1f} GB")
        with storage.replacing(out) as temporary, tarfile.open(temporary, "w") as tar:
            tar.add(clone, "cookbook")
    return out


def _pip(*words: str, cwd: Path) -> str:
    """pip of this Python on the project with its extras, at the versions of the lock."""
    pip = [sys.executable, "-m", "pip"]
    return _run([*pip, *words, "--quiet", "-c", "constraints.txt", PROJECT], cwd)


def _run(command: list, cwd: Path) -> str:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True)
    if done.returncode:
        errors = [line for line in done.stderr.splitlines() if re.match("ERROR|fatal", line)] or [done.stderr.strip()]
        raise UserError(f"{' '.join(map(str, command[:5]))} ...: {'; '.join(errors)}")
    return done.stdout


if __name__ == "__main__":
    with report_user_errors():
        print(bundle(Path(sys.argv[1] if len(sys.argv) > 1 else "cookbook-bundle.tar")))
