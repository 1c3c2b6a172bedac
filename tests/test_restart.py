"""Restart and Run All: each notebook works alone, in a folder where nothing is, and the second time makes nothing.

In order they are run twice by `.ci/run`.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from cookbook import notebooks

BOOKS = [path.stem for path in notebooks.select()]


def state(*folders: Path) -> dict[Path, object]:
    """What a stage left, by size and time, so that a file made again shows. Requests that notebook 03 writes down anew
    by their content; executed copies, locks and the list of times are new each time."""
    files = [path for folder in folders for path in folder.rglob("*") if path.is_file() and path.name != ".lock"]
    kept = [path for path in files if path.parent.name != "notebooks"]
    return {p: p.read_text() if p.name == "requests.jsonl" else (p.stat().st_size, p.stat().st_mtime_ns) for p in kept}


@pytest.mark.parametrize("name", BOOKS)
def test_a_notebook_runs_alone_and_once_more_for_nothing(name, tmp_path):
    run = tmp_path / "run"
    shipped = state(notebooks.NOTEBOOKS, notebooks.ROOT / "assets")
    notebooks.run_all("smoke", run=run, only=name)
    made = state(tmp_path)
    executed = (run / "notebooks" / f"{name}.ipynb").read_text()
    assert ('"! No ' in executed) == (name[:2] in ("02", "03", "04")), "what stands in is said in a banner"
    assert len(made) > 5 or name.startswith("00")
    notebooks.run_all("smoke", run=run, only=name)
    assert state(tmp_path) == made
    assert state(notebooks.NOTEBOOKS, notebooks.ROOT / "assets") == shipped
