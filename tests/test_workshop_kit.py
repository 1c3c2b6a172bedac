"""docs/workshop_kit.md: timetables add up, the reset resets, exercises exist, and a classroom needs no network."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from cookbook import exercises, runs

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "workshop_kit.md").read_text()
OFFLINE = """
import socket, sys
def refused(*_, **__):
    raise OSError("no network in this room")
socket.socket.connect = socket.getaddrinfo = refused
from cookbook.cli import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize("name, least, most", [("90 minutes", 90, 90), ("Half a day", 210, 240), ("A day", 420, 480)])
def test_timetables_add_up(name, least, most):
    table = re.search(rf"### {name}\n(.*?)(?=\n##|\Z)", PAGE, re.S)[1]
    assert least <= sum(map(int, re.findall(r"^\| (\d+) \|", table, re.M))) <= most


def test_the_exercises_it_names_exist():
    named = {f"check_{book}_{number}" for book, number in re.findall(r"[Ee]xercise (\d\d)\.(\d)", PAGE)}
    assert named and named <= set(exercises.__all__)


def test_the_reset_brings_notebooks_back_and_removes_results(tmp_path, monkeypatch):
    monkeypatch.delenv("COOKBOOK_HOME", raising=False)
    shutil.copy(ROOT / "Makefile", tmp_path)
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "notebooks" / "00.ipynb").write_text("as committed")
    for command in ("init", "add .", "-c user.name=a -c user.email=a@b commit -m x"):
        subprocess.run(["git", *command.split()], cwd=tmp_path, check=True, capture_output=True)
    (tmp_path / "notebooks" / "00.ipynb").write_text("scribbled")
    for run in ("nano", "nano-samples", "mine"):
        (tmp_path / "runs" / run).mkdir(parents=True)
    subprocess.run(["bash", "-e", "-c", re.search(r"```bash\n(.*?)```", PAGE, re.S)[1]], cwd=tmp_path, check=True)
    assert (tmp_path / "notebooks" / "00.ipynb").read_text() == "as committed"
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["mine"]


def test_data_can_be_prepared_and_a_plan_made_without_network(tmp_path):
    for words in ("prepare --profile smoke", "train --profile smoke --plan", "train --profile 2b --plan"):
        command = [sys.executable, "-c", OFFLINE, *words.split(), "--run", str(tmp_path / "run")]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
    assert runs.read_manifest(tmp_path / "run" / "data")["clips"] == 4
