"""Restart and Run All: each notebook works alone in an empty folder, and a second time without new work.

`.ci/run` runs them twice in order.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from cookbook import notebooks

BOOKS = [path.stem for path in notebooks.select()]


def state(*folders: Path) -> dict[Path, object]:
    """The files of a stage by size and time, so that a rewritten file shows; requests, which notebook 03 rewrites, by
    content. Executed copies, locks and the list of times are new each time."""
    files = [path for folder in folders for path in folder.rglob("*") if path.is_file() and path.name != ".lock"]
    kept = [path for path in files if path.parent.name != "notebooks"]
    return {p: p.read_text() if p.name == "requests.jsonl" else (p.stat().st_size, p.stat().st_mtime_ns) for p in kept}


@pytest.mark.slow
@pytest.mark.parametrize("name", BOOKS)
def test_a_notebook_runs_alone_and_again_without_new_work(name, tmp_path):
    run = tmp_path / "run"
    shipped = state(notebooks.NOTEBOOKS, notebooks.ROOT / "assets")
    notebooks.run_all("smoke", run=run, only=name)
    first = state(tmp_path)
    executed = (run / "notebooks" / f"{name}.ipynb").read_text()
    assert ('"! No ' in executed) == (name[:2] in ("02", "03", "04", "05")), "a banner announces stand-ins"
    assert len(first) > 5 or name.startswith("00")
    notebooks.run_all("smoke", run=run, only=name)
    assert state(tmp_path) == first
    assert state(notebooks.NOTEBOOKS, notebooks.ROOT / "assets") == shipped
