"""`make bundle` on a project of two toy wheels, and the Makefile in an unpacked bundle. Needs no network."""

from __future__ import annotations

import inspect
import subprocess
import tarfile
import zipfile
from pathlib import Path

import pytest
from conftest import python

from cookbook.errors import UserError
from tools.bundle import bundle

ROOT = Path(__file__).resolve().parents[1]
BACKEND = """
import zipfile
from pathlib import Path

{write_wheel}

def build_wheel(folder, settings=None, metadata=None):
    return write_wheel(folder, "cookbook", "Provides-Extra: dev\\nProvides-Extra: sim\\nRequires-Dist: brick\\n")
"""
PROJECT = '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'


def write_wheel(folder: str, name: str, needs: str = "") -> str:
    """An empty package of version 1.0; returns the file's name."""
    file, info = f"{name}-1.0-py3-none-any.whl", f"{name}-1.0.dist-info"
    with zipfile.ZipFile(Path(folder) / file, "w") as wheel:
        wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n{needs}")
        wheel.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr(f"{info}/RECORD", "")
    return file


def git(folder: Path, *words: str) -> str:
    command = ["git", "-c", "user.name=a", "-c", "user.email=a@b", *words]
    return subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout


@pytest.fixture
def project(tmp_path, monkeypatch) -> Path:
    """A clone of a project that needs the package `brick`, which pip finds in a folder."""
    for folder in ("shop", "project"):
        (tmp_path / folder).mkdir()
    write_wheel(tmp_path / "shop", "brick")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "shop"))
    root = tmp_path / "project"
    (root / "pyproject.toml").write_text(PROJECT + '[project]\nname = "cookbook"\ndynamic = ["version"]\n')
    (root / "backend.py").write_text(BACKEND.format(write_wheel=inspect.getsource(write_wheel)))
    (root / "constraints.txt").write_text("brick==1.0\n")
    git(root, "init", "-q")
    git(root, "add", ".")
    git(root, "commit", "-qm", "all")
    return root


def test_pip_installs_from_the_bundle_without_network(project, tmp_path, monkeypatch, capsys):
    (project / "note.txt").write_text("not committed")
    out = bundle(tmp_path / "out.tar", project)
    printed = capsys.readouterr().out
    assert "1 changes are not committed" in printed and "note.txt" in printed and "bundle: 1 wheels" in printed
    with tarfile.open(out) as tar:
        tar.extractall(tmp_path / "room", filter="data")
    room = tmp_path / "room" / "cookbook"
    names = {path.name for path in room.iterdir()}
    assert names == {".git", "backend.py", "constraints.txt", "pyproject.toml", "wheels"}
    assert [path.name for path in (room / "wheels").iterdir()] == ["brick-1.0-py3-none-any.whl"]
    assert git(room, "remote") == "" and "wheels" in git(room, "status", "--porcelain")
    monkeypatch.setenv("PIP_FIND_LINKS", "wheels")
    pip = ["-m", "pip", "install", "--quiet", "-c", "constraints.txt", "--target=env", ".[dev,sim]"]
    python(*pip, cwd=room, check=True)
    installed = {path.name for path in (room / "env").glob("*.dist-info")}
    assert installed == {"brick-1.0.dist-info", "cookbook-1.0.dist-info"}


def test_an_unavailable_version_and_a_folder_without_git_are_named_and_nothing_is_left(project, tmp_path):
    (project / "constraints.txt").write_text("brick==2.0\n")
    git(project, "commit", "-qam", "newer")
    with pytest.raises(UserError, match="pip wheel .*(brick|conflicting dependencies)"):
        bundle(tmp_path / "out.tar", project)
    with pytest.raises(UserError, match="git clone"):
        bundle(tmp_path / "out.tar", tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"shop", "project"}


@pytest.mark.parametrize("wheels", [True, False])
def test_the_makefile_uses_no_network_in_a_bundle(wheels, tmp_path):
    (tmp_path / "Makefile").write_text((ROOT / "Makefile").read_text())
    if wheels:
        (tmp_path / "wheels").mkdir()
        write_wheel(tmp_path / "wheels", "brick")
    (tmp_path / ".venv").mkdir()
    for file in ("pyproject.toml", "constraints.txt", ".venv/ready"):
        (tmp_path / file).touch()
    rule = "include Makefile\nask:\n\t@echo $$PIP_NO_INDEX $$PIP_FIND_LINKS $$HF_HUB_OFFLINE\n"
    (tmp_path / "ask.mk").write_text(rule)
    command, environment = ["make", "-f", "ask.mk", "ask"], {"PATH": "/usr/bin:/bin"}
    printed = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert printed.stdout.strip() == ("1 wheels 1" if wheels else ""), printed.stderr
